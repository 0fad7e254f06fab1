"""FG-CLIP 2 out of transformers' Siglip2Model, which it is, and the heads and positions that its authors added.

What they do with these is written here as in fgclip2/model/strcs/modeling_fgclip2.py: masks that keep the first 20
positions of one table and the others of another, the last token, one linear layer.
"""

from __future__ import annotations

import torch
import transformers
from torch import nn

from tests.support.references import Reference

KEEP_LEN, LONGTEXT_LEN = 20, 196
#: width, feed-forward width, layers and heads, which the towers of a size share
SIZES = {"base": (768, 3072, 12, 12), "large": (1024, 4096, 24, 16), "so400m": (1152, 4304, 27, 16)}


class FGCLIP2(transformers.Siglip2Model):
    def __init__(self, config):
        super().__init__(config)
        width = config.text_config.hidden_size
        self.text_model.embeddings.position_embedding_res = nn.Embedding(LONGTEXT_LEN, width)
        self.text_model.embeddings.position_embedding_ori = nn.Embedding(LONGTEXT_LEN, width)
        self.longtext_head, self.boxtext_head = nn.Linear(width, width), nn.Linear(width, width)
        self.dense_feature_head = type(self.vision_model.head)(config.vision_config)

    def long_text(self, ids):
        told, length = self.text_model.embeddings, ids.shape[1]
        first = (torch.arange(length) < KEEP_LEN).float().unsqueeze(1)
        x = told.token_embedding(ids) + told.position_embedding_ori.weight[:length] * first
        x = x + told.position_embedding_res.weight[:length] * (1 - first)
        hidden = self.text_model.encoder(inputs_embeds=x, attention_mask=None).last_hidden_state
        return self.longtext_head(self.text_model.final_layer_norm(hidden)[:, -1])


def packed_pictures() -> torch.Tensor:
    """Two pictures of different shapes as our transform packs them: (2, 1024, 769)."""
    from tests.families.test_preprocessing import picture
    from zhclip_openclip.towers.patches import ToPatches

    transform = ToPatches((0.5,) * 3, (0.5,) * 3)
    return torch.stack([transform(picture(200, 90)), transform(picture(60, 300))])


def fgclip2(size: str, variant: str = "", layers: int | None = None, vocabulary: int = 256000):
    """variant: "", "long" or "square256"."""
    width, hidden, depth, heads = SIZES[size]
    tower = dict(
        hidden_size=width, intermediate_size=hidden, num_hidden_layers=min(layers or 99, depth),
        num_attention_heads=heads,
    )  # fmt: skip
    text = {**tower, "vocab_size": vocabulary, "projection_size": width}
    config = transformers.Siglip2Config(text_config=text, vision_config=tower)
    model = FGCLIP2(config)

    def image(pixels):
        if pixels.ndim == 4:  # squares: patches as transformers cuts them
            from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

            patches = torch.stack([convert_image_to_patches(one, 16) for one in pixels])
            shapes = torch.tensor([[pixels.shape[2] // 16, pixels.shape[3] // 16]] * len(pixels))
            mask = torch.ones(patches.shape[:2])
        else:
            patches, flags = pixels[..., :-1], pixels[..., -1]
            rows, mask = (flags == 2).sum(1), (flags > 0).long()
            shapes = torch.stack([rows, mask.sum(1) // rows], dim=1)
        told = model.get_image_features(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes)
        return getattr(told, "pooler_output", told)

    def short_text(ids, mask):  # nobody masks the padding: the last token is padding, too
        return model.text_model(ids).pooler_output

    repo = f"qihoo360/fg-clip2-{size}"
    told = {**config.to_dict(), "model_type": "fgclip2"}
    told["text_config"] |= {"keep_len": KEEP_LEN, "longtext_len": LONGTEXT_LEN}
    return Reference(
        {repo: model}, image, (lambda ids, mask: model.long_text(ids)) if variant == "long" else short_text, 0,
        vocabulary, 256, lambda: {repo: dict(model.state_dict())}, {repo: told},
        pixels=None if variant == "square256" else packed_pictures, length=LONGTEXT_LEN if variant == "long" else 64,
    )  # fmt: skip


def _builder(size: str, variant: str):
    return lambda **options: fgclip2(size, variant, **options)


REFERENCES = {
    (f"fg-clip2-{size}{suffix}", "qihoo360"): _builder(size, suffix.removeprefix("-"))
    for size in SIZES
    for suffix in ("", "-long", "-square256")
}
