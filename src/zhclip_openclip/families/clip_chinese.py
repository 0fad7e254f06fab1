"""CLIP-Chinese, YeungNLP: Mengzi's BERT taught to OpenAI's frozen ViT-B/32 on 1.4 million pairs.

Code: https://github.com/yangjianxin1/CLIP-Chinese. No paper. The text tower is BERT's tanh pooler and a projection
without bias.
"""

from __future__ import annotations

from zhclip_openclip.families._family import Family, Layout, Model, Tag
from zhclip_openclip.families._layouts import BUFFERS, PROJECTION, bert, hf_vision_to_open_clip

FAMILY = Family(
    name="clip-chinese",
    title="CLIP-Chinese",
    source="https://github.com/yangjianxin1/CLIP-Chinese",
    models=(Model("clip-chinese-vit-b-32", tags={"yeungnlp": Tag(repo="YeungNLP/clip-vit-bert-chinese-1M")}),),
    aliases={"clip-chinese": "clip-chinese-vit-b-32", "clip_chinese": "clip-chinese-vit-b-32"},
    image_processor="transformers",
    layouts=(
        Layout(
            # As ChineseCLIP's, but for the pooler, which only this family uses.
            name="Hugging Face BertCLIP",
            telltale=(
                r"^vision_model\.embeddings\.class_embedding$",
                r"^text_model\.pooler\.dense\.",
                r"^text_projection\.weight$",
            ),
            never=(r"^visual_projection\.bias$",),
            drop=BUFFERS,
            rename=(*hf_vision_to_open_clip(), *bert("text_model"), (r"^text_projection\.", "text.proj.")),
            transpose=PROJECTION,
        ),
    ),
    tokenizer_repos=("YeungNLP/bert-from-clip-chinese-1M", "Langboat/mengzi-bert-base"),
)
