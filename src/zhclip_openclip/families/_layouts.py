"""Renamings that several families share: from the layouts of published files to open_clip's names."""

from __future__ import annotations

import math

from zhclip_openclip.families._family import Layout

Renames = tuple[tuple[str, str], ...]

#: Buffers that older transformers wrote into their files.
BUFFERS = (r"\.position_ids$", r"\.token_type_ids$")


def hf_vision_to_timm(prefix: str = "vision_model", projection: str = "visual_projection") -> Renames:
    """Hugging Face's CLIP vision transformer to timm's inside open_clip's TimmModel."""
    block = rf"^{prefix}\.encoder\.layers\.(\d+)\."
    return (
        (rf"^{prefix}\.embeddings\.class_embedding$", "visual.trunk.cls_token"),
        (rf"^{prefix}\.embeddings\.position_embedding\.weight$", "visual.trunk.pos_embed"),
        (rf"^{prefix}\.embeddings\.patch_embedding\.", "visual.trunk.patch_embed.proj."),
        (rf"^{prefix}\.pre_layrnorm\.", "visual.trunk.norm_pre."),
        (rf"^{prefix}\.post_layernorm\.", "visual.trunk.norm."),
        (block + r"self_attn\.q_proj\.(weight|bias)$", r"visual.trunk.blocks.\1.attn.qkv.\2#0"),
        (block + r"self_attn\.k_proj\.(weight|bias)$", r"visual.trunk.blocks.\1.attn.qkv.\2#1"),
        (block + r"self_attn\.v_proj\.(weight|bias)$", r"visual.trunk.blocks.\1.attn.qkv.\2#2"),
        (block + r"self_attn\.out_proj\.", r"visual.trunk.blocks.\1.attn.proj."),
        (block + r"layer_norm(\d)\.", r"visual.trunk.blocks.\1.norm\2."),
        (block + r"mlp\.", r"visual.trunk.blocks.\1.mlp."),
        (rf"^{projection}\.", "visual.head.proj."),
    )


def _blocks(block: str, ours: str) -> Renames:
    """The blocks of CLIP's transformers, of pictures and of texts: block, ours: what stands before a name in each."""
    return (
        (block + r"self_attn\.q_proj\.(weight|bias)$", ours + r"attn.in_proj_\2#0"),
        (block + r"self_attn\.k_proj\.(weight|bias)$", ours + r"attn.in_proj_\2#1"),
        (block + r"self_attn\.v_proj\.(weight|bias)$", ours + r"attn.in_proj_\2#2"),
        (block + r"self_attn\.out_proj\.", ours + "attn.out_proj."),
        (block + r"layer_norm(\d)\.", ours + r"ln_\2."),
        (block + r"mlp\.fc1\.", ours + "mlp.c_fc."),
        (block + r"mlp\.fc2\.", ours + "mlp.c_proj."),
    )


def hf_vision_to_open_clip(prefix: str = "vision_model", projection: str = "visual_projection") -> Renames:
    """Hugging Face's CLIP vision transformer to open_clip's own, which has OpenAI's names; see PROJECTION.

    transformers 5 writes `encoder.layer.` for AltCLIP's image tower and `encoder.layers.` for everybody else's.
    """
    block = rf"^{prefix}\.encoder\.layers?\.(\d+)\."
    ours = r"visual.transformer.resblocks.\1."
    return (
        (rf"^{prefix}\.embeddings\.class_embedding$", "visual.class_embedding"),
        (rf"^{prefix}\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
        (rf"^{prefix}\.embeddings\.patch_embedding\.", "visual.conv1."),
        (rf"^{prefix}\.pre_layrnorm\.", "visual.ln_pre."),
        (rf"^{prefix}\.post_layernorm\.", "visual.ln_post."),
        *_blocks(block, ours),
        (rf"^{projection}\.weight$", "visual.proj"),
    )


#: open_clip keeps the projection of its own image towers as (width, embed_dim), Hugging Face as (embed_dim, width).
PROJECTION = (r"^visual\.proj$",)


def hf_text_to_open_clip(prefix: str = "text_model") -> Renames:
    """A text transformer of CLIP or SigLIP as transformers writes it, without its projection, to open_clip's own."""
    block = rf"^{prefix}\.encoder\.layers\.(\d+)\."
    ours = r"text.transformer.resblocks.\1."
    return (
        (rf"^{prefix}\.embeddings\.token_embedding\.", "text.token_embedding."),
        (rf"^{prefix}\.embeddings\.position_embedding\.weight$", "text.positional_embedding"),
        (rf"^{prefix}\.final_layer_norm\.", "text.ln_final."),
        *_blocks(block, ours),
    )


def bert(prefix: str) -> Renames:
    """A BERT or XLM-R encoder under `prefix` to open_clip's text tower."""
    return ((rf"^{prefix}\.", "text.transformer."),)


#: The tokens of a model with CLIP's keys, of which CLIP itself has 49,408 and MetaCLIP 2 the others.
TOKENS = r"^(text_model\.embeddings\.)?token_embedding\.weight$"
CLIPS_TOKENS, METACLIP2S_TOKENS = 49408, (901629, 250000)

#: The image tower out of a whole CLIP model as transformers writes it, for families that publish a text tower alone.
CLIP_IMAGE_TOWER = Layout(
    name="Hugging Face CLIP",
    part="image",
    telltale=(r"^vision_model\.embeddings\.class_embedding$", r"^visual_projection\.weight$"),
    never=(r"^visual_projection\.bias$", r"^text_model\.embeddings\.word_embeddings\.", r"^text_model\.roberta\."),
    counts=tuple((TOKENS, number, False) for number in METACLIP2S_TOKENS),
    drop=(*BUFFERS, r"^text_model\.", r"^text_projection\."),
    rename=hf_vision_to_open_clip(),
    transpose=PROJECTION,
    # OpenAI's models were trained up to the limit of ln 100; a file without the text tower has no scale either.
    constants={"logit_scale": math.log(100)},
)

#: The same out of a CLIP model as open_clip writes it; OpenAI's own names are these too.
OPEN_CLIP_IMAGE_TOWER = Layout(
    name="open_clip CLIP",
    part="image",
    telltale=(r"^visual\.conv1\.weight$", r"^token_embedding\.weight$"),
    counts=tuple((TOKENS, number, False) for number in METACLIP2S_TOKENS),
    drop=(r"^(?!visual\.|logit_scale$)",),
    rename=(),
)

IMAGE_TOWERS = (CLIP_IMAGE_TOWER, OPEN_CLIP_IMAGE_TOWER)


def with_image_tower(text: Layout) -> Layout:
    """The layout of one file that holds a text tower in layout `text` and its image tower as transformers writes it,
    for families that publish the two apart. `text` itself has to exclude such files."""
    image = CLIP_IMAGE_TOWER
    return Layout(
        name=f"{text.name} and {image.name}",
        telltale=(*text.telltale, *image.telltale),
        never=image.never,
        counts=image.counts,
        drop=(*text.drop, *image.drop),
        rename=(*text.rename, *image.rename),
        transpose=(*text.transpose, *image.transpose),
        constants={**text.constants, **image.constants},
    )


#: What open_clip and its training script write: the names are the model's own.
OPEN_CLIP = Layout(
    name="open_clip",
    telltale=(r"^visual\.", r"^text\.transformer\."),
    rename=(),
    drop=(r"^text\.transformer\.embeddings\.(position_ids|token_type_ids)$",),
)
