"""M2-Encoder, Ant Group: BEiT-3's multiway towers, which go through the same last three layers.

Paper: https://arxiv.org/abs/2401.15896. Code: https://github.com/alipay/Ant-Multi-Modal-Framework, prj/M2_Encoder. Of
each layer's two experts, A is the image tower's and B the text tower's; in the common layers (`backbone_vl`) both
towers take A. The first token goes through a projection without bias. Images are squashed to a square.
"""

from __future__ import annotations

from zhclip_openclip.families._family import Family, Layout, Model, Tag

#: Both in prj/M2_Encoder: vlmo/transforms/square_transform.py, and vlmo/transforms/utils.py, inception_normalize.
_PREPROCESS = {"resize_mode": "squash", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def _tags(name: str, hub: str, modelscope: str) -> dict[str, Tag]:
    return {
        "malusama": Tag(
            repo=hub,
            files=(f"m2_encoder_{name}.safetensors",),
            licence="apache-2.0",
            note="a copy by others; nobody has compared it with the authors' file",
        ),
        "m2cognition": Tag(
            repo=modelscope,
            files=(f"m2_encoder_{name}.ckpt",),
            licence="apache-2.0",
            host="https://www.modelscope.cn/models/",
            note=(
                "the authors' file, on ModelScope: fetch it with `modelscope download --model "
                f"{modelscope} --local_dir $ZHCLIP_MODELS_DIR/{modelscope}`, or give `pretrained=PATH`"
            ),
        ),
    }


def normalise(text: str) -> str:
    """Lower case and straight quotes, as the authors' evaluation does (eval_retrieval.py)."""
    return text.lower().replace("\N{LEFT DOUBLE QUOTATION MARK}", '"').replace("\N{RIGHT DOUBLE QUOTATION MARK}", '"')


FAMILY = Family(
    name="m2-encoder",
    title="M2-Encoder",
    paper="https://arxiv.org/abs/2401.15896",
    source="https://github.com/alipay/Ant-Multi-Modal-Framework",
    note=(
        "the last three layers belong to both towers: locking one freezes them for both. The tokenizer needs "
        'sentencepiece: `pip install "zhclip-openclip[m2]"`'
    ),
    models=(
        Model(
            "m2-encoder-1b",
            tags=_tags("1B", "malusama/M2-Encoder-1B", "M2Cognition/M2_Encoder_Large"),
            preprocess=_PREPROCESS,
        ),
        Model(
            "m2-encoder-0.4b",
            tags=_tags("0.4B", "malusama/M2-Encoder-0.4B", "M2Cognition/M2-Encoder"),
            preprocess=_PREPROCESS,
        ),
    ),
    aliases={"m2-encoder": "m2-encoder-1b"},
    layouts=(
        Layout(
            name="M2-Encoder's own",
            telltale=(
                r"^backbone\.encoder\.embed_positions\.B\.weight$",
                r"^backbone_vl\.",
                r"^itc_vl_text_proj\.fc\.weight$",
            ),
            drop=(
                r"^backbone_vl\..*\.B\.",
                r"^backbone\.vision_embed\.mask_token$",
                r"^(norm|pooler|itc_text_proj|itc_image_proj|logit_vl_scale|visual_tokenizer\w*)(\.|$)",
            ),
            rename=(
                (r"^backbone\.text_embed\.", "text.transformer.embed."),
                (r"^backbone\.encoder\.embed_positions\.B\.", "text.transformer.positions."),
                (r"^backbone\.encoder\.embed_positions\.A\.weight$", "visual.trunk.pos_embed"),
                (r"^backbone\.vision_embed\.cls_token$", "visual.trunk.cls_token"),
                (r"^backbone\.vision_embed\.proj\.", "visual.trunk.patch_embed.proj."),
                (r"^backbone_vl\.(?:encoder\.)?(.*)\.A\.", r"visual.trunk.shared.\1."),
                (r"^backbone\.encoder\.(.*)\.A\.", r"visual.trunk.encoder.\1."),
                (r"^backbone\.encoder\.(.*)\.B\.", r"text.transformer.encoder.\1."),
                (r"\.self_attn\.q_proj\.(weight|bias)$", r".attn.qkv.\1#0"),
                (r"\.self_attn\.k_proj\.(weight|bias)$", r".attn.qkv.\1#1"),
                (r"\.self_attn\.v_proj\.(weight|bias)$", r".attn.qkv.\1#2"),
                (r"\.self_attn\.inner_attn_ln\.", ".attn.norm."),
                (r"\.self_attn\.out_proj\.", ".attn.proj."),
                (r"\.self_attn_layer_norm\.", ".norm1."),
                (r"\.final_layer_norm\.", ".norm2."),
                (r"\.ffn\.ffn_layernorm\.", ".mlp.norm."),
                (r"\.ffn\.", ".mlp."),
                (r"\.layers\.(\d+)\.", r".blocks.\1."),
                (r"\.layer_norm\.", ".norm."),
                (r"^itc_vl_image_proj\.fc\.", "visual.head.proj."),
                (r"^itc_vl_text_proj\.fc\.", "text.proj."),
            ),
            # Positions count from 2, as in fairseq: the rows before are nobody's.
            rows=(
                (r"^backbone\.encoder\.embed_positions\.A\.weight$", 2, 199),
                (r"^backbone\.encoder\.embed_positions\.B\.weight$", 2, 1024),
            ),
        ),
    ),
    image_processor="transformers",  # as there, pictures are made RGB before they are resized (m2_encoder.py)
    normalise=normalise,
    tokenizer="GLMChineseTokenizer",
    towers="zhclip_openclip.towers.beit3",
)
