"""Multilingual-CLIP: XLM-R large or LaBSE taught the text features of OpenAI's and open_clip's CLIP models.

Paper: https://aclanthology.org/2022.lrec-1.739. Code: https://github.com/FreddeFrallan/Multilingual-CLIP. The text
tower is the mean over the attention mask and a linear layer with bias. The image towers are published apart.
"""

from __future__ import annotations

from zhclip_openclip.families._family import Family, Layout, Model, Tag
from zhclip_openclip.families._layouts import BUFFERS, IMAGE_TOWERS, bert, with_image_tower

_LICENCE = "not stated by its source (its code: MIT)"
_OPENAI_L_14 = "openai/clip-vit-large-patch14"

_TEXT = Layout(
    name="Multilingual-CLIP's own",
    part="text",
    telltale=(r"^transformer\.embeddings\.", r"^LinearTransformation\.weight$"),
    never=(r"^vision_model\.",),
    drop=(*BUFFERS, r"^transformer\.pooler\."),
    rename=(*bert("transformer"), (r"^LinearTransformation\.", "text.proj.")),
)

FAMILY = Family(
    name="mclip",
    title="Multilingual-CLIP",
    paper="https://aclanthology.org/2022.lrec-1.739",
    source="https://github.com/FreddeFrallan/Multilingual-CLIP",
    models=(
        Model(
            "mclip-vit-l-14",
            tags={"m_clip": Tag("M-CLIP/XLM-Roberta-Large-Vit-L-14", image_repo=_OPENAI_L_14, licence=_LICENCE)},
        ),
        Model(
            "mclip-vit-b-32",
            tags={
                "m_clip": Tag(
                    "M-CLIP/XLM-Roberta-Large-Vit-B-32", image_repo="openai/clip-vit-base-patch32", licence=_LICENCE
                )
            },
        ),
        Model(
            # LAION's image tower has GELU, unlike OpenAI's.
            "mclip-vit-b-16-plus-240",
            tags={
                "m_clip": Tag(
                    "M-CLIP/XLM-Roberta-Large-Vit-B-16Plus",
                    # open_clip's own table sends laion400m_e32 to the repository of e31; this is the one it names.
                    image_repo="timm/vit_base_patch16_plus_clip_240.laion400m_e32",
                    # model.safetensors there is timm's form of the image tower.
                    image_files=("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
                    licence=_LICENCE,
                )
            },
        ),
        Model(
            "mclip-labse-vit-l-14",
            tags={"m_clip": Tag("M-CLIP/LABSE-Vit-L-14", image_repo=_OPENAI_L_14, licence=_LICENCE)},
            tokenizer="BertTokenizerFast",
            tokenizer_options={"do_lower_case": False},
        ),
    ),
    aliases={"mclip": "mclip-vit-l-14"},
    layouts=(_TEXT, with_image_tower(_TEXT), *IMAGE_TOWERS),
    tokenizer="XLMRobertaTokenizerFast",
)
