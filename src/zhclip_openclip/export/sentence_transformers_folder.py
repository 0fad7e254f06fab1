"""A folder that `SentenceTransformer(DIR)` loads, for pictures and texts, from modules of sentence-transformers alone.

A router sends texts to BERT or XLM-R, its pooling and its projection as dense layers, and pictures to CLIP's vision
transformer and its projection; features of both have unit length. A model that is one class of transformers, with
towers of CLIP's kind, is one module. Nothing of this package is needed to load it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zhclip_openclip.export import _card, _check, _published, _text_files, transformers_folder
from zhclip_openclip.export._check import Bounds, Difference
from zhclip_openclip.export._export_error import ExportError
from zhclip_openclip.export._options import Options
from zhclip_openclip.export._source import Source
from zhclip_openclip.export._transformers_written import mask_of, quiet
from zhclip_openclip.export.transformers_folder import TORCHVISION, image_config, text_config, unlike
from zhclip_openclip.families import Family, Layout, Model
from zhclip_openclip.towers import text_configs

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

BOUNDS = Bounds(text=1e-5, image=1e-5, pictures=TORCHVISION)  # it preprocesses with torchvision
_USAGE = """from PIL import Image
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(DIR)
texts = model.encode(["一只猫", "一条狗"])
images = model.encode([Image.open("cat.jpg").convert("RGB")])
print(model.similarity(images, texts))
"""


def refused(family: Family, model: Model) -> str:
    """Why there is no such folder for a model; "" where there is one."""
    vision = model.config()["vision_cfg"]
    if not (text_configs.of_transformers(model) or _is_one_class(family, model)):
        return "transformers, which its modules come from, has no class for its towers"
    if isinstance(vision.get("layers"), list):
        return "transformers, which its modules come from, has no CLIP class with a ResNet image tower"
    if vision.get("timm_pool", "token") != "token":
        return "its image tower is pooled in a way that no class of transformers has"
    return ""


def _is_one_class(family: Family, model: Model) -> bool:
    """Whether it is a class of transformers whose text tower is open_clip's own."""
    return not (model.config()["text_cfg"].get("hf_model_name") or transformers_folder.refused(family, model))


def write(source: Source, folder: Path, options: Options) -> None:
    """Fill the empty `folder`. Raises ExportError: see :func:`refused`."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize

    if reason := refused(source.family, source.model):
        raise ExportError(f"{source.model.name} has no home in sentence-transformers: {reason}")
    with tempfile.TemporaryDirectory(dir=folder.parent) as place, quiet():
        make = _one_class if _is_one_class(source.family, source.model) else _router
        modules = [make(source, Path(place)), Normalize()]
        SentenceTransformer(modules=modules, device="cpu", similarity_fn_name="cosine").save_pretrained(
            str(folder), create_model_card=False
        )
    (folder / "README.md").write_text(_card.text(source, _USAGE, options.result), encoding="utf-8")


def _one_class(source: Source, place: Path):
    """By way of the folder for transformers, which has both towers, their heads and what they take."""
    from sentence_transformers.base.modules import Transformer

    transformers_folder.write(source, place, Options())
    told = {
        part: {"method": f"get_{part}_features", "method_output_name": "pooler_output"} for part in ("text", "image")
    }
    return Transformer(
        str(place),
        max_seq_length=source.context_length,
        modality_config=told,
        module_output_name="sentence_embedding",
    )


def _router(source: Source, place: Path):
    from sentence_transformers.base.modules import Router

    text, image = _encoders(source, place)
    routes = {"text": [text, *_text_head(source)], "image": [image, _image_head(source)]}
    mappings = {(None, route): route for route in routes}
    return Router(sub_modules=routes, default_route="text", route_mappings=mappings, allow_empty_key=False)


def _encoders(source: Source, place: Path):
    """The two transformers, by way of folders that transformers reads."""
    from safetensors.torch import save_file
    from sentence_transformers.base.modules import Transformer

    text, image = place / "text", place / "image"
    state = source.module.state_dict()
    configs = {text: text_config(source), image: {"model_type": "clip_vision_model", **image_config(source)}}
    for folder, config in configs.items():
        folder.mkdir()
        _text_files.write_json(folder / "config.json", config)
    encoder = Layout("encoder", (), ((r"^text\.transformer\.", ""),), drop=(r"^(?!text\.transformer\.)",))
    save_file(_published.renamed(state, encoder), text / "model.safetensors", metadata={"format": "pt"})
    vision = {
        name.removeprefix("vision_model."): tensor
        for name, tensor in _published.renamed(state, _image_layout(source)).items()
        if name.startswith("vision_model.")
    }
    save_file(vision, image / "model.safetensors", metadata={"format": "pt"})
    _text_files.write_tokenizer(source, text)
    _text_files.write_json(image / "preprocessor_config.json", _text_files.image_processor(source))
    text_module = Transformer(str(text), max_seq_length=source.context_length)
    image_module = Transformer(
        str(image),
        modality_config={"image": {"method": "forward", "method_output_name": "pooler_output"}},
        module_output_name="sentence_embedding",
    )
    return text_module, image_module


def _image_layout(source: Source) -> Layout:
    """Hugging Face's names for whichever image tower the model has."""
    return _published.WHOLE["zhclip"] if hasattr(source.module.visual, "trunk") else _published.IMAGE


