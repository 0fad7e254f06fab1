"""Scores of which only the best of each image are there: for data sets whose scores do not fit on one machine.

`torch.topk` and `torch.argmax` look at one row at a time. So each process asks them about its own rows, with the k that
the metrics will ask for, and what rank 0 is given answers just that, to the bit and in the order of ties.
"""

from __future__ import annotations

import torch

from zhclip_openclip._errors import ZhclipError

#: Of the two that are answered, after the scores.
_ARGUMENTS = {"aten::argmax": ("dim", "keepdim"), "aten::topk": ("k", "dim", "largest", "sorted")}


class BestScores(torch.Tensor):
    """Stands for an (images, classes) float32 tensor on the CPU; knows its `topk` for the k of `ks` and its `argmax`
    over the classes, and takes no memory for anything else.

    columns: from `columns_of`, for all images.
    """

    @staticmethod
    def __new__(cls, columns: tuple[torch.Tensor, ...], classes: int) -> BestScores:
        return torch.Tensor._make_wrapper_subclass(cls, (len(columns[0]), classes), dtype=torch.float32)

    def __init__(self, columns: tuple[torch.Tensor, ...], classes: int) -> None:
        self._argmax = columns[0].long()
        self._top = {
            k: (values, indices.long())
            for k, values, indices in zip(ks(classes), columns[1::2], columns[2::2], strict=True)
        }

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), options=None):
        name, scores = function.overloadpacket._qualified_op_name, arguments[0]
        given = dict(zip(_ARGUMENTS.get(name, ()), arguments[1:], strict=False)) | (options or {})
        over_classes = given.get("dim", -1 if name == "aten::topk" else None) in (1, -1)
        if name == "aten::detach":
            return scores
        if name == "aten::argmax" and over_classes:
            return scores._argmax.unsqueeze(1) if given.get("keepdim") else scores._argmax
        if name == "aten::topk" and over_classes and given["k"] in scores._top and given.get("largest", True):
            return torch.return_types.topk(scores._top[given["k"]])
        raise ZhclipError(
            f"{name.removeprefix('aten::')} needs all scores, and only the best of each image were brought together; "
            "set ZHCLIP_GATHER_LIMIT higher"
        )

    def __repr__(self, *, tensor_contents=None) -> str:
        return f"BestScores{tuple(self.shape)}"


def ks(classes: int) -> list[int]:
    """What is asked of `topk`: 5, and with fewer classes 1 and all of them."""
    return sorted({1, classes}) if classes < 5 else [5]


def columns_of(scores: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What is kept of (n, classes) scores: tensors of n rows each."""
    columns = [scores.argmax(dim=1).int()]
    for k in ks(scores.shape[1]):
        values, indices = scores.topk(k, dim=1)
        columns += [values, indices.int()]
    return tuple(columns)
