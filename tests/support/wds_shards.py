"""WebDataset shards as `clip_benchmark_export_wds` writes them, and ways to spoil a member."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

#: What a broken download, a full disk and a log-in page make of an image.
SPOILED = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "text": lambda data: b"<html>please log in</html>",
}


class Pictures(torch.utils.data.Dataset):
    """Noise whose first pixel's red is the sample's number, with the label number % classes."""

    def __init__(self, count: int, classes: list[str], several: bool = False):
        self.count, self.classes, self.several = count, classes, several
        self.templates = ["a photo of {c}"]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        pixels = np.random.default_rng(index).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        pixels[:8, :8] = (index, 0, 0)
        label = index % len(self.classes)
        if self.several:
            return Image.fromarray(pixels), torch.eye(len(self.classes), dtype=torch.long)[label]
        return Image.fromarray(pixels), label


def write(
    root: Path, classes: list[str], count: int = 20, a_shard: int = 7, image_format: str = "webp", several: bool = False
) -> Path:
    """`count` pictures below `root`, `a_shard` in each shard, by clip_benchmark's own function."""
    from clip_benchmark.webdataset_builder import PIL_to_bytes, convert_dataset

    convert_dataset(
        Pictures(count, classes, several),
        "test",
        str(root),
        transform=PIL_to_bytes(image_format),
        image_format=image_format,
        max_count=a_shard,
        multilabel=several,
        verbose=False,
    )
    return root


def change(shard: Path, changes: dict) -> None:
    """Write a shard again. changes: member -> function of its bytes; None takes the member out."""
    with tarfile.open(shard) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar if member.isreg()]
    assert set(changes) <= {member.name for member, _ in members}
    with tarfile.open(shard, "w") as tar:
        for member, data in members:
            if member.name in changes:
                if changes[member.name] is None:
                    continue
                data = changes[member.name](data)
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
