"""Tables of somebody's own data, CSV, TSV or JSON lines, as programs leave them: in any encoding, with any line ends,
and with columns that are called as people call them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhclip_openclip._errors import ZhclipError, shorten
from zhclip_openclip._reading import kind_of, parse_json, reading
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._text_lines import decode, encoding_of

SUFFIXES = (".csv", ".tsv", ".jsonl")
#: Bytes of a table that is read whole. A million lines of a path and a caption have a tenth of it.
_LARGEST = 2**30
#: What a column may be called, in lower case with `_` for blanks and hyphens; captions also with a number behind.
NAMES = {
    "path": (
        *("path", "image_path", "img_path", "file_path", "filepath", "image", "img", "file", "filename", "file_name"),
        *("image_file", "image_name", "picture", "photo", "图片", "图像", "图片路径", "图像路径", "路径", "文件"),
        *("文件名", "文件路径", "照片"),
    ),
    "label": (
        *("label", "labels", "class", "class_name", "classname", "category", "target", "tag"),
        *("标签", "类别", "分类", "类", "类名", "类别名"),
    ),
    "caption": (
        *("caption", "captions", "text", "texts", "query", "queries", "title", "description", "sentence", "raw"),
        *("描述", "说明", "文本", "文字", "标题", "查询", "图片描述", "图说"),
    ),
    "split": ("split", "subset", "partition", "划分"),
}
_ENCODINGS = {"GBK": "gb18030", "GB18030": "gb18030", "Big5": "big5", "UTF-16LE": "utf-16-le", "UTF-16BE": "utf-16-be"}
_PICTURE = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|heic)$", re.IGNORECASE)


class NoColumns(DatasetError):
    """A table without a column for the pictures, or with nothing that belongs to them."""


@dataclass(frozen=True)
class Columns:
    """Which column is what, by their names in the table; captions are several at times."""

    path: str
    label: str | None = None
    captions: tuple[str, ...] = ()
    split: str | None = None


@dataclass(frozen=True)
class Table:
    """A table that has been read. names: of its columns; numbers from 1 where it has no header. encoding: as people
    call it. rows: (place as file:line, column -> value), the values of JSON as they are there."""

    path: Path
    names: list[str]
    encoding: str
    rows: list[tuple[str, dict[str, Any]]]

    @property
    def form(self) -> str:
        """`CSV`, `TSV` or `JSON lines`."""
        return {".csv": "CSV", ".tsv": "TSV"}.get(self.path.suffix.lower(), "JSON lines")

    def notes(self) -> list[str]:
        """Of an encoding that was told by the characters, so that somebody may look at them."""
        if self.encoding.startswith("UTF"):
            return []
        return [
            f"{self.path.name} is no Unicode and was read as {self.encoding}; save it as UTF-8 if its characters are "
            "wrong"
        ]


def read_table(path: Path, columns: Mapping[str, str] | None = None) -> Table:
    """A table. columns: what `parse_columns` made of --columns; with numbers for one without a header.

    Raises DatasetError, with the line: an empty file, one that is no text, a quotation that does not end, a line with
    more fields than the header, a line of JSON that is no object.
    """
    with reading(path, DatasetError):
        text, encoding = read_text(path)
        if path.suffix.lower() == ".jsonl":
            names, rows = _json_rows(path, text)
        else:
            header = not columns or not all(name.isdigit() for value in columns.values() for name in value.split("+"))
            names, rows = _csv_rows(path, text, header)
    if not rows:
        raise DatasetError(f"{path}: there is nothing below its header; write a line for each picture")
    return Table(path, names, encoding, rows)


def parse_columns(asked: str) -> dict[str, str]:
    """`path=file,caption=title+text` -> {path: file, caption: title+text}. Raises DatasetError: it is none."""
    result = {}
    for part in filter(None, (part.strip() for part in asked.split(","))):
        role, equals, name = (piece.strip() for piece in part.partition("="))
        if role not in NAMES or not equals or not name:
            raise DatasetError(
                f"--columns {asked}: a list such as path=file,label=kind is needed; what can stand before = is "
                f"{', '.join(NAMES)}"
            )
        result[role] = name
    return result


def columns_of(table: Table, asked: Mapping[str, str] | None = None) -> Columns:
    """Which columns hold path, label, captions and split.

    asked: {role: name}, of `parse_columns`; what is not in it is told by the names.

    Raises NoColumns: no column for the pictures, or none for labels or captions. DatasetError: two that may be one of
    them.
    """
    found: dict[str, list[str]] = {}
    for role, known in NAMES.items():
        if asked and role in asked:
            found[role] = _asked(table, role, asked[role])
        elif role == "caption":
            found[role] = [name for name in table.names if re.sub(r"_?\d+$", "", _plain(name)) in known]
        else:
            found[role] = [name for name in table.names if _plain(name) in known]
    if not found["path"] or not (found["label"] or found["caption"]):
        raise NoColumns(_unknown(table, found))
    for role, names in found.items():
        bases = {re.sub(r"_?\d+$", "", _plain(name)) for name in names}
        if not (asked and role in asked) and (len(names) > 1 if role != "caption" else len(bases) > 1):
            raise DatasetError(
                f"{table.path}: the columns {' and '.join(names)} may each be the {role}; say which: --columns "
                f"{role}={names[0]}"
            )
    one = {role: names[0] if names else None for role, names in found.items()}
    return Columns(one["path"] or "", one["label"], tuple(found["caption"]), one["split"])


def texts_of(value: Any, where: str, several: bool = True) -> list[str]:
    """The texts in a field: itself, or those of a list of JSON. Raises DatasetError: empty, or no text."""
    values = value if isinstance(value, list) else [value]
    if not several and len(values) != 1:
        raise DatasetError(f"{where}: {len(values)} values where one is needed; write a line for each")
    result = []
    for one in values:
        if isinstance(one, bool) or not isinstance(one, (str, int, float)):
            raise DatasetError(f"{where}: {str(one)[:40]!r} is no text")
        text = str(one).strip()
        if not text:
            raise DatasetError(f"{where}: the field is empty; fill it in, or take the line out")
        result.append(text)
    if not result:
        raise DatasetError(f"{where}: the list is empty; fill it in, or take the line out")
    return result


def rows_of(table: Table, columns: Columns, split: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a split; all where `split` is None. Raises DatasetError: a row without one of the columns."""
    needed = [columns.path]
    for where, row in table.rows:
        missing = [name for name in needed if name not in row]
        if missing:
            raise DatasetError(f"{where}: there is no {missing[0]!r}, here are {shorten(row, 8) or 'nothing'}")
        if split is None or columns.split is None or str(row.get(columns.split, "")).strip() == split:
            yield where, row


