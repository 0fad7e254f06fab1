"""The errors that a user gets to see: one line that names the thing, the place and the way out."""

from __future__ import annotations

import unicodedata


class ZhclipError(RuntimeError):
    """Base of all errors that this package raises for a user; open_clip raises RuntimeError in the same places.

    The message may hold names out of data: :func:`printable` makes one line of it that does nothing to a terminal.
    """

    def __init__(self, message: object = ""):
        text = str(message)
        if "Original Traceback" in text:  # torch makes the error of a reader anew, with its whole traceback in the text
            text = text.strip().splitlines()[-1].partition(": ")[2]
        super().__init__(printable(text))


class CheckpointError(ZhclipError):
    """A checkpoint that cannot be found, read, recognised or fitted to the model."""


class DownloadError(CheckpointError):
    """Files that are neither on this machine nor to be had from the hub."""


def shorten(names, limit: int = 4) -> str:
    """`a, b, c, d and 12 more` for an error message."""
    names = list(names)
    text = ", ".join(str(name) for name in names[:limit])
    return text if len(names) <= limit else f"{text} and {len(names) - limit} more"


def counted(number: int, one: str, many: str = "") -> str:
    """'1 picture', '2,000 pictures'. many: where that is not `one` with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def printable(text: str) -> str:
    """`text` with what could act on a terminal, break a line or not be written as UTF-8 spelt out (`\\x1b`).

    Control and format characters, line and paragraph separators, and halves of surrogate pairs, which stand for bytes
    of file names that are not UTF-8. Everything that can be read stays as it is.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spelt(c) if unicodedata.category(c) in _UNSEEN else c for c in text)


def one_line(error: BaseException) -> str:
    """What a person is told of any error: what ours say, and the kind of others in front; at most 500 characters."""
    text = str(error).strip()
    if "Original Traceback" in text:  # torch puts a worker's whole traceback into the message
        text = text.splitlines()[-1].partition(": ")[2] or text.splitlines()[-1]
    elif not isinstance(error, (ZhclipError, SystemExit)):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return printable(" ".join(text.split()))[:500]


#: Unicode's categories of characters that are not printed.
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def _spelt(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that Python could not decode (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
