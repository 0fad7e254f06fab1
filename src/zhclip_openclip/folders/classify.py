"""The pictures of a folder under labels: a zero-shot classifier with Chinese templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from zhclip_openclip._errors import shorten
from zhclip_openclip.folders import mismatched
from zhclip_openclip.folders._model import Opened
from zhclip_openclip.folders.labels import Labels
from zhclip_openclip.folders.shelf import Shelf
from zhclip_openclip.prompts.classifier import zero_shot_classifier

_ROWS = 8192


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
        what="your labels",
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
