"""What time it is for the results: now, or the time that ``SOURCE_DATE_EPOCH`` fixes so that bytes repeat."""

import os
import time
from datetime import UTC, datetime

from scdmc.errors import ScDMCError

# A page that is made with this variable set is the same each time (reproducible-builds.org).
DATE_VARIABLE = "SOURCE_DATE_EPOCH"


def date_of_results() -> datetime:
    """The time now, or that of ``SOURCE_DATE_EPOCH``; scripts ask once before they begin, so that no work is lost.

    Raises
    ------
    ScDMCError
        If the variable is set, but is no number of seconds.
    """
    fixed = os.environ.get(DATE_VARIABLE)
    try:
        return datetime.fromtimestamp(time.time() if fixed is None else int(fixed), UTC)
    except (ValueError, OverflowError, OSError):
        raise ScDMCError(f"{DATE_VARIABLE}={fixed}: give a number of seconds since 1970, or unset it") from None


def is_date_fixed() -> bool:
    """True if the variable is set: the time that work took is not said then."""
    return DATE_VARIABLE in os.environ
