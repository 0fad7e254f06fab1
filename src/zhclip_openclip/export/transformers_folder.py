"""A folder for transformers: `config.json`, `model.safetensors`, `preprocessor_config.json`, tokenizer, model card.

The class is the one that fits exactly. Where transformers has none, it is the form in which the family's authors
publish their models, which is read back with the modules of transformers that they put together; a text tower that is
published apart stands in `text/`, its image tower in `image/`.
"""

from __future__ import annotations

from pathlib import Path

from zhclip_openclip.export import _card, _check, _published, _text_files, _usage
from zhclip_openclip.export._check import Bounds, Difference
from zhclip_openclip.export._export_error import ExportError
from zhclip_openclip.export._options import Options
from zhclip_openclip.export._source import Source
from zhclip_openclip.export._transformers_written import WEIGHTS, Written
from zhclip_openclip.families import Family, Model
from zhclip_openclip.towers import text_configs

#: Family -> what its folder is for, in words.
HOMES = {
    "cnclip": "`ChineseCLIPModel`",
    "altclip": "`AltCLIPModel`",
    "clip-chinese": "`VisionTextDualEncoderModel`",
    "metaclip2": "`MetaClip2Model`",
    "zhclip": "thu-ml's own form; transformers has no class for it",
    "taiyiclip": "`text/`: `BertForSequenceClassification`, `image/`: `CLIPVisionModelWithProjection`",
    "mclip": "`text/`: multilingual_clip's own form, `image/`: `CLIPVisionModelWithProjection`",
}
#: Taiyi-CLIP's models without a classifier.
_PLAIN_HOME = "`text/`: `BertModel`, `image/`: `CLIPVisionModelWithProjection`"
#: Families that have none, and why.
_HOMELESS = {
    "fgclip2": "its class comes with its authors' repository and not with transformers, and a file holds more than one "
    "model; --format open_clip writes it",
    "m2-encoder": "transformers has no class for M2-Encoder's towers, which have layers in common",
}
#: Of the towers, and of pictures that transformers preprocesses with PIL; torchvision, its default, rounds otherwise.
BOUNDS = Bounds(text=1e-5, image=1e-5, pictures=1e-5)
TORCHVISION = 0.01
#: What transformers does to such pictures, and open_clip does otherwise for every model, or for those without an image
#: processor of transformers.
_TRANSPARENT = {"transparent": "convert them to RGB first, as this model's authors' code does"}
_RGB_FIRST = {
    "palette": "transformers converts to RGB first, this model's authors afterwards",
    "CMYK": "transformers converts to RGB first, this model's authors afterwards",
}
_ODD_MARGIN = {"odd margin": "of two middles transformers takes the left one, this model's authors the even one"}


def refused(family: Family, model: Model) -> str:
    """Why there is no such folder for a model; "" where there is one."""
    if family.name in _HOMELESS:
        return _HOMELESS[family.name]
    if family.name not in HOMES:
        return f"neither transformers nor its authors have a class for {family.title}"
    if isinstance(model.config()["vision_cfg"].get("layers"), list):
        return "transformers has no CLIP class with a ResNet image tower; --format cn_clip writes it"
    return ""


def home(family: Family, model: Model) -> str:
    """What its folder is for, in words; for a model that is not refused."""
    return _PLAIN_HOME if _published.is_plain_bert(model) else HOMES[family.name]


def unlike(source: Source) -> dict[str, str]:
    """Kinds of pictures that transformers' image processor treats otherwise than the model's authors."""
    if source.family.image_processor == "transformers":
        return _TRANSPARENT
    margin = {} if source.preprocess.get("resize_mode") == "squash" else _ODD_MARGIN
    return {**_TRANSPARENT, **_RGB_FIRST, **margin}


# ---------------------------------------------------------------- writing


def write(source: Source, folder: Path, options: Options) -> None:
    """Fill the empty `folder`. Raises ExportError: see :func:`refused`."""
    if reason := refused(source.family, source.model):
        raise ExportError(f"{source.model.name} has no home in transformers: {reason}")
    name = source.family.name
    if name in _published.TEXT:
        text, image = folder / "text", folder / "image"
        _save(source, _published.text_layout(source.family, source.model), text)
        _save(source, _published.IMAGE, image)
        _write_config(text, _apart(source), "BertModel" if _published.is_plain_bert(source.model) else "")
        _write_config(
            image, {"model_type": "clip_vision_model", **image_config(source)}, "CLIPVisionModelWithProjection"
        )
        _text_files.write_tokenizer(source, text)
        _text_files.write_json(image / "preprocessor_config.json", _text_files.image_processor(source))
    else:
        _save(source, _published.WHOLE[name], folder)
        _write_config(folder, _whole(source))
        processor = "ChineseCLIPImageProcessor" if name == "cnclip" else "CLIPImageProcessor"
        _text_files.write_json(folder / "preprocessor_config.json", _text_files.image_processor(source, processor))
        _text_files.write_tokenizer(source, folder)
    (folder / "README.md").write_text(_card.text(source, _usage.lines(source), options.result), encoding="utf-8")


