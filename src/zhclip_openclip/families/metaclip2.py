"""MetaCLIP 2, Meta: small models distilled from the worldwide ViT-H, for 300 languages.

Paper: https://arxiv.org/abs/2507.22062. Code: https://github.com/facebookresearch/MetaCLIP (src/mini_clip). CLIP's own
architecture with another vocabulary: XLM-V's, or that of SigLIP's multilingual models (`mt5`). The teachers are
open_clip's own `ViT-H-14-worldwide` and `ViT-bigG-14-worldwide`; its `ViT-L-14-worldwide` is none of these.
"""

from __future__ import annotations

from zhclip_openclip.families._family import Family, Layout, Model, Tag
from zhclip_openclip.families._layouts import (
    BUFFERS,
    CLIPS_TOKENS,
    PROJECTION,
    TOKENS,
    hf_text_to_open_clip,
    hf_vision_to_open_clip,
)

#: Size -> the end of its repository's name.
_XLM_V = {
    "s-16": "s16", "s-16-384": "s16-384", "m-16": "m16", "m-16-384": "m16-384", "b-32": "b32", "b-32-384": "b32-384",
    "b-16": "b16", "b-16-384": "b16-384", "l-14": "l14",
}  # fmt: skip
_MT5 = {"s-16-mt5": "s16", "m-16-mt5": "m16", "b-32-mt5": "b32"}


def _tags(repo: str) -> dict[str, Tag]:
    return {"meta": Tag(f"facebook/{repo}", files=("model.safetensors",), licence="cc-by-nc-4.0")}


_MODELS = (
    *(Model(f"metaclip2-vit-{size}", _tags(f"metaclip-2-worldwide-{end}")) for size, end in _XLM_V.items()),
    *(
        Model(
            f"metaclip2-vit-{size}",
            _tags(f"metaclip-2-mt5-worldwide-{end}"),
            tokenizer="SiglipTokenizer",
            tokenizer_repos=("google/siglip-so400m-patch16-256-i18n",),
        )
        for size, end in _MT5.items()
    ),
)

FAMILY = Family(
    name="metaclip2",
    title="MetaCLIP 2",
    paper="https://arxiv.org/abs/2507.22062",
    source="https://github.com/facebookresearch/MetaCLIP",
    note="the weights may not be used commercially",
    models=_MODELS,
    aliases={"metaclip2": "metaclip2-vit-b-16"},
    layouts=(
        Layout(
            name="Hugging Face MetaCLIP 2",
            telltale=(
                r"^vision_model\.embeddings\.class_embedding$",
                r"^text_model\.embeddings\.token_embedding\.weight$",
                r"^text_projection\.weight$",
            ),
            counts=((TOKENS, CLIPS_TOKENS, False),),
            never=(r"^visual_projection\.bias$",),
            drop=BUFFERS,
            rename=(
                *hf_vision_to_open_clip(),
                *hf_text_to_open_clip(),
                (r"^text_projection\.weight$", "text.text_projection"),
            ),
            transpose=(*PROJECTION, r"^text\.text_projection$"),
        ),
        Layout(
            # dl.fbaipublicfiles.com/MMPT/metaclip/metaclip2_*_worldwide.pt
            name="Meta's own",
            telltale=(r"^visual\.conv1\.weight$", r"^token_embedding\.weight$", r"^text_projection$"),
            counts=((TOKENS, CLIPS_TOKENS, False),),
            drop=(r"^attn_mask$",),
            rename=((r"^(token_embedding|positional_embedding|transformer|ln_final|text_projection)\b", r"text.\1"),),
        ),
    ),
    tokenizer="XLMRobertaTokenizerFast",
    tokenizer_repos=("facebook/xlm-v-base",),
)
