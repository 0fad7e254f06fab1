"""FG-CLIP 2, 360 AI Research: SigLIP 2's NaFlex towers trained on English and Chinese, for short and long captions.

Paper: https://arxiv.org/abs/2510.10921. Code: https://github.com/360CVGroup/FG-CLIP (fgclip2/). One file holds three
models of text: `short` (64 tokens), `box` for regions of a picture, which is not here, and `long` (196 tokens, with
positions and a head of its own). A picture keeps its shape and becomes 128 to 1,024 patches by its size.
"""

from __future__ import annotations

from zhclip_openclip.families._family import Family, Layout, Model, Tag
from zhclip_openclip.families._layouts import BUFFERS, hf_text_to_open_clip

#: Of the code, and as a survey read it on the hub for two of the three sizes.
_LICENCES = {
    "base": "apache-2.0",
    "large": "apache-2.0",
    "so400m": "what its repository states was not read (its code: Apache-2.0)",
}
_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bilinear"}
_SQUARE = {**_HALF, "resize_mode": "squash"}
_SQUARE_NOTE = "not as its authors preprocess: every picture becomes a square of 256 pixels"


def _models(size: str) -> tuple[Model, ...]:
    repo = f"qihoo360/fg-clip2-{size}"

    def tags(note: str = "") -> dict[str, Tag]:
        return {"qihoo360": Tag(repo, files=("model.safetensors",), licence=_LICENCES[size], note=note)}

    return (
        Model(f"fg-clip2-{size}", tags(), preprocess=_HALF, image_processor="patches"),
        Model(f"fg-clip2-{size}-long", tags("for captions of up to 196 tokens"), preprocess=_HALF,
              image_processor="patches"),
        Model(f"fg-clip2-{size}-square256", tags(_SQUARE_NOTE), preprocess=_SQUARE),
    )  # fmt: skip


_BLOCK = r"^vision_model\.encoder\.layers\.(\d+)\."
_POOL = r"^vision_model\.head\."
_EMBEDDINGS = r"^text_model\.embeddings\."
#: The head of each region's features and the text head that goes with it.
_UNUSED = (*BUFFERS, r"^dense_feature_head\.", r"^boxtext_head\.")
_TELLTALE = (r"^vision_model\.embeddings\.patch_embedding\.weight$", r"^longtext_head\.weight$")
_RENAME = (
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.trunk.embeds.proj."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.trunk.embeds.pos_embed"),
    (_BLOCK + r"self_attn\.q_proj\.(weight|bias)$", r"visual.trunk.blocks.\1.attn.qkv.\2#0"),
    (_BLOCK + r"self_attn\.k_proj\.(weight|bias)$", r"visual.trunk.blocks.\1.attn.qkv.\2#1"),
    (_BLOCK + r"self_attn\.v_proj\.(weight|bias)$", r"visual.trunk.blocks.\1.attn.qkv.\2#2"),
    (_BLOCK + r"self_attn\.out_proj\.", r"visual.trunk.blocks.\1.attn.proj."),
    (_BLOCK + r"layer_norm(\d)\.", r"visual.trunk.blocks.\1.norm\2."),
    (_BLOCK + r"mlp\.", r"visual.trunk.blocks.\1.mlp."),
    (r"^vision_model\.post_layernorm\.", "visual.trunk.norm."),
    (_POOL + r"probe$", "visual.trunk.attn_pool.latent"),
    (_POOL + r"attention\.out_proj\.", "visual.trunk.attn_pool.proj."),
    (_POOL + r"layernorm\.", "visual.trunk.attn_pool.norm."),
    (_POOL + r"mlp\.", "visual.trunk.attn_pool.mlp."),
    *hf_text_to_open_clip(),
)
_SPLIT = (
    (
        _POOL + r"attention\.in_proj_(weight|bias)$",
        (r"visual.trunk.attn_pool.q.\1", r"visual.trunk.attn_pool.kv.\1#0", r"visual.trunk.attn_pool.kv.\1#1"),
    ),
)
_GRID = (r"^visual\.trunk\.embeds\.pos_embed$",)

FAMILY = Family(
    name="fgclip2",
    title="FG-CLIP 2",
    paper="https://arxiv.org/abs/2510.10921",
    source="https://github.com/360CVGroup/FG-CLIP",
    note=(
        "its authors make at most 1,024 patches of every picture for ImageNet and 128 to 1,024 by its size elsewhere, "
        "as is done here; they lower-case captions in most of their scripts (not for Flickr30K-CNA and long captions), "
        "as is done here"
    ),
    models=(*_models("base"), *_models("large"), *_models("so400m")),
    aliases={"fg-clip2": "fg-clip2-base"},
    layouts=(
        Layout(
            name="Hugging Face FG-CLIP 2",
            models=r"^(?!.*-long$)",
            telltale=_TELLTALE,
            drop=(*_UNUSED, r"^longtext_head\.", _EMBEDDINGS + r"position_embedding_(res|ori)\."),
            rename=((r"^text_model\.head\.", "text.text_projection."), *_RENAME),
            split=_SPLIT,
            square=_GRID,
        ),
        Layout(
            name="Hugging Face FG-CLIP 2, long captions",
            models=r"-long$",
            telltale=_TELLTALE,
            drop=(*_UNUSED, r"^text_model\.head\.", _EMBEDDINGS + r"position_embedding\."),
            rename=(
                (r"^longtext_head\.", "text.text_projection."),
                (_EMBEDDINGS + r"position_embedding_ori\.weight$", "text.positional_embedding#0"),
                (_EMBEDDINGS + r"position_embedding_res\.weight$", "text.positional_embedding#1"),
                *_RENAME,
            ),
            # keep_len and longtext_len of its config.json: the first positions are SigLIP 2's.
            rows=(
                (_EMBEDDINGS + r"position_embedding_ori\.", 0, 20),
                (_EMBEDDINGS + r"position_embedding_res\.", 20, 196),
            ),
            split=_SPLIT,
            square=_GRID,
        ),
    ),
    normalise=str.lower,
    # Gemma's, as its tokenizer.json says; the names of the tokens stand in a file of their own.
    tokenizer="PreTrainedTokenizerFast",
    tokenizer_options={"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>", "bos_token": "<bos>"},
    tokenizer_repos=("google/siglip2-base-patch16-naflex",),
    towers="zhclip_openclip.towers.naflex",
)
