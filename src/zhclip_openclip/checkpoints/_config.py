"""What the `config.json` and `preprocessor_config.json` beside a checkpoint say, held against the model."""

from __future__ import annotations

import warnings
from pathlib import Path

from zhclip_openclip._errors import CheckpointError
from zhclip_openclip._reading import read_json
from zhclip_openclip.checkpoints._load import model_facts
from zhclip_openclip.families import find
from zhclip_openclip.families._family import OPENAI_MEAN, OPENAI_STD

_QUICK = "quick_gelu"
#: transformers' configs whose image tower has QuickGELU where they say nothing: it writes what differs from that.
_QUICK_UNSAID = {"clip_vision_model", "altclip_vision_model", "chinese_clip_vision_model"}


def towers(config: dict, part: str = "") -> tuple[dict, dict]:
    """The image and the text part of a Hugging Face CLIP config.

    ZH-CLIP may hold a whole CLIP config as image part. part: "text" for the config of a text tower that stands alone,
    "image" for that of a CLIP model of which only the image tower counts.
    """
    image = _object(config.get("vision_config"))
    image = _object(image.get("vision_config")) or image
    text = _object(config.get("text_config"))
    if part == "text":
        return {}, text or config
    if image.get("model_type") in _QUICK_UNSAID and image.get("hidden_act") is None:
        image = {**image, "hidden_act": _QUICK}
    return image, {} if part == "image" else text


def _object(value) -> dict:
    return value if isinstance(value, dict) else {}


def check(path: Path, name: str, part: str = "", image_size: int | None = None) -> None:
    """Hold a `config.json` against model `name`: sizes, depth, heads, vocabulary, activation, epsilon.

    part: "text" or "image" where the file beside it holds that tower only. image_size: the one that was asked for, in
    place of the model's own: positions are interpolated to it, so the file's is not held against it. The activation of
    the image tower is not checked where a family has a twin for either: there it decides which one is built.

    Raises CheckpointError: each key with both values.
    """
    facts = model_facts().get(name)
    if facts is None:
        return
    config = read_json(path, CheckpointError)
    image, text = towers(config, part)
    tower = dict(facts["image_tower"])
    if image_size is not None:
        tower.pop("image_size", None)
    found = find(name)
    if found and any(model.quickgelu for model in found[0].models) and image.get("hidden_act") in (_QUICK, "gelu"):
        tower.pop("hidden_act", None)
    wrong = []
    for where, said, built in (
        ("vision_config", image, tower),
        ("text_config" if "text_config" in config else "", text, facts["text_tower"]),
        ("", config, {"projection_dim": facts["embed_dim"], "numDims": facts["embed_dim"]}),
    ):
        for key, value in built.items():
            if key in said and said[key] is not None and said[key] != value:
                wrong.append(f"{where + '.' if where else ''}{key} is {said[key]!r} and {name} has {value!r}")
    if wrong:
        raise CheckpointError(f"{path} contradicts {name}: {'; '.join(wrong)}")


def is_quickgelu(path: Path) -> bool | None:
    """Whether the image tower's activation is QuickGELU; None where the config does not say, or SigLIP's."""
    act = towers(read_json(path, CheckpointError))[0].get("hidden_act")
    if act in (None, "gelu_pytorch_tanh"):  # the second is none of a pair of twins
        return None
    if act not in (_QUICK, "gelu"):
        raise CheckpointError(f"{path}: vision_config.hidden_act is {act!r}; known are 'gelu' and 'quick_gelu'")
    return act == _QUICK


#: PIL's resampling filters by number, as preprocessor_config.json has them.
_FILTERS = {2: "bilinear", 3: "bicubic"}


def preprocessing(path: Path, config: dict, image_size: int | None, lenient: bool = False) -> dict:
    """The preprocessing that transformers' image processor does, in open_clip's terms.

    path: the file, for messages. config: what it says. image_size: what the model takes, in pixels; None where a size
        was asked for, which the transform then follows. lenient: what open_clip's transform cannot do is a warning and
        not an error: the caller gives a preprocessing of his own.

    Returns mean, std, interpolation and resize_mode, as far as the file names them; null is the same as not named.
    Raises CheckpointError: something that open_clip's image transform cannot do, each thing with its key.
    """
    wrong: list[str] = []
    result: dict = {}
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if config.get(theirs) is not None:
            values = _three(config[theirs])
            if values is None:
                wrong.append(f"{theirs} is {config[theirs]!r}, neither a number nor three")
            else:
                result[ours] = values
    scale = config.get("rescale_factor")
    if config.get("do_rescale") is False:
        wrong.append("do_rescale is false, and open_clip's pixels are between 0 and 1")
    elif isinstance(scale, (int, float)) and scale > 0 and abs(scale * 255 - 1) > 1e-6:
        # transformers computes (v * scale - mean) / std of a byte v, open_clip (v / 255 - mean) / std.
        constants = {"mean": OPENAI_MEAN, "std": OPENAI_STD, **result}
        result = {name: tuple(value / (scale * 255) for value in values) for name, values in constants.items()}
    if config.get("do_normalize") is False:
        result["mean"], result["std"] = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if config.get("resample") is not None:
        if config["resample"] in _FILTERS:
            result["interpolation"] = _FILTERS[config["resample"]]
        else:
            wrong.append(f"resample is {config['resample']!r}; known are 2 (bilinear) and 3 (bicubic)")
    if config.get("do_resize") is False:
        wrong.append("do_resize is false, and open_clip resizes every picture")
    else:
        mode, problem = _resizing(config, image_size)
        if mode:
            result["resize_mode"] = mode
        if problem:
            wrong.append(problem)
    if wrong:
        told = f"{path}: {'; '.join(wrong)}"
        if not lenient:
            raise CheckpointError(
                f"{told}. To load the weights with another preprocessing give image_resize_mode or image_mean, or take "
                "the file away"
            )
        warnings.warn(f"{told}: not obeyed, the preprocessing that was given is used")
    return result


def _three(value) -> tuple[float, float, float] | None:
    """A value for each channel; transformers takes one number for all."""
    values = [value] * 3 if isinstance(value, (int, float)) else value
    if not isinstance(values, (list, tuple)) or len(values) != 3:
        return None
    return tuple(values) if all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in values) else None


def _resizing(config: dict, image_size: int | None) -> tuple[str, str]:
    """open_clip's resize mode for `size` and `crop_size`, and what it cannot do about them."""
    size = config.get("size")
    if size is None:
        return "", ""
    edge = size.get("shortest_edge") if isinstance(size, dict) else size
    if isinstance(edge, int):
        crop = config.get("crop_size")
        crop = edge if crop is None else crop.get("height") if isinstance(crop, dict) else crop
        if edge != crop or edge != (image_size or edge):
            return "", f"resizes to {edge} and crops {crop}, and the model takes {image_size or crop}"
        return "shortest" if config.get("do_center_crop") is not False else "squash", ""
    if isinstance(size, dict) and "height" in size:
        height, width = size["height"], size.get("width")
        if height != width or height != (image_size or height):
            return "", f"resizes to {height} x {width}, and the model takes {image_size or height} pixels a side"
        return "squash", ""
    return "", f"size is {size!r}: open_clip has no such way of resizing"
