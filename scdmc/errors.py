"""The one error type for what a user can mend, and how its messages show names."""

from collections.abc import Iterable


class ScDMCError(Exception):
    """Something the user can fix: a file, a column, an option.

    The message is one line that says what is wrong, where (file, column, first bad values) and what to do.
    Scripts print it as ``error: ...`` and leave with status 2; every other exception is a bug and shows its traceback.
    """


COPY_AGAIN = "the file is damaged or incomplete: copy or download it again"


# A message stays on a line that a person can read.
NAMES_SHOWN = 5


def shown_names(names: Iterable[object], most: int = NAMES_SHOWN) -> str:
    """The first few names for a message, and how many there are beyond these."""
    names = [str(name) for name in names]
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
