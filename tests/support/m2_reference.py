"""M2-Encoder as its authors glue it together (prj/M2_Encoder, vlmo/modules/vlmo_module.py) out of PyPI's torchscale, of
which they carry a copy: a BEiT3 and behind it a multiway encoder that is given the hidden states of either modality.

torchscale pins versions of timm and fairscale that open_clip cannot work with, and uses little of them:
`pip install --no-deps torchscale==0.3.0 fairscale==0.4.13`, as .ci/run does.
"""

from __future__ import annotations

import importlib.util
import math
import warnings

import torch
from torch import nn

INSTALLED = all(importlib.util.find_spec(name) for name in ("torchscale", "fairscale"))

#: name in the published files -> width, layers, heads, width of the features, hub, ModelScope
SIZES = {
    "0.4B": (768, 9, 12, 768, "malusama/M2-Encoder-0.4B", "M2Cognition/M2-Encoder"),
    "1B": (1024, 21, 16, 1024, "malusama/M2-Encoder-1B", "M2Cognition/M2_Encoder_Large"),
}
VOCABULARY, END = 115244, 50000
#: `<|endoftext|>` in the small vocabularies of the tests.
SMALL_END = 3


class Head(nn.Module):
    def __init__(self, width: int, out: int):
        super().__init__()
        self.fc = nn.Linear(width, out, bias=False)


class Pooler(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.dense = nn.Linear(width, width)


class M2Encoder(nn.Module):
    def __init__(self, size: str, layers: int | None, vocabulary: int):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old places of things in timm and torch
            from torchscale.architecture.config import EncoderConfig
            from torchscale.architecture.encoder import Encoder
            from torchscale.model.BEiT3 import BEiT3
        width, depth, heads, out, *_ = SIZES[size]
        config = EncoderConfig(
            img_size=224,
            patch_size=16,
            vocab_size=vocabulary,
            multiway=True,
            normalize_output=True,
            no_output_layer=True,
            encoder_embed_dim=width,
            encoder_attention_heads=heads,
            encoder_layers=layers or depth,
            encoder_ffn_embed_dim=4 * width,
        )
        self.backbone = BEiT3(config)
        config.encoder_layers = 3
        self.backbone_vl = Encoder(config)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pooler = Pooler(width)
        for name in ("itc_text_proj", "itc_image_proj", "itc_vl_text_proj", "itc_vl_image_proj"):
            setattr(self, name, Head(width, out))
        self.logit_scale = nn.Parameter(torch.ones([]) * math.log(1 / 0.07))
        self.logit_vl_scale = nn.Parameter(torch.ones([]))

    def _common(self, hidden, padding=None):
        told = dict(src_tokens=None, token_embeddings=hidden, encoder_padding_mask=padding, multiway_split_position=-1)
        return self.backbone_vl(**told)["encoder_out"][:, 0]

    def image_features(self, pixels):
        return self.itc_vl_image_proj.fc(self._common(self.backbone(visual_tokens=pixels)["encoder_out"]))

    def text_features(self, ids, mask):
        """mask: (batch, length), 1 for the tokens of a text, its end token included, as their tokenizer gives it."""
        padding = 1 - mask
        hidden = self.backbone(textual_tokens=ids, text_padding_position=padding)["encoder_out"]
        return self.itc_vl_text_proj.fc(self._common(hidden, padding))


def mask_of(ids: torch.Tensor, end: int) -> torch.Tensor:
    """What the authors' tokenizer says of texts that do not name the end token themselves: up to the first one."""
    return ((ids == end).cumsum(dim=1) - (ids == end).long() == 0).long()
