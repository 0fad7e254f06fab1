"""One HTML page of a retrieval result to look at: its worst, best and random queries with what the model answered.

Made from the NPZ of `metrics/per_query.py` and the pictures of the dataset it was scored on. The page is one file and
asks for no other: pictures are embedded as small JPEGs, and its content security policy forbids everything else.
"""

from __future__ import annotations

import base64
import io
import json
import os
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip._files import whole_file
from zhclip_openclip._paths import DATA
from zhclip_openclip.datasets import retrieval
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import decode_image
from zhclip_openclip.datasets._retrieval import RetrievalDataset
from zhclip_openclip.datasets.wds_open import open_wds
from zhclip_openclip.metrics.per_query import FORMAT_VERSION, load_per_query
from zhclip_openclip.metrics.recall import DIRECTIONS, invert

TEMPLATE = "gallery.html.j2"
TOP = 5
_THUMBNAIL = 240  # pixels of the longer side: sharp at the 150 CSS pixels of a tile, some 8 kB
_QUALITY = 80
_MOST_RIGHT = {"image_retrieval": 2, "text_retrieval": 5}
_BANDS = ((1, 1), (2, 5), (6, 10), (11, 100), (101, None))


@dataclass
class Result:
    """A result read from its files.

    path: the NPZ. queries: its arrays. meta: its description. skipped: whether bad images were left out.
    text_to_images, image_to_texts: right items by position in the NPZ.
    """

    path: Path
    queries: dict[str, Any]
    meta: dict[str, Any]
    skipped: bool
    text_to_images: list[list[int]] = field(default_factory=list)
    image_to_texts: list[list[int]] = field(default_factory=list)

    @property
    def directions(self) -> list[str]:
        """Those with answers to show."""
        return [direction for direction in DIRECTIONS if f"{direction}_top" in self.queries]


def write_gallery(
    result: str | os.PathLike[str],
    output: str | os.PathLike[str],
    dataset_root: str | os.PathLike[str] | None = None,
    split: str | None = None,
    number: int = 12,
    seed: int = 0,
    image_folder: str | os.PathLike[str] | None = None,
) -> Path:
    """Writes the page under a temporary name and renames it, so that a page of this name is always whole.

    Args:
        result: the result JSON of clip_benchmark, or the NPZ beside it.
        output: the page.
        dataset_root: the dataset that was scored, in any layout, or the URL of its shards; by default the folder of
            the result.
        split: by default the one that was scored (of WebDataset shards: the folder test).
        number: queries a section, at most.
        seed: of the random queries, and of the choice among queries of the same rank.
        image_folder: pictures of COCO-CN or Flickr30K-CN, if not below `dataset_root`.

    Returns:
        The path written.

    Raises:
        ZhclipError: a result without queries, or damaged; data that isn't there, or isn't what was scored.
    """
    read = read_result(result)
    output = Path(output)
    if output.is_dir():
        raise ZhclipError(f"{output}: a folder; give --output the name of a page, such as {output / 'page.html'}")
    if output.exists() and any(output.samefile(path) for path in (Path(result), read.path)):
        raise ZhclipError(f"{output}: the result itself; give --output another name")
    dataset = open_scored(read, dataset_root, split, image_folder)
    page = render(read, dataset, number, seed)
    try:
        with whole_file(output) as part:
            part.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ZhclipError(f"{output}: cannot be written ({error.strerror}); give another --output") from None
    return output


# ---------------------------------------------------------------- the result


