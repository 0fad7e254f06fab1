"""Published figures: the tables that come with the package, and other people's in the same form.

The form is described in docs/reports.md. What cannot be used is named, with file and key, and the rest of the file
is used all the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zhclip_openclip import families
from zhclip_openclip._errors import ZhclipError, printable
from zhclip_openclip._reading import reading
from zhclip_openclip.prompts import languages
from zhclip_openclip.prompts._errors import PromptError
from zhclip_openclip.report import _names, same_set
from zhclip_openclip.report._model import Problem
from zhclip_openclip.report.result_json import Unusable, read_value, shown
from zhclip_openclip.towers import text_handling

FORMAT_VERSION = 1
_FORM = "docs/reports.md has the form"
#: What `training` can say of the models of a file.
ZERO_SHOT, FINE_TUNED = "zero-shot", "fine-tuned"
_KEYS = {"format", "source", "url", "note", "training", "language", "decimals", "text_handling", "models", "datasets"}
_DATASET_KEYS = {"title", "title_zh", "split", "note", "images", "texts", "doubtful", "metrics", "values"}
#: (model, tag), as `_names.model_and_tag` spells it.
ModelKey = tuple[str, str]


@dataclass
class Source:
    """The figures of one publication.

    key: short name (the file's). text: where they are from, for people. decimals: how many they are rounded to.
    models: title of each model as published, in that order. values: (data set, metric) -> model -> percent.
    titles: English and Chinese title of the data sets that are not ours. text_handling: how Chinese text had reached
    the models, as `towers.text_handling` has it; '' where that is not known. fine_tuned: whether each model was
    fine-tuned on the training split of the data set; else they are scored zero-shot. language: of the captions, for
    sets that have them in several. notes: of data sets. doubts: (data set, model) -> why its figures are shown and not
    believed. sizes: of data sets, 'images' and 'texts', as far as the file says.
    """

    key: str
    text: str
    decimals: int
    models: dict[ModelKey, str] = field(default_factory=dict)
    values: dict[tuple[str, str], dict[ModelKey, float]] = field(default_factory=dict)
    titles: dict[str, tuple[str, str]] = field(default_factory=dict)
    text_handling: str = ""
    fine_tuned: bool = False
    language: str = languages.SIMPLIFIED
    notes: dict[str, str] = field(default_factory=dict)
    doubts: dict[tuple[str, ModelKey], str] = field(default_factory=dict)
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)

    def says_the_same(self, other: Source) -> bool:
        """Whether it is the same publication under another name."""
        return replace(self, key=other.key) == other

    def doubt(self, model: ModelKey, dataset: str) -> str:
        return self.doubts.get((dataset, model), "")

    def value(self, model: ModelKey, dataset: str, metric: str) -> float | None:
        return self.values.get((dataset, metric), {}).get(model)

    def best(self, dataset: str, metric: str) -> float | None:
        """The best value of a column that is not doubtful; None where there are not two to choose from."""
        column = self.values.get((dataset, metric), {})
        sure = [value for key, value in column.items() if not self.doubt(key, dataset)]
        return max(sure) if len(sure) > 1 else None

    @property
    def rounding(self) -> float:
        """Half a unit of the last published digit: how far the value before rounding may be away."""
        return 0.5 * 10**-self.decimals


def load_published(
    files: Iterable[str | os.PathLike[str]] = (), given: list[str] | None = None
) -> tuple[list[Source], list[Problem]]:
    """The packaged sources and those of the files, in this order, and what could not be used of them.

    given: takes the keys of the sources of `files`; a file that is one of the package's is that one.
    """
    sources: list[Source] = []
    problems: list[Problem] = []
    packaged = [_names.PUBLISHED / f"{name}.json" for name in _names.layout()["sources"]]
    for number_of_it, path in enumerate([*packaged, *map(Path, files)]):
        is_given = number_of_it >= len(packaged)
        source, found = read_published(path)
        problems += found
        if source is None:
            continue
        twin = next((known.key for known in sources if source.says_the_same(known)), "")
        if is_given and given is not None:
            given.append(twin)
        if twin:
            continue
        taken = {known.key for known in sources}
        key, number = source.key, 2
        while source.key in taken:
            source.key, number = f"{key}-{number}", number + 1
        if is_given and given:
            given[-1] = source.key
        sources.append(source)
    return sources, problems


def read_published(path: Path) -> tuple[Source | None, list[Problem]]:
    """One file; no source if nothing of it can be used."""
    reader = _Reader(path)
    try:
        with reading(path, advice=_FORM):
            return reader.read(read_value(path, "mend it there; " + _FORM)), reader.problems
    except Unusable as unusable:
        return None, [unusable.problem]
    except ZhclipError as error:
        return None, [Problem(str(path), str(error).removeprefix(f"{printable(str(path))}: "))]


class _Reader:
    """Reads what is right of a file and collects what is not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[Problem] = []

    def wrong(self, key: str, what: str, way_out: str = "") -> None:
        self.problems.append(Problem(f"{self.path}: {key}" if key else str(self.path), what, way_out))

    def read(self, described: Any) -> Source | None:
        if not isinstance(described, dict) or not isinstance(described.get("datasets"), dict):
            self.wrong("", "is no table of published figures (has no object 'datasets')", _FORM)
            return None
        if described.get("format") != FORMAT_VERSION:
            self.wrong("format", f"is {shown(described.get('format'))}, this version reads {FORMAT_VERSION}")
            return None
        self.unknown_keys("", described, _KEYS)
        decimals = described.get("decimals")
        if not isinstance(decimals, int) or isinstance(decimals, bool) or not 0 <= decimals <= 6:
            self.wrong("decimals", f"is {repr(decimals)[:60]}", "say how many the figures are rounded to, such as 2")
            return None
        training = described.get("training", ZERO_SHOT)
        if training not in (ZERO_SHOT, FINE_TUNED):
            way_out = f"write {ZERO_SHOT!r}, or {FINE_TUNED!r} where each model was trained on the training split"
            self.wrong("training", f"is {shown(training)}", way_out)
            return None
        source = Source(self.path.stem, self.text_of(described), decimals, fine_tuned=training == FINE_TUNED)
        source.text_handling = described.get("text_handling") or ""
        if source.text_handling not in ("", *text_handling.CHOICES):
            way_out = f"write {' or '.join(text_handling.CHOICES)}, or leave it out"
            self.wrong("text_handling", f"is {shown(source.text_handling)}", way_out)
            source.text_handling = ""
        self.language(described.get("language", source.language), source)
        self.models(described.get("models", {}), source)
        for spelling, entry in described["datasets"].items():
            self.dataset(spelling, entry, source)
        if not source.values:
            self.wrong("datasets", "no figure of it can be used")
            return None
        every = [value for column in source.values.values() for value in column.values()]
        if len(every) > 1 and max(every) <= 1:
            self.wrong("datasets", "no figure is above 1", "figures are percent: 96.67, not 0.9667")
        return source

    def text_of(self, described: dict[str, Any]) -> str:
        parts = [described.get(key) or "" for key in ("source", "url", "note")]
        if not isinstance(parts[0], str) or not parts[0].strip():
            self.wrong("source", "is not given", "say where the figures are from")
            parts[0] = self.path.name
        parts = [part for part in parts if isinstance(part, str) and part.strip()]
        return "; ".join(" ".join(part.split()) for part in parts)

    def language(self, told: Any, source: Source) -> None:
        try:
            source.language = languages.normalise(told) if isinstance(told, str) else ""
        except PromptError:
            source.language = ""
        if not source.language:
            self.wrong("language", f"is {shown(told)}", "write zh, or the language that the captions are in")

    def models(self, entries: Any, source: Source) -> None:
        if not isinstance(entries, dict):
            self.wrong("models", "is no object", 'write {"model": "title as published"}')
            return
        for spelling, title in entries.items():
            if not isinstance(title, str) or not title.strip():
                self.wrong(f"models.{spelling}", "has no title", "write the name that it is published by")
                title = spelling
            source.models[_names.model_and_tag(spelling)] = " ".join(title.split())

    def dataset(self, spelling: str, entry: Any, source: Source) -> None:
        where = f"datasets.{spelling}"
        if not isinstance(entry, dict) or not isinstance(entry.get("values"), dict):
            self.wrong(where, "has no object 'values'", _FORM)
            return
        self.unknown_keys(f"{where}.", entry, _DATASET_KEYS)
        dataset = _names.dataset_name(spelling)
        title = entry.get("title")
        if not _names.is_known_dataset(dataset):
            if not isinstance(title, str) or not title.strip():
                way_out = _names.suggest(dataset, _names.known_datasets())
                self.wrong(where, "is no data set that is known here", f"{way_out} Any other needs a 'title'")
                return
            title_zh = entry.get("title_zh")
            source.titles[dataset] = (title, title_zh if isinstance(title_zh, str) and title_zh.strip() else title)
        metrics = entry.get("metrics")
        if not isinstance(metrics, list) or not metrics or not all(isinstance(metric, str) for metric in metrics):
            self.wrong(f"{where}.metrics", "is no list of metrics", f"name them: {_names.metrics_of(dataset)}")
            return
        for metric in metrics:
            if not _names.fits(metric, dataset):
                self.wrong(
                    f"{where}.metrics", f"{metric!r} does not fit {dataset}", f"it has {_names.metrics_of(dataset)}"
                )
        if not isinstance(entry.get("split", ""), str):
            self.wrong(f"{where}.split", f"is {shown(entry['split'])}", "name the split that was scored")
        if wrong := same_set.misnamed(dataset, title, entry):
            self.wrong(where, *wrong)
            return
        source.sizes[dataset] = {key: entry[key] for key in ("images", "texts") if type(entry.get(key)) is int}
        if isinstance(entry.get("note"), str) and entry["note"].strip():
            source.notes[dataset] = " ".join(entry["note"].split())
        self.doubts(where, entry.get("doubtful", {}), dataset, source)
        for model, row in entry["values"].items():
            self.row(f"{where}.values.{model}", model, dataset, metrics, row, source)

    def doubts(self, where: str, entries: Any, dataset: str, source: Source) -> None:
        if not isinstance(entries, dict) or not all(isinstance(why, str) and why.strip() for why in entries.values()):
            self.wrong(f"{where}.doubtful", f"is {shown(entries)}", 'write {"model": "why its figures are doubtful"}')
            return
        for spelling, why in entries.items():
            source.doubts[dataset, _names.model_and_tag(spelling)] = " ".join(why.split())

    def row(self, where: str, spelling: str, dataset: str, metrics: list[str], row: Any, source: Source) -> None:
        model = _names.model_and_tag(spelling)
        if not self.model_is_known(where, spelling, model, source):
            return
        if not isinstance(row, list) or len(row) != len(metrics):
            size = f"{len(row)} figures" if isinstance(row, list) else "no list"
            self.wrong(where, f"has {size} for {len(metrics)} metrics", "write null for one that is not published")
            return
        for metric, value in zip(metrics, row, strict=True):
            if value is None or not _names.fits(metric, dataset):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 100:
                self.wrong(where, f"{metric} is {shown(value)}", "figures are percent, from 0 to 100")
            else:
                source.values.setdefault((dataset, metric), {})[model] = float(value)

    def model_is_known(self, where: str, spelling: str, model: ModelKey, source: Source) -> bool:
        if model in source.models:
            return True
        found = families.find(model[0])
        if found is not None and (not model[1] or model[1] in found[1].tags):
            source.models[model] = spelling
            return True
        if found is not None:
            tags = ", ".join(found[1].tags)
            self.wrong(
                where, f"{model[0]} has no tag {model[1]!r}", f"it has {tags}; any other needs a title in 'models'"
            )
        else:
            known = [*families.all_names(), *(name for name, _ in source.models)]
            way_out = _names.suggest(model[0], known)
            self.wrong(
                where, f"there is no model {spelling!r}", f"{way_out} One that is not ours needs a title in 'models'"
            )
        return False

    def unknown_keys(self, before: str, entry: dict[str, Any], known: set[str]) -> None:
        for key in entry:
            if key not in known:
                self.wrong(f"{before}{key}", "is no key of this form", _names.suggest(key, sorted(known)))
