"""Training probes on one split of a data set and scoring them on another, once for each seed.

Metrics are those of `metrics/classification.py` with `lp_` in front, clip_benchmark's names: lp_acc1, lp_acc5 (nan
where no label is above 4, as there), lp_mean_per_class_recall; and lp_per_class_accuracy by the names of the classes.
Of several seeds each is their mean; the spread is the standard deviation with n - 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from zhclip_openclip.features import fingerprint
from zhclip_openclip.features.image_pass import ImagePass
from zhclip_openclip.metrics import classification
from zhclip_openclip.probes import adamw, logistic, shots
from zhclip_openclip.probes._errors import ProbeError
from zhclip_openclip.probes.adamw import Labelled, Training
from zhclip_openclip.probes.saved import Probe

LOGISTIC, ADAMW = CLASSIFIERS = ("logistic", "adamw")
#: Seeds of a few shots where nobody says how many.
SEEDS = 3


@dataclass(frozen=True)
class Split:
    """Unit features (n, d) in float32, labels (n,); name: data set and split, for people; fingerprint: of the images
    and labels by content, "" where it is not known."""

    features: torch.Tensor
    labels: torch.Tensor
    name: str
    fingerprint: str = ""

    def rows(self, indices: Any) -> Split:
        indices = torch.as_tensor(indices)
        return Split(self.features[indices], self.labels[indices], self.name, self.fingerprint)

    def labelled(self) -> Labelled:
        return Labelled(self.features, self.labels)


@dataclass(frozen=True)
class Plan:
    """How probes are trained. shots: images of each class, -1 for all. proportion: of the train split that is held out
    to choose the regularisation by, where there is no validation split; None: see `rounds`. how: of AdamW."""

    classifier: str = LOGISTIC
    shots: int = -1
    seeds: Sequence[int] = (0,)
    proportion: float | None = None
    how: Training = field(default_factory=Training)


@dataclass
class Trained:
    """A probe of one seed. facts: what was chosen, for the result."""

    seed: int
    probe: Probe
    facts: dict[str, Any]
    score: Callable[[torch.Tensor], torch.Tensor]


def read_split(model: torch.nn.Module, loader: Any, device: str, amp: bool, name: str, exact: bool = False) -> Split:
    """The features of a loader, from the feature cache where they are there.

    exact: with the fingerprint, also where that means to read all images once more.

    Raises FiniteError: features that are not finite. ProbeError: labels that are no single class.
    """
    images = ImagePass(model, loader, device, amp, name)
    parts = [(features.float().cpu(), labels) for features, labels in images]
    if not parts:
        raise ProbeError(f"{name} has no images; look at the split and at --dataset_root")
    if not all(isinstance(labels, torch.Tensor) for _, labels in parts):
        raise ProbeError(f"{name} has no labels of classes, and a linear probe is trained on them")
    features, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    shots.single(labels, name)
    known = images.data or (fingerprint.data(loader, loader.num_workers) if exact else None)
    return Split(features, labels.long(), name, known or "")


def train(
    data: Split,
    validation: Split | None,
    plan: Plan,
    classes: Sequence[str],
    seed: int,
    about: dict[str, Any] | None = None,
    told: Callable[[], None] = lambda: None,
) -> Trained:
    """One probe.

    validation: to choose the regularisation by; None: see `_rounds` and `Plan.proportion`. about: what else the probe
    tells of itself. told: called after each training.

    Raises ProbeError: data that no probe can be trained on.
    """
    shots.check(data.labels, classes, plan.shots, data.name)
    if validation is None and plan.proportion is not None:
        kept, held = shots.hold_out(data.labels.numpy(), plan.proportion, seed)
        if not len(held):
            raise ProbeError(
                f"--val_proportion {plan.proportion}: {data.name} has one image a class, and none to hold out"
            )
        data, validation = data.rows(kept), data.rows(held)
        shots.check(data.labels, classes, plan.shots, f"{data.name} without --val_proportion")
    chosen = data.rows(shots.choose(data.labels, plan.shots, seed))
    run = _logistic if plan.classifier == LOGISTIC else _adamw
    highest = max(int(split.labels.max()) for split in (data, validation) if split is not None)
    (weight, bias, labels), score, facts = run(chosen, validation, plan, highest + 1, seed, told)
    probe = Probe(
        weight, bias, labels, list(classes), about={"classifier": plan.classifier, "seed": seed, **(about or {})}
    )
    return Trained(seed, probe, facts, score or probe.scores)


def _logistic(data: Split, validation: Split | None, plan: Plan, classes: int, seed: int, told: Callable[[], None]):
    features, labels = data.features.double().numpy(), data.labels.numpy()
    facts: dict[str, Any] = {}
    if validation is not None:
        held = validation.features.double().numpy(), validation.labels.numpy()
        rounds = [logistic.Round(features, labels, *held)]
        facts["validation"] = f"{len(validation.labels)} images of {validation.name}"
        if plan.shots < 0:
            features, labels = (np.concatenate(pair) for pair in zip((features, labels), held, strict=True))
    else:
        rounds, facts["validation"] = _rounds(features, labels, plan.shots, seed)
    chosen = logistic.sweep(rounds, told) if rounds else logistic.Chosen(logistic.FIXED, None, {})
    fitted = logistic.fit(features, labels, chosen.strength)
    facts |= {
        "train_images": len(labels),
        "l2_strength": chosen.strength,
        "C": 1 / chosen.strength,
        "validation_accuracy": chosen.accuracy,
        "iterations": fitted.iterations,
        "converged": fitted.converged,
    }
    rows = torch.from_numpy(np.ascontiguousarray(fitted.weight)), torch.from_numpy(fitted.bias.copy())
    return (*rows, torch.from_numpy(fitted.labels.astype(np.int64))), None, facts


def _rounds(features: np.ndarray, labels: np.ndarray, few: int, seed: int) -> tuple[list[logistic.Round], str]:
    """Where no validation images are given: of all data a fifth is held out once; of a few shots each fold in turn,
    five or as many as there are shots; with one image a class there is none to choose by."""
    count = shots.FOLDS if few < 0 else min(shots.FOLDS, few)
    if count < 2 or len(labels) == len(np.unique(labels)):
        return [], "none: one image a class"
    fold = shots.folds(labels, count, seed)
    turns = range(count) if few > 0 else (0,)
    rounds = [
        logistic.Round(features[fold != turn], labels[fold != turn], features[fold == turn], labels[fold == turn])
        for turn in turns
    ]
    return rounds, f"{count} folds of the images trained on" if few > 0 else "a fifth of the images trained on"


def _adamw(data: Split, validation: Split | None, plan: Plan, classes: int, seed: int, told: Callable[[], None]):
    trained, facts = data.labelled(), {"validation": "none", "weight_decay": 0.0}
    if validation is not None:
        held = validation.labelled()
        decay, accuracy = adamw.search(trained, held, classes, plan.how, seed, told)
        where = f"{len(held.labels)} images of {validation.name}"
        facts = {"validation": where, "weight_decay": decay, "validation_accuracy": accuracy}
        if plan.shots < 0:
            trained = trained.with_(held)
    facts["train_images"] = len(trained.labels)
    layer = adamw.train(trained, classes, facts["weight_decay"], plan.how, seed)
    if not all(parameter.isfinite().all() for parameter in layer.parameters()):
        raise ProbeError(
            f"the weights that AdamW came to are not finite; give a smaller --fewshot_lr than {plan.how.lr}"
        )
    rows = layer.weight.detach().cpu(), layer.bias.detach().cpu(), torch.arange(classes)
    return rows, lambda features: adamw.scores(layer, features, plan.how), facts


# ---------------------------------------------------------------- scoring


def scored(scores: torch.Tensor, test: Split, classes: Sequence[str], dataset: str) -> dict[str, Any]:
    """Metrics of scores (n, classes); a class that the probe does not have was filled in as the lowest."""
    found = classification.evaluate(scores, test.labels, classes, dataset)
    if int(test.labels.max()) < 5:
        found["acc5"] = math.nan
    return {f"lp_{key}": value for key, value in found.items()}


def padded(scores: torch.Tensor, classes: int) -> torch.Tensor:
    """With columns of the lowest number for the classes that have none."""
    missing = classes - scores.shape[1]
    return torch.nn.functional.pad(scores, (0, missing), value=torch.finfo(torch.float32).min) if missing else scores


def together(each: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, float]]:
    """(mean, standard deviation) of the metrics of all seeds; there is no deviation of one."""
    mean: dict[str, Any] = {}
    spread: dict[str, float] = {}
    for key, first in each[0].items():
        values = [one[key] for one in each]
        if isinstance(first, dict):
            mean[key] = {name: _mean([value[name] for value in values]) for name in first}
            continue
        mean[key] = _mean(values)
        if len(each) > 1 and not math.isnan(mean[key]):
            spread[key] = float(np.std(values, ddof=1))
    return mean, spread


def _mean(values: list[float | None]) -> float | None:
    return None if None in values else float(np.mean(values)) if len(values) > 1 else values[0]
