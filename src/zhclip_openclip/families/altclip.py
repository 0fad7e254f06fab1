"""AltCLIP, BAAI: XLM-R large with OpenAI's ViT-L/14, for Chinese and English or for nine languages; for eighteen with
LAION's ViT-H/14, or with a ViT-L/14 of features as wide.

Paper: https://arxiv.org/abs/2211.06679. Code: `transformers`, models/altclip. The first token goes through `pre_LN`,
then `transformation` (with bias), then `text_projection` (without).
"""

from __future__ import annotations

from zhclip_openclip.families._family import Family, Layout, Model, Tag
from zhclip_openclip.families._layouts import BUFFERS, PROJECTION, bert, hf_vision_to_open_clip

_M18 = Tag(
    repo="BAAI/AltCLIP-m18",
    licence="creativeml-openrail-m",
    note="eighteen languages; whether it is ViT-H/14 or ViT-L/14 its weights say: ask for `altclip-vit-h-14`",
)

FAMILY = Family(
    name="altclip",
    title="AltCLIP",
    paper="https://arxiv.org/abs/2211.06679",
    source="https://github.com/FlagAI-Open/FlagAI",
    models=(
        Model(
            "altclip-vit-l-14",
            tags={
                "baai": Tag(repo="BAAI/AltCLIP", licence="creativeml-openrail-m", note="Chinese and English"),
                "m9": Tag(repo="BAAI/AltCLIP-m9", licence="creativeml-openrail-m", note="nine languages"),
            },
        ),
        Model(
            # That its image tower is ViT-H/14 was inferred, from its features' width and from what AltDiffusion-m18
            # replaces with it; others who ran it write ViT-L/14. So the weights decide.
            "altclip-vit-h-14",
            tags={"m18": _M18},
            sizes=("altclip-m18-vit-l-14",),
        ),
        Model("altclip-m18-vit-l-14", tags={"m18": _M18}),
    ),
    aliases={"altclip": "altclip-vit-l-14"},
    image_processor="transformers",
    layouts=(
        Layout(
            name="Hugging Face AltCLIP",
            telltale=(
                r"^vision_model\.embeddings\.class_embedding$",
                r"^text_model\.roberta\.embeddings\.",
                r"^text_model\.pre_LN\.",
                r"^text_model\.transformation\.",
            ),
            # lm_head is the rest of the distillation that the text tower was trained with.
            drop=(*BUFFERS, r"^text_model\.roberta\.pooler\.", r"^text_model\.lm_head\."),
            rename=(
                *hf_vision_to_open_clip(),
                # transformers 5 calls the layers `layers` in memory and writes `layer` as its 4.x did.
                (r"^text_model\.roberta\.encoder\.layers\.", "text_model.roberta.encoder.layer."),
                *bert(r"text_model\.roberta"),
                (r"^text_model\.(pre_LN|transformation)\.", r"text.proj.\1."),
                (r"^text_projection\.", "text.proj.text_projection."),
            ),
            transpose=PROJECTION,
        ),
    ),
    tokenizer="XLMRobertaTokenizerFast",
    tokenizer_repos=("FacebookAI/xlm-roberta-large",),
)
