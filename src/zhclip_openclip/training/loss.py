"""Contrastive losses that count every pair as right that the data call right.

CLIP's loss takes the n pairs of a batch for the only right ones. With P[i, j] = 1 where image i goes with text j and 0
elsewhere, and targets that are spread evenly over all that is right, t[i, j] = P[i, j] / |P_i.|, here

    L = 1/2 ( 1/n sum_ij t[i, j] (log t[i, j] - log softmax_j(s I_i.T_j))  +  the same with images and texts exchanged )

which is the cross-entropy with soft targets less what no model can get below: its gradient is that of the cross-entropy
(Khosla et al. 2020, arXiv:2004.11362, equation 2, between two kinds of things), and it falls to 0 however much repeats.
SigLIP's loss (Zhai et al. 2023, arXiv:2303.15343) is a sum over all places of the matrix, and has z[i, j] = 1 where
P[i, j] = 1. With nothing right but the pairs both are the losses that they stand for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from zhclip_openclip.training._errors import TrainingError
from zhclip_openclip.training.relations import Relations

#: What CLIP's own loss takes; one that takes more has other parts besides.
_CLIP = {"image_features", "text_features", "logit_scale", "logit_bias", "output_dict"}


def spread_loss(logits: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Mean over the rows of (n, m) `logits` of the divergence from a target spread evenly over the right columns.

    rows, columns: (k,) the places that are right; each row has one at least.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    target = (1.0 / torch.bincount(rows, minlength=len(logits)).to(logits.dtype))[rows]
    return (target * (target.log() - F.log_softmax(logits, dim=1)[rows, columns])).sum() / len(logits)


def sigmoid_loss(logits: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Sum over all places of -log sigmoid(z logit), z = 1 where it is right and -1 elsewhere, over the rows n."""
    labels = torch.full_like(logits, -1.0)
    labels[rows, columns] = 1.0
    return -F.logsigmoid(labels * logits).sum() / len(logits)


class MultiPositiveLoss(nn.Module):
    """Stands in the place of one of open_clip's losses and is called like it.

    A batch in which nothing is right but the pairs is left to open_clip's loss. Of others this one gathers features
    over the processes as that would (`--local-loss`, `--gather-with-grad`), and has the gradient of one process with
    the whole batch where that has it. Distillation and captioning keep their other parts.

    inner: open_clip's loss: ClipLoss or one that is made of it, or SigLipLoss.
    relations: of the training data.
    ids: gives (n, 2) int64, image and text of each pair in the features of the next call.
    """

    def __init__(self, inner: nn.Module, relations: Relations, ids: Callable[[], torch.Tensor]) -> None:
        super().__init__()
        self.inner, self.relations, self._ids = inner, relations, ids
        self.sigmoid = not hasattr(inner, "local_loss")
        self._parts = set(inspect.signature(inner.forward).parameters) - _CLIP

    def forward(self, image_features: torch.Tensor, output_dict: bool = False, **given: Any):
        """Features, (n, d) each, and what else the loss takes; see open_clip. Returns what that would return."""
        rows, columns, pairs = self._right(len(image_features), image_features.device)
        given = {"image_features": image_features, **given}
        if len(rows) == pairs:
            return self.inner(**given, output_dict=output_dict)
        loss = (self._sigmoid_loss if self.sigmoid else self._softmax_loss)(rows, columns, **given)
        if not self._parts:
            return {"contrastive_loss": loss} if output_dict else loss
        parts = self.inner(**given, output_dict=True)
        weight = getattr(self.inner, "clip_loss_weight", 1.0)
        parts["contrastive_loss"] = weight * loss if weight else parts["contrastive_loss"]
        return parts if output_dict else tuple(parts.values())

    @torch.compiler.disable
    def _right(self, n: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, int]:
        """The places of the whole matrix that are right, of all processes, and its size."""
        ids = self._ids()
        if len(ids) != n:
            raise TrainingError(
                f"the loss got the features of {n} pairs, and the batches before it held {len(ids)}: this loss belongs "
                "to open_clip_train's own loop; elsewhere use --plain-loss"
            )
        if self.inner.world_size > 1:
            ids = ids.to(device)
            everyone = [torch.empty_like(ids) for _ in range(self.inner.world_size)]
            torch.distributed.all_gather(everyone, ids)
            ids = torch.cat(everyone)
        image, text = ids.cpu().numpy().T
        rows, columns = self.relations.positives(np.ascontiguousarray(image), np.ascontiguousarray(text))
        return torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device), len(ids)

    def _softmax_loss(self, rows, columns, image_features, text_features, logit_scale, logit_bias=None, **_parts):
        bias = {} if logit_bias is None else {"logit_bias": logit_bias}
        per_image, per_text = self.inner.get_logits(image_features, text_features, logit_scale, **bias)
        n = len(per_image)
        first = n * self.inner.rank if self.inner.world_size > 1 and self.inner.local_loss else 0
        image_loss = spread_loss(per_image, *_within(rows, columns, first, n))
        text_loss = spread_loss(per_text, *_within(columns, rows, first, n))
        return (image_loss + text_loss) / 2

    def _sigmoid_loss(self, rows, columns, image_features, text_features, logit_scale, logit_bias=None):
        n, texts = len(image_features), text_features
        if self.inner.world_size > 1:
            texts = torch.cat(torch.distributed.nn.all_gather(text_features))
        logits = self.inner.get_logits(image_features, texts, logit_scale, logit_bias)
        return sigmoid_loss(logits, *_within(rows, columns, n * self.inner.rank, n))


def _within(rows: torch.Tensor, columns: torch.Tensor, first: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Those of n rows from `first` on, counted from there."""
    here = (rows >= first) & (rows < first + n)
    return rows[here] - first, columns[here]
