"""The classification data sets that have Chinese prompts, and the spellings that clip_benchmark knows them by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from zhclip_openclip.prompts._files import packaged

#: What may stand before a name: formats that clip_benchmark reads a data set from. `wds/` may stand before the others.
_FORMATS = ("vtab/", "tfds/")
ELEVATER = "elevater/"


@dataclass(frozen=True)
class DatasetPrompts:
    """One line of `data/classification.json`.

    name: key in the template sets. classnames: file in `data/classnames`. published_metric: key of the metric that the
    published tables give for it, where that is not acc1. cn_clip: its list of templates in cn_clip. elevater: its
    folder in Chinese-CLIP's evaluation data.
    """

    name: str
    title: str
    spellings: tuple[str, ...] = ()
    classnames: str = ""
    published_metric: str | None = None
    cn_clip: str = "openai_templates"
    elevater: str | None = None


@cache
def all_datasets() -> dict[str, DatasetPrompts]:
    """Name -> data set, in the order of the table."""
    table = packaged("classification.json")["datasets"]
    return {
        name: DatasetPrompts(name, **{**entry, "spellings": tuple(entry["spellings"])}) for name, entry in table.items()
    }


@cache
def _by_spelling() -> dict[str, str]:
    result = {spelling: name for name, entry in all_datasets().items() for spelling in entry.spellings}
    for name, entry in all_datasets().items():  # `svhn` of `wds/svhn`, `svhn_cropped` of `wds/svhn_cropped`
        for spelling in (name, *entry.spellings):
            result.setdefault(_bare(spelling), name)
    for name, entry in all_datasets().items():
        if entry.elevater:
            result.setdefault(ELEVATER + entry.elevater, name)
            result.setdefault(entry.elevater, name)
    return {_key(spelling): name for spelling, name in result.items()}


def find(spelling: str) -> DatasetPrompts | None:
    """The data set that clip_benchmark builds under this name, or None where it has no Chinese prompts.

    `wds/`, `vtab/` and `tfds/` are understood, also where clip_benchmark itself has no such data set; so are the
    configuration and version of a TFDS name (`tfds/eurosat/rgb:2.*.*`).
    """
    name = spelling.removeprefix("wds/")
    known = _by_spelling()
    candidates = [name, name.split(":")[0]]
    if name.startswith("tfds/"):
        candidates.append("/".join(name.split(":")[0].split("/")[:2]))
    candidates += [_bare(candidate) for candidate in candidates]
    for candidate in candidates:
        if _key(candidate) in known:
            return all_datasets()[known[_key(candidate)]]
    return None


def is_tfds(spelling: str) -> bool:
    """Whether the data comes from TFDS under this spelling, with its labels."""
    return spelling.removeprefix("wds/").startswith(_FORMATS)


def is_left_alone(spelling: str) -> bool:
    """Whether clip_benchmark itself has Chinese for it (Babel-ImageNet)."""
    return spelling in packaged("classification.json")["left_alone"]


def _bare(name: str) -> str:
    for prefix in _FORMATS:
        name = name.removeprefix(prefix)
    return name


def _key(name: str) -> str:
    return name.lower().replace("-", "_")
