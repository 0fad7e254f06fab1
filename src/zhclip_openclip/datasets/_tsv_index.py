"""Random access to a file of `id <tab> base64` lines without loading it: an index of offsets, built once.

The index lies beside the file as `<file>.zhclip-index.npz` (in the user's cache folder where that can't be written) and
holds for its size and modification time only. Building it reads the file once and looks at every byte, so that a bad
line is known before any model is loaded.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import os
import zipfile
from pathlib import Path

import numpy as np

from zhclip_openclip._files import whole_file
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import ImageSource, Skipped, decode_image
from zhclip_openclip.datasets._text_lines import UTF8_BOM, decode

FORMAT_VERSION = 1
_LONGEST_LINE = 256 * 2**20
# Chinese-CLIP itself reads with urlsafe_b64decode, so both alphabets occur.
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"


class TsvImages(ImageSource):
    """Pictures of a TSV by position in the file.

    Each read is one positioned read of one line: nothing is shared between workers but the index.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        index = _load(path)
        if index is None:
            index = _build(path)
            _save(path, index)
        self.ids: list[str] = [str(key) for key in index["ids"]]
        self._offsets, self._lengths = index["offsets"], index["lengths"]
        self._lines, self._sizes = index["lines"], index["sizes"]
        self.problems = [
            Skipped(key, f"{path}:{line}", reason) for key, line, reason in json.loads(str(index["problems"]))
        ]

    def read(self, index: int) -> bytes:
        with open(self.path, "rb", buffering=0) as file:
            file.seek(int(self._offsets[index]))
            encoded = file.read(int(self._lengths[index]))
        try:
            return decode_base64(encoded)
        except (binascii.Error, ValueError):
            raise DatasetError(
                f"{self.where(index)}: image {self.ids[index]} is no base64 any more: the file changed while it was "
                "in use; start again"
            ) from None

    def size(self, index: int) -> int:
        return int(self._sizes[index])

    def where(self, index: int) -> str:
        return f"{self.path}:{self._lines[index]}"


def decode_base64(encoded: bytes) -> bytes:
    """Strict base64 in either alphabet."""
    return base64.b64decode(encoded.translate(bytes.maketrans(b"-_", b"+/")), validate=True)


def index_path(path: Path) -> Path:
    """Where the index lies if the data folder can be written."""
    return path.with_name(path.name + ".zhclip-index.npz")


def _cache_path(path: Path) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    return cache / "zhclip-openclip" / "tsv" / f"{name}.npz"


def _stamp(path: Path) -> np.ndarray:
    stat = path.stat()
    return np.array([FORMAT_VERSION, stat.st_size, stat.st_mtime_ns], dtype=np.int64)


def _load(path: Path) -> dict[str, np.ndarray] | None:
    for candidate in (index_path(path), _cache_path(path)):
        try:
            with np.load(candidate, allow_pickle=False) as file:
                if np.array_equal(file["stamp"], _stamp(path)):
                    return {key: file[key] for key in file.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            continue  # absent, cut off, or of another program: build it anew
    return None


def _save(path: Path, index: dict[str, np.ndarray]) -> None:
    for target in (index_path(path), _cache_path(path)):
        # A read-only folder or a full disk: the index is a convenience.
        with contextlib.suppress(OSError):
            with whole_file(target) as part, part.open("wb") as file:
                np.savez(file, **index)
            return


def _build(path: Path) -> dict[str, np.ndarray]:
    stamp = _stamp(path)
    ids: list[str] = []
    rows: list[tuple[int, int, int, int]] = []
    problems: list[tuple[str, int, str]] = []
    offset, number = 0, 0
    with open(path, "rb", buffering=2**20) as file:
        while line := file.readline(_LONGEST_LINE):
            number += 1
            start, offset = offset, offset + len(line)
            if number == 1 and line.startswith(UTF8_BOM):
                start, line = start + len(UTF8_BOM), line.removeprefix(UTF8_BOM)
            body = line.rstrip(b"\r\n")
            if not body.strip():
                continue
            key, tab, encoded = body.partition(b"\t")
            name = decode(key[:200], f"{path}:{number}", path) if tab else ""
            reason = _problem(tab, encoded, cut_off=not line.endswith(b"\n"))
            if reason:
                problems.append((name or f"line {number}", number, reason))
                continue
            lead = len(encoded) - len(encoded.lstrip())  # blanks around the base64, as some writers leave
            encoded = encoded.strip()
            ids.append(name.strip())
            rows.append((start + len(key) + 1 + lead, len(encoded), number, _decoded_size(encoded)))
    if not ids and not problems:
        raise DatasetError(f"{path}: the file is empty; fetch it again")
    columns = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return {
        "stamp": stamp,
        "ids": np.array(ids, dtype=np.str_),
        "offsets": columns[:, 0],
        "lengths": columns[:, 1],
        "lines": columns[:, 2],
        "sizes": columns[:, 3],
        "problems": np.array(json.dumps(problems)),
    }


def _problem(tab: bytes, encoded: bytes, cut_off: bool) -> str | None:
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
    if not bare or len(encoded) % 4 or len(encoded) - len(bare) > 2:
        if cut_off:
            return "the last line is cut off: the file was not copied completely"
        return f"bad base64 ({len(encoded)} characters; a multiple of 4 is needed)"
    if cut_off:
        # No line end: a writer's habit, or a copy that broke off after a multiple of 4. The picture knows.
        try:
            decode_image(decode_base64(encoded), "", "")
        except DatasetError:
            return "the last line is cut off: the file was not copied completely"
    return None


def _decoded_size(encoded: bytes) -> int:
    return len(encoded) // 4 * 3 - (len(encoded) - len(encoded.rstrip(b"=")))
