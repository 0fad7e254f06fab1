"""Lines of UTF-8 text files with their places; what is not UTF-8 is named."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from zhclip_openclip._reading import kind_of, parse_json, reading
from zhclip_openclip.datasets._dataset_error import DatasetError

UTF8_BOM = b"\xef\xbb\xbf"
#: Bytes of a line; the longest that is known, a query of MUGE with its pictures, has less than a thousand.
LONGEST_LINE = 16 * 2**20


def text_lines(path: Path) -> Iterator[tuple[str, str, bool]]:
    """Yields (place, line, complete) for each line that isn't blank.

    The place is `file:line`, the line has no line end (\\n or \\r\\n) and no byte-order mark, and `complete` says
    whether it had a line end, which the last line of a file that was cut off has not.

    Raises:
        DatasetError: it cannot be opened, an empty file, a line that is not UTF-8 or has more than `LONGEST_LINE`
            bytes.
    """
    empty = True
    with reading(path, DatasetError), open(path, "rb") as file:
        for number, raw in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), start=1):
            if number == 1:
                if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise DatasetError(f"{path}:1: UTF-16; convert it: {iconv('UTF-16', path)}")
                raw = raw.removeprefix(UTF8_BOM)
            if len(raw) >= LONGEST_LINE:
                what = kind_of(path)
                raise DatasetError(
                    f"{path}:{number}: a line of more than {LONGEST_LINE // 2**20} MiB"
                    f"{f' (this is {what})' if what else ''}: no text file; fetch it again"
                )
            body = raw.rstrip(b"\r\n")
            if not body.strip():
                continue
            empty = False
            yield f"{path}:{number}", decode(body, f"{path}:{number}", path), raw.endswith(b"\n")
    if empty:
        raise DatasetError(f"{path}: the file is empty; fetch it again")


def json_lines(path: Path) -> Iterator[tuple[str, object]]:
    """Yields (place, value) for each line of a JSONL file that isn't blank.

    Raises:
        DatasetError: as `text_lines`; a line that is no JSON, with what is wrong and where.
    """
    for place, line, complete in text_lines(path):
        try:
            yield place, parse_json(line, place, DatasetError)
        except DatasetError as error:
            if not complete:
                raise DatasetError(f"{place}: the last line is cut off: copy the file again") from None
            what = kind_of(path) if place.endswith(":1") else ""
            if what and what != "a JSON text":
                raise DatasetError(f"{path} is {what}, not JSON lines; fetch it again") from error
            if "not JSON" in str(error):
                raise DatasetError(f"{error}; one object a line is needed") from error
            raise


def decode(raw: bytes, place: str, path: Path) -> str:
    """bytes -> str, or an error that says what they rather are and how a file is converted."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        if error.reason == "unexpected end of data" and not before.isascii():
            raise DatasetError(f"{place}: ends inside a character: the file is cut off; copy it again") from None
        guess = encoding_of(raw)
        raise DatasetError(f"{place}: not UTF-8 (looks like {guess}); convert it: {iconv(guess, path)}") from None


def encoding_of(raw: bytes) -> str:
    """What bytes that are not UTF-8 rather are: UTF-16, GBK, GB18030, Big5, else Latin-1, in which everything reads as
    something.

    GBK and Big5 share their bytes; the more common characters decide, which stand together in each: level 1 of GB 2312
    (lead bytes B0 to D7) and of Big5 (A4 to C6).
    """
    if b"\0" in raw:
        return "UTF-16LE" if raw[1::2].count(0) >= raw[::2].count(0) else "UTF-16BE"
    readings = {}
    for encoding, first, last in (("gb18030", 0xB0, 0xD7), ("big5", 0xA4, 0xC6)):
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        signs = [sign.encode(encoding) for sign in text if not sign.isascii()]
        common = sum(len(sign) == 2 and first <= sign[0] <= last for sign in signs)
        if any("\u4e00" <= sign <= "\u9fff" for sign in text):
            readings[encoding] = common / len(signs)
    if not readings:
        return "Latin-1"
    best = max(readings, key=readings.__getitem__)  # the first of two that fit as well: GBK
    if best == "big5":
        return "Big5"
    try:
        raw.decode("gbk")
    except UnicodeDecodeError:
        return "GB18030"
    return "GBK"


def iconv(encoding: str, path: Path) -> str:
    """The command that converts a file."""
    return f"iconv -f {encoding.upper()} -t UTF-8 {shlex.quote(str(path))} > new"
