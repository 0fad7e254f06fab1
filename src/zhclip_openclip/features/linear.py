"""Linear layers on a CPU, computed the fastest way that this machine has.

Rows in order. Without gradients, and with weights that are frozen, PyTorch does not fold a (length, n, width) input
whose rows do not lie in that order, as open_clip's attention hands it on: it multiplies each position by a copy of the
weights of its own. In bf16 that took 200 to 300 times as long as with the rows in order, in fp32 three times (257 x 8
rows of 1,024, PyTorch 2.14).

oneDNN for fp32, where PyTorch's own choice is the slower one. PyTorch multiplies fp32 matrices on x86 with MKL, which
on AMD's processors does not use all that they can. oneDNN comes with PyTorch and does: the passes of an evaluation over
ViT-L/14 and RoBERTa-large were 1.1 to 1.4 times as fast with it (benchmarks/image_tower.py --tune). Its results differ
from MKL's in the last digits, as another machine's do. Like MKL's they are the same for every number of threads; those
of a 1 x 1 convolution, which is as fast, are not.

`arithmetic.py` decides, once a machine. And memory that one layer gives back is there for the next (`memory.py`).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.features import arithmetic
from zhclip_openclip.features.memory import keep_freed

#: "1" or "0" decides for every machine.
VARIABLE = "ZHCLIP_ONEDNN_LINEAR"


def fast_linear(model: Any, device: str, amp: bool) -> contextlib.AbstractContextManager:
    """Within it the linear layers of a model of ours are computed the fastest way that this machine has.

    amp: mixed precision, in which PyTorch takes oneDNN by itself. Has no effect on models that are not ours, on other
    devices, and where gradients are recorded.
    """
    if getattr(model, "zhclip_model", None) is None or torch.device(device).type != "cpu":
        return contextlib.nullcontext()
    keep_freed()
    return OneDnnLinear() if not amp and used(device) else RowsInOrder()


def used(device: str) -> bool:
    """Whether `fast_linear` takes oneDNN for fp32 on this device.

    Raises ZhclipError: the variable is neither 0 nor 1.
    """
    return torch.device(device).type == "cpu" and operation() is not None and _wanted()


def _wanted() -> bool:
    asked = os.environ.get(VARIABLE, "").strip()
    if asked not in ("", "0", "1"):
        raise ZhclipError(f"{VARIABLE}={asked}: neither 0 nor 1; without it the faster way is taken")
    return asked == "1" or (not asked and arithmetic.chosen().onednn)


@functools.lru_cache(maxsize=1)
def operation() -> Callable | None:
    """What PyTorch's compiler calls for a linear layer on a CPU; None in a PyTorch without it."""
    if not torch.backends.mkldnn.is_available():
        return None
    operation = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    try:  # it is not part of the public interface, so what it does counts and not its name
        with torch.no_grad():
            given = torch.arange(12.0).view(3, 4), torch.arange(8.0).view(2, 4), torch.ones(2)
            same = torch.allclose(operation(*given, "none", [], ""), F.linear(*given))
    except (RuntimeError, TypeError, NotImplementedError):
        return None
    return operation if same else None


class RowsInOrder(TorchFunctionMode):
    """Within it the linear layers of `torch.nn.functional.linear` and of `torch.nn.MultiheadAttention` are given their
    rows in order."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.linear:
            return self.linear(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return _attention(self.linear, *args, **kwargs)
        return func(*args, **kwargs)

    @staticmethod
    def linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        turned = not torch.is_grad_enabled() and input.dim() > 2 and input.layout == torch.strided
        return F.linear(input.contiguous() if turned else input, weight, bias)


class OneDnnLinear(RowsInOrder):
    """Within it those layers are oneDNN's as well, in fp32."""

    @staticmethod
    def linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        plain = (
            not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and input.dim() >= 2
            and input.numel() > 0
            and all(part is None or _dense(part) for part in (input, weight, bias))
        )
        if plain:
            return operation()(input, weight, bias, "none", [], "")
        return RowsInOrder.linear(input, weight, bias)


def _dense(tensor: torch.Tensor) -> bool:
    """Of numbers that oneDNN takes as they lie there."""
    return (
        tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.is_contiguous()
    )


_SIGNATURE = inspect.signature(F.multi_head_attention_forward)
#: Arguments of an attention that `_attention` computes, beside its tensors; everything else is left to PyTorch.
_PLAIN = {
    "bias_k": None,
    "bias_v": None,
    "add_zero_attn": False,
    "key_padding_mask": None,
    "need_weights": False,
    "attn_mask": None,
    "use_separate_proj_weight": False,
    "static_k": None,
    "static_v": None,
    "is_causal": False,
}


def _attention(linear: Callable, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`torch.nn.functional.multi_head_attention_forward`, whose linear layers no mode gets to see, with `linear` for
    them: that of an image tower, (length, n, width) attending to itself without a mask; any other as PyTorch computes
    it."""
    call = _SIGNATURE.bind(*args, **kwargs)
    call.apply_defaults()
    given = call.arguments
    query, heads = given["query"], given["num_heads"]
    plain = (
        query is given["key"]
        and query is given["value"]
        and query.dim() == 3
        and not (given["training"] and given["dropout_p"])
        and all(given[name] is value for name, value in _PLAIN.items() if name in given)
    )
    if not plain:
        return F.multi_head_attention_forward(*args, **kwargs)
    length, count, width = query.shape
    # The rows lie in memory as (n, length, width) where the layer's `batch_first` has turned them round.
    rows = query.transpose(0, 1).contiguous()
    projected = linear(rows, given["in_proj_weight"], given["in_proj_bias"])
    parts = projected.view(count, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(*parts.unbind(0)).transpose(1, 2).reshape(count, length, width)
    return linear(mixed, given["out_proj_weight"], given["out_proj_bias"]).transpose(0, 1), None
