"""The one exception that means *the input is wrong*, never *the program is wrong*."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Bad input: an argument, file or environment that the caller can mend.

    The message is one line (or a few) that names the argument or file, says what was found and what was expected. The
    command line prints it without a traceback and exits with status 2; any other exception is a defect of this package
    and keeps its traceback.
    """
