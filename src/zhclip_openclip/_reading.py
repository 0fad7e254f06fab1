"""The one boundary between a file and this package: whatever goes wrong in reading becomes one line.

A reader that lists the exceptions it expects forgets some: parsers raise almost anything on damaged input. So every
reader of this package works inside :func:`reading`, which turns any exception into an error of ours that names the
file, the reason and the way out. Errors that already say so pass through.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from zhclip_openclip._errors import ZhclipError

#: Bytes of a JSON file that is read whole: indexes, configs, results. The largest that we know of is 3 MiB.
JSON_LIMIT = 256 * 2**20
#: The end of a place that has a line in it.
_HAS_LINE = re.compile(r"(:|, line )\d+$")
#: What files begin with, and what such a file is. The longest that fit come first.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"%PDF-", "a PDF"),
    (b"GGUF", "a GGUF file"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
)


def debug() -> bool:
    """Whether `ZHCLIP_DEBUG=1` asks for the traceback of every error."""
    return os.environ.get("ZHCLIP_DEBUG", "") not in ("", "0")


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], error: type[ZhclipError] = ZhclipError, advice: str = "") -> Iterator[None]:
    """The boundary around the reading of one file.

    path: the file, for the message; a line number may stand behind it. error: the class that is raised for whatever
    goes wrong. advice: the way out, for causes that do not show one themselves.

    Raises `error`: one line with the path, the reason and the advice, from the exception that was the cause. Errors of
    ours pass as they are, and so do KeyboardInterrupt and SystemExit.
    """
    try:
        yield
    except ZhclipError:
        raise
    except Exception as cause:
        raise error(f"{_place(path, cause)}: {reason_of(cause)}{'; ' + advice if advice else ''}") from cause


def _place(path: str | os.PathLike[str], cause: Exception) -> str:
    """The file, and where in it JSON ends to be JSON; `path` may have a line of its own already (`FILE:3`)."""
    if not isinstance(cause, json.JSONDecodeError) or _HAS_LINE.search(str(path)):
        return str(path)
    return f"{path}, line {cause.lineno}, column {cause.colno}"


def reason_of(cause: BaseException) -> str:
    """What an exception says, in a few words; its kind where its text alone would puzzle."""
    if isinstance(cause, json.JSONDecodeError):
        return f"not JSON ({cause.msg}, at character {cause.colno})"
    if isinstance(cause, UnicodeDecodeError):
        return f"not {cause.encoding.upper()} (byte {cause.start})"
    if isinstance(cause, RecursionError):
        return "nested too deeply"
    if isinstance(cause, MemoryError):
        return "does not fit into memory"
    if isinstance(cause, OSError) and cause.strerror:
        return f"cannot be read ({cause.strerror})"
    text = " ".join(str(cause).split())
    if len(text) > 160:
        text = text[:160].rsplit(" ", 1)[0] + " ..."
    return f"cannot be read ({type(cause).__name__}{': ' + text if text else ''})"


def kind_of(path: str | os.PathLike[str]) -> str:
    """What a file is by its first bytes, with an article ("an HTML page"); "" for what is not recognised.

    Knows what downloads and mistakes leave in the place of a file: nothing, pages, pointers, archives, pictures, and
    the two forms of weights. Raises OSError: it cannot be opened.
    """
    path = Path(path)
    size = path.stat().st_size
    if not size:
        return "an empty file"
    with path.open("rb") as file:
        head = file.read(512)
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    length = int.from_bytes(head[:8], "little")
    if size > 9 and 2 <= length <= size - 8 and head[8:9] == b"{":
        return "a safetensors file"
    if not head.strip(b"\x00"):
        return "a file of zeros"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if text.startswith((b"<?xml", b"<error")):
        return "an XML page"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "a text in UTF-16"
    if text.startswith((b"{", b"[")):
        return "a JSON text"
    return ""


def parse_json(text: str | bytes, where: str | os.PathLike[str], error: type[ZhclipError] = ZhclipError) -> object:
    """The value of a JSON text. where: the file, and the line where one text stands on each.

    Raises `error`: not JSON, nested too deeply, numbers of thousands of digits, not UTF-8, half a surrogate pair (which
    JSON allows and no file or terminal can hold).
    """
    with reading(where, error):
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        value = json.loads(text)
    if "\\u" in text and (key := _lone_surrogate(value)) is not None:
        raise error(f"{where}: half a surrogate pair in {key!r}: no Unicode text")
    return value


def read_json(
    path: str | os.PathLike[str], error: type[ZhclipError] = ZhclipError, kind: type = dict, limit: int = JSON_LIMIT
):
    """The JSON value in a file, which has to be a `kind` (dict or list).

    Raises `error`: cannot be opened, over `limit` bytes, no JSON, another type; what it is by its first bytes where
    they say so (a page, a pointer, an archive).
    """
    path = Path(path)
    with reading(path, error):
        size = path.stat().st_size
        if size > limit:
            raise error(f"{path} has {size} bytes, and {limit} are read at most: it is not what its name says")
        raw = path.read_bytes()
        what = kind_of(path)
    try:
        value = parse_json(raw, path, error)
    except ZhclipError as cause:
        if what and what != "a JSON text":
            raise error(f"{path} is {what}, not JSON: fetch it again") from cause
        raise
    if not isinstance(value, kind):
        names = {dict: "an object", list: "a list"}
        raise error(f"{path} holds {names.get(type(value), f'a {type(value).__name__}')}, not {names[kind]}")
    return value


def _lone_surrogate(value) -> str | None:
    """The first text in a JSON value that cannot be written as UTF-8."""
    open_values = [value]
    while open_values:
        value = open_values.pop()
        if isinstance(value, str):
            if any("\ud800" <= character <= "\udfff" for character in value):
                return value
        elif isinstance(value, list):
            open_values.extend(value)
        elif isinstance(value, dict):
            open_values.extend(value.keys())
            open_values.extend(value.values())
    return None
