"""Projection heads of text towers, by their name in a model config (`hf_proj_type`)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def build_head(kind: str | None, width: int, output_dim: int) -> nn.Module:
    """The projection from `width` to `output_dim` channels.

    `linear`, `mlp` and None are open_clip's (open_clip/hf_model.py), with the same parameter names. Ours:
    `linear_bias`, a linear layer with a bias; `norm_linear_linear`, AltCLIP's (transformers, modeling_altclip.py): a
    LayerNorm, a linear layer with a bias, one without, with that model's parameter names.

    Raises ValueError: no head of that name.
    """
    if kind is None and width == output_dim:
        return nn.Identity()
    if kind == "linear":
        return nn.Linear(width, output_dim, bias=False)
    if kind == "linear_bias":
        return nn.Linear(width, output_dim)
    if kind == "mlp":
        hidden = (width + output_dim) // 2
        return nn.Sequential(nn.Linear(width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, output_dim, bias=False))
    if kind == "norm_linear_linear":
        layers = OrderedDict(
            pre_LN=nn.LayerNorm(width, eps=1e-5),
            transformation=nn.Linear(width, output_dim),
            text_projection=nn.Linear(output_dim, output_dim, bias=False),
        )
        return nn.Sequential(layers)
    raise ValueError(f"hf_proj_type is {kind!r}; known are linear, linear_bias, mlp and norm_linear_linear")
