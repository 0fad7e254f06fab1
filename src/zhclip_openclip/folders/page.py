"""The page of a search or a classification: one file with small pictures in it, which asks for nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zhclip_openclip._errors import counted, printable
from zhclip_openclip.folders import _seen
from zhclip_openclip.folders._errors import FolderError
from zhclip_openclip.folders._model import Opened
from zhclip_openclip.folders.classify import Classified, Labelled
from zhclip_openclip.folders.queries import PICTURE, TEXT, Query
from zhclip_openclip.folders.search import Answer, name_of
from zhclip_openclip.folders.shelf import Shelf
from zhclip_openclip.folders.written import percent
from zhclip_openclip.report.views._pages import pages

TEMPLATE = "pictures.html.j2"
_THUMBNAIL, _QUALITY = 280, 80  # pixels of the longer side: sharp at the 170 CSS pixels of a tile; some 10 kB
#: Bytes of pictures on a page, as in `galleries/queries.py`.
PAGE_LIMIT = 200_000_000


def search_page(
    shelf: Shelf,
    opened: Opened,
    queries: Sequence[Query],
    answers: Sequence[Answer],
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """The page of a search as text. progress: gets (done, all) pictures."""
    thumbnails = _Thumbnails(shelf, sum(len(answer.hits) for answer in answers), progress)
    sections = []
    for query, answer in zip(queries, answers, strict=True):
        hits = [
            {
                **thumbnails.of(hit.number),
                "place": hit.place,
                "score": hit.score,
                "share": hit.share,
                "copies": [*map(printable, hit.copies)],
                "labels": [],
            }
            for hit in answer.hits
        ]
        picture = answer.kind == PICTURE
        sections.append(
            {
                "heading": query.path.name if picture else answer.query,
                "asked": _small(query.path.read_bytes()) if picture else None,
                "count": f"前 {len(hits)} 张",
                "count_en": f"best {len(hits)}",
                "notes": answer.notes,
                "tiles": hits,
            }
        )
    means, means_en = _meaning({answer.kind: answer.pairs for answer in answers})
    return _render(
        shelf,
        opened,
        title="图片搜索",
        title_en="picture search",
        sections=sections,
        counts=[],
        notes=shelf.notes,
        means=means,
        means_en=means_en,
    )


def _meaning(pairs: dict[str, int]) -> tuple[str, str]:
    """What a share is of, in Chinese and English. pairs: by the kind of query."""
    pairs = {kind: count for kind, count in pairs.items() if count}
    if not pairs:
        return "文件夹里只有一张图片，分数没有可比的", "One picture alone: there is nothing to hold a score against."
    zh, en = [], []
    if TEXT in pairs:
        what = "错配的图文对（本文件夹的图片配上与之无关的中文描述）"
        zh.append(f"“高于 99%”的意思是：{pairs[TEXT]:,} 个{what}里，99% 的分数都更低")
        what = "mismatched pairs (pictures of this folder, unrelated Chinese captions)"
        en.append(f"99%: so many of {pairs[TEXT]:,} {what} score lower")
    if PICTURE in pairs and zh:
        zh.append(f"以图搜图时，比的是本文件夹里的 {pairs[PICTURE]:,} 对不同图片")
        en.append(f"for a picture, of {pairs[PICTURE]:,} pairs of two pictures of this folder")
    elif PICTURE in pairs:
        zh.append(f"“高于 99%”的意思是：本文件夹的 {pairs[PICTURE]:,} 对不同图片里，99% 的分数都更低")
        en.append(f"99%: so many of {pairs[PICTURE]:,} pairs of two pictures of this folder score lower")
    return "；".join(zh), f"{'; '.join(en)}. It is no probability."


def classify_page(
    shelf: Shelf,
    opened: Opened,
    result: Classified,
    number: int = 12,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """The page of a classification as text: `number` pictures of each label, and those that were the closest calls."""
    names = result.labels.names
    groups = [(name, found) for label, name in enumerate(names) if (found := result.of(label))]
    doubtful = result.doubtful()[:number]
    thumbnails = _Thumbnails(shelf, sum(len(found[:number]) for _, found in groups) + len(doubtful), progress)
    sections = [
        _labelled(thumbnails, names, name, found[:number], f"{len(found):,} 张", counted(len(found), "picture"))
        for name, found in groups
    ]
    if len(result.pictures) > 1:
        sections.append(
            _labelled(
                thumbnails, names, "最难分的", doubtful, "前两个标签最接近", "closest calls between two labels", True
            )
        )
    return _render(
        shelf,
        opened,
        title="图片分类",
        title_en="pictures by label",
        sections=sections,
        counts=[(name, len(found)) for name, found in groups],
        notes=[*shelf.notes, *result.notes],
        means=(
            f"“高于 99%”的意思是：{result.pairs:,} 个错配（本文件夹的图片配上这些标签以外的名称）里，99% 的分数都更低"
        ),
        means_en=(
            f"99%: so many of {result.pairs:,} mismatched pairs (pictures of this folder, names of other things) score "
            "lower. It is no probability."
        ),
    )


def _labelled(
    thumbnails: _Thumbnails,
    names: Sequence[str],
    heading: str,
    pictures: Sequence[Labelled],
    count: str,
    count_en: str,
    both: bool = False,
) -> dict[str, Any]:
    tiles = [
        {
            **thumbnails.of(picture.number),
            "place": place,
            "score": picture.score,
            "share": picture.share,
            "copies": [*map(printable, picture.copies)],
            "labels": [names[picture.label], names[picture.second]] if both else [],
            "second_score": picture.second_score,
        }
        for place, picture in enumerate(pictures, start=1)
    ]
    return {"heading": heading, "asked": None, "count": count, "count_en": count_en, "notes": [], "tiles": tiles}


def _render(shelf: Shelf, opened: Opened, **parts: Any) -> str:
    from zhclip_openclip import __version__

    environment = pages()
    environment.filters["thousands"] = lambda value: f"{value:,}"
    environment.filters["percent"] = percent
    return environment.get_template(TEMPLATE).render(
        folder=name_of(shelf.folder.folder),
        files=shelf.files,
        different=len(shelf),
        skipped=shelf.skipped,
        model=opened.name,
        pretrained=Path(opened.pretrained).name if "/" in opened.pretrained else opened.pretrained,
        model_note=opened.note,
        version=__version__,
        **parts,
    )


class _Thumbnails:
    """Small pictures by number on the shelf. number: of tiles on the page."""

    def __init__(self, shelf: Shelf, number: int, progress: Callable[[int, int], None] | None):
        self._shelf, self._number, self._progress = shelf, number, progress
        self._made: dict[int, dict[str, Any]] = {}
        self._done = self._bytes = 0

    def of(self, number: int) -> dict[str, Any]:
        """Raises FolderError: the page has more than `PAGE_LIMIT` bytes of pictures."""
        if number not in self._made:
            name = self._shelf.names[number]
            try:
                small = _small(self._shelf.folder.path(name).read_bytes())
            except Exception:  # changed or gone since it was encoded
                small = {"source": "", "width": 0, "height": 0}
            self._made[number] = {**small, "name": printable(name)}
        self._done += 1
        self._bytes += len(self._made[number]["source"])
        if self._bytes > PAGE_LIMIT:
            raise FolderError(
                f"{self._number:,} pictures are too many for a page, which has {PAGE_LIMIT / 1e6:,.0f} MB of them at "
                f"most: {self._done:,} were that many; give a smaller --number"
            )
        if self._progress:
            self._progress(self._done, self._number)
        return self._made[number]


def _small(data: bytes) -> dict[str, Any]:
    image = _seen.as_seen(data, draft=_THUMBNAIL)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"source": source, "width": image.width, "height": image.height}
