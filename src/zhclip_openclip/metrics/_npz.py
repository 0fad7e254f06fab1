"""Reading the NPZ beside a result: nothing is read before its size, type and shape are known to be what they should be.

An NPZ is a zip archive of NPY files. What it says of itself need not be true: a few bytes can claim 10^13 numbers, or
inflate to what no machine holds, or hold objects, structures or text where numbers belong. Here the table of the
archive and the header of each array are looked at first, the two are compared, and only arrays that are expected are
read. Arrays that are not expected are left alone. Nothing is ever executed.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip._reading import parse_json, reading

#: Bytes of all arrays of a file together. A million queries with ids of 20 characters have 160 MB.
LIMIT = 2**30
#: Of the description, which is JSON.
META_LIMIT = 16 * 2**20
_BLOCK = 2**20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_NAMES = {"i": "integers", "f": "floats", "b": "booleans", "U": "text"}


class OutcomeError(ZhclipError):
    """A file with the outcomes of single samples that cannot be used."""


@dataclass(frozen=True)
class Form:
    """What an array must be. kind: 'i' integers, 'f' floats, 'b' booleans, 'U' text."""

    kind: str
    ndim: int
    needed: bool = True


def read_npz(path: str | os.PathLike[str], forms: Mapping[str, Form]) -> dict[str, Any]:
    """The arrays that `forms` names, as far as they are there; 'meta', which every file has, as a dict.

    They come in the order of bytes of this machine; floats are finite.

    Raises OutcomeError: no such archive; an array that is needed and is not there, is of another kind or shape, is
        larger than `LIMIT`, or is not as large as it says.
    """
    forms = {**forms, "meta": Form("U", 0)}
    with reading(path, OutcomeError), zipfile.ZipFile(path) as archive:
        members = _members(path, archive)
        missing = [key for key, form in forms.items() if form.needed and key not in members]
        if missing:
            raise OutcomeError(f"{path}: has no {' and no '.join(missing)}")
        found = {key: _Array(path, key, archive, members[key]) for key in forms if key in members}
        for key, array in found.items():
            array.check(forms[key])
        size = sum(array.bytes for array in found.values())
        if size > LIMIT:
            raise OutcomeError(f"{path}: inflates to {size / 2**30:,.1f} GiB, and {LIMIT / 2**30:g} are read at most")
        if found["meta"].bytes > META_LIMIT:
            raise OutcomeError(f"{path}: meta has {found['meta'].bytes:,} bytes, and {META_LIMIT:,} are read at most")
        result: dict[str, Any] = {key: array.read(forms[key]) for key, array in found.items()}
    meta = parse_json(str(result["meta"]), f"{path}: meta", OutcomeError)
    if not isinstance(meta, dict):
        raise OutcomeError(f"{path}: meta is no object")
    result["meta"] = meta
    return result


def keys(path: str | os.PathLike[str]) -> set[str]:
    """The names of the arrays in a file. Raises OutcomeError: no such archive."""
    with reading(path, OutcomeError), zipfile.ZipFile(path) as archive:
        return set(_members(path, archive))


def require(path: str | os.PathLike[str], fits: Any) -> None:
    """Raises OutcomeError: what is said of the arrays is not so."""
    if not fits:
        raise OutcomeError(f"{path}: its arrays do not fit each other")


def text_of(path: str | os.PathLike[str], meta: Mapping[str, Any], key: str) -> str:
    """A text of the description, '' where there is none. Raises OutcomeError: something else is there."""
    text = meta.get(key)
    if not isinstance(text, (str, type(None))):
        raise OutcomeError(f"{path}: {key} in meta is {repr(text)[:60]}, no text")
    return text or ""


def inside(array: np.ndarray, low: int, high: int) -> bool:
    """Whether all numbers are in low..high, both included."""
    return not array.size or bool(array.min() >= low and array.max() <= high)


def _members(path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        key = info.filename.removesuffix(".npy")
        if key in members:
            raise OutcomeError(f"{path}: has {key} twice")
        members[key] = info
    return members


class _Array:
    """One array of an archive, of which the header alone is read at first."""

    def __init__(self, path, key: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        self.where, self.archive, self.info = f"{path}: {key}", archive, info
        if info.compress_type not in _METHODS:
            raise OutcomeError(f"{self.where} is packed by a method ({info.compress_type}) that NumPy does not write")
        if info.flag_bits & 1:
            raise OutcomeError(f"{self.where} is encrypted")
        with archive.open(info) as file:
            self.shape, self.fortran, self.dtype = _header(file)
            self.start = file.tell()
        self.bytes = math.prod(self.shape) * self.dtype.itemsize

    def check(self, form: Form) -> None:
        kind = "i" if self.dtype.kind == "u" else self.dtype.kind
        if kind != form.kind or self.dtype.names or self.dtype.subdtype:
            raise OutcomeError(f"{self.where} is of type {self.dtype}, not {_NAMES[form.kind]}")
        if len(self.shape) != form.ndim:
            raise OutcomeError(f"{self.where} has {len(self.shape)} dimensions, not {form.ndim}")
        there = self.info.file_size - self.start
        if self.bytes != there or (not self.dtype.itemsize and math.prod(self.shape) > 1):
            raise OutcomeError(f"{self.where} claims {math.prod(self.shape):,} items, and its file has {there:,} bytes")

    def read(self, form: Form) -> np.ndarray:
        with self.archive.open(self.info) as file:
            _header(file)
            data, there = np.empty(self.bytes, np.uint8), 0
            while block := file.read(_BLOCK):  # to the end, where the archive compares its checksum
                data[there : there + len(block)] = np.frombuffer(block, np.uint8)
                there += len(block)
        if there != self.bytes:
            raise OutcomeError(f"{self.where} has {there:,} of {self.bytes:,} bytes")
        array = data.view(self.dtype) if self.bytes else np.empty(math.prod(self.shape), self.dtype)
        array = array.reshape(self.shape, order="F" if self.fortran else "C")
        if form.kind == "b":
            return array.view(np.uint8) != 0
        array = array.astype(_plain(self.dtype), copy=False)
        if form.kind == "f" and not np.isfinite(array).all():  # their order means nothing
            raise OutcomeError(f"{self.where} has numbers that are not finite")
        if form.kind == "U" and array.size and array.dtype.itemsize:
            code = np.ascontiguousarray(array).reshape(-1).view(np.uint32)
            if code.max(initial=0) > 0x10FFFF:
                raise OutcomeError(f"{self.where} is no Unicode text")
        return array


def _plain(dtype: np.dtype) -> np.dtype:
    """A type of this kind that NumPy and torch both compute with, in the order of bytes of this machine."""
    if dtype.kind == "u" and dtype.itemsize > 1:
        return np.dtype(np.int64)  # what does not fit is negative then, and out of every range
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        return np.dtype(np.float64)
    return dtype.newbyteorder("=")


def _header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"NPY format {version[0]}.{version[1]}")
    return read(file)
