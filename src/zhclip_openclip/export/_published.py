"""From open_clip's names to those of the published files: ordered pairs, then each odd tensor by name.

`families/` has the way in, this is the way out. Reading back what is written here gives the same bits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from zhclip_openclip.export._export_error import ExportError
from zhclip_openclip.export._source import Source
from zhclip_openclip.families import Family, Layout, Model

if TYPE_CHECKING:
    import torch

Renames = tuple[tuple[str, str], ...]
Splits = tuple[tuple[str, tuple[str, ...]], ...]

_BLOCK = r"vision_model.encoder.layers.\1."


def _blocks(tower: str, theirs: str) -> Renames:
    """The blocks of a transformer of open_clip's own, but for what attention has fused."""
    ours = rf"^{tower}\.transformer\.resblocks\.(\d+)\."
    return (
        (ours + r"attn\.out_proj\.", theirs + "self_attn.out_proj."),
        (ours + r"ln_(\d)\.", theirs + r"layer_norm\2."),
        (ours + r"mlp\.c_fc\.", theirs + "mlp.fc1."),
        (ours + r"mlp\.c_proj\.", theirs + "mlp.fc2."),
    )


_ATTENTION = tuple(_BLOCK + rf"self_attn.{part}_proj.\2" for part in "qkv")

#: open_clip's own vision transformer, which has OpenAI's names, to Hugging Face's CLIP.
_OPEN_CLIP_IMAGE: Renames = (
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    *_blocks("visual", _BLOCK),
    (r"^visual\.proj$", "visual_projection.weight"),
)
_OPEN_CLIP_ATTENTION: Splits = ((r"^visual\.transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)$", _ATTENTION),)
#: open_clip's own text transformer to CLIP's in Hugging Face's names.
_TEXT_BLOCK = r"text_model.encoder.layers.\1."
_OPEN_CLIP_TEXT: Renames = (
    (r"^text\.token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^text\.positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^text\.ln_final\.", "text_model.final_layer_norm."),
    *_blocks("text", _TEXT_BLOCK),
    (r"^text\.text_projection$", "text_projection.weight"),
)
_OPEN_CLIP_TEXT_ATTENTION: Splits = (
    (
        r"^text\.transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)$",
        tuple(_TEXT_BLOCK + rf"self_attn.{part}_proj.\2" for part in "qkv"),
    ),
)
#: timm's vision transformer inside open_clip's TimmModel to Hugging Face's CLIP.
_TIMM_IMAGE: Renames = (
    (r"^visual\.trunk\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.trunk\.pos_embed$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.trunk\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.trunk\.norm_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.trunk\.norm\.", "vision_model.post_layernorm."),
    (r"^visual\.trunk\.blocks\.(\d+)\.attn\.proj\.", _BLOCK + "self_attn.out_proj."),
    (r"^visual\.trunk\.blocks\.(\d+)\.norm(\d)\.", _BLOCK + r"layer_norm\2."),
    (r"^visual\.trunk\.blocks\.(\d+)\.mlp\.", _BLOCK + "mlp."),
    (r"^visual\.head\.proj\.", "visual_projection."),
)
_TIMM_ATTENTION: Splits = ((r"^visual\.trunk\.blocks\.(\d+)\.attn\.qkv\.(weight|bias)$", _ATTENTION),)
#: open_clip keeps its own projections as (width, embed_dim), Hugging Face all of them as (embed_dim, width).
_TRANSPOSED = (r"^visual_projection\.weight$",)


def _encoder(prefix: str) -> Renames:
    return ((r"^text\.transformer\.", prefix),)


def _clip(text: Renames, name: str) -> Layout:
    """A whole model with open_clip's own image tower in Hugging Face's names."""
    return Layout(name, (), (*_OPEN_CLIP_IMAGE, *text), split=_OPEN_CLIP_ATTENTION, transpose=_TRANSPOSED)