def read_result(path: str | os.PathLike[str]) -> Result:
    """The per-query file behind a result JSON, or itself, checked.

    Raises:
        ZhclipError: neither JSON nor NPZ; a JSON without a per-query file; a file that is missing or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise ZhclipError(f"{path}: no such file; give the result JSON of clip_benchmark or the NPZ beside it")
    if zipfile.is_zipfile(path):
        beside = path.with_suffix(".json")
        try:
            described = _read_json(beside) if beside.is_file() else {}
        except ZhclipError:  # not ours, then
            described = {}
        ours = described.get("per_query") == path.name
        return _read_queries(path, ours and bool(described.get("skipped_images")))
    described = _read_json(path)
    name = described.get("per_query")
    if not isinstance(name, str) or not name:
        raise ZhclipError(
            f"{path}: names no per-query file; those are written for Chinese retrieval sets: run clip_benchmark eval "
            "--dataset muge (or flickr30k-cn, coco-cn) again"
        )
    queries = path.parent / name
    if Path(name).name != name or not queries.is_file():
        raise ZhclipError(f"{path}: its per-query file {name} is not beside it; put it back, or evaluate again")
    return _read_queries(queries, bool(described.get("skipped_images")))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ZhclipError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:
        described = None
    if not isinstance(described, dict):
        raise ZhclipError(f"{path}: neither a result JSON of clip_benchmark nor the NPZ beside one")
    return described


def _read_queries(path: Path, skipped: bool) -> Result:
    try:
        queries = load_per_query(path)
        meta = queries.pop("meta")
        if meta["format"] != FORMAT_VERSION:
            raise ZhclipError(f"{path}: format {meta['format']!r}, this version reads {FORMAT_VERSION}; evaluate again")
        start, item = queries["text_to_images_start"], queries["text_to_images_item"]
        images, texts = len(queries["image_ids"]), len(queries["text_ids"])
        _require(len(start) == texts + 1 and start[0] == 0 and start[-1] == len(item) and (np.diff(start) >= 0).all())
        _require(not len(item) or (item.min() >= 0 and item.max() < images))
        result = Result(path, queries, meta, skipped)
        result.text_to_images = [item[start[text] : start[text + 1]].tolist() for text in range(texts)]
        result.image_to_texts = invert(result.text_to_images, images)
        for direction in result.directions:
            asked, there = (texts, images) if direction == "image_retrieval" else (images, texts)
            rank, top, counted = (queries[f"{direction}_{name}"] for name in ("rank", "top", "counted"))
            _require(rank.shape == (asked,) and counted.shape == (asked,) and top.shape[:1] == (asked,))
            _require(top.ndim == 2 and (not top.size or (top.min() >= -1 and top.max() < there)))
            _require(not rank.size or (rank.min() >= 0 and rank.max() <= there))
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile, zlib.error) as error:
        raise ZhclipError(f"{path}: not a per-query file, or damaged ({_one_line(error)}); evaluate again") from None
    if not result.directions:
        raise ZhclipError(f"{path}: has ranks but no best items of any query; evaluate again")
    return result


def _require(fits: Any) -> None:
    if not fits:
        raise ValueError("its arrays do not fit each other")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# ---------------------------------------------------------------- the dataset


def open_scored(
    result: Result,
    root: str | os.PathLike[str] | None = None,
    split: str | None = None,
    image_folder: str | os.PathLike[str] | None = None,
) -> RetrievalDataset:
    """The dataset that a result was made on, verified by its fingerprint; for the arguments see `write_gallery`.

    Raises:
        ZhclipError: a dataset of somebody else's; data that isn't there, or is another.
    """
    name = str(result.meta.get("dataset") or "")
    known = retrieval.dataset_name(name.removeprefix("wds/"))
    expected = result.meta.get("fingerprint")
    if known is None or not expected:
        ours = ", ".join(retrieval.DATASETS)
        raise ZhclipError(
            f"{result.path}: made on {name or 'an unnamed dataset'}; a gallery shows {ours} and wds/ of them"
        )
    given, root = root is not None, root if root is not None else result.path.parent
    shards = "://" in str(root) or name.startswith("wds/") or (Path(root) / "dataset_type.txt").is_file()

    def build(raw: bool) -> RetrievalDataset:
        try:
            if shards:
                return open_wds(root, split=split or "test", skip_bad_images=result.skipped, name=known)
            wanted = split or result.meta.get("split")
            return retrieval.build_retrieval_dataset(known, root, None, wanted, result.skipped, raw, image_folder)
        except DatasetError as error:
            text = str(error).replace("--dataset_root", "--dataset-root")
            if not given and "--dataset-root" not in text:
                text += "; or give the folder of the data that was scored as --dataset-root"
            raise DatasetError(text) from None

    dataset = build(raw=False)
    if dataset.fingerprint() != expected and not shards:
        raw = build(raw=True)  # it was made with --raw-captions, perhaps
        dataset = raw if raw.fingerprint() == expected else dataset
    if dataset.fingerprint() != expected:
        raise ZhclipError(
            f"{root}: other data than {result.path} was made on (fingerprint {dataset.fingerprint()[:12]}, there "
            f"{str(expected)[:12]}); give the files that were scored as --dataset-root, and their --split"
        )
    return dataset


# ---------------------------------------------------------------- the page


def render(result: Result, dataset: RetrievalDataset, number: int = 12, seed: int = 0) -> str:
    """The page as text. `dataset` is the one of the result, in whatever order its layout has it."""
    import jinja2

    from zhclip_openclip import __version__

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(DATA),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = lambda value: f"{value:,}"
    environment.filters["percent"] = lambda share: f"{100 * share:.2f}"
    shelf = _Shelf(result, dataset)
    meta, metrics = result.meta, result.meta.get("metrics") or {}
    pretrained = str(meta.get("pretrained") or "")
    return environment.get_template(TEMPLATE).render(
        model=str(meta.get("model") or ""),
        pretrained=Path(pretrained).name if os.path.isabs(pretrained) else pretrained,
        dataset=meta["dataset"],
        split=dataset.split,
        images=len(dataset),
        texts=len(dataset.texts),
        skipped=len(dataset.skipped),
        notes=dataset.notes,
        fingerprint=dataset.fingerprint(),
        version=__version__,
        number=number,
        seed=seed,
        top=TOP,
        directions=[_direction(direction, result, shelf, metrics, number, seed) for direction in result.directions],
    )


def choose(ranks: np.ndarray, counted: np.ndarray, number: int, seed: int) -> dict[str, list[int]]:
    """The positions of the worst, best and random queries, at most `number` of each.

    Among equal ranks the seed draws, as the best of a good model are thousands of equals. Queries that are not counted
    in the recall, or have no right item, are not shown.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(np.flatnonzero(counted & (ranks > 0)))
    return {
        "worst": shuffled[np.argsort(-ranks[shuffled], kind="stable")][:number].tolist(),
        "best": shuffled[np.argsort(ranks[shuffled], kind="stable")][:number].tolist(),
        "random": rng.permutation(shuffled)[:number].tolist(),
    }


