"""One HTML page of a retrieval result to look at: its worst, best and random queries with what the model answered.

Made from the NPZ of `metrics/per_query.py` and the pictures of the dataset it was scored on. The page is one file and
asks for no other: pictures are embedded as small JPEGs, and its content security policy forbids everything else.
"""

from __future__ import annotations

import base64
import io
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip._files import whole_file
from zhclip_openclip.datasets import own, own_data, retrieval
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import decode_image
from zhclip_openclip.datasets._retrieval import RetrievalDataset
from zhclip_openclip.datasets.wds_open import open_wds
from zhclip_openclip.galleries._result import Result, read_result
from zhclip_openclip.report._names import RECALL
from zhclip_openclip.report.views._pages import pages

TEMPLATE = "gallery.html.j2"
TOP = 5
_THUMBNAIL = 240  # pixels of the longer side: sharp at the 150 CSS pixels of a tile, some 8 kB
_QUALITY = 80
_MOST_RIGHT = {"image_retrieval": 2, "text_retrieval": 5}
#: Bytes of pictures on a page. A choice: a page has to be sent to somebody, and a browser keeps all of it in memory.
PAGE_LIMIT = 200_000_000
_TRIED = 24  # pictures that the size of the page is told from
_BANDS = ((1, 1), (2, 5), (6, 10), (11, 100), (101, None))