#: Family -> its form in one file, with both towers.
WHOLE: dict[str, Layout] = {
    "cnclip": _clip((*_encoder("text_model."), (r"^text\.proj\.", "text_projection.")), "ChineseCLIPModel"),
    "altclip": _clip(
        (
            *_encoder("text_model.roberta."),
            (r"^text\.proj\.(pre_LN|transformation)\.", r"text_model.\1."),
            (r"^text\.proj\.text_projection\.", "text_projection."),
        ),
        "AltCLIPModel",
    ),
    "metaclip2": Layout(
        "MetaClip2Model",
        (),
        (*_OPEN_CLIP_IMAGE, *_OPEN_CLIP_TEXT),
        split=(*_OPEN_CLIP_ATTENTION, *_OPEN_CLIP_TEXT_ATTENTION),
        transpose=(*_TRANSPOSED, r"^text_projection\.weight$"),
    ),
    "clip-chinese": _clip((*_encoder("text_model."), (r"^text\.proj\.", "text_projection.")), "BertCLIP"),
    "zhclip": Layout(
        "thu-ml's",
        (),
        (*_TIMM_IMAGE, *_encoder("text_model."), (r"^text\.proj\.", "text_projection.")),
        split=_TIMM_ATTENTION,
    ),
}
#: Family -> its text tower alone, for those that publish it apart.
TEXT: dict[str, Layout] = {
    "taiyiclip": Layout(
        "BertForSequenceClassification",
        (),
        (*_encoder("bert."), (r"^text\.proj\.", "classifier.")),
        drop=(r"^visual\.", r"^logit_scale$"),
    ),
    "mclip": Layout(
        "Multilingual-CLIP's own",
        (),
        (*_encoder("transformer."), (r"^text\.proj\.", "LinearTransformation.")),
        drop=(r"^visual\.", r"^logit_scale$"),
    ),
}
#: Of Taiyi-CLIP's models without a classifier.
_PLAIN_BERT = Layout("BertModel", (), _encoder(""), drop=(r"^visual\.", r"^logit_scale$"))
#: The image tower to the text towers of `TEXT`. The scale of the scores goes with it: no text tower has a place for it.
IMAGE = Layout(
    "CLIPVisionModelWithProjection",
    (),
    _OPEN_CLIP_IMAGE,
    split=_OPEN_CLIP_ATTENTION,
    transpose=_TRANSPOSED,
    drop=(r"^text\.",),
)
#: Chinese-CLIP's own form: OpenAI's names for the image tower, `bert.*`, the text projection the other way round.
CN_CLIP = Layout(
    "Chinese-CLIP's own",
    (),
    (*_encoder("bert."), (r"^text\.proj\.weight$", "text_projection")),
    transpose=(r"^text_projection$",),
)
#: timm keeps these with leading dimensions of 1 that Hugging Face's have not.
_FLAT = {"vision_model.embeddings.class_embedding": 1, "vision_model.embeddings.position_embedding.weight": 2}
#: Buffers, which hold nothing that was learned.
_BUFFERS = (r"\.position_ids$", r"\.token_type_ids$")


def is_plain_bert(model: Model) -> bool:
    """Whether the text tower is a BertModel and nothing on it, as in Taiyi-CLIP's later models."""
    text = model.config()["text_cfg"]
    return text.get("hf_pooler_type") == "cls_pooler" and text.get("hf_proj_type") is None


def text_layout(family: Family, model: Model) -> Layout:
    """The form of the text tower alone, for a model of a family in `TEXT`."""
    return _PLAIN_BERT if is_plain_bert(model) else TEXT[family.name]


def state_dict(source: Source, layout: Layout) -> dict[str, torch.Tensor]:
    """The weights of a model by their names in `layout`; values are copied bit for bit.

    Raises ExportError: SigLIP's bias, of a model that was trained with that loss, which no such layout has a name for.
    """
    if "logit_bias" in source.module.state_dict() and layout.targets("logit_bias"):
        raise ExportError(
            f"{source.given} was trained with SigLIP's loss, and its logit_bias has no place in this form: --format "
            "open_clip and --format onnx keep it"
        )
    return renamed(source.module.state_dict(), layout)


def renamed(state: Mapping[str, torch.Tensor], layout: Layout) -> dict[str, torch.Tensor]:
    """`state` in open_clip's names by the names of `layout`, contiguous and sharing no memory with each other."""
    result: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        if any(re.search(pattern, key) for pattern in _BUFFERS):
            continue
        targets = layout.targets(key)
        parts = tensor.chunk(len(targets)) if len(targets) > 1 else [tensor] * len(targets)
        for target, part in zip(targets, parts, strict=True):
            if any(re.search(pattern, target) for pattern in layout.transpose):
                part = part.T
            if target in _FLAT:
                part = part.reshape(part.shape[-_FLAT[target] :])
            result[target] = part.contiguous().clone()
    return result
