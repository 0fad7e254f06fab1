"""SigLIP 2's NaFlex image towers as FG-CLIP 2 has them: timm's NaFlexVit, in three sizes, fed with one tensor.

Importing this module enters them in timm's registry, from which open_clip's TimmModel builds them.
"""

from __future__ import annotations

import warnings

import torch
from timm.models import register_model
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.towers.patches import PATCH, VALUES, unpack

__all__: list[str] = []


class PackedNaFlexVit(NaFlexVit):
    """timm's NaFlexVit that also takes what :class:`zhclip_openclip.towers.patches.ToPatches` makes.

    forward: (batch, patches, VALUES + 1), or pictures (batch, 3, height, width) whose sides are multiples of a patch,
    as if each had been cut into patches as it is. Returns (batch, width) features.
    Raises ZhclipError: neither of the two.
    """

    def forward(self, x, *args, **kwargs):
        if isinstance(x, torch.Tensor) and not args and not kwargs:
            if x.ndim == 3 and x.shape[-1] == VALUES + 1:
                patches, coordinates, valid = unpack(x)
                return super().forward(patches, patch_coord=coordinates, patch_valid=valid)
            if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] % PATCH or x.shape[3] % PATCH:
                raise ZhclipError(
                    f"the image tower takes patches (batch, patches, {VALUES + 1}), as the model's own transform makes "
                    f"them, or pictures (batch, 3, height, width) with sides that are multiples of {PATCH}; given was "
                    f"{tuple(x.shape)}"
                )
        return super().forward(x, *args, **kwargs)


def _tower(pretrained: bool = False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **options):
    """num_classes and what else timm's NaFlexVitCfg has; the first four are what timm gives to every model."""
    if pretrained:
        warnings.warn("timm has no weights for the image tower of FG-CLIP 2: it starts with random ones", stacklevel=2)
    shared = {"patch_size": PATCH, "act_layer": "gelu_tanh", "pos_embed_interp_mode": "bilinear"}
    # Which of the two masks is used changes nothing but the memory: a patch that is not there is never looked at.
    if "use_key_only_attn_mask" in NaFlexVitCfg.__dataclass_fields__:
        shared["use_key_only_attn_mask"] = True
    classes = {"num_classes": options.pop("num_classes", 0)}
    return PackedNaFlexVit(NaFlexVitCfg(**{**shared, "global_pool": "map", **options}), **classes)


@register_model
def zhclip_openclip_naflexvit_base_patch16(pretrained: bool = False, **kwargs) -> NaFlexVit:
    return _tower(pretrained, **{"embed_dim": 768, "depth": 12, "num_heads": 12, **kwargs})


@register_model
def zhclip_openclip_naflexvit_large_patch16(pretrained: bool = False, **kwargs) -> NaFlexVit:
    return _tower(pretrained, **{"embed_dim": 1024, "depth": 24, "num_heads": 16, **kwargs})


@register_model
def zhclip_openclip_naflexvit_so400m_patch16(pretrained: bool = False, **kwargs) -> NaFlexVit:
    return _tower(pretrained, **{"embed_dim": 1152, "depth": 27, "num_heads": 16, "mlp_ratio": 3.7362, **kwargs})
