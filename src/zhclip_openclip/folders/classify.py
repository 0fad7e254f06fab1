"""The pictures of a folder under labels: a zero-shot classifier with Chinese templates."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from zhclip_openclip._errors import shorten
from zhclip_openclip.datasets._text_lines import text_lines
from zhclip_openclip.folders import mismatched
from zhclip_openclip.folders._errors import FolderError
from zhclip_openclip.folders._model import Opened
from zhclip_openclip.folders.shelf import Shelf
from zhclip_openclip.prompts import classnames, registry, templates
from zhclip_openclip.prompts._errors import PromptError
from zhclip_openclip.prompts.classifier import zero_shot_classifier

#: Labels that mean none of the others; what they stand for is said at `classify`.
OTHER = ("其他", "其它", "其余", "别的", "都不是", "以上都不是", "other", "others", "none")
_SEPARATORS = re.compile("[,，、;；]")
_ROWS = 8192


@dataclass(frozen=True)
class Labels:
    """names: in their order. dataset: whose class names they are, "" for the user's own. templates: with `{c}`.
    other: number of the label that means none of the others, or None."""

    names: tuple[str, ...]
    templates: tuple[str, ...]
    dataset: str = ""
    other: int | None = None


@dataclass(frozen=True)
class Labelled:
    """A picture with its label. score: cosine with the label's classifier. share: of mismatched pairs that score lower.
    second, second_score: the label that comes next."""

    number: int
    name: str
    label: int
    score: float
    share: float | None
    second: int
    second_score: float
    copies: tuple[str, ...] = ()

    @property
    def lead(self) -> float:
        return self.score - self.second_score


@dataclass
class Classified:
    """All pictures of a folder, in the order of their names. pairs: how many mismatched ones the shares are of."""

    labels: Labels
    pictures: list[Labelled]
    pairs: int
    notes: list[str] = field(default_factory=list)

    def of(self, label: int) -> list[Labelled]:
        """Those with this label, the best first."""
        mine = [picture for picture in self.pictures if picture.label == label]
        return sorted(mine, key=lambda picture: -picture.score)

    def doubtful(self) -> list[Labelled]:
        """Those whose next label is closest."""
        return sorted(self.pictures, key=lambda picture: picture.lead)


def read_labels(
    labels: str | None = None, file: Path | None = None, dataset: str | None = None, template_set: str | None = None
) -> Labels:
    """Labels out of one of three places, with templates.

    labels: separated by commas, also Chinese ones. file: one a line. dataset: a classification data set with Chinese
    class names. template_set: see `prompts/templates.py`.

    Raises FolderError: none or several of the places; no labels, one, or one twice; no such data set or templates.
    DatasetError: a file that cannot be read.
    """
    given = [option for option in (labels, file, dataset) if option is not None]
    if len(given) != 1:
        raise FolderError("give the labels in one of --labels 猫,狗,其他, --labels-file FILE, --dataset-names food101")
    found = None
    if dataset is not None:
        found = registry.find(dataset)
        if found is None:
            known = list(registry.all_datasets())
            close = difflib.get_close_matches(dataset, known, 3, 0.4) or known
            raise FolderError(
                f"--dataset-names {dataset}: no Chinese class names; did you mean {shorten(close, 3)}? `zhclip "
                "classnames` lists all"
            )
        names, where = [chinese for _, chinese in classnames.classes(found, dataset)], f"--dataset-names {dataset}"
    elif file is not None:
        names, where = [line.strip() for _, line, _ in text_lines(Path(file))], f"--labels-file {file}"
    else:
        names, where = [name.strip() for name in _SEPARATORS.split(labels)], f"--labels {labels}"
    names = [name for name in names if name]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise FolderError(f"{where}: {shorten(map(repr, twice))} is there twice; keep one of each")
    if len(names) < 2:
        what = f"{names[0]!r} alone" if names else "none"
        raise FolderError(f"{where}: {what}; two labels are needed, as every picture would get the only one: add 其他")
    other = [number for number, name in enumerate(names) if name.lower() in OTHER] if dataset is None else []
    if len(other) > 1:
        raise FolderError(f"{where}: {shorten(names[number] for number in other)} mean the same; keep one")
    try:
        taken = templates.load(template_set, found, found.name if found else "").templates
    except PromptError as error:
        raise FolderError(str(error).replace(templates.OPTION, "--templates")) from error
    if isinstance(taken, dict):
        raise FolderError("templates that are finished prompts for each class fit that data set alone; give a list")
    return Labels(tuple(names), tuple(taken), found.name if found else "", other[0] if other else None)


def classify(shelf: Shelf, opened: Opened, labels: Labels) -> Classified:
    """The best label of each picture.

    A label of :data:`OTHER` is not written into the templates, as no picture looks like 其他. It stands for all names
    of the bank (`mismatched.py`) that no label holds: a picture gets it where one of those fits better than any label.
    """
    bank = mismatched.names_of(opened, labels.templates)
    real = [number for number in range(len(labels.names)) if number != labels.other]
    apart = [row for row, name in enumerate(mismatched.names()) if not _held(name, [labels.names[n] for n in real])]
    columns = zero_shot_classifier(
        opened.module,
        opened.tokenizer,
        [labels.names[number] for number in real],
        list(labels.templates),
        opened.device,
        opened.amp,
    )
    weights = columns.float().cpu()
    reference = mismatched.with_texts(shelf.features, bank[apart])
    pictures: list[Labelled] = []
    for start in range(0, len(shelf), _ROWS):
        block = shelf.features[start : start + _ROWS].float()
        scores = torch.empty(len(block), len(labels.names))
        scores[:, real] = block @ weights
        if labels.other is not None:
            scores[:, labels.other] = (block @ bank[apart].T).amax(dim=1)
        values, places = scores.topk(2, dim=1)
        for row, (value, place) in enumerate(zip(values.tolist(), places.tolist(), strict=True)):
            number = start + row
            pictures.append(
                Labelled(
                    number,
                    shelf.names[number],
                    place[0],
                    value[0],
                    reference.share(value[0]),
                    place[1],
                    value[1],
                    tuple(shelf.copies.get(number, ())),
                )
            )
    notes = []
    if labels.other is not None:
        notes.append(
            f"{labels.names[labels.other]} stands for {len(apart)} other things, such as "
            f"{shorten((mismatched.names()[row] for row in apart), 3)}: a picture gets it where one of them fits better"
        )
    return Classified(labels, pictures, len(reference), notes)


def _held(name: str, labels: Sequence[str]) -> bool:
    """Whether a name of the bank may be one of the labels: 橘猫 is a 猫."""
    return any(name in label or label in name for label in labels)
