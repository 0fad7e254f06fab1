"""ZH-CLIP, thu-ml: ViT-L/14 and chinese-roberta-wwm-ext-large.

Code and tables: https://github.com/thu-ml/zh-clip. No paper. The projection of the image tower has a bias; the text
tower is mean-pooled over its attention mask and projected by an MLP without biases.
"""

from __future__ import annotations

import math

from zhclip_openclip.families._family import Family, Layout, Model, Tag
from zhclip_openclip.families._layouts import BUFFERS, bert, hf_vision_to_timm

_THU_ML = Tag(
    repo="thu-ml/zh-clip-vit-roberta-large-patch14",
    licence="apache-2.0",
    note="activation and preprocessing as the config.json and preprocessor_config.json beside the weights say",
)

FAMILY = Family(
    name="zhclip",
    title="ZH-CLIP",
    source="https://github.com/thu-ml/zh-clip",
    models=(
        Model("zhclip-vit-l-14", tags={"thu_ml": _THU_ML}, quickgelu="zhclip-vit-l-14-quickgelu"),
        Model("zhclip-vit-l-14-quickgelu", tags={"thu_ml": _THU_ML}),
    ),
    aliases={"zhclip": "zhclip-vit-l-14"},
    image_processor="transformers",
    layouts=(
        Layout(
            name="Hugging Face",
            telltale=(
                r"^vision_model\.embeddings\.class_embedding$",
                r"^text_projection\.0\.weight$",
                r"^text_model\.encoder\.layer\.0\.",
            ),
            drop=(*BUFFERS, r"^text_model\.pooler\."),
            rename=(*hf_vision_to_timm(), *bert("text_model"), (r"^text_projection\.", "text.proj.")),
            # logit_scale is not published: ln 100, the value that CLIP's training clips it to. Nor is the bias that the
            # published code has (https://github.com/thu-ml/zh-clip/issues/4); its `_init_weights` makes it 0.
            constants={"logit_scale": math.log(100), "visual.head.proj.bias": 0.0},
        ),
    ),
    tokenizer_repos=("hfl/chinese-roberta-wwm-ext-large",),
    tokenizer_package=("cn_clip", "clip/vocab.txt"),
)
