"""Pictures in tar shards, read in place."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import ImageSource

PICTURES = ("webp", "png", "jpg", "jpeg")  # what CLIP_benchmark reads, in its order


class TarImages(ImageSource):
    """Pictures in tar shards by position. Only the headers are read to find them, and nothing is unpacked.

    Raises:
        DatasetError: a shard that is cut off or no tar, a member whose path climbs out of its folder, a link or device,
            a sample without a picture.
    """

    def __init__(self, shards: Iterable[Path]) -> None:
        self.ids: list[str] = []
        self._members: list[tuple[str, str, int, int]] = []  # shard, member, offset, size
        self._texts: list[tuple[int, int] | None] = []
        for shard in shards:
            self._read_index(shard)

    def _read_index(self, shard: Path) -> None:
        size = shard.stat().st_size
        samples: dict[str, dict[str, tuple[str, int, int]]] = {}
        try:
            with tarfile.open(shard, "r:") as tar:
                for member in tar:
                    place = f"{shard}[{member.name}]"
                    path = PurePosixPath(member.name.replace("\\", "/"))
                    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
                        raise DatasetError(f"{place}: the path climbs out of its folder; do not use this file")
                    if member.isdir():
                        continue
                    if not member.isreg():
                        raise DatasetError(f"{place}: a link or device instead of a file; do not use this file")
                    if member.offset_data + member.size > size:
                        raise DatasetError(f"{place}: the shard is cut off here; copy or export it again")
                    key, _, extension = member.name.partition(".")
                    samples.setdefault(key, {})[extension.lower()] = (member.name, member.offset_data, member.size)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DatasetError(f"{shard}: not a whole tar file ({error}); copy or export it again") from None
        with open(shard, "rb") as file:  # tarfile takes a header that is cut off for the end
            file.seek(max(0, size - 1024))
            if size < 1024 or file.read().strip(b"\0"):
                raise DatasetError(f"{shard}: the shard is cut off (no end mark); copy or export it again")
        for key, files in samples.items():
            picture = next((files[extension] for extension in PICTURES if extension in files), None)
            if picture is None:
                raise DatasetError(f"{shard}[{key}]: no picture ({', '.join(PICTURES)}); export it again")
            self.ids.append(key)
            self._members.append((str(shard), *picture))
            self._texts.append(files["txt"][1:] if "txt" in files else None)

    def _at(self, shard: str, offset: int, size: int) -> bytes:
        with open(shard, "rb", buffering=0) as file:
            file.seek(offset)
            return file.read(size)

    def read(self, index: int) -> bytes:
        shard, _, offset, size = self._members[index]
        return self._at(shard, offset, size)

    def size(self, index: int) -> int:
        return self._members[index][3]

    def where(self, index: int) -> str:
        return f"{self._members[index][0]}[{self._members[index][1]}]"

    def captions(self, index: int) -> list[str]:
        """The captions in the shard itself, one a line."""
        text = self._texts[index]
        if text is None:
            raise DatasetError(f"{self.where(index)}: no .txt with captions beside it; export it again")
        return self._at(self._members[index][0], *text).decode("utf-8").splitlines()
