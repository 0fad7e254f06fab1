"""Reading an LMDB file (`data.mdb`) without LMDB: by positioned reads of its pages, each checked before it is believed.

LMDB's own library maps the file into memory and follows the numbers that it finds there: on a file that was cut off or
damaged the process dies of a signal, and no exception can be caught. What Chinese-CLIP writes needs a small part of the
format alone: one database without a name, each key once, never written to while it is read.

A file is pages of one size. Pages 0 and 1 are meta pages; the one with the higher transaction number counts. It names
the root of a B+tree: branch pages lead to leaf pages, whose nodes hold keys and values in the order of the keys; a
value that is too large for a leaf lies in overflow pages, one run for each value. Numbers are little-endian, as on the
machines that write such files. Definition: `mdb.c` of LMDB 0.9 (MDB_meta, MDB_db, MDB_page, MDB_node).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from zhclip_openclip._reading import kind_of, reading
from zhclip_openclip.datasets._dataset_error import DatasetError

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _META = 0x01, 0x02, 0x04, 0x08
_BIG_DATA, _SUB_DATA, _DUPLICATES = 0x01, 0x02, 0x04  # flags of a node
_SORTED_DUPLICATES = 0x04  # flag of a database
_NONE = 2**64 - 1  # "no page"
_HEADER = struct.Struct("<QHHHH")  # page number, padding, flags, where free space begins, where it ends
_PAGES = struct.Struct("<QHHI")  # of an overflow page: the last two are the number of its pages
_META_HEAD = struct.Struct("<IIQQ")  # magic, version, address, size of the map
_TREE = struct.Struct("<IHHQQQQQ")  # padding, flags, depth, branch, leaf and overflow pages, entries, root
_META_TAIL = struct.Struct("<QQ")  # last page, number of the transaction
_NODE = struct.Struct("<HHHH")  # low and high half of the size of the value, flags, size of the key
#: Levels of a tree; at two entries a page this is more than any file can have.
_DEEPEST = 64


class Value(NamedTuple):
    """Where a value lies in the file."""

    offset: int
    size: int


class LmdbFile:
    """An LMDB environment's only database, for reading. Opening reads two pages; it survives pickling and forking.

    path: the folder with `data.mdb`. entries: how many the file says it has.

    Raises DatasetError: no LMDB file, one that is cut off, one with databases by name or several values a key.
    """

    def __init__(self, path: Path, advice: str) -> None:
        self.path, self._advice = str(path / "data.mdb"), advice
        with reading(self.path, DatasetError, advice), open(self.path, "rb") as file:
            self._size = file.seek(0, 2)
            tree, last = self._meta(file)
        _, flags, self._depth, *_, self.entries, self._root = tree
        if flags & _SORTED_DUPLICATES:
            raise self._damaged("it has several values for one key")
        # Pages that were never used may be missing at the end, so it is the reading that decides what is cut off.
        self._needed = (last + 1) * self._page

    def items(self, longest: int | None = None) -> Iterator[tuple[bytes, Value, bytes]]:
        """Keys in their order, where their values lie, and the values; every page on the way is checked.

        longest: of a value, in bytes; one that is longer comes as no bytes.

        Raises DatasetError: the file is cut off or damaged.
        """
        if self._root == _NONE:
            return
        found = 0
        with reading(self.path, DatasetError, self._advice), open(self.path, "rb") as file:
            seen: set[int] = set()
            for key, value in self._walk(file, self._root, 1, seen):
                found += 1
                yield key, value, self._at(file, *value) if longest is None or value.size <= longest else b""
        if found != self.entries:
            raise self._damaged(f"it has {found} entries and says that there are {self.entries}")

    def read(self, value: Value) -> bytes:
        """The bytes of a value. Raises DatasetError: the file has become shorter since."""
        with reading(self.path, DatasetError, self._advice), open(self.path, "rb", buffering=0) as file:
            return self._at(file, value.offset, value.size)

    def _meta(self, file: BinaryIO) -> tuple[tuple, int]:
        """The tree and the last page of the meta page that counts."""
        found = []
        self._page = 4096
        for number in (0, 1):
            raw = self._at(file, number * self._page, _HEADER.size + _META_HEAD.size + 2 * _TREE.size + _META_TAIL.size)
            _, _, flags, _, _ = _HEADER.unpack_from(raw)
            magic, version, _, _ = _META_HEAD.unpack_from(raw, _HEADER.size)
            if magic != _MAGIC or not flags & _META:
                what = kind_of(self.path)
                raise self._damaged(f"it is {what}, no LMDB file" if what else "it is no LMDB file, or damaged")
            if version != _VERSION:
                raise self._damaged(f"it has version {version} of the format, and {_VERSION} is read")
            place = _HEADER.size + _META_HEAD.size
            self._page = _TREE.unpack_from(raw, place)[0]  # the size of a page stands in the padding of the first tree
            if self._page < 512 or self._page > 65536 or self._page & (self._page - 1):
                raise self._damaged(f"pages of {self._page} bytes")
            last, transaction = _META_TAIL.unpack_from(raw, place + 2 * _TREE.size)
            found.append((transaction, _TREE.unpack_from(raw, place + _TREE.size), last))
        _, tree, last = max(found, key=lambda meta: meta[0])
        return tree, last

    def _walk(self, file: BinaryIO, number: int, depth: int, seen: set[int]) -> Iterator[tuple[bytes, Value]]:
        if number in seen or depth > min(self._depth, _DEEPEST):
            raise self._damaged(f"page {number} is reached twice, or too deep")
        seen.add(number)
        page = self._at(file, number * self._page, self._page)
        own, _, flags, lower, upper = _HEADER.unpack_from(page)
        count, odd = divmod(lower - _HEADER.size, 2)
        if own != number or odd or not _HEADER.size <= lower <= upper <= self._page:
            raise self._damaged(f"page {number} is damaged")
        places = struct.unpack_from(f"<{count}H", page, _HEADER.size)
        if flags & _BRANCH:
            for place in places:
                low, high, top, _ = self._node(page, number, place)
                yield from self._walk(file, low | high << 16 | top << 32, depth + 1, seen)
        elif flags & _LEAF:
            for place in places:
                yield self._entry(file, page, number, place, seen)
        else:
            raise self._damaged(f"page {number} is no page of the tree")

    def _node(self, page: bytes, number: int, place: int) -> tuple[int, int, int, int]:
        if not _HEADER.size <= place <= self._page - _NODE.size:
            raise self._damaged(f"page {number} is damaged")
        return _NODE.unpack_from(page, place)

    def _entry(self, file: BinaryIO, page: bytes, number: int, place: int, seen: set[int]) -> tuple[bytes, Value]:
        low, high, flags, length = self._node(page, number, place)
        size, start = low | high << 16, place + _NODE.size
        if flags & (_SUB_DATA | _DUPLICATES):
            raise self._damaged("it has databases by name, or several values for one key")
        held = 8 if flags & _BIG_DATA else size
        if start + length + held > self._page:
            raise self._damaged(f"page {number} is damaged")
        key = page[start : start + length]
        if not flags & _BIG_DATA:
            return key, Value(number * self._page + start + length, size)
        first = int.from_bytes(page[start + length : start + length + 8], "little")
        own, _, kind, pages = _PAGES.unpack(self._at(file, first * self._page, _PAGES.size))
        if own != first or not kind & _OVERFLOW or _HEADER.size + size > pages * self._page or first in seen:
            raise self._damaged(f"page {first} is damaged")
        seen.add(first)
        value = Value(first * self._page + _HEADER.size, size)
        if value.offset + size > self._size:
            raise self._cut_off()
        return key, value

    def _at(self, file: BinaryIO, offset: int, size: int) -> bytes:
        if offset + size > self._size:
            raise self._cut_off() if offset >= 2 * 4096 else self._damaged("it is too short for an LMDB file")
        file.seek(offset)
        data = file.read(size)
        if len(data) != size:
            raise self._cut_off()
        return data

    def _cut_off(self) -> DatasetError:
        needed = max(getattr(self, "_needed", 0), self._size + 1)
        return DatasetError(
            f"{self.path} is cut off: it has {self._size:,} bytes, and {needed:,} are needed; copy it again"
        )

    def _damaged(self, what: str) -> DatasetError:
        return DatasetError(f"{self.path}: {what}; {self._advice}")