def _save(source: Source, layout, folder: Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    save_file(_published.state_dict(source, layout), folder / WEIGHTS, metadata={"format": "pt"})


def image_config(source: Source) -> dict:
    """The image tower in the words of CLIPVisionConfig, from the module itself."""
    visual = source.module.visual
    if hasattr(visual, "trunk"):
        block, width, layers = visual.trunk.blocks[0], visual.trunk.embed_dim, len(visual.trunk.blocks)
        patch, hidden, activation = visual.trunk.patch_embed.patch_size[0], block.mlp.fc1.out_features, block.mlp.act
        epsilon = visual.trunk.norm.eps
    else:
        block, width, layers = visual.transformer.resblocks[0], visual.transformer.width, visual.transformer.layers
        patch, hidden, activation = visual.patch_size[0], block.mlp.c_fc.out_features, block.mlp.gelu
        epsilon = visual.ln_post.eps
    return {
        "image_size": source.image_size,
        "patch_size": patch,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": hidden,
        "hidden_act": _activation(activation),
        "layer_norm_eps": epsilon,
        "projection_dim": source.embed_dim,
    }


def text_config(source: Source) -> dict:
    """The encoder of the text tower, as its own config has it; open_clip's own in the words of CLIPTextConfig."""
    if not hasattr(source.module.text, "config"):
        return _own_text_config(source)
    config = source.module.text.config.to_dict()
    unwanted = ("architectures", "transformers_version", "_name_or_path")
    return {key: value for key, value in config.items() if key not in unwanted}


def _own_text_config(source: Source) -> dict:
    text, tokenizer = source.module.text, source.tokenizer
    block = text.transformer.resblocks[0]
    return {
        "model_type": "clip_text_model",
        "vocab_size": text.vocab_size,
        "hidden_size": text.width,
        "num_hidden_layers": text.transformer.layers,
        "num_attention_heads": text.heads,
        "intermediate_size": block.mlp.c_fc.out_features,
        "max_position_embeddings": text.num_pos,
        "hidden_act": _activation(block.mlp.gelu),
        "layer_norm_eps": text.ln_final.eps,
        "projection_dim": source.embed_dim,
        "bos_token_id": tokenizer.sot_token_id,
        "eos_token_id": text.eos_id,
        "pad_token_id": text.pad_id,
    }


def _activation(module) -> str:
    return "quick_gelu" if "quick" in type(module).__name__.lower() else "gelu"


def _whole(source: Source) -> dict:
    name = source.family.name
    parts = {"vision_config": image_config(source), "text_config": text_config(source)}
    shared = {"projection_dim": source.embed_dim, "logit_scale_init_value": source.module.logit_scale.item()}
    if name == "clip-chinese":
        parts["vision_config"] = {"model_type": "clip_vision_model", **parts["vision_config"]}
        return {"model_type": "vision-text-dual-encoder", **parts, **shared}
    if name == "zhclip":
        return {"model_type": "zhclip", "hidden_size": source.embed_dim, **parts, **shared}
    parts["text_config"].pop("model_type")
    if name == "altclip":
        parts["text_config"]["project_dim"] = source.embed_dim
    kinds = {"cnclip": "chinese_clip", "altclip": "altclip", "metaclip2": "metaclip_2"}
    return {"model_type": kinds[name], **parts, **shared}


def _apart(source: Source) -> dict:
    """The config of a text tower that is published apart."""
    if _published.is_plain_bert(source.model):
        return text_config(source)
    if source.family.name == "taiyiclip":
        labels = {f"LABEL_{number}": number for number in range(source.embed_dim)}
        return {**text_config(source), "label2id": labels, "id2label": {v: k for k, v in labels.items()}}
    return {
        "model_type": "M-CLIP",
        "text_config": text_config(source),  # multilingual_clip takes it from `modelBase` on the hub
        "modelBase": text_configs.base(source.model.config()["text_cfg"]["hf_model_name"]),
        "numDims": source.embed_dim,
        "transformerDimensions": source.module.text.config.hidden_size,
    }


_ARCHITECTURES = {
    "chinese_clip": "ChineseCLIPModel",
    "altclip": "AltCLIPModel",
    "metaclip_2": "MetaClip2Model",
    "vision-text-dual-encoder": "VisionTextDualEncoderModel",
    "bert": "BertForSequenceClassification",
    "M-CLIP": "MultilingualCLIP",
}


def _write_config(folder: Path, config: dict, architecture: str = "") -> None:
    architecture = architecture or _ARCHITECTURES.get(config["model_type"], "")
    named = {"architectures": [architecture]} if architecture else {}
    _text_files.write_json(folder / "config.json", {**named, "dtype": "float32", **config})


# ---------------------------------------------------------------- reading back


def check(source: Source, folder: Path, options: Options) -> list[Difference]:
    """Read the folder with transformers and compare. Raises ExportError: it is not the same model."""
    written = Written(source, folder)
    kinds = unlike(source)
    bounds = Bounds(BOUNDS.text, BOUNDS.image, BOUNDS.pictures, kinds)
    found = _check.compare(source, written, bounds, f"transformers ({written.what})")
    written.use_backend("torchvision")
    return found + _check.compare_pictures(source, written, TORCHVISION, kinds, "preprocessed by torchvision")
