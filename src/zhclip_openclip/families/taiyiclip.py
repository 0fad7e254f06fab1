"""Taiyi-CLIP, IDEA-CCNL: chinese-roberta-wwm-ext taught to OpenAI's frozen image towers.

Paper: https://arxiv.org/abs/2209.02970. Code: https://github.com/IDEA-CCNL/Fengshenbang-LM. The text tower is a BERT
sequence classifier: tanh pooler and a classifier with bias. The image tower is OpenAI's and published apart.
"""

from __future__ import annotations

from zhclip_openclip.families._family import Family, Layout, Model, Tag
from zhclip_openclip.families._layouts import BUFFERS, IMAGE_TOWERS, bert, with_image_tower

_TEXT = Layout(
    name="BERT sequence classifier",
    part="text",
    telltale=(r"^bert\.embeddings\.", r"^bert\.pooler\.", r"^classifier\.weight$"),
    never=(r"^visual\.", r"^vision_model\."),
    drop=BUFFERS,
    rename=(*bert("bert"), (r"^classifier\.", "text.proj.")),
)

FAMILY = Family(
    name="taiyiclip",
    title="Taiyi-CLIP",
    paper="https://arxiv.org/abs/2209.02970",
    source="https://github.com/IDEA-CCNL/Fengshenbang-LM",
    note=(
        "padding is masked here; the published inference passes no mask, so there a text's features depend on how far "
        "its batch is padded. Unpadded texts give the same features in both"
    ),
    models=(
        Model(
            "taiyiclip-vit-l-14",
            tags={
                "idea_ccnl": Tag(
                    repo="IDEA-CCNL/Taiyi-CLIP-Roberta-large-326M-Chinese",
                    image_repo="openai/clip-vit-large-patch14",
                    licence="apache-2.0",
                )
            },
        ),
        Model(
            "taiyiclip-vit-b-32",
            tags={
                "idea_ccnl": Tag(
                    repo="IDEA-CCNL/Taiyi-CLIP-Roberta-102M-Chinese",
                    image_repo="openai/clip-vit-base-patch32",
                    licence="apache-2.0",
                )
            },
        ),
    ),
    aliases={"taiyiclip": "taiyiclip-vit-l-14"},
    image_processor="transformers",
    layouts=(_TEXT, with_image_tower(_TEXT), *IMAGE_TOWERS),
    tokenizer_repos=("hfl/chinese-roberta-wwm-ext",),
    tokenizer_package=("cn_clip", "clip/vocab.txt"),
)
