"""What lies with the weights says of model and preprocessing: the one place that decides.

Whoever names a checkpoint, and however (a tag, a file, a folder, `local-dir:`, `hf-hub:`, `load_checkpoint`), asks
here.
What can tell, in this order, the first that says something of a thing being believed:

1. the weights themselves: what this package writes into the metadata of a state dict (see :func:`own_metadata`),
2. `open_clip_config.json`, for weights in open_clip's names,
3. `config.json` and `processor_config.json` or `preprocessor_config.json`, for weights in anybody else's,
4. `params.txt` of a training run, in the folder of the weights or the one above,
5. for weights in open_clip's names, the activation in a `config.json` that does not contradict the model in anything.
"""

from __future__ import annotations

import ast
import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from zhclip_openclip._errors import CheckpointError
from zhclip_openclip._reading import parse_json, read_json, reading
from zhclip_openclip.checkpoints import _config
from zhclip_openclip.checkpoints._place import Folder, Place
from zhclip_openclip.checkpoints._read import OWN
from zhclip_openclip.families import Family, Model, all_families, find

logger = logging.getLogger(__name__)

OPEN_CLIP_CONFIG = "open_clip_config.json"
#: Stands before the name of a text tower in folders that stock open_clip cannot load; its error then shows the way out.
MISSING = "pip-install-zhclip-openclip/"
#: What open_clip's image transform is told of, out of a `preprocess_cfg`; the size follows the model.
_PREPROCESS = ("mean", "std", "interpolation", "resize_mode", "fill_color")


@dataclass
class Said:
    """What was found out, and from which file.

    model: the model of this package that the weights were saved from. quickgelu: the activation of the image tower.
    image_size: in pixels. context_length: in tokens. preprocess: in open_clip's terms, as far as anything says.
    by: who said it, by field.
    """

    model: str = ""
    quickgelu: bool | None = None
    image_size: int | None = None
    context_length: int | None = None
    preprocess: dict = field(default_factory=dict)
    by: dict[str, str] = field(default_factory=dict)

    def add(self, source: object, **told) -> None:
        """Take over what nothing before has said."""
        for key, value in told.items():
            if value not in (None, "", {}) and key not in self.by:
                setattr(self, key, value)
                self.by[key] = str(source)


def own_metadata(model: str, preprocess: Mapping, image_size: int | None, context_length: int | None) -> str:
    """What this package writes into the metadata of weights, as JSON."""
    kept = {key: preprocess[key] for key in _PREPROCESS if preprocess.get(key) is not None}
    told = {"model": model, "preprocess": kept, "image_size": image_size, "context_length": context_length}
    return json.dumps({key: value for key, value in told.items() if value is not None})


def add_own(said: Said, metadata: str, source: object) -> None:
    """Take over what :func:`own_metadata` wrote; what is none of it is nobody's word."""
    try:
        told = parse_json(metadata, source, CheckpointError)
    except CheckpointError as error:
        logger.warning("%s; what the weights say of themselves is not used", error)
        return
    if not isinstance(told, dict) or not isinstance(told.get("model"), str) or find(told["model"]) is None:
        return
    preprocess = told.get("preprocess")
    size, length = told.get("image_size"), told.get("context_length")
    said.add(
        source,
        model=told["model"],
        preprocess=_preprocess_cfg(preprocess) if isinstance(preprocess, dict) else {},
        image_size=size if isinstance(size, int) else None,
        context_length=length if isinstance(length, int) else None,
    )


def _preprocess_cfg(config: Mapping) -> dict:
    """The part of an open_clip `preprocess_cfg` that is not the size."""
    kept = {key: config[key] for key in _PREPROCESS if config.get(key) is not None}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in kept.items()}


def add_open_clip_config(said: Said, path: Path) -> None:
    """Take over an `open_clip_config.json`. Raises CheckpointError: it is no JSON object."""
    config = read_json(path, CheckpointError)
    model_cfg, preprocess_cfg = config.get("model_cfg"), config.get("preprocess_cfg")
    vision = _part(model_cfg, "vision_cfg")
    text = _part(model_cfg, "text_cfg")
    size = vision.get("image_size")
    said.add(
        path,
        model=model_of(config),
        image_size=size if isinstance(size, int) else None,
        context_length=text.get("context_length") if isinstance(text.get("context_length"), int) else None,
        preprocess=_preprocess_cfg(preprocess_cfg) if isinstance(preprocess_cfg, dict) else {},
    )


def _part(config, key: str) -> dict:
    value = config.get(key) if isinstance(config, dict) else None
    return value if isinstance(value, dict) else {}


def model_of(config: Mapping) -> str:
    """The model of this package that an `open_clip_config.json` describes; "" for anybody else's.

    It is named under the key `zhclip` where `zhclip convert` or open_clip's own writers made it with this package, and
    else known by its encoder, head and pooler, as the text tower itself is, and then by what else agrees; where the
    text tower is open_clip's own, by all that it says of both towers.
    """
    own = config.get(OWN)
    if isinstance(own, dict) and isinstance(own.get("model"), str) and find(own["model"]) is not None:
        return find(own["model"])[1].name
    model_cfg = config.get("model_cfg")
    text, vision = _part(model_cfg, "text_cfg"), _part(model_cfg, "vision_cfg")
    best, most = "", -1
    for family in all_families().values():
        for model in family.models:
            ours = model.config()
            if ours["text_cfg"].get("hf_model_name"):
                if _tower_key(ours["text_cfg"]) != _tower_key(text):
                    continue
            elif not _same_towers(ours, model_cfg):  # of open_clip's own parts, which others are made of as well
                continue
            agree = sum(
                (
                    2 * (ours.get("embed_dim") == model_cfg.get("embed_dim")),
                    2 * (bool(ours.get("quick_gelu")) == bool(model_cfg.get("quick_gelu"))),
                    *(vision.get(key) == value for key, value in ours["vision_cfg"].items()),
                )
            )
            if agree > most:
                best, most = model.name, agree
    return best


