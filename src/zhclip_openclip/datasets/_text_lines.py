"""Lines of UTF-8 text files with their places; what is not UTF-8 is named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from zhclip_openclip.datasets._dataset_error import DatasetError

UTF8_BOM = b"\xef\xbb\xbf"
_CHINESE = re.compile("[一-鿿]")


def text_lines(path: Path) -> Iterator[tuple[str, str, bool]]:
    """Yields (place, line, complete) for each line that isn't blank.

    The place is `file:line`, the line has no line end (\\n or \\r\\n) and no byte-order mark, and `complete` says
    whether it had a line end, which the last line of a file that was cut off has not.

    Raises:
        DatasetError: an empty file, or a line that is not UTF-8.
    """
    empty = True
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            if number == 1:
                if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise DatasetError(f"{path}:1: UTF-16; convert it: {_iconv('UTF-16', path)}")
                raw = raw.removeprefix(UTF8_BOM)
            body = raw.rstrip(b"\r\n")
            if not body.strip():
                continue
            empty = False
            yield f"{path}:{number}", decode(body, f"{path}:{number}", path), raw.endswith(b"\n")
    if empty:
        raise DatasetError(f"{path}: the file is empty; fetch it again")


def decode(raw: bytes, place: str, path: Path) -> str:
    """bytes -> str, or an error that says what they rather are."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        guess = encoding_of(raw)
        raise DatasetError(f"{place}: not UTF-8 (looks like {guess}); convert it: {_iconv(guess, path)}") from None


def encoding_of(raw: bytes) -> str:
    """GBK if the bytes read as Chinese in it, else Latin-1, in which everything reads as something."""
    try:
        text = raw.decode("gbk")
    except UnicodeDecodeError:
        return "Latin-1"
    return "GBK" if _CHINESE.search(text) else "Latin-1"


def _iconv(encoding: str, path: Path) -> str:
    return f"iconv -f {encoding.upper()} -t UTF-8 {path.name} > new"
