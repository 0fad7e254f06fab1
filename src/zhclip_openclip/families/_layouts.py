"""Renamings that several families share: from the layouts of published files to open_clip's names."""

from __future__ import annotations

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


def bert(prefix: str) -> Renames:
    """A BERT or XLM-R encoder under `prefix` to open_clip's text tower."""
    return ((rf"^{prefix}\.", "text.transformer."),)