def _same_towers(ours: Mapping, theirs) -> bool:
    """Whether two model configs describe the same towers, key for key but for the place of the tokenizer."""

    def towers(config) -> dict:
        parts = {part: _part(config, part) for part in ("vision_cfg", "text_cfg")}
        return {part: {key: one[key] for key in one if key != "hf_tokenizer_name"} for part, one in parts.items()}

    same_width = isinstance(theirs, dict) and ours["embed_dim"] == theirs.get("embed_dim")
    return same_width and towers(ours) == towers(theirs)


def _tower_key(text: Mapping) -> tuple:
    name = text.get("hf_model_name")
    if isinstance(name, str) and name.startswith(MISSING):
        name = name.removeprefix(MISSING).replace("--", "/")
    return name, text.get("hf_proj_type"), text.get("hf_pooler_type")


#: What `params.txt` of an open_clip_train run says, and what that is called here.
_PARAMS = {
    "force_image_size": "image_size",
    "force_context_length": "context_length",
    "force_quick_gelu": "quickgelu",
}
_PARAMS_PREPROCESS = {
    "image_mean": "mean",
    "image_std": "std",
    "image_interpolation": "interpolation",
    "image_resize_mode": "resize_mode",
}


def params(place: Place) -> Path | None:
    """`params.txt` of the run of open_clip_train that wrote the weights (into its folder `checkpoints`), or None.

    A repository of the hub is not asked: a run lies on a disk.
    """
    if not isinstance(place, Folder):
        return None
    above = place.get("../params.txt") if str(place).endswith("checkpoints") else None
    return place.get("params.txt") or above


def read_params(path: Path) -> dict[str, object]:
    """The options of a training run, from the lines `name: value` that open_clip_train writes.

    Raises CheckpointError: it cannot be read. Lines of another form are passed over.
    """
    result: dict[str, object] = {}
    with reading(path, CheckpointError):
        for line in path.read_text(encoding="utf-8").splitlines()[:1000]:
            name, colon, value = line.partition(": ")
            if not colon:
                continue
            try:
                result[name.strip()] = ast.literal_eval(value.strip())
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                result[name.strip()] = value.strip()
    return result


def add_params(said: Said, path: Path) -> dict[str, object]:
    """Take over what a training run was told of sizes and preprocessing, and return all that it was told."""
    told = read_params(path)
    values = {}
    for theirs, ours in _PARAMS.items():
        value = told.get(theirs)
        if isinstance(value, (list, tuple)) and len(set(value)) == 1:
            value = value[0]
        if isinstance(value, int) and value:
            values[ours] = bool(value) if ours == "quickgelu" else value
    preprocess = {ours: told[theirs] for theirs, ours in _PARAMS_PREPROCESS.items() if told.get(theirs)}
    said.add(path, **values, preprocess={k: tuple(v) if isinstance(v, list) else v for k, v in preprocess.items()})
    return told


def add_hugging_face(said: Said, place: Place, image_size: int | None, lenient: bool = False) -> Path | None:
    """Take over `config.json`, and `processor_config.json` or `preprocessor_config.json`, and return the first.

    image_size and lenient: see :func:`_config.preprocessing`.
    """
    config = place.get("config.json")
    if config:
        said.add(config, quickgelu=_config.is_quickgelu(config))
    found = preprocessor(place)
    if found:
        path, told = found
        said.add(path, preprocess=_config.preprocessing(path, told, image_size, lenient))
    return config


def preprocessor(place: Place) -> tuple[Path, dict] | None:
    """What describes the image preprocessing, and where.

    transformers 5 writes it into `processor_config.json`, which it believes first (image_processing_base.py), and its
    image processor alone still into `preprocessor_config.json`.
    """
    path = place.get("processor_config.json")
    if path:
        nested = read_json(path, CheckpointError).get("image_processor")
        if isinstance(nested, dict):
            return path, nested
    path = place.get("preprocessor_config.json")
    return (path, read_json(path, CheckpointError)) if path else None


def follow(family: Family, model: Model, said: Said) -> Model:
    """The model to build: the QuickGELU twin of `model` where the files say so, `model` itself otherwise.

    A twin that was asked for by its name stays, with a warning where the files say otherwise.
    """
    twin = next((other for other in family.models if other.name == model.quickgelu), None)
    plain = next((other for other in family.models if other.quickgelu == model.name), None)
    if twin is None and plain is None:
        return model
    quick, by = said.quickgelu, said.by.get("quickgelu")
    if said.model in {model.name, getattr(twin, "name", None), getattr(plain, "name", None)}:
        quick, by = said.model == (twin or model).name, said.by["model"]
    if twin is not None:
        if quick:
            return twin
        if quick is None:
            warnings.warn(
                f"nothing with these weights says which activation they were trained with: {model.name} is built, with "
                f"GELU. If they were trained with QuickGELU, name {twin.name}; the config.json that was published with "
                "them, put beside them, decides it"
            )
        return model
    if quick is False:
        warnings.warn(f"{model.name} is built with QuickGELU as its name says, and {by} says gelu")
    return model