def _direction(
    direction: str, result: Result, shelf: _Shelf, metrics: dict[str, float], number: int, seed: int
) -> dict[str, Any]:
    ranks = result.queries[f"{direction}_rank"].astype(np.int64)
    counted = result.queries[f"{direction}_counted"].astype(bool)
    shown = choose(ranks, counted, number, seed)
    over = ranks[counted & (ranks > 0)]
    recalls = {int(key.rpartition("@")[2]): metrics[key] for key in metrics if key.startswith(f"{direction}_recall@")}
    bands = []
    for low, high in _BANDS:
        among = int(((over >= low) & (over <= (high or over.max(initial=0)))).sum())
        if among or high in (1, 5, 10):
            bands.append({"low": low, "high": high, "queries": among, "share": among / max(1, len(over))})
    return {
        "name": direction,
        "queries": len(over),
        "candidates": len(result.queries["image_ids" if direction == "image_retrieval" else "text_ids"]),
        "recalls": [{"k": k, "value": recalls[k]} for k in sorted(recalls)],
        "mean": metrics.get(f"{direction}_mean_recall"),
        "median": float(np.median(over)) if len(over) else None,
        "first": int((over == 1).sum()),
        "bands": bands,
        "sections": {
            section: [shelf.query(direction, position, int(ranks[position])) for position in positions]
            for section, positions in shown.items()
        },
    }


class _Shelf:
    """Queries and their answers as the template takes them."""

    def __init__(self, result: Result, dataset: RetrievalDataset) -> None:
        self.result, self.dataset = result, dataset
        # The fingerprint doesn't see the order, and another layout may have another: ids tie the two together.
        images = {key: index for index, key in enumerate(dataset.image_ids)}
        texts = {entry.id: index for index, entry in enumerate(dataset.texts)}
        try:
            self.images = [images[str(key)] for key in result.queries["image_ids"]]
            self.texts = [texts[str(key)] for key in result.queries["text_ids"]]
        except KeyError as error:
            raise ZhclipError(f"{result.path}: its id {error} is not in the data; evaluate again") from None
        self._pictures: dict[int, dict[str, Any]] = {}

    def query(self, direction: str, position: int, rank: int) -> dict[str, Any]:
        """Query, rank, the best answers in order, and, for a miss, right ones that are not among them."""
        if direction == "image_retrieval":
            ask, answer, right = self.text, self.picture, self.result.text_to_images[position]
        else:
            ask, answer, right = self.picture, self.text, self.result.image_to_texts[position]
        best = [item for item in self.result.queries[f"{direction}_top"][position].tolist() if item >= 0]
        answers = [
            {**answer(item), "place": place, "right": item in right} for place, item in enumerate(best[:TOP], start=1)
        ]
        missed: list[dict[str, Any]] = []
        if not any(entry["right"] for entry in answers):
            places = {item: place for place, item in enumerate(best, start=1) if item in right}
            if len(right) == 1:
                places[right[0]] = rank
            for item in sorted(right, key=lambda item: places.get(item, len(self.images) + len(self.texts))):
                missed.append({"item": item, "place": places.get(item)})
        most = _MOST_RIGHT[direction]
        return {
            **ask(position),
            "rank": rank,
            "right_items": len(right),
            "answers": answers,
            "missed": [{**answer(entry["item"]), "place": entry["place"], "right": True} for entry in missed[:most]],
            "more": max(0, len(missed) - most),
        }

    def text(self, position: int) -> dict[str, Any]:
        entry = self.dataset.texts[self.texts[position]]
        return {"id": entry.id, "text": entry.text}

    def picture(self, position: int) -> dict[str, Any]:
        """A picture as a data URI, with its size and the texts that it is right for."""
        index = self.images[position]
        if index not in self._pictures:
            key, where = self.dataset.image_ids[index], self.dataset.images.where(index)
            image = decode_image(self.dataset.read_image(index), key, where)
            image.thumbnail((_THUMBNAIL, _THUMBNAIL))
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
            self._pictures[index] = {
                "id": key,
                "source": "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"),
                "width": image.width,
                "height": image.height,
                "captions": self.dataset.captions(index),
            }
        return self._pictures[index]
