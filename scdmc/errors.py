"""The one error type for what a user can mend."""


class ScDMCError(Exception):
    """Something the user can fix: a file, a column, an option.

    The message is one line that says what is wrong, where (file, column, first bad values) and what to do.
    Scripts print it as ``error: ...`` and leave with status 2; every other exception is a bug and shows its traceback.
    """
