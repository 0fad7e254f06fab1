"""clip_benchmark's linear probe: a linear layer trained with AdamW.

Definition: CLIP_benchmark 1.6.2, `metrics/linear_probe.py`, `evaluate`. Cross-entropy, batches in random order, a
learning rate that falls from `lr` to 0 as a half cosine over all steps; where there are validation images the weight
decay is searched between 1e-6 and 1e2 (7 values, then around the peak, by their accuracy), otherwise it is 0. All data
are trained on with the validation images, few shots without them.

The same features, seed, batch size and precision give the same numbers as there, on a CPU too, where clip_benchmark
refuses to run (tests/probes/test_adamw.py runs its own code beside this).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

#: Weight decays: 12 in each factor of 10, and the distance of the first ones that are tried.
DECAYS = np.logspace(-6, 2, num=97).tolist()
FIRST_STEP = 16


@dataclass(frozen=True)
class Training:
    """How a layer is trained. lr: at the beginning. amp: mixed precision on `device`."""

    lr: float = 0.1
    epochs: int = 10
    batch_size: int = 64
    amp: bool = False
    device: str = "cpu"


@dataclass(frozen=True)
class Labelled:
    """features (n, d) in float32, labels (n,) ints."""

    features: torch.Tensor
    labels: torch.Tensor

    def with_(self, others: Labelled) -> Labelled:
        return Labelled(torch.cat([self.features, others.features]), torch.cat([self.labels, others.labels]))


def train(data: Labelled, classes: int, decay: float, how: Training, seed: int) -> torch.nn.Linear:
    """A layer (d -> classes) on `how.device`."""
    kind = torch.device(how.device).type
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        layer = torch.nn.Linear(data.features.shape[1], classes).to(how.device)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=how.lr, weight_decay=decay)
        # Numbers alone go through the loader, so that its order is clip_benchmark's and images are not put together
        # one by one.
        loader = torch.utils.data.DataLoader(range(len(data.labels)), how.batch_size, shuffle=True)
        features, labels = data.features.to(how.device), data.labels.to(how.device)
        steps = how.epochs * len(loader)
        step = 0
        for _ in range(how.epochs):
            for rows in loader:
                for group in optimizer.param_groups:
                    group["lr"] = 0.5 * (1 + math.cos(math.pi * step / steps)) * how.lr
                optimizer.zero_grad()
                with torch.autocast(kind, enabled=how.amp):
                    loss = torch.nn.functional.cross_entropy(layer(features[rows]), labels[rows])
                loss.backward()
                optimizer.step()
                step += 1
    return layer


@torch.no_grad()
def scores(layer: torch.nn.Linear, features: torch.Tensor, how: Training) -> torch.Tensor:
    """(n, classes) in float32 on the CPU of features (n, d)."""
    with torch.autocast(torch.device(how.device).type, enabled=how.amp):
        parts = [layer(part.to(how.device)).float().cpu() for part in features.split(how.batch_size)]
    return torch.cat(parts)


def search(
    data: Labelled, held: Labelled, classes: int, how: Training, seed: int, told: Callable[[], None] = lambda: None
) -> tuple[float, float]:
    """The weight decay with which most of `held` are right, and their share. told: called after each training."""
    shares: dict[int, float] = {}

    def share(place: int) -> float:
        if place not in shares:
            layer = train(data, classes, DECAYS[place], how, seed)
            best = scores(layer, held.features, how).topk(1, dim=1).indices[:, 0]
            shares[place] = int((best == held.labels).sum()) / len(held.labels)
            told()
        return shares[place]

    def first_best(places: list[int]) -> int:
        best, most = 0, 0.0
        for place in places:
            if most < share(place):
                best, most = place, share(place)
        return best

    peak = first_best(list(range(0, len(DECAYS), FIRST_STEP)))
    step = FIRST_STEP // 2
    while step > 0:
        peak = first_best([max(peak - step, 0), peak, min(peak + step, len(DECAYS) - 1)])
        step //= 2
    return DECAYS[peak], share(peak)
