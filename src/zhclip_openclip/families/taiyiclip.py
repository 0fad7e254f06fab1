"""Taiyi-CLIP, IDEA-CCNL: chinese-roberta-wwm-ext taught to frozen image towers, OpenAI's and LAION's ViT-H/14.

Paper: https://arxiv.org/abs/2209.02970. Code: https://github.com/IDEA-CCNL/Fengshenbang-LM. The text tower is a BERT
with its tanh pooler; the first two models are sequence classifiers, whose classifier (with bias) is the projection, the
later two have none. The image tower is published apart.
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

#: A BertModel as it is.
_PLAIN = Layout(
    name="BERT",
    part="text",
    telltale=(r"^embeddings\.word_embeddings\.weight$", r"^encoder\.layer\.0\.attention\.self\.", r"^pooler\.dense\."),
    never=(r"^(?!embeddings\.|encoder\.|pooler\.)",),
    drop=(r"^embeddings\.(position_ids|token_type_ids)$",),
    rename=((r"^(embeddings|encoder|pooler)\.", r"text.transformer.\1."),),
    bare=True,
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
        Model(
            "taiyiclip-vit-h-14",
            tags={
                "idea_ccnl": Tag(
                    repo="IDEA-CCNL/Taiyi-CLIP-RoBERTa-326M-ViT-H-Chinese",
                    image_repo="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
                    licence="apache-2.0",
                )
            },
        ),
        Model(
            "taiyiclip-102m-vit-l-14",
            tags={
                "idea_ccnl": Tag(
                    repo="IDEA-CCNL/Taiyi-CLIP-RoBERTa-102M-ViT-L-Chinese",
                    image_repo="openai/clip-vit-large-patch14",
                    licence="apache-2.0",
                )
            },
        ),
    ),
    aliases={"taiyiclip": "taiyiclip-vit-l-14"},
    image_processor="transformers",
    layouts=(_TEXT, _PLAIN, with_image_tower(_TEXT), *IMAGE_TOWERS),
    tokenizer_repos=("hfl/chinese-roberta-wwm-ext",),
    tokenizer_package=("cn_clip", "clip/vocab.txt"),
)