def write_gallery(
    result: str | os.PathLike[str],
    output: str | os.PathLike[str],
    dataset_root: str | os.PathLike[str] | None = None,
    split: str | None = None,
    number: int = 12,
    seed: int = 0,
    image_folder: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
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
        progress: called with (done, all) different pictures.

    Returns:
        The path written.

    Raises:
        ZhclipError: a result without queries, or damaged; data that isn't there, or isn't what was scored; a page of
            more than `PAGE_LIMIT` bytes, before more than a few of its pictures are read.
    """
    read = read_result(result)
    output = Path(output)
    if output.is_dir():
        raise ZhclipError(f"{output}: a folder; give --output the name of a page, such as {output / 'page.html'}")
    if output.exists() and any(output.samefile(path) for path in (Path(result), read.path)):
        raise ZhclipError(f"{output}: the result itself; give --output another name")
    dataset = open_scored(read, dataset_root, split, image_folder)
    page = render(read, dataset, number, seed, progress)
    try:
        with whole_file(output) as part:
            part.write_text(page, encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ZhclipError(f"{output}: cannot be written ({reason}); give another --output") from None
    return output


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
    name = result.meta["dataset"]
    known = retrieval.dataset_name(name.removeprefix("wds/"))
    expected = result.meta["fingerprint"]
    mine = own.is_own(name)
    if (known is None and not mine) or not expected:
        ours = ", ".join([*retrieval.DATASETS, "own/NAME"])
        raise ZhclipError(
            f"{result.path}: made on {name or 'an unnamed dataset'}; a gallery shows {ours} and wds/ of them"
        )
    given, root = root is not None, root if root is not None else result.path.parent
    shards = "://" in str(root) or name.startswith("wds/") or (Path(root) / "dataset_type.txt").is_file()

    def build(raw: bool) -> RetrievalDataset:
        try:
            if shards:
                bare = known or name.removeprefix("wds/")
                return open_wds(
                    root, split=split or "test", skip_bad_images=result.skipped, name=bare, limit=result.limit
                )
            wanted = split or result.meta["split"] or None
            if mine:
                folder = Path(image_folder) if image_folder is not None else None
                asked = own.asked_again(result.own, wanted, own.RETRIEVAL, folder)
                return own_data.build(own.recognise(name, root, asked), None, result.skipped, limit=result.limit)
            return retrieval.build_retrieval_dataset(
                known, root, None, wanted, result.skipped, raw, image_folder, result.limit
            )
        except DatasetError as error:
            text = str(error).replace("--dataset_root", "--dataset-root")
            if not given and "--dataset-root" not in text:
                text += "; or give the folder of the data that was scored as --dataset-root"
            raise DatasetError(text) from None

    dataset = build(raw=False)
    if dataset.fingerprint() != expected and not shards and not mine:
        raw = build(raw=True)  # it was made with --raw-captions, perhaps
        dataset = raw if raw.fingerprint() == expected else dataset
    if dataset.fingerprint() != expected:
        raise ZhclipError(
            f"{root}: other data than {result.path} was made on (fingerprint {dataset.fingerprint()[:12]}, there "
            f"{expected[:12]}); give the files that were scored as --dataset-root, and their --split"
        )
    return dataset


# ---------------------------------------------------------------- the page


def render(
    result: Result,
    dataset: RetrievalDataset,
    number: int = 12,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """The page as text. `dataset` is the one of the result, in whatever order its layout has it."""
    from zhclip_openclip import __version__

    environment = pages()
    environment.filters["thousands"] = lambda value: f"{value:,}"
    environment.filters["percent"] = lambda share: f"{100 * share:.2f}"
    shelf = _Shelf(result, dataset)
    shown = {
        direction: choose(result.queries[f"{direction}_rank"], result.queries[f"{direction}_counted"], number, seed)
        for direction in result.directions
    }
    shelf.fill(shown, number, progress)
    meta, pretrained = result.meta, result.meta["pretrained"]
    return environment.get_template(TEMPLATE).render(
        model=meta["model"],
        pretrained=Path(pretrained).name if os.path.isabs(pretrained) else pretrained,
        dataset=meta["dataset"],
        split=dataset.split,
        images=len(dataset),
        texts=len(dataset.texts),
        skipped=len(dataset.skipped),
        notes=[*dataset.notes, *result.notes],
        fingerprint=dataset.fingerprint(),
        version=__version__,
        number=number,
        seed=seed,
        top=TOP,
        directions=[_direction(direction, result, shelf, meta["metrics"], shown[direction]) for direction in shown],
    )


def choose(ranks: np.ndarray, counted: np.ndarray, number: int, seed: int) -> dict[str, list[int]]:
    """The positions of the worst, best and random queries, at most `number` of each.

    Among equal ranks the seed draws, as the best of a good model are thousands of equals. Queries that are not counted
    in the recall, or have no right item, are not shown.
    """
    rng, ranks = np.random.default_rng(seed), ranks.astype(np.int64)
    shuffled = rng.permutation(np.flatnonzero(counted & (ranks > 0)))
    return {
        "worst": shuffled[np.argsort(-ranks[shuffled], kind="stable")][:number].tolist(),
        "best": shuffled[np.argsort(ranks[shuffled], kind="stable")][:number].tolist(),
        "random": rng.permutation(shuffled)[:number].tolist(),
    }


def _direction(
    direction: str, result: Result, shelf: _Shelf, metrics: dict[str, float], shown: dict[str, list[int]]
) -> dict[str, Any]:
    ranks, counted = result.queries[f"{direction}_rank"], result.queries[f"{direction}_counted"]
    over = ranks[counted & (ranks > 0)]
    named = [(RECALL.fullmatch(key), value) for key, value in metrics.items()]
    recalls = {int(key[2]): value for key, value in named if key and key[1] == direction and key[2]}
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
            section: [shelf.query(direction, position) for position in positions]
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

    def fill(
        self, shown: dict[str, dict[str, list[int]]], number: int, progress: Callable[[int, int], None] | None
    ) -> None:
        """Reads the pictures of all queries that are shown (direction -> section -> positions).

        Raises ZhclipError: by the size of the first few the page would have more than `PAGE_LIMIT` bytes.
        """
        places: list[int] = []
        for direction, sections in shown.items():
            for position in itertools.chain.from_iterable(sections.values()):
                answers, missed = self.items(direction, position)
                missed = missed[: _MOST_RIGHT[direction]]
                places += [*answers, *(item for item, _ in missed)] if direction == "image_retrieval" else [position]
        different = list(dict.fromkeys(places))
        few = different[:: max(1, len(different) // _TRIED)]
        for count, position in enumerate(dict.fromkeys([*few, *different]), start=1):
            self.picture(position)
            if count == len(few):
                size = sum(len(self.picture(one)["source"]) for one in few) / count * len(places)
                if size > PAGE_LIMIT:
                    raise ZhclipError(
                        f"--number {number} makes a page of about {size / 1e6:,.0f} MB with {len(places):,} pictures, "
                        f"more than the {PAGE_LIMIT / 1e6:,.0f} MB that a page may have; --number "
                        f"{max(1, int(0.95 * number * PAGE_LIMIT / size))} has about that"
                    )
            if progress:
                progress(count, len(different))

    def items(self, direction: str, position: int) -> tuple[list[int], list[tuple[int, int | None]]]:
        """The best answers to a query, in order; and, for a miss, the right ones with their places."""
        best = [item for item in self.result.queries[f"{direction}_top"][position].tolist() if item >= 0]
        right = self.right(direction, position)
        if any(item in right for item in best[:TOP]):
            return best[:TOP], []
        places = {item: place for place, item in enumerate(best, start=1) if item in right}
        if len(right) == 1:
            places[right[0]] = int(self.result.queries[f"{direction}_rank"][position])
        last = len(self.images) + len(self.texts)
        missed = sorted(right, key=lambda item: places.get(item, last))
        return best[:TOP], [(item, places.get(item)) for item in missed]

    def right(self, direction: str, position: int) -> list[int]:
        relations = self.result.text_to_images if direction == "image_retrieval" else self.result.image_to_texts
        return relations[position]

    def query(self, direction: str, position: int) -> dict[str, Any]:
        """Query, rank, the best answers in order, and, for a miss, right ones that are not among them."""
        ask, answer = (self.text, self.picture) if direction == "image_retrieval" else (self.picture, self.text)
        right, most = self.right(direction, position), _MOST_RIGHT[direction]
        answers, missed = self.items(direction, position)
        return {
            **ask(position),
            "rank": int(self.result.queries[f"{direction}_rank"][position]),
            "right_items": len(right),
            "answers": [
                {**answer(item), "place": place, "right": item in right} for place, item in enumerate(answers, start=1)
            ],
            "missed": [{**answer(item), "place": place, "right": True} for item, place in missed[:most]],
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