# ---------------------------------------------------------------- text


def read_text(path: Path) -> tuple[str, str]:
    """What stands in a file, and its encoding as people call it."""
    size = path.stat().st_size
    if size > _LARGEST:
        raise DatasetError(f"{path} has {size:,} bytes, and {_LARGEST:,} are read at most; cut it into several sets")
    raw = path.read_bytes()
    if not raw.strip(b"\xef\xbb\xbf \t\r\n"):
        raise DatasetError(f"{path}: the file is empty; write a header and a line for each picture")
    what = kind_of(path)
    if what not in ("", "a JSON text", "a text in UTF-16"):
        workbook = " (a workbook of Excel, perhaps: save it as CSV)" if what == "a zip archive" else ""
        raise DatasetError(f"{path} is {what}, no table{workbook}; put the table there")
    if raw.startswith(b"\xef\xbb\xbf"):
        return decode(raw[3:], str(path), path), "UTF-8"
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16"), "UTF-16"
    if b"\0" not in raw:
        try:
            return raw.decode("utf-8"), "UTF-8"
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data" and not raw[: error.start].isascii():
                decode(raw, f"{path}:{raw.count(bytes([10])) + 1}", path)  # raises: it is cut off
    encoding = encoding_of(raw[: raw.rfind(b"\n", 0, 2**20) + 1 or None])
    if encoding not in _ENCODINGS:
        number = raw[: _first_that_is_not_utf8(raw)].count(b"\n") + 1
        decode(raw, f"{path}:{number}", path)  # raises, with the command that converts it
    return raw.decode(_ENCODINGS[encoding]), encoding


