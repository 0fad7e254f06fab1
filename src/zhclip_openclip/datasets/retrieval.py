"""The Chinese retrieval sets by name, from the files as people have them; and `digits-retrieval`, which needs none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from zhclip_openclip._errors import shorten
from zhclip_openclip._reading import reading
from zhclip_openclip.datasets import (
    _which_set,
    coco_cn,
    coco_cn_translated,
    dci_cn,
    digits_retrieval,
    docci_cn,
    flickr30k_cn,
    flickr30k_cna,
    lit_cn,
    muge,
)
from zhclip_openclip.datasets._dataset_error import DatasetError, Incomplete
from zhclip_openclip.datasets._layout import Loaded, ReadOptions, candidate_folders, plain_name
from zhclip_openclip.datasets._relations import Resolved, resolve
from zhclip_openclip.datasets._retrieval import RetrievalDataset

#: name -> module with NAME, FOLDERS, DEFAULT_SPLIT, DIRECTIONS, LAYOUTS and, if it has a layout of its own, load. One
#: whose data is embedded says so, and its load takes no folder; one that may be taken for another names that one in
#: ALIKE.
DATASETS: dict[str, ModuleType] = {
    module.NAME: module
    for module in (
        *(muge, flickr30k_cn, coco_cn, flickr30k_cna, coco_cn_translated),
        *(lit_cn, dci_cn, docci_cn, digits_retrieval),
    )
}
DEFAULT_KS = (1, 5, 10)


def dataset_name(name: str) -> str | None:
    """The name as we spell it (`Flickr30K_CN` -> `flickr30k-cn`), or None if it is not one of ours."""
    return {plain_name(known): known for known in DATASETS}.get(plain_name(name))


def called(folder: Path) -> str | None:
    """The set that a folder is called after, or None."""
    name = folder.resolve().name
    if known := dataset_name(name):
        return known
    plain = plain_name(name)
    return next((known for known, module in DATASETS.items() if plain in map(plain_name, module.FOLDERS)), None)


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
        name: one of `DATASETS` (or with underscores): muge, flickr30k-cn, coco-cn, ...
        root: the folder, or the one above it; of no matter to digits-retrieval.
        transform: applied to each picture as it was opened; see `RetrievalDataset`.
        split: by default the one that published numbers are on: valid of muge, test of the others.
        skip_bad_images: leave out pictures that are missing, do not decode or are badly encoded, and what hangs on
            them; they are in `.skipped`. Decodes every picture once before returning.
        raw_captions: keep part-of-speech tags and the spaces between words.
        image_folder: where the pictures are, for releases of captions alone.
        limit: take a sample of so many images and their texts; see `_sample.py`.

    Raises:
        DatasetError: an unknown name; no layout recognised (it says what was looked for, and where); the captions of
            another set; bad data.
    """
    module = _module(name)
    split = split or module.DEFAULT_SPLIT
    options = ReadOptions(raw_captions, Path(image_folder) if image_folder is not None else None, skip_bad_images)
    with reading(root, DatasetError):
        loaded, resolved, captions_of = _load(module, Path(root), split, options)
        return RetrievalDataset(
            module.NAME,
            split,
            resolved,
            directions=module.DIRECTIONS,
            transform=transform,
            layout=loaded.layout,
            notes=loaded.notes,
            skip_bad_images=skip_bad_images,
            captions_of=captions_of,
            limit=limit,
        )


def _module(name: str) -> ModuleType:
    known = dataset_name(name)
    if known is None:
        raise DatasetError(f"{name!r} is not a retrieval set of this package; it has {', '.join(DATASETS)}")
    return DATASETS[known]


def tie(name: str, split: str, loaded: Loaded, folder: Path, skip: bool) -> tuple[Resolved, str | None]:
    """The relations of what a layout reader found, and the set whose captions they are, where that is known. What a
    reader of the numbers should know of it goes into `loaded.notes`.

    Raises DatasetError: bad data; OtherSet: the captions of another set than `name`.
    """
    resolved = resolve(loaded.images, loaded.records, skip)
    named = loaded.named if loaded.file else dataset_name(folder.resolve().name) or ""
    captions_of, notes = _which_set.check(name, split, resolved, loaded.file or folder, named)
    loaded.notes.extend(notes)
    return resolved, captions_of


def _load(module: ModuleType, root: Path, split: str, options: ReadOptions) -> tuple[Loaded, Resolved, str | None]:
    if getattr(module, "EMBEDDED", False):
        loaded = module.load(split, options)
        return loaded, *tie(module.NAME, split, loaded, root, options.skip)
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
                if loaded is not None:
                    return loaded, *tie(module.NAME, split, loaded, folder, options.skip)
            except Incomplete as error:
                incomplete.append(error)
    if incomplete:
        raise incomplete[0]
    wanted = "; ".join(f"({n}) {layout.LOOKS_FOR.format(split=split)}" for n, layout in enumerate(layouts, start=1))
    others = sorted({entry.name for folder in tried for entry in folder.iterdir()})
    raise DatasetError(
        f"{shorten(tried)}: no {module.NAME} of split {split} here (found: {shorten(others, 6) or 'nothing'}); "
        f"one of these is needed: {wanted}"
    )
