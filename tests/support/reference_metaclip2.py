"""MetaCLIP 2's distilled models out of transformers' MetaClip2Model, in its layout and in that of Meta's own files."""

from __future__ import annotations

import torch
import transformers

from tests.support.references import Reference, _clip_features

#: name in mini_clip/model_configs -> embedding, image width, layers, patch and size; text width; vocabulary's kind
SIZES = {
    "s-16": (384, 384, 12, 16, 224, 384),
    "s-16-384": (384, 384, 12, 16, 384, 384),
    "m-16": (512, 512, 12, 16, 224, 512),
    "m-16-384": (512, 512, 12, 16, 384, 512),
    "b-32": (512, 768, 12, 32, 224, 512),
    "b-32-384": (512, 768, 12, 32, 384, 512),
    "b-16": (512, 768, 12, 16, 224, 512),
    "b-16-384": (512, 768, 12, 16, 384, 512),
    "l-14": (768, 1024, 24, 14, 224, 768),
    "s-16-mt5": (384, 384, 12, 16, 224, 384),
    "m-16-mt5": (512, 512, 12, 16, 224, 512),
    "b-32-mt5": (512, 768, 12, 32, 224, 512),
}


def repository(size: str) -> str:
    kind, _, rest = size.replace("-", "", 1).partition("-")
    if rest == "mt5":
        return f"facebook/metaclip-2-mt5-worldwide-{kind}"
    return f"facebook/metaclip-2-worldwide-{kind}" + (f"-{rest}" if rest else "")


def metaclip2(size: str, layers: int | None = None, vocabulary: int | None = None):
    dim, width, depth, patch, pixels, text_width = SIZES[size]
    mt5 = size.endswith("mt5")
    vocabulary = vocabulary or (250000 if mt5 else 901629)
    pad, eos = (1, 1) if mt5 else (1, 2)

    def tower(width: int, depth: int) -> dict:
        return dict(
            hidden_size=width, intermediate_size=4 * width, num_hidden_layers=min(layers or 99, depth),
            num_attention_heads=width // 64, hidden_act="gelu", projection_dim=dim,
        )  # fmt: skip

    vision = {**tower(width, depth), "patch_size": patch, "image_size": pixels}
    text = {**tower(text_width, 12), "vocab_size": vocabulary, "eos_token_id": eos, "pad_token_id": pad}
    config = transformers.MetaClip2Config(vision_config=vision, text_config=text, projection_dim=dim)
    model = transformers.MetaClip2Model(config)

    def text_features(ids, mask):  # nobody masks the padding: what comes after the end is not looked at
        return model.text_projection(model.text_model(ids).pooler_output)

    repo = repository(size)
    return Reference(
        {repo: model}, _clip_features(model), text_features, pad, vocabulary, pixels,
        lambda: {repo: dict(model.state_dict())}, {repo: config.to_dict()}, eos=eos, length=77,
    )  # fmt: skip


def metas_own(size: str, **options) -> dict[str, torch.Tensor]:
    """The weights in the names of mini_clip, which are OpenAI's, from open_clip's own class CLIP."""
    import open_clip

    dim, width, depth, patch, pixels, text_width = SIZES[size]
    depths = {"layers": min(options.get("layers") or 99, depth)}
    text_depths = {"layers": min(options.get("layers") or 99, 12)}
    vocabulary = options.get("vocabulary") or (250000 if size.endswith("mt5") else 901629)
    return open_clip.CLIP(
        dim,
        {"image_size": pixels, "width": width, "patch_size": patch, **depths},
        {"vocab_size": vocabulary, "width": text_width, "heads": text_width // 64, **text_depths},
    ).state_dict()


REFERENCES = {(f"metaclip2-vit-{size}", "meta"): (lambda size=size, **k: metaclip2(size, **k)) for size in SIZES}