def _first_that_is_not_utf8(raw: bytes) -> int:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return 0


# ---------------------------------------------------------------- rows


def _csv_rows(path: Path, text: str, header: bool) -> tuple[list[str], list[tuple[str, dict[str, Any]]]]:
    first = re.match(r"sep=(.)\r?\n", text)  # what Excel itself writes and reads
    if first:
        text = text[first.end() :]
    before = 1 if first else 0
    delimiter = first[1] if first else _delimiter(path, text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[str, dict[str, Any]]] = []
    names: list[str] | None = None
    while True:
        place = f"{path}:{reader.line_num + before + 1}"
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            what = "a quotation that does not end" if "end of data" in str(error) else str(error)
            raise DatasetError(f'{place}: {what}; write "" for a " within a quotation') from error
        if not any(field.strip() for field in fields):
            continue
        if names is None:
            names = [field.strip() for field in fields] if header else [str(n + 1) for n in range(len(fields))]
            while header and names and not names[-1]:
                names.pop()  # of columns that Excel had something in once
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise DatasetError(f"{place}: two columns are called {twice!r}; rename one")
            if header:
                continue
        extra = [field for field in fields[len(names) :] if field.strip()]
        if extra:
            way_out = f'put "..." around a text with {delimiter!r} in it'
            raise DatasetError(f"{place}: {len(fields)} fields, and there are {len(names)} columns; {way_out}")
        fields += [""] * (len(names) - len(fields))  # some programs leave out what is empty at the end
        rows.append((place, dict(zip(names, fields, strict=False))))
    return names or [], rows


def _delimiter(path: Path, text: str) -> str:
    """The sign between columns: the one that gives the header most names that are known, or else most columns."""
    head = next((line for line in text.splitlines() if line.strip()), "")
    known = {name for names in NAMES.values() for name in names}
    signs = "\t,;" if path.suffix.lower() == ".tsv" else ",;\t"
    best = max(signs, key=lambda sign: (sum(_plain(n.strip('"')) in known for n in head.split(sign)), head.count(sign)))
    return best if best in head else signs[0]


def _json_rows(path: Path, text: str) -> tuple[list[str], list[tuple[str, dict[str, Any]]]]:
    rows: list[tuple[str, dict[str, Any]]] = []
    names: dict[str, None] = {}
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            value = parse_json(line, place, DatasetError)
        except ZhclipError:
            if number == len(lines):
                raise DatasetError(f"{place}: the last line is cut off: copy the file again") from None
            raise
        if not isinstance(value, dict):
            raise DatasetError(f'{place}: no object; a line such as {{"path": "a.jpg", "label": "猫"}} is needed')
        names.update(dict.fromkeys(value))
        rows.append((place, value))
    return list(names), rows


# ---------------------------------------------------------------- columns


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _asked(table: Table, role: str, asked: str) -> list[str]:
    names = asked.split("+") if role == "caption" and asked not in table.names else [asked]
    for name in names:
        if name not in table.names:
            raise DatasetError(
                f"--columns {role}={asked}: {table.path} has no column {name}; it has {shorten(table.names, 12)}"
            )
    return names


def _unknown(table: Table, found: Mapping[str, Sequence[str]]) -> str:
    if any(_PICTURE.search(str(name)) for name in table.names):
        first = ",".join(table.names)[:60]
        return (
            f"{table.path}:1: {first!r} is no header; write path,label or path,caption above it, or say which columns "
            "there are: --columns path=1,label=2"
        )
    missing = "pictures" if not found["path"] else "labels or captions"
    return (
        f"{table.path}: no column for {missing}; there are {shorten(table.names, 12)}. A column path, with one that is "
        "called label or caption, is needed: rename them, or say which they are: --columns path=...,label=... or "
        "path=...,caption=..."
    )
