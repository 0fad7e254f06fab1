"""Random access to a file of `id <tab> base64` lines without loading it: an index of offsets, built once.

The index lies beside the file as `<file>.zhclip-index.npz` (in the user's cache folder where that can't be written) and
holds for its size and modification time only; each reading compares the id that stands in the file. Building it reads
the file once and looks at every byte, so that a bad line is known before any model is loaded.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import zipfile
from pathlib import Path

import numpy as np

from zhclip_openclip._files import whole_file
from zhclip_openclip._reading import reading
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import ImageSource, Skipped, decode_image
from zhclip_openclip.datasets._text_lines import UTF8_BOM, decode

FORMAT_VERSION = 2
_LONGEST_LINE = 256 * 2**20
# Chinese-CLIP itself reads with urlsafe_b64decode, so both alphabets occur.
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"
#: Of each picture: where its line begins, how far its base64 is from there, its length, its line, bytes of the picture.
_COLUMNS = ("starts", "leads", "lengths", "lines", "sizes")


class TsvImages(ImageSource):
    """Pictures of a TSV by position in the file.

    Each read is one positioned read of one line: nothing is shared between workers but the index.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        index = _load(path)
        if index is None:
            with reading(path, DatasetError, "look at the file"):
                index = _build(path)
            _save(path, index)
        self.ids: list[str] = _unpacked(index["ids"])
        self._starts, self._leads, self._lengths, self._lines, self._sizes = (index[name] for name in _COLUMNS)
        self.problems = [
            Skipped(key, f"{path}:{line}", reason) for key, line, reason in json.loads(bytes(index["problems"]))
        ]

    def read(self, index: int) -> bytes:
        start, lead, length = int(self._starts[index]), int(self._leads[index]), int(self._lengths[index])
        with reading(self.where(index), DatasetError, "start again"), open(self.path, "rb", buffering=0) as file:
            file.seek(start)
            line = file.read(lead + length)
        key, tab, _ = line[:lead].partition(b"\t")
        try:
            if not tab or key.decode("utf-8").strip() != self.ids[index]:
                raise ValueError("another line")
            return decode_base64(line[lead:])
        except ValueError:  # binascii's is one
            raise DatasetError(
                f"{self.where(index)}: image {self.ids[index]} is not here any more: the file changed since its index "
                f"was made, or while it was in use; remove {index_path(Path(self.path))} and start again"
            ) from None

    def size(self, index: int) -> int:
        return int(self._sizes[index])

    def where(self, index: int) -> str:
        return f"{self.path}:{self._lines[index]}"


def decode_base64(encoded: bytes) -> bytes:
    """Strict base64 in either alphabet, with `=` at the end or without, as JavaScript leaves it."""
    encoded += b"=" * (-len(encoded) % 4)
    return base64.b64decode(encoded.translate(bytes.maketrans(b"-_", b"+/")), validate=True)


def index_path(path: Path) -> Path:
    """Where the index lies if the data folder can be written."""
    return path.with_name(path.name + ".zhclip-index.npz")


def _cache_path(path: Path) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]  # a folder's name may be no Unicode
    return cache / "zhclip-openclip" / "tsv" / f"{name}.npz"


def _stamp(path: Path) -> np.ndarray:
    stat = path.stat()
    return np.array([FORMAT_VERSION, stat.st_size, stat.st_mtime_ns], dtype=np.int64)


def _load(path: Path) -> dict[str, np.ndarray] | None:
    """The index, or None: it is absent, cut off, of another program or file. It is a convenience, and built anew."""
    for candidate in (index_path(path), _cache_path(path)):
        with contextlib.suppress(Exception):
            if _is_plain(candidate):
                with np.load(candidate, allow_pickle=False) as file:
                    if np.array_equal(file["stamp"], _stamp(path)):
                        index = {key: file[key] for key in file.files}
                        _check(index, path.stat().st_size)
                        return index
    return None


def _is_plain(path: Path) -> bool:
    """Whether an NPZ is what we write: not compressed, so that nothing in it is larger than the file."""
    with zipfile.ZipFile(path) as archive:
        return all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())


def _check(index: dict[str, np.ndarray], size: int) -> None:
    """Raise ValueError: a number leads out of the file, or the parts do not belong to each other."""
    columns = [index[name] for name in _COLUMNS]
    if any(column.dtype != np.int64 or column.shape != columns[0].shape or column.ndim != 1 for column in columns):
        raise ValueError("columns")
    starts, leads, lengths, *_ = columns
    if len(_unpacked(index["ids"])) != len(starts):
        raise ValueError("ids")
    if (
        any((column < 0).any() or (column > size).any() for column in columns)
        or (starts + leads + lengths > size).any()
    ):
        raise ValueError("places")
    for key, line, reason in json.loads(bytes(index["problems"])):
        if not (isinstance(key, str) and type(line) is int and isinstance(reason, str)):
            raise ValueError("problems")


