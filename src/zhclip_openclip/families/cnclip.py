"""Chinese-CLIP, OFA-Sys (Alibaba DAMO): four ViTs and a ResNet-50 with chinese-roberta-wwm-ext.

Paper: https://arxiv.org/abs/2211.01335. Code: https://github.com/OFA-Sys/Chinese-CLIP (PyPI: cn_clip) and
`transformers`, models/chinese_clip. The text tower is the last hidden state of [CLS] and a projection without bias;
images are squashed to a square. QA-CLIP (Tencent, https://github.com/TencentARC-QQ/QA-CLIP) is the same architecture
trained on other data.
"""

from __future__ import annotations

from zhclip_openclip.families._family import Family, Layout, Model, Tag
from zhclip_openclip.families._layouts import BUFFERS, PROJECTION, bert, hf_vision_to_open_clip
from zhclip_openclip.families._texts import google_bert

_SQUASH = {"resize_mode": "squash"}  # cn_clip/clip/utils.py, image_transform
_CODE_LICENCE = "not stated by its source (its code: MIT)"
#: Of base, large and huge the first revisions of the card named a licence; the one that was read last, of base, does
#: not any more.
_FIRST_CARD = "not stated by its source (its card at first: apache-2.0; its code: MIT)"


def _ofa_sys(repo: str, own_file: str, licence: str = _FIRST_CARD) -> Tag:
    return Tag(f"OFA-Sys/{repo}", files=("model.safetensors", "pytorch_model.bin", own_file), licence=licence)


def normalise(text: str) -> str:
    """Lower case and straight quotes, as cn_clip does before it tokenizes (cn_clip/eval/data.py)."""
    text = text.lower().replace("\N{LEFT DOUBLE QUOTATION MARK}", '"').replace("\N{RIGHT DOUBLE QUOTATION MARK}", '"')
    return google_bert(text)


FAMILY = Family(
    name="cnclip",
    title="Chinese-CLIP",
    paper="https://arxiv.org/abs/2211.01335",
    source="https://github.com/OFA-Sys/Chinese-CLIP",
    models=(
        Model(
            "cnclip-vit-l-14",
            tags={
                "ofa_sys": _ofa_sys("chinese-clip-vit-large-patch14", "clip_cn_vit-l-14.pt"),
                "qa_clip": Tag(repo="TencentARC/QA-CLIP-ViT-L-14", licence="apache-2.0", note="QA-CLIP"),
            },
            preprocess=_SQUASH,
        ),
        Model(
            "cnclip-vit-b-16",
            tags={
                "ofa_sys": _ofa_sys("chinese-clip-vit-base-patch16", "clip_cn_vit-b-16.pt"),
                "qa_clip": Tag(repo="TencentARC/QA-CLIP-ViT-B-16", licence="apache-2.0", note="QA-CLIP"),
            },
            preprocess=_SQUASH,
        ),
        Model(
            "cnclip-vit-l-14-336",
            tags={
                "ofa_sys": _ofa_sys("chinese-clip-vit-large-patch14-336px", "clip_cn_vit-l-14-336.pt", _CODE_LICENCE)
            },
            preprocess=_SQUASH,
        ),
        Model(
            "cnclip-vit-h-14",
            tags={"ofa_sys": _ofa_sys("chinese-clip-vit-huge-patch14", "clip_cn_vit-h-14.pt")},
            preprocess=_SQUASH,
        ),
        Model(
            # transformers has no ResNet tower for CLIP, so only the authors' own form exists.
            "cnclip-rn50",
            tags={
                "ofa_sys": Tag("OFA-Sys/chinese-clip-rn50", files=("clip_cn_rn50.pt",), licence="apache-2.0"),
                "qa_clip": Tag(repo="TencentARC/QA-CLIP", files=("QA-CLIP-RN50.pt",), note="QA-CLIP"),
            },
            preprocess=_SQUASH,
        ),
    ),
    aliases={"cnclip": "cnclip-vit-l-14"},
    layouts=(
        Layout(
            name="Hugging Face ChineseCLIP",
            telltale=(
                r"^vision_model\.embeddings\.class_embedding$",
                r"^text_model\.encoder\.layer\.0\.attention\.self\.",
                r"^text_projection\.weight$",
            ),
            never=(r"^text_model\.pooler\.", r"^visual_projection\.bias$"),
            drop=BUFFERS,
            rename=(*hf_vision_to_open_clip(), *bert("text_model"), (r"^text_projection\.", "text.proj.")),
            transpose=PROJECTION,
        ),
        Layout(
            # What cn_clip's training writes and its hub repositories hold as clip_cn_*.pt.
            name="Chinese-CLIP's own",
            telltale=(r"^visual\.", r"^bert\.embeddings\.", r"^text_projection$"),
            drop=(*BUFFERS, r"^bert\.pooler\."),
            rename=(
                # FlashAttention's names, from a model that ran with --use-flash-attention.
                (r"^(visual\..*\.attn)\.Wqkv\.(weight|bias)$", r"\1.in_proj_\2"),
                (r"^(bert\..*\.attention)\.self\.out_proj\.", r"\1.output.dense."),
                *bert("bert"),
                (r"^text_projection$", "text.proj.weight"),
            ),
            split=(
                (
                    r"^(text\..*\.attention\.self)\.Wqkv\.(weight|bias)$",
                    (r"\1.query.\2", r"\1.key.\2", r"\1.value.\2"),
                ),
            ),
            transpose=(r"^text\.proj\.weight$",),
        ),
    ),
    normalise=normalise,
    # cn_clip's own tokenizer knows no special tokens in a text and reads words of up to 200 letters.
    tokenizer_options={"split_special_tokens": True, "max_input_chars_per_word": 200},
    tokenizer_repos=("OFA-Sys/chinese-clip-vit-base-patch16", "hfl/chinese-roberta-wwm-ext"),
    tokenizer_package=("cn_clip", "clip/vocab.txt"),
)
