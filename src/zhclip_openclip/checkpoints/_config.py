"""What the `config.json` and `preprocessor_config.json` beside a checkpoint say, held against the model."""

from __future__ import annotations

import json
from pathlib import Path

from zhclip_openclip._errors import CheckpointError
from zhclip_openclip.checkpoints._load import model_facts
from zhclip_openclip.families import find

_QUICK = "quick_gelu"


def read_json(path: Path) -> dict:
    """A JSON object from a file. Raises CheckpointError with file, line and column."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}, line {error.lineno}, column {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not an object")
    return content


def towers(config: dict, part: str = "") -> tuple[dict, dict]:
    """The image and the text part of a Hugging Face CLIP config.

    ZH-CLIP may hold a whole CLIP config as image part. part: "text" for the config of a text tower that stands alone,
    "image" for that of a CLIP model of which only the image tower counts.
    """
    image = config.get("vision_config") or {}
    image = image.get("vision_config") or image
    text = config.get("text_config") or {}
    if part == "text":
        return {}, text or config
    return image, {} if part == "image" else text


def check(path: Path, name: str, part: str = "") -> None:
    """Hold a `config.json` against model `name`: sizes, depth, heads, vocabulary, activation, epsilon.

    part: "text" or "image" where the file beside it holds that tower only. The activation of the image tower is not
    checked where a family has a twin for either: there it decides which one is built.

    Raises CheckpointError: each key with both values.
    """
    facts = model_facts().get(name)
    if facts is None:
        return
    config = read_json(path)
    image, text = towers(config, part)
    tower = dict(facts["image_tower"])
    found = find(name)
    if found and any(model.quickgelu for model in found[0].models):
        tower.pop("hidden_act", None)
    wrong = []
    for where, said, built in (
        ("vision_config", image, tower),
        ("text_config" if "text_config" in config else "", text, facts["text_tower"]),
        ("", config, {"projection_dim": facts["embed_dim"], "numDims": facts["embed_dim"]}),
    ):
        for key, value in built.items():
            if key in said and said[key] is not None and said[key] != value:
                wrong.append(f"{where + '.' if where else ''}{key} is {said[key]} and {name} has {value}")
    if wrong:
        raise CheckpointError(f"{path} contradicts {name}: {'; '.join(wrong)}")


def is_quickgelu(path: Path) -> bool | None:
    """Whether the image tower's activation is QuickGELU; None where the config does not say."""
    act = towers(read_json(path))[0].get("hidden_act")
    if act is None:
        return None
    if act not in (_QUICK, "gelu"):
        raise CheckpointError(f"{path}: vision_config.hidden_act is {act!r}; known are 'gelu' and 'quick_gelu'")
    return act == _QUICK


#: PIL's resampling filters by number, as preprocessor_config.json has them.
_FILTERS = {2: "bilinear", 3: "bicubic"}


def preprocessing(path: Path, image_size: int) -> dict:
    """The preprocessing that a `preprocessor_config.json` describes, in open_clip's terms.

    Returns mean, std, interpolation and resize_mode, as far as the file names them. Raises CheckpointError: something
    that open_clip's image transform cannot do.
    """
    config = read_json(path)
    result: dict = {}
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if config.get(theirs) is not None:
            result[ours] = tuple(config[theirs])
    if "resample" in config:
        if config["resample"] not in _FILTERS:
            raise CheckpointError(f"{path}: resample is {config['resample']}; known are 2 (bilinear) and 3 (bicubic)")
        result["interpolation"] = _FILTERS[config["resample"]]
    size = config.get("size")
    edge = size.get("shortest_edge") if isinstance(size, dict) else size
    if isinstance(edge, int):
        crop = config.get("crop_size", edge)
        crop = crop.get("height") if isinstance(crop, dict) else crop
        if (edge, crop) != (image_size, image_size):
            raise CheckpointError(f"{path}: resizes to {edge} and crops {crop}, and the model takes {image_size}")
        result["resize_mode"] = "shortest" if config.get("do_center_crop", True) else "squash"
    elif isinstance(size, dict) and "height" in size:
        if (size["height"], size.get("width")) != (image_size, image_size):
            raise CheckpointError(f"{path}: resizes to {size}, and the model takes {image_size} x {image_size}")
        result["resize_mode"] = "squash"
    return result
