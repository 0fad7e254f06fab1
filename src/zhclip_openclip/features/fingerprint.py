"""Names for image features by content: what they are made with and what they are made of.

Two evaluations get the same name only if the image tower (weights and structure), the preprocessing, the precision and
every image are the same, whatever the models, data sets and files are called. All digests are SHA-256.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import importlib.metadata
import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from zhclip_openclip.features import linear, ranks

_PRIMITIVE = (bool, int, float, str, type(None))
#: Sizes of the images that a preprocessing is tried on: wide, high, smaller and larger than any crop.
_PROBES = ((500, 375, "RGB"), (333, 512, "RGB"), (97, 61, "RGB"), (1030, 1030, "RGB"), (120, 80, "L"), (64, 90, "RGBA"))


def digest(parts: Any) -> str:
    """Of anything that JSON holds."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


# ---------------------------------------------------------------- the tower


def image_tower(model: torch.nn.Module) -> torch.nn.Module:
    """What `encode_image` runs: `model.visual` where the method is open_clip's own, otherwise the whole model."""
    method = getattr(type(model), "encode_image", None)
    visual = getattr(model, "visual", None)
    if getattr(method, "__module__", None) == "open_clip.model" and isinstance(visual, torch.nn.Module):
        return visual
    return model


def tower(model: torch.nn.Module) -> str:
    """Of the image tower: every parameter and buffer, and the structure that gives them their meaning (classes,
    numbers of heads, activations, epsilons)."""
    found = image_tower(model)
    content = hashlib.sha256(digest(_structure(found)).encode())
    for name, tensor in sorted(found.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content.update(_bytes(tensor))
    return content.hexdigest()


def _structure(module: torch.nn.Module) -> list:
    return [
        [
            name,
            f"{type(part).__module__}.{type(part).__qualname__}",
            part.extra_repr(),
            {
                key: _describe(value)
                for key, value in sorted(vars(part).items())
                if not key.startswith("_") and key != "training"
            },
        ]
        for name, part in module.named_modules()
        # Compiling a tower wraps it and changes nothing that it computes.
        if type(part).__name__ != "OptimizedModule"
    ]


def _describe(value: Any) -> Any:
    if isinstance(value, _PRIMITIVE):
        return value
    if isinstance(value, (list, tuple)):
        return [_describe(entry) for entry in value]
    if isinstance(value, functools.partial):
        return [_describe(value.func), _describe(list(value.args)), sorted(value.keywords)]
    code = getattr(value, "__code__", None)
    if code is not None and code.co_name == "<lambda>":  # has no name that tells it from another one
        return [code.co_code.hex(), list(code.co_names), [repr(entry) for entry in code.co_consts]]
    if callable(value):
        return getattr(value, "__qualname__", type(value).__qualname__)
    return type(value).__qualname__


def _bytes(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else memoryview(b"")


# ---------------------------------------------------------------- preprocessing and precision


def preprocessing(dataset) -> str | None:
    """Of what happens to the images of a data set on their way to the tower; None if it is not the same every time.

    Tried out and not read off the transform's text, which for a function of somebody's own says nothing: on images of
    our own where the transform is within reach, and on the first of the data set.
    """
    if isinstance(dataset, torch.utils.data.IterableDataset) and not hasattr(dataset, "pipeline"):
        return None  # TensorFlow must not run in a process that is forked afterwards
    transform = _transform(dataset)
    state = torch.random.get_rng_state()
    try:
        first, second = (
            [*([_tried(transform, image) for image in _probes()] if transform else []), *_first(dataset, transform)]
            for _ in range(2)
        )
    finally:
        torch.random.set_rng_state(state)
    return digest(first) if first == second and first else None


def _transform(dataset) -> Callable | None:
    for _ in range(5):
        transform = getattr(dataset, "transform", None)
        if transform is not None:
            return transform
        dataset = getattr(dataset, "_dataset", None) or getattr(dataset, "dataset", None)
        if dataset is None:
            return None
    return None


def _first(dataset, transform) -> list[str]:
    """Digests of the first image as the tower gets it; of more where nothing else tells what is done to them."""
    if isinstance(dataset, torch.utils.data.IterableDataset):
        return [_content(entry[0]) for entry in itertools.islice(iter(dataset), 1)]  # a batch
    return [_content(dataset[index][0]) for index in range(min(len(dataset), 1 if transform else 64))]


def _tried(transform: Callable, image: Image.Image) -> str | None:
    try:
        return _content(transform(image.copy()))
    except Exception:  # not every transform takes images of every kind
        return None


@functools.lru_cache(maxsize=1)
def _probes() -> tuple[Image.Image, ...]:
    import numpy as np

    random = np.random.default_rng(0)
    images = []
    for width, height, mode in _PROBES:
        noise = Image.fromarray(random.integers(0, 256, (9, 13, 3), dtype=np.uint8))
        images.append(noise.resize((width, height), Image.Resampling.BICUBIC).convert(mode))
    return tuple(images)


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
        if files is None:
            return None
        # How many workers read the shards decides the order of a stream.
        mine = [_file(files[index]) for index in ranks.part(len(files))]
        contents = [content for part in ranks.everyones(mine) for content in part]
        return digest([loader.num_workers, _pipeline(dataset), contents])
    if batches:  # our shards, batch by batch
        dataset = dataset.dataset
    contents = _Contents(dataset)
    if not contents.known():
        return None
    # Of several processes each reads a part, as it has it, and all get the name of the whole.
    mine = torch.utils.data.Subset(contents, ranks.part(len(contents)))
    reader = torch.utils.data.DataLoader(mine, batch_size=64, num_workers=workers, collate_fn=list)
    entries = b"".join(entry for batch in reader for entry in batch)
    return hashlib.sha256(b"".join(ranks.everyones(entries))).hexdigest()


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
        return hashlib.sha256(_content(image).encode() + _content(label).encode()).digest()


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


def _content(value: Any) -> str:
    if isinstance(value, Image.Image):
        palette = value.getpalette() if value.mode == "P" else None
        head = f"{value.mode} {value.size} {palette}".encode()
        return hashlib.sha256(head + value.tobytes()).hexdigest()
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        return hashlib.sha256(f"{value.dtype} {tuple(value.shape)}".encode() + _bytes(value)).hexdigest()
    if hasattr(value, "dtype") and hasattr(value, "tobytes"):  # an array, or a number of NumPy
        return hashlib.sha256(f"{value.dtype} {value.shape}".encode() + value.tobytes()).hexdigest()
    if isinstance(value, (list, tuple)):
        return digest([_content(entry) for entry in value])
    if isinstance(value, dict):
        return digest([[key, _content(entry)] for key, entry in value.items()])
    return digest(repr(value))


def _pipeline(dataset) -> list[str]:
    """The steps of a WebDataset pipeline, by name."""
    return [getattr(step, "__qualname__", type(step).__qualname__) for step in getattr(dataset, "pipeline", [])]


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