def _dense(weight: torch.Tensor, bias: torch.Tensor | None = None, activation=None):
    """A dense layer of sentence-transformers. weight: (out, in)."""
    from sentence_transformers.base.modules import Dense

    return Dense(
        weight.shape[1],
        weight.shape[0],
        bias=bias is not None,
        activation_function=activation,
        init_weight=weight.detach().clone(),
        init_bias=None if bias is None else bias.detach().clone(),
    )


def _text_head(source: Source) -> list:
    """Pooling and projection of the text tower."""
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
    from torch import nn

    text, width = source.module.text, source.module.text.config.hidden_size
    kind = source.model.config()["text_cfg"]
    mean = kind["hf_pooler_type"] == "mean_pooler"
    modules = [Pooling(width, pooling_mode="mean" if mean else "cls")]
    if kind["hf_pooler_type"] == "cls_pooler":  # BERT's own, with a layer and tanh
        layer = text.transformer.pooler.dense
        modules.append(_dense(layer.weight, layer.bias, nn.Tanh()))
    head, proj = kind["hf_proj_type"], text.proj
    if head is None:
        return modules
    if head in ("linear", "linear_bias"):
        return [*modules, _dense(proj.weight, proj.bias)]
    if head == "mlp":
        return [*modules, _dense(proj[0].weight, None, nn.GELU()), _dense(proj[2].weight)]
    if head == "norm_linear_linear":
        norm = LayerNorm(width)
        norm.norm.load_state_dict(proj.pre_LN.state_dict())
        layer = proj.transformation
        return [*modules, norm, _dense(layer.weight, layer.bias), _dense(proj.text_projection.weight)]
    raise ExportError(f"{source.model.name} has a projection {head!r} that no module of sentence-transformers does")


def _image_head(source: Source):
    visual = source.module.visual
    if hasattr(visual, "trunk"):
        return _dense(visual.head.proj.weight, visual.head.proj.bias)
    return _dense(visual.proj.T.contiguous())


def check(source: Source, folder: Path, options: Options) -> list[Difference]:
    """Load the folder with sentence-transformers and compare. Raises ExportError: it is not the same model."""
    bounds = Bounds(BOUNDS.text, BOUNDS.image, BOUNDS.pictures, unlike(source))
    return _check.compare(source, Written(source, folder), bounds, "sentence-transformers")


class Written:
    """The folder, read by sentence-transformers."""

    def __init__(self, source: Source, folder: Path):
        from sentence_transformers import SentenceTransformer

        with quiet():
            self.model = SentenceTransformer(str(folder), device="cpu")
        self._source = source

    def ids(self, texts: Sequence[str]) -> torch.Tensor:
        return self.model.preprocess(list(texts))["input_ids"]

    def pixels(self, pictures: Sequence[Image]) -> torch.Tensor:
        return self.model.preprocess(list(pictures))["pixel_values"]

    def text(self, ids: torch.Tensor) -> torch.Tensor:
        mask = mask_of(ids, self._source)
        return self._features({"input_ids": ids, "attention_mask": mask, "modality": "text"}, self._source.text(ids))

    def image(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._features({"pixel_values": pixels, "modality": "image"}, self._source.image(pixels))

    def _features(self, given: dict, ours: torch.Tensor) -> torch.Tensor:
        """Features, of unit length, times the length of ours, so that both are compared as they are."""
        import torch

        with torch.no_grad():
            return self.model(given)["sentence_embedding"] * ours.norm(dim=-1, keepdim=True)
