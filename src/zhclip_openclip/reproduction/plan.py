"""What `zhclip reproduce` will run: every model on every data set, what is there, what is finished, what it costs.

A cell is one model with one tag on one data set. Its results are files of one name in the results folder: `NAME.json`
as clip_benchmark writes it, `NAME.npz` with the outcome of each query or image, `NAME.html` with a gallery. The JSON
holds, beside clip_benchmark's keys, the identity of the cell under `cell`; a finished cell is one whose JSON has the
identity that is asked for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhclip_openclip._content import Content, sha256
from zhclip_openclip._cores import cores
from zhclip_openclip._errors import ZhclipError, one_line, printable
from zhclip_openclip.datasets import at_hand
from zhclip_openclip.features.spent import REST, STAGES
from zhclip_openclip.prompts import templates as template_sets
from zhclip_openclip.prompts._files import find as find_file
from zhclip_openclip.reproduction import _cost
from zhclip_openclip.reproduction.finished import state_of
from zhclip_openclip.reproduction.weights import Weights, read_models
from zhclip_openclip.towers import text_handling
from zhclip_openclip.towers.text_handling import AUTHORS, HOST

#: Bytes of a cell's name: suffixes and what makes a temporary name of it come to it, and file systems take 255.
_NAME_BYTES = 180


@dataclass
class Cell:
    """One evaluation.

    templates: template set, "" where none can be chosen. data: what was found of the data set. state: 'run', 'finished'
    or 'missing'. note: why it is missing, or why it is run although there is a result. stages: about how many seconds.
    apart: what tells the weights from the others of this model in the plan; '' where there are none.
    """

    weights: Weights
    entry: at_hand.Entry
    templates: str
    data: at_hand.Found | at_hand.Missing
    options: Options
    state: str = "run"
    note: str = ""
    stages: dict[str, float] = field(default_factory=dict)
    apart: str = ""

    @property
    def seconds(self) -> float:
        return sum(self.stages.values())

    @property
    def name(self) -> str:
        """Name of its files, without suffix."""
        pretrained = self.weights.pretrained
        if self.weights.checkpoint:
            path = Path(pretrained).expanduser().resolve()
            pretrained = f"{path.stem}-{_short(str(path))}"
        parts = [self.weights.model, pretrained, self.entry.name]
        if self.templates:
            given = Path(self.templates)
            named = template_sets.is_ours(self.templates)
            parts.append(self.templates if named else f"{given.stem}-{_short(str(given.expanduser().resolve()))}")
        if self.text_handling == HOST:
            parts.append(f"text-{HOST}")
        if self.options.limit is not None:
            parts.append(f"limit-{self.options.limit}")
        name = re.sub(r"[^\w.@+-]", "-", "_".join(parts))
        if len(name.encode("utf-8")) <= _NAME_BYTES:
            return name
        return name.encode("utf-8")[: _NAME_BYTES - 9].decode("utf-8", "ignore") + "-" + _short(name)

    @property
    def title(self) -> str:
        """What it is called on a terminal."""
        with_templates = f" ({self.templates})" if self.templates and self.templates != template_sets.DEFAULT else ""
        model = f"{self.weights.model} ({printable(self.apart)})" if self.apart else self.weights.model
        with_text = f" (text handling {HOST})" if self.text_handling == HOST else ""
        return f"{model} on {self.entry.name}{printable(with_templates)}{with_text}"

    @property
    def text_handling(self) -> str | None:
        """How Chinese text reaches the model, one of `text_handling.CHOICES`; None where there is one way alone."""
        return self.options.text_handling if self.weights.has_two_handlings else None

    @property
    def images(self) -> int:
        """To encode, of data that are at hand."""
        return min(self.data.images, self.options.limit or self.data.images)

    def identity(self) -> dict[str, Any]:
        """What makes a result the result of this cell, but for `contents`; the same words give the same numbers."""
        file = Path(self.templates).expanduser() if self.templates else None
        spelling = getattr(self.data, "spelling", None)
        return {
            "model": self.weights.model,
            "pretrained": self.weights.pretrained if not self.weights.checkpoint else None,
            "checkpoint": self.weights.checkpoint,
            "dataset": self.entry.name,
            "read_as": spelling,
            "fingerprint": getattr(self.data, "fingerprint", None),
            "listing": getattr(self.data, "listing", None),
            "prompts": getattr(self.data, "prompts", None),
            "language": self.entry.language,
            "templates": printable(self.templates) or None,
            "template_file": sha256(file) if file and not template_sets.is_ours(self.templates) else None,
            "prompts_version": template_sets.later_version(self.templates, spelling or self.entry.name),
            "amp": self.options.amp,
            "skip_bad_images": self.options.skip_bad_images,
            "text_handling": self.text_handling,
            "limit": self.options.limit,
        }

    def contents(self) -> dict[str, Content | None]:
        """What belongs to the identity and takes reading: content of the weights of a tag and of the pictures of a
        retrieval set; None for what is not here."""
        return {"weights": self.weights.content(), "pictures": getattr(self.data, "pictures", None)}

    def described(self) -> dict[str, Any]:
        """The whole identity for the result. Reads weights and pictures."""
        contents = {key: content.described() for key, content in self.contents().items() if content is not None}
        return {**self.identity(), **contents}

    def incomplete(self, images: int | None = None) -> str:
        """'200 of 10,000 images' where the data at hand are not as many as were published, else ''.

        images: how many an evaluation has met; by default what the plan knows.
        """
        if images is not None and self.options.limit is not None:
            return ""  # of a sample it is known
        expected = getattr(self.data, "expected", None)
        images = getattr(self.data, "images", None) if images is None else images
        if not expected or images is None or images == expected:
            return ""
        return f"{images:,} of {expected:,} images" if images < expected else f"{images:,} images for {expected:,}"


@dataclass(frozen=True)
class Options:
    """What an evaluation is run with. workers: processes that read images; None for as many as make sense.
    text_handling: of models that are not ours, as `towers.text_handling` has it. limit: of a sample of so many images;
    None for the whole."""

    batch_size: int = 64
    workers: int | None = None
    amp: bool = True
    skip_bad_images: bool = False
    galleries: bool = True
    text_handling: str = AUTHORS
    limit: int | None = None


@dataclass
class Plan:
    """cells: grouped by model, in the order to run. weights: of the models. machine: what the times are made from."""

    cells: list[Cell]
    output: Path
    options: Options
    machine: _cost.Machine | None = None
    models: list[Weights] = field(default_factory=list)

    def of(self, state: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.state == state]

    @property
    def datasets(self) -> list[at_hand.Entry]:
        return list({cell.entry.name: cell.entry for cell in self.cells}.values())

    @property
    def missing(self) -> list[tuple[at_hand.Entry, at_hand.Missing]]:
        """The data sets that are not at hand, and why."""
        first = {cell.entry.name: (cell.entry, cell.data) for cell in reversed(self.cells)}
        return [first[entry.name] for entry in self.datasets if isinstance(first[entry.name][1], at_hand.Missing)]

    @property
    def to_fetch(self) -> list[Weights]:
        """Weights that the cells to run need and that are not here."""
        used = {cell.weights for cell in self.of("run")}
        return [weights for weights in self.models if weights in used and not weights.here]

    @property
    def seconds(self) -> float:
        return sum(cell.seconds for cell in self.of("run"))

    @property
    def stages(self) -> dict[str, float]:
        """Seconds by stage, as `features/spent.py` names them."""
        cells = self.of("run")
        return {stage: sum(cell.stages.get(stage, 0.0) for cell in cells) for stage in (*STAGES, REST)}

    def as_json(self) -> dict[str, Any]:
        """The plan for programs: `zhclip reproduce --dry-run --json`."""
        return {
            "output": str(self.output),
            "cells": [
                {
                    "name": cell.name,
                    "model": cell.weights.model,
                    "pretrained": cell.weights.pretrained,
                    "dataset": cell.entry.name,
                    "templates": cell.templates,
                    "text_handling": cell.text_handling,
                    "state": cell.state,
                    "note": cell.note,
                    "read_as": getattr(cell.data, "spelling", None),
                    "dataset_root": _text(getattr(cell.data, "root", None)),
                    "images": getattr(cell.data, "images", None),
                    "images_published": getattr(cell.data, "expected", None),
                    "texts": getattr(cell.data, "texts", None),
                    "seconds": round(cell.seconds, 1),
                }
                for cell in self.cells
            ],
            "weights": [
                {
                    "model": weights.model,
                    "pretrained": weights.pretrained,
                    "gb": round(weights.bytes / 1e9, 2),
                    "here": weights.here,
                    "source": weights.source,
                }
                for weights in self.models
            ],
            "missing": [
                {
                    "dataset": entry.name,
                    "reason": data.reason,
                    "get": entry.get,
                    "place": entry.place,
                    "gb": entry.gb,
                    "licence": entry.licence,
                }
                for entry, data in self.missing
            ],
            "seconds": round(self.seconds, 1),
            "stages": {stage: round(seconds, 1) for stage, seconds in self.stages.items()},
            "gb_weights_to_fetch": round(sum(weights.bytes for weights in self.to_fetch) / 1e9, 2),
            "gb_data_missing": round(sum(entry.gb or 0 for entry, _ in self.missing), 2),
        }


def make_plan(
    models: Sequence[str],
    datasets: Sequence[str],
    data_root: Path | None,
    output: Path,
    options: Options | None = None,
    template_set: str = template_sets.DEFAULT,
    more_templates: dict[str, Sequence[str]] | None = None,
    timed: bool = True,
) -> Plan:
    """All cells of these models on these data sets. Nothing is fetched, and nothing is written but TSV indexes.

    models: names, tags and paths as `read_models` takes them; none for the six systems. datasets: names; none for the
    data sets of the published tables. template_set: for class lists. more_templates: further template sets by data set.
    timed: measure this machine, for about how long it takes.

    Raises ZhclipError: an unknown model, tag, data set, template set or text handling.
    """
    options = options or Options()
    text_handling.check(options.text_handling)
    if not template_sets.is_ours(template_set):
        find_file(template_set, "--templates")
    weights = read_models(models)
    asked = [at_hand.find_entry(name, data_root) for name in datasets or at_hand.of_tables()]
    chosen = list({entry.name: entry for entry in asked}.values())
    cells = []
    found: dict[tuple[str, str], at_hand.Found | at_hand.Missing] = {}
    for one in weights:
        for entry in chosen:
            sets = list(dict.fromkeys([template_set, *(more_templates or {}).get(entry.name, ())]))
            for templates in sets if entry.has_templates else [""]:
                key = entry.name, templates
                if key not in found:
                    found[key] = _look(entry, data_root, templates, options.skip_bad_images)
                cells.append(Cell(one, entry, templates, found[key], options))
    _tell_apart(cells)
    plan = Plan(cells, output, options, models=weights)
    for cell in cells:
        cell.state, cell.note = state_of(cell, output)
    if timed and plan.of("run"):
        _time(plan)
    return plan


def _look(entry: at_hand.Entry, root: Path | None, *how: Any) -> at_hand.Found | at_hand.Missing:
    """As `at_hand.look`; a data set that nothing can be made of is no reason not to run the others."""
    try:
        return at_hand.look(entry, root, *how)
    except ZhclipError:
        raise
    except Exception as error:
        return at_hand.Missing(f"{entry.name} in {root}: {one_line(error)}")


def _tell_apart(cells: Sequence[Cell]) -> None:
    """Say on the terminal which weights of a model a cell has, where the plan has several."""
    models: dict[str, list[str]] = {}
    for weights in dict.fromkeys(cell.weights for cell in cells):
        models.setdefault(weights.model, []).append(weights.pretrained)
    for cell in cells:
        others = models[cell.weights.model]
        if len(others) > 1:
            cell.apart = _shortest(cell.weights.pretrained, others)


def _shortest(path: str, others: Sequence[str]) -> str:
    """The shortest end of a path that no other one has."""
    parts = [Path(other).parts for other in others]
    own = Path(path).parts
    for length in range(1, len(own) + 1):
        if sum(other[-length:] == own[-length:] for other in parts) == 1:
            return "/".join(own[-length:])
    return path


# ---------------------------------------------------------------- time


def _time(plan: Plan) -> None:
    """Give each cell to run its seconds. Towers that several models share go over a data set once."""
    workers = max((workers_for(cell) for cell in plan.of("run")), default=0)
    plan.machine = _cost.measure(workers, plan.options.amp)
    passed: set[tuple[str, str]] = set()
    loaded: Weights | None = None
    starting = plan.machine.starting()
    for cell in plan.of("run"):
        model, data = cell.weights.model, cell.data
        shared = cell.weights.image_source or cell.weights.title, cell.data.spelling
        images = 0 if shared in passed else cell.images
        passed.add(shared)
        cell.stages = plan.machine.stages(
            _cost.image_work(model),
            images,
            data.texts,
            _cost.text_operations(model),
            0 if cell.entry.has_templates else _cost.dimensions(model),
            0 if cell.weights == loaded else cell.weights.bytes,
        )
        cell.stages[REST] += starting
        loaded, starting = cell.weights, 0.0


def workers_for(cell: Cell) -> int:
    """Processes that read the images of a cell."""
    if cell.options.workers is not None:
        wanted = cell.options.workers
    else:
        wanted = 0 if cell.entry.embedded else min(8, cores())
    shards = getattr(cell.data, "shards", None)
    return min(wanted, shards) if shards else wanted


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
