"""Reading WebDataset shards of a retrieval dataset with random access, from a folder or a URL.

With the sidecar that `wds_export.py` writes the relations are exactly those of the source. Without one (shards that
CLIP_benchmark wrote) each caption belongs to the picture it came with. Nothing is unpacked: members are read in place.
A URL is fetched into a cache folder first.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zhclip_openclip._errors import shorten
from zhclip_openclip._files import whole_file
from zhclip_openclip._reading import reading
from zhclip_openclip.datasets import _which_set
from zhclip_openclip.datasets._dataset_error import DatasetError, OtherSet
from zhclip_openclip.datasets._pairs_file import PAIRS, read_pairs
from zhclip_openclip.datasets._relations import TextRecord, resolve
from zhclip_openclip.datasets._retrieval import RetrievalDataset
from zhclip_openclip.datasets._shards import COUNT, count_shards, shard_paths, small_text
from zhclip_openclip.datasets._tar_images import TarImages


def open_wds(
    root: str | os.PathLike[str],
    transform: Callable[[Any], Any] | None = None,
    split: str = "test",
    skip_bad_images: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    name: str = "wds",
    limit: int | None = None,
) -> RetrievalDataset:
    """A retrieval dataset from its shards.

    Args:
        root: the folder that holds dataset_type.txt and {split}/, or its URL (http, https; a Hugging Face dataset as
            https://huggingface.co/datasets/USER/REPOSITORY/tree/BRANCH, as CLIP_benchmark writes it).
        transform: applied to each picture: as it was opened if there is a sidecar, so that the result is that of the
            source; in RGB otherwise, as CLIP_benchmark has it. See `RetrievalDataset`.
        split: sub-folder with the shards.
        skip_bad_images: leave out pictures that do not decode; see `build_retrieval_dataset`.
        cache_dir: where a URL's files are kept; by default in the user's cache folder.
        name: of the set that is meant; without one the sidecar has it.
        limit: take a sample of so many images and their texts; see `_sample.py`.

    Raises:
        DatasetError: no complete export; not a retrieval set; a shard that is missing, cut off or does not fit its
            sidecar; a member whose path climbs out of its folder; another set than `name`.
    """
    where = str(root)
    with reading(where, DatasetError):
        folder = _fetch(where, split, cache_dir) if "://" in where else Path(root)
        images = TarImages(_shards(folder, split))
        if not images.ids:
            raise DatasetError(f"{folder / split}: there is no picture in its shards; export it again")
        sidecar = folder / split / PAIRS
        if not sidecar.is_file():
            return _plain(images, folder, split, name, transform, skip_bad_images, limit)
        pairs = read_pairs(sidecar)
        if len(pairs.images) != len(images):
            raise DatasetError(
                f"{sidecar}: names {len(pairs.images)} images, the shards hold {len(images)}; export again"
            )
        if pairs.sizes != [images.size(index) for index in range(len(images))]:
            raise DatasetError(
                f"{folder / split}: the shards do not belong to {PAIRS} (other picture sizes); export again"
            )
        images.ids = pairs.images
        if _which_set.is_known(name) and _which_set.is_known(pairs.dataset) and name != pairs.dataset:
            raise OtherSet(f"{sidecar}: these are shards of {pairs.dataset}, not of {name}: use wds/{pairs.dataset}")
        resolved = resolve(images, pairs.records, skip_bad_images)
        captions_of, notes = _which_set.check(pairs.dataset, pairs.split, resolved, folder)
        return RetrievalDataset(
            pairs.dataset,
            pairs.split,
            resolved,
            directions=pairs.directions,
            transform=transform,
            layout="WebDataset with exact pairs",
            notes=[*pairs.notes, *notes],
            skip_bad_images=skip_bad_images,
            captions_of=captions_of,
            limit=limit,
        )


def _plain(
    images: TarImages,
    folder: Path,
    split: str,
    name: str,
    transform: Callable[[Any], Any] | None,
    skip: bool,
    limit: int | None,
) -> RetrievalDataset:
    records = [
        TextRecord(f"{key}#{number}", text, [key], images.where(index))
        for index, key in enumerate(images.ids)
        for number, text in enumerate(images.captions(index))
    ]
    resolved = resolve(images, records, skip)
    captions_of, notes = _which_set.check(name, split, resolved, folder)
    if images.others:
        notes.insert(0, f"{images.others} files of the shards are neither pictures nor captions")
    return RetrievalDataset(
        name,
        split,
        resolved,
        directions=("image_retrieval", "text_retrieval"),
        transform=transform,
        layout="WebDataset",
        notes=notes,
        skip_bad_images=skip,
        captions_of=captions_of,
        limit=limit,
        in_rgb=True,  # as CLIP_benchmark's own reader gives them
    )


def _shards(folder: Path, split: str) -> list[Path]:
    base = folder / split
    kind = folder / "dataset_type.txt"
    if not base.is_dir():
        beside = sorted(path.parent.name for path in folder.glob(f"*/{COUNT}"))
        there = (
            f"there is {shorten(beside)}: use it as --split" if beside else "give the folder above it as --dataset_root"
        )
        raise DatasetError(f"{folder}: no folder {split}/ with shards; {there}")
    if not (base / COUNT).is_file():
        raise DatasetError(
            f"{base}: no nshards.txt, so the export is not complete; run zhclip dataset export again, it goes on; or "
            "write the number of shards in it"
        )
    if not kind.is_file():
        raise DatasetError(f"{kind} is missing, which says what the shards hold; write the word retrieval in it")
    if small_text(kind).lower() != "retrieval":
        raise DatasetError(f"{kind}: does not say 'retrieval'; this is no retrieval set")
    return shard_paths(base)


def _fetch(url: str, split: str, cache_dir: str | os.PathLike[str] | None) -> Path:
    """Copies what belongs to the dataset into the cache, each file whole or not at all, and returns the folder."""
    base = url.rstrip("/")
    if base.startswith("https://huggingface.co/datasets/"):
        base = base.replace("/tree/", "/resolve/", 1)
    cache = Path(cache_dir or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "zhclip-openclip" / "wds" / hashlib.sha256(base.encode()).hexdigest()[:24]
    (folder / split).mkdir(parents=True, exist_ok=True)
    # Small files say which version it is, so they are fetched each time; shards only where the size differs.
    _download(f"{base}/dataset_type.txt", folder / "dataset_type.txt", always=True)
    _download(f"{base}/{split}/nshards.txt", folder / split / "nshards.txt", always=True)
    if not _download(f"{base}/{split}/{PAIRS}", folder / split / PAIRS, always=True, optional=True):
        (folder / split / PAIRS).unlink(missing_ok=True)
    for shard in range(count_shards(folder / split)):  # a number that is too large ends at the first that is not there
        _download(f"{base}/{split}/{shard}.tar", folder / split / f"{shard}.tar")
    return folder


def _download(url: str, path: Path, always: bool = False, optional: bool = False) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            length = response.headers.get("Content-Length")
            if not always and path.is_file() and length is not None and path.stat().st_size == int(length):
                return True
            with whole_file(path) as part:
                with part.open("wb") as file:
                    shutil.copyfileobj(response, file, 2**20)
                if length is not None and part.stat().st_size != int(length):
                    raise DatasetError(f"{url}: the connection broke off; start again")
            return True
    except urllib.error.HTTPError as error:
        if optional and error.code == 404:
            return False
        raise DatasetError(f"{url}: {error.code} {error.reason}; check the address") from None
    except DatasetError:
        raise
    except Exception as error:  # of a server that answers anything at all
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise DatasetError(f"{path}: {error.strerror}; make room, or name another --wds_cache_dir") from None
        raise DatasetError(f"{url}: {getattr(error, 'reason', error)}; check the address and the network") from None
