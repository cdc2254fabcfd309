"""``InputError``, the error for wrong input (not for a defect of the program), and how its message is printed."""

__all__ = ["InputError", "PackageMissing", "option", "printable"]


def printable(text: object) -> str:
    """Return ``str(text)`` as one line with escapes in place of the characters that are not printable.

    A file name may hold line ends, terminal commands and bytes that are not UTF-8. Such a byte becomes ``\\xNN``.
    """
    shown = str(text)
    return shown if shown.isprintable() else "".join(map(_escaped, shown))


def option(name: str) -> str:
    """Return the option of the command line for the field ``name`` of a command, as it is typed."""
    return "--" + name.replace("_", "-")


class InputError(ValueError):
    """Bad input: an argument, a file or a setting that the caller can correct.

    The message is one line (see :func:`printable`). It names the argument or file, what was found and what was
    expected. The command line prints it without a traceback and exits with status 2. Any other exception is a
    defect of this package and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class PackageMissing(InputError):
    """What was asked for needs an optional package that is not installed. The message says how to install it."""


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8, as Python holds it
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
