"""Pictures in tar shards, read in place."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from zhclip_openclip._errors import printable
from zhclip_openclip._reading import kind_of, reading
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import ImageSource
from zhclip_openclip.datasets._text_lines import encoding_of

PICTURES = ("webp", "png", "jpg", "jpeg")  # what CLIP_benchmark reads, in its order
_TEXT = "txt"
# As WebDataset takes names apart: folders, then all up to the first dot; the rest is the suffix. What begins with a dot
# (`._s0.png`, which macOS puts beside each file) has no key; nor have `LICENSE` and names like `__meta__`.
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_META = re.compile(r"__[^/]*__($|/)")
_WAY_OUT = "copy or export it again"


class _Member(NamedTuple):
    name: str
    offset: int
    size: int


class TarImages(ImageSource):
    """Pictures in tar shards by position. Only the headers are read to find them, and nothing is unpacked.

    Samples are what WebDataset makes of a shard: members that follow each other and have one key, which is the name up
    to the first dot. A key that comes again is another sample; its id then gets a number, `s0#2`. Members that are
    neither picture nor caption of a sample are passed over; `others` counts them.

    Raises:
        DatasetError: a shard that is cut off or no tar, a member whose path climbs out of its folder, a picture or
            caption that is a link or device, a caption without a picture, one member of a sample twice.
    """

    def __init__(self, shards: Iterable[Path]) -> None:
        self.ids: list[str] = []
        self.others = 0
        self._members: list[tuple[str, _Member]] = []
        self._texts: list[_Member | None] = []
        self._seen: dict[str, int] = {}
        for shard in shards:
            with reading(shard, DatasetError, _WAY_OUT):
                self._read_index(shard)
        del self._seen

    def _read_index(self, shard: Path) -> None:
        size = shard.stat().st_size
        key: str | None = None
        files: dict[str, _Member] = {}
        try:
            with tarfile.open(shard, "r:", encoding="utf-8", errors="surrogateescape") as tar:
                for member in tar:
                    place = f"{shard}[{member.name}]"
                    path = PurePosixPath(member.name.replace("\\", "/"))
                    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
                        raise DatasetError(f"{place}: the path climbs out of its folder; do not use this file")
                    match = _NAME.fullmatch(member.name)
                    if member.isdir() or match is None or _META.match(member.name):
                        continue
                    if member.isreg() and member.offset_data + member.size > size and not member.issparse():
                        raise DatasetError(f"{place}: the shard is cut off here; {_WAY_OUT}")
                    suffix = match[2].lower()
                    if suffix not in (*PICTURES, _TEXT):
                        self.others += 1
                        continue
                    if not member.isreg() or member.issparse():
                        raise DatasetError(f"{place}: a link or device instead of a file; do not use this file")
                    if match[1] != key:
                        self._add(shard, key, files)
                        key, files = match[1], {}
                    if suffix in files:
                        raise DatasetError(f"{place}: the sample has two .{suffix}; take one out")
                    files[suffix] = _Member(member.name, member.offset_data, member.size)
                self._add(shard, key, files)
        except (tarfile.TarError, EOFError, OSError) as error:
            what = kind_of(shard)
            way_out = "unpack it: its members are read in place" if "archive" in what else _WAY_OUT
            raise DatasetError(f"{shard}: not a whole tar file ({what or error}); {way_out}") from None
        with open(shard, "rb") as file:  # tarfile takes a header that is cut off for the end
            file.seek(max(0, size - 1024))
            if size < 1024 or file.read().strip(b"\0"):
                raise DatasetError(
                    f"{shard}: the shard is cut off (no end mark: 1024 zero bytes); {_WAY_OUT}, or add the mark if it "
                    "was written without"
                )

    def _add(self, shard: Path, key: str | None, files: dict[str, _Member]) -> None:
        picture = next((files[suffix] for suffix in PICTURES if suffix in files), None)
        if picture is None:
            if _TEXT in files:
                caption = f"{shard}[{files[_TEXT].name}]"
                raise DatasetError(f"{caption}: no picture ({', '.join(PICTURES)}) with this caption; export it again")
            return
        self.ids.append(self._once(printable(key.removeprefix("./"))))
        self._members.append((str(shard), picture))
        self._texts.append(files.get(_TEXT))

    def _once(self, key: str) -> str:
        """The key; with a number where it has been there before."""
        result = key
        while result in self._seen:
            self._seen[key] += 1
            result = f"{key}#{self._seen[key]}"
        self._seen[result] = 1
        return result

    def _at(self, shard: str, member: _Member) -> bytes:
        with reading(f"{shard}[{member.name}]", DatasetError, _WAY_OUT), open(shard, "rb", buffering=0) as file:
            file.seek(member.offset)
            return file.read(member.size)

    def read(self, index: int) -> bytes:
        return self._at(*self._members[index])

    def size(self, index: int) -> int:
        return self._members[index][1].size

    def where(self, index: int) -> str:
        return f"{self._members[index][0]}[{self._members[index][1].name}]"

    def captions(self, index: int) -> list[str]:
        """The captions in the shard itself, one a line, as CLIP_benchmark splits them.

        Raises DatasetError: there are none, or they are not UTF-8.
        """
        member = self._texts[index]
        if member is None:
            raise DatasetError(f"{self.where(index)}: no .txt with captions beside it; export it again")
        shard = self._members[index][0]
        raw = self._at(shard, member)
        try:
            return raw.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            guess = encoding_of(raw)
            raise DatasetError(
                f"{shard}[{member.name}]: not UTF-8 (looks like {guess}); convert the captions to UTF-8 and pack the "
                "shard again"
            ) from None
