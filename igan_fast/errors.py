"""The one exception that means *the input is wrong*, never *the program is wrong*, and how its message is shown."""

__all__ = ["InputError", "printable"]


def printable(text: object) -> str:
    """``str(text)`` in one line that no terminal obeys: what would not show as a character is spelled as an escape.

    A file name may hold any byte: line ends, colours, a cursor that moves, bytes that are no text. A byte that is no
    UTF-8 is shown as ``\\xNN``.
    """
    shown = str(text)
    return shown if shown.isprintable() else "".join(map(_escaped, shown))


class InputError(ValueError):
    """Bad input: an argument, file or environment that the caller can mend.

    The message is one line that names the argument or file, says what was found and what was expected; see
    :func:`printable`. The command line prints it without a traceback and exits with status 2; any other exception is a
    defect of this package and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte of a file name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
