"""The official Chinese retrieval sets by name: MUGE, Flickr30K-CN, COCO-CN, from the files as people have them; and
`digits-retrieval`, which needs none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from zhclip_openclip._errors import shorten
from zhclip_openclip._reading import reading
from zhclip_openclip.datasets import coco_cn, digits_retrieval, flickr30k_cn, muge
from zhclip_openclip.datasets._dataset_error import DatasetError, Incomplete
from zhclip_openclip.datasets._layout import Loaded, ReadOptions, candidate_folders, plain_name
from zhclip_openclip.datasets._relations import resolve
from zhclip_openclip.datasets._retrieval import RetrievalDataset

#: name -> module with NAME, FOLDERS, DEFAULT_SPLIT, DIRECTIONS, LAYOUTS and, if it has a layout of its own, load. One
#: whose data is embedded says so, and its load takes no folder.
DATASETS: dict[str, ModuleType] = {module.NAME: module for module in (muge, flickr30k_cn, coco_cn, digits_retrieval)}
DEFAULT_KS = (1, 5, 10)


def dataset_name(name: str) -> str | None:
    """The name as we spell it (`Flickr30K_CN` -> `flickr30k-cn`), or None if it is not one of ours."""
    return {plain_name(known): known for known in DATASETS}.get(plain_name(name))


def default_split(name: str) -> str:
    """The split that published numbers are on."""
    return _module(name).DEFAULT_SPLIT


def build_retrieval_dataset(
    name: str,
    root: str | os.PathLike[str],
    transform: Callable[[Any], Any] | None = None,
    split: str | None = None,
    skip_bad_images: bool = False,
    raw_captions: bool = False,
    image_folder: str | os.PathLike[str] | None = None,
    limit: int | None = None,
) -> RetrievalDataset:
    """A retrieval set from the files in a folder, whichever of the known layouts they are in.

    Args:
        name: muge, flickr30k-cn, coco-cn or digits-retrieval (or with underscores).
        root: the folder, or the one above it; of no matter to digits-retrieval.
        transform: applied to each picture as it was opened; see `RetrievalDataset`.
        split: by default the one that published numbers are on: valid of muge, test of the others.
        skip_bad_images: leave out pictures that are missing, do not decode or are badly encoded, and what hangs on
            them; they are in `.skipped`. Decodes every picture once before returning.
        raw_captions: keep part-of-speech tags and the spaces between words.
        image_folder: where the pictures are, for releases of captions alone.
        limit: take a sample of so many images and their texts; see `_sample.py`.

    Raises:
        DatasetError: an unknown name; no layout recognised (it says what was looked for, and where); bad data.
    """
    module = _module(name)
    split = split or module.DEFAULT_SPLIT
    options = ReadOptions(raw_captions, Path(image_folder) if image_folder is not None else None, skip_bad_images)
    with reading(root, DatasetError):
        loaded = _load(module, Path(root), split, options)
        return RetrievalDataset(
            module.NAME,
            split,
            resolve(loaded.images, loaded.records, skip_bad_images),
            directions=module.DIRECTIONS,
            transform=transform,
            layout=loaded.layout,
            notes=loaded.notes,
            skip_bad_images=skip_bad_images,
            limit=limit,
        )


def _module(name: str) -> ModuleType:
    known = dataset_name(name)
    if known is None:
        raise DatasetError(f"{name!r} is not a retrieval set of this package; it has {', '.join(DATASETS)}")
    return DATASETS[known]


def _load(module: ModuleType, root: Path, split: str, options: ReadOptions) -> Loaded:
    if getattr(module, "EMBEDDED", False):
        return module.load(split, options)
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; give the one that holds {module.FOLDERS[0]} as --dataset_root")
    layouts = [*module.LAYOUTS, *([module] if hasattr(module, "load") else [])]
    tried: list[Path] = []
    incomplete: list[Incomplete] = []
    for folder in candidate_folders(root, (module.NAME, *module.FOLDERS)):
        tried.append(folder)
        for layout in layouts:
            try:
                loaded = layout.load(folder, split, options)
            except Incomplete as error:
                incomplete.append(error)
                continue
            if loaded is not None:
                return loaded
    if incomplete:
        raise incomplete[0]
    wanted = "; ".join(f"({n}) {layout.LOOKS_FOR.format(split=split)}" for n, layout in enumerate(layouts, start=1))
    others = sorted({entry.name for folder in tried for entry in folder.iterdir()})
    raise DatasetError(
        f"{shorten(tried)}: no {module.NAME} of split {split} here (found: {shorten(others, 6) or 'nothing'}); "
        f"one of these is needed: {wanted}"
    )