def _save(path: Path, index: dict[str, np.ndarray]) -> None:
    for target in (index_path(path), _cache_path(path)):
        # A read-only folder or a full disk: the index is a convenience.
        with contextlib.suppress(OSError):
            with whole_file(target) as part, part.open("wb") as file:
                np.savez(file, **index)
            return


def _packed(texts: list[str]) -> np.ndarray:
    """Texts as one piece of UTF-8, a line each: an array of texts would give each the length of the longest."""
    return np.frombuffer("\n".join(texts).encode("utf-8"), dtype=np.uint8)


def _unpacked(blob: np.ndarray) -> list[str]:
    text = blob.tobytes().decode("utf-8")
    return text.split("\n") if text else []


def _build(path: Path) -> dict[str, np.ndarray]:
    stamp = _stamp(path)
    ids: list[str] = []
    rows: list[tuple[int, ...]] = []
    problems: list[tuple[str, int, str]] = []
    offset, number = 0, 0
    with open(path, "rb", buffering=2**20) as file:
        while line := file.readline(_LONGEST_LINE):
            number += 1
            start, offset = offset, offset + len(line)
            if len(line) >= _LONGEST_LINE:
                raise DatasetError(f"{path}:{number}: a line of more than {_LONGEST_LINE // 2**20} MiB: no such file")
            if number == 1 and line.startswith(UTF8_BOM):
                start, line = start + len(UTF8_BOM), line.removeprefix(UTF8_BOM)
            body = line.rstrip(b"\r\n")
            if not body.strip():
                continue
            key, tab, encoded = body.partition(b"\t")
            name = decode(key, f"{path}:{number}", path).strip() if tab else ""
            reason = problem(tab, encoded, cut_off=not line.endswith(b"\n"))
            if not reason and _swapped(key, encoded):
                reason = "the columns are swapped (needed: id, tab, base64 of the picture)"
            if not reason and not name:
                reason = "there is no id before the tab"
            if reason:
                problems.append((name[:100] or f"line {number}", number, reason))
                continue
            lead = len(encoded) - len(encoded.lstrip())  # blanks around the base64, as some writers leave
            encoded = encoded.strip()
            ids.append(name)
            rows.append((start, len(key) + 1 + lead, len(encoded), number, decoded_size(encoded)))
    if not ids and not problems:
        raise DatasetError(f"{path}: the file is empty; fetch it again")
    columns = np.array(rows, dtype=np.int64).reshape(-1, len(_COLUMNS))
    index = {name: np.ascontiguousarray(columns[:, place]) for place, name in enumerate(_COLUMNS)}
    told = np.frombuffer(json.dumps(problems).encode(), dtype=np.uint8)
    return {"stamp": stamp, "ids": _packed(ids), **index, "problems": told}


def problem(tab: bytes, encoded: bytes, cut_off: bool) -> str | None:
    """What is wrong with a line, or None. cut_off: there is no line end."""
    if not tab:
        return "a line without a tab (needed: id, tab, base64 of the picture)" + (
            ": the file was cut off here" if cut_off else ""
        )
    encoded = encoded.strip()
    if encoded.startswith((b"b'", b'b"')):
        return "a Python bytes literal (b'...') instead of base64; whoever wrote it forgot .decode()"
    bare = encoded.rstrip(b"=")
    stray = bare.translate(None, _ALPHABET)
    if stray:
        return f"bad base64 (contains {stray[:1].decode('latin-1')!r})"
    padding = len(encoded) - len(bare)
    if (
        not bare
        or len(bare) % 4 == 1
        or padding not in (0, -len(bare) % 4)
        or (padding == 0 and cut_off and len(bare) % 4)
    ):
        if cut_off:
            return "the last line is cut off: the file was not copied completely"
        return f"bad base64 ({len(bare)} characters without = at the end, and {padding} of these): a part is missing"
    if cut_off:
        # No line end: a writer's habit, or a copy that broke off after a multiple of 4. The picture knows.
        try:
            decode_image(decode_base64(encoded), "", "")
        except DatasetError:
            return "the last line is cut off: the file was not copied completely"
    return None


def _swapped(key: bytes, encoded: bytes) -> bool:
    """Whether the picture stands before the tab: no picture is as short as an id."""
    return len(key) > 64 > len(encoded.strip()) and not key.strip().rstrip(b"=").translate(None, _ALPHABET)


def decoded_size(encoded: bytes) -> int:
    """Bytes of what base64 stands for."""
    return len(encoded.rstrip(b"=")) * 3 // 4
