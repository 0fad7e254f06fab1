"""Names for image features by content: what they are made with and what they are made of.

Two evaluations get the same name only if the image tower (weights and structure), the preprocessing, the precision and
every image are the same, whatever the models, data sets and files are called. All digests are SHA-256. What the name
cannot tell of a tower, its code, is tried out: see `trial.py`.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
from collections.abc import Iterable
from pathlib import Path

import torch

from zhclip_openclip.features import linear, ranks
from zhclip_openclip.features._digests import content, digest
from zhclip_openclip.features._preprocessing import preprocessing
from zhclip_openclip.features._tower import described, image_tower, part_in_training, tower

__all__ = ["data", "digest", "image_tower", "part_in_training", "precision", "preprocessing", "tower"]


# ---------------------------------------------------------------- precision


def precision(device: str, amp: bool) -> list:
    """What else decides the numbers: kind of device, precision, what multiplies, and the versions that compute them."""
    kind = torch.device(device).type
    versions = {}
    for package in ("torch", "open_clip_torch", "timm"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    low = str(torch.get_autocast_dtype(kind)) if amp else None
    onednn = not amp and linear.used(device)
    return [kind, low, torch.get_float32_matmul_precision(), onednn, versions]


# ---------------------------------------------------------------- data


def data(loader: torch.utils.data.DataLoader, workers: int = 0) -> str | None:
    """Of all images that a loader gives, in their order, and of their labels; None where that cannot be told.

    Images count by the bytes of their files where the data set has files, otherwise by their decoded pixels: file
    times and sizes can lie. Shards of a WebDataset on this machine count by their bytes.
    """
    dataset = loader.dataset
    batches = isinstance(getattr(dataset, "batch_size", None), int) and hasattr(dataset, "dataset")
    if isinstance(dataset, torch.utils.data.IterableDataset):
        files = _shards(dataset)
        if not all(ranks.everyones(files is not None)):
            return None
        # How many workers read the shards decides the order of a stream.
        mine = [_file(files[index]) for index in ranks.part(len(files))]
        contents = [entry for part in ranks.everyones(mine) for entry in part]
        dropped = loader.batch_size if loader.drop_last else None
        return digest([loader.num_workers, dropped, _pipeline(dataset), described(loader.collate_fn), contents])
    in_order = isinstance(loader.sampler, torch.utils.data.SequentialSampler) and not loader.drop_last
    if not in_order or (loader.batch_size is None and not batches):
        return None  # the loader has a choice or an order of its own
    if batches:  # our shards, batch by batch
        dataset = dataset.dataset
    contents = _Contents(dataset)
    if not all(ranks.everyones(contents.known())):
        return None
    # Of several processes each reads a part, as it has it, and all get the name of the whole.
    mine = torch.utils.data.Subset(contents, ranks.part(len(contents)))
    reader = torch.utils.data.DataLoader(mine, batch_size=64, num_workers=workers, collate_fn=list)
    entries = b"".join(entry for batch in reader for entry in batch)
    together = hashlib.sha256(b"".join(ranks.everyones(entries))).hexdigest()
    return digest([together, described(loader.collate_fn)])  # which could do more than put images together


class _Contents(torch.utils.data.Dataset):
    """Digest of each image and its label, as bytes; at random access, so that workers can share the reading."""

    def __init__(self, dataset):
        self._dataset = dataset if hasattr(dataset, "read_image") else without_transform(dataset)

    def known(self) -> bool:
        return self._dataset is not None

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> bytes:
        if hasattr(self._dataset, "read_image"):
            # The same file is another picture for a transform that gets it as it was opened, and not in RGB.
            opened = b"as opened" if getattr(self._dataset, "as_opened", False) else b""
            return hashlib.sha256(opened + self._dataset.read_image(index)).digest()
        image, label = self._dataset[index]
        return hashlib.sha256(content(image).encode() + content(label).encode()).digest()


def without_transform(dataset):
    """A shallow copy of a map-style data set, or of one behind wrappers, that gives images as they are stored; None
    for one whose transform is out of reach."""
    held = vars(dataset) if hasattr(dataset, "__dict__") else {}
    names = [name for name in ("transform", "transforms") if name in held]
    result = copy.copy(dataset)
    for inner in ("_dataset", "dataset"):
        if not names and inner in held:
            bare = without_transform(held[inner])
            if bare is None:
                return None
            setattr(result, inner, bare)
            return result
    if not names:
        return None
    for name in names:
        setattr(result, name, None)
    return result


def _pipeline(dataset) -> list:
    """The steps of a WebDataset pipeline, and what they were given; but for the batch size, which changes nothing."""
    steps = []
    for step in getattr(dataset, "pipeline", []):
        function = getattr(step, "f", None)
        if function is None:
            steps.append(getattr(step, "__qualname__", type(step).__qualname__))
            continue
        given = dict(getattr(step, "kw", {}))
        given.pop("seed", None)  # new each time, also where nothing is shuffled
        arguments = list(getattr(step, "args", []))
        if getattr(function, "__name__", "") == "_batched":
            arguments, _ = arguments[1:], given.pop("batchsize", None)
        steps.append([described(part) for part in (function, arguments, sorted(given.items()))])
    return steps


def _shards(dataset) -> list[Path] | None:
    urls: Iterable | None = None
    for _ in range(4):
        for step in getattr(dataset, "pipeline", []):
            urls = urls or getattr(step, "urls", None)
        if urls or not hasattr(dataset, "dataset"):
            break
        dataset = dataset.dataset
    if not urls:
        return None
    files = [Path(str(entry).removeprefix("file:")) for entry in urls]
    return files if all(path.is_file() for path in files) else None


def _file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _slowly(file)


def _slowly(file) -> str:
    """For Python 3.10."""
    content = hashlib.sha256()
    while chunk := file.read(2**20):
        content.update(chunk)
    return content.hexdigest()
