"""Data sets that share pictures or a name and are not the same: which figures are about which.

COCO-CN's 1,000 test pictures have 1,053 captions written by people and 5,000 translated ones, and papers call either
COCO-CN; Flickr30K-CN's have 5,000 captions, and 5,000 others as Flickr30K-CNA. A figure of one says nothing of the
other. `data/published/tables.json` has the sizes (`same_pictures`). What cannot be told apart by size, which is
Flickr30K, is told by the fingerprint: two results of two names on the very same data.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zhclip_openclip.datasets._layout import plain_name
from zhclip_openclip.report import _names
from zhclip_openclip.report._model import Problem, Run
from zhclip_openclip.report.statistics import Outcomes, Ranks

#: How far a number of captions may be from the published one: pictures that could not be read are left out with theirs.
_NEAR = 0.05


def others_of(dataset: str) -> dict[str, dict[str, int]]:
    """Sizes of the sets on the same pictures, its own among them; nothing for a set that shares them with none."""
    return next((group for group in _names.layout()["same_pictures"] if dataset in group), {})


def _is_near(number: int, published: int) -> bool:
    return abs(number - published) <= _NEAR * published


def _really(dataset: str, texts: int) -> str:
    """The set on the same pictures that has so many captions, where `dataset` has not; '' otherwise.

    All captions of the pictures together are of neither. Sets with as many captions as each other are not told apart.
    """
    sizes = {name: size["texts"] for name, size in others_of(dataset).items()}
    if len(set(sizes.values())) < 2 or _is_near(texts, sizes[dataset]):
        return ""
    found = next((name for name, number in sizes.items() if _is_near(texts, number)), "")
    return found or (" + ".join(sizes) if _is_near(texts, sum(sizes.values())) else "")


def misnamed(dataset: str, title: Any, entry: dict[str, Any]) -> tuple[str, str] | None:
    """What is wrong with figures that a file has under a name (what, way out): they are of another set, by the number
    of captions that the file says, or by their title."""
    images, texts = entry.get("images"), entry.get("texts")
    for key, number in (("images", images), ("texts", texts)):
        if number is not None and (type(number) is not int or number < 1):
            return f"{key} is {str(number)[:60]}", "write how many there are"
    other = _really(dataset, texts) if texts else ""
    if other:
        own = others_of(dataset)[dataset]["texts"]
        return (
            f"has {texts:,} texts, and {dataset} {own:,}: these figures are of {other}",
            f"name them {other}" if other in others_of(dataset) else "leave them out",
        )
    spelt = {plain_name(name): name for name in others_of(dataset)}
    if isinstance(title, str) and spelt.get(plain_name(title), dataset) != dataset:
        other = spelt[plain_name(title)]
        return f"is called {title}: these figures are of {other}, and not of {dataset}", f"name them {other}"
    return None


def wrong_set(run: Run, outcomes: Outcomes | None) -> Problem | None:
    """What is wrong with a result that was made on another set than it says, by its number of captions."""
    texts = sizes(run, outcomes).get("texts")
    other = _really(run.dataset, texts) if texts else ""
    if not other:
        return None
    own = others_of(run.dataset)[run.dataset]["texts"]
    what = f"was made on {texts:,} captions, and {run.dataset} has {own:,}: it is a result of {other}"
    way_out = f"it is left out; evaluate with --dataset {other}" if other in others_of(run.dataset) else "left out"
    return Problem(run.path, what, way_out)


def sizes(run: Run, outcomes: Outcomes | None) -> dict[str, int]:
    """How many images and texts a retrieval result was made on, as far as anything tells."""
    found = {key: run.facts[key] for key in ("images", "texts") if type(run.facts.get(key)) is int}
    if isinstance(outcomes, Ranks):
        for way, key in (("image_retrieval", "texts"), ("text_retrieval", "images")):
            if way in outcomes.ranks:
                found[key] = len(outcomes.ranks[way])
    return found


def same_data(runs: Iterable[tuple[Run, Outcomes | None]]) -> list[tuple[Run, Problem]]:
    """Results that name one set, made on the very data that results of a set on the same pictures were made on.

    Nobody knows from the data which name is wrong, so that neither is compared with anything.
    """
    by_data: dict[str, list[Run]] = {}
    for run, outcomes in runs:
        data = getattr(outcomes, "fingerprint", "") or str(run.facts.get("fingerprint") or "")
        if data and others_of(run.dataset):
            by_data.setdefault(data, []).append(run)
    found = []
    for same in by_data.values():
        for run in same:
            other = next((one for one in same if one.dataset in others_of(run.dataset).keys() - {run.dataset}), None)
            if other is not None:
                what = f"was made on the data of {other.path}, which calls it {other.dataset} and not {run.dataset}"
                found.append((run, Problem(run.path, what, "both are left out; evaluate again with the right name")))
    return found


def other_data(run: Run, language: str, stated: dict[str, int], outcomes: Outcomes | None) -> str:
    """Why figures are not about the data of a run, '' if they are: they are of captions in another language, of a set
    that has them in several, or of another number of images or texts."""
    if run.dataset in _names.layout()["in_many_languages"] and _names.language(run.language) != language:
        return f"its figures of {run.dataset} are of captions in {language}, and this was run in {run.language or '?'}"
    found = sizes(run, outcomes)
    for key, number in stated.items():
        if key in found and not _is_near(found[key], number):
            return f"its figures of {run.dataset} are of {number:,} {key}, and this was run on {found[key]:,}"
    return ""
