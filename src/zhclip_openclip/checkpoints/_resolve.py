"""From what a user gives as `pretrained` to a checkpoint that is known to be of the right family."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from zhclip_openclip._errors import CheckpointError
from zhclip_openclip.checkpoints import _config, _files, _load, _read
from zhclip_openclip.families import Family, Layout, Model, Tag


@dataclass
class Checkpoint:
    """Weights for a model, found and recognised, not yet read.

    model: the model to build for them, which a `config.json` may have made the QuickGELU twin of the one asked for.
    preprocess: what the files beside the weights say of the image preprocessing.
    folder: where files that belong to the weights may be found.
    """

    model: Model
    weights: _read.Weights
    layout: Layout
    preprocess: dict
    folder: Path


def clean_tag(tag: str) -> str:
    """A tag in the spelling of the table, as open_clip cleans it."""
    return tag.lower().replace("-", "_")


def resolve(family: Family, model: Model, pretrained: str, cache_dir: str | None = None) -> Checkpoint:
    """Find `pretrained`, a tag, a file or a folder, and recognise it.

    Raises CheckpointError and DownloadError as the steps do.
    """
    tag = model.tags.get(clean_tag(str(pretrained)))
    if tag is not None:
        path, config, preprocessor = _published(tag, cache_dir)
    else:
        path = Path(pretrained).expanduser()
        if path.is_dir():
            path = _files.weights_in(path)
        elif not path.is_file():
            raise CheckpointError(_no_such(model, str(pretrained)))
        config, preprocessor = path.parent / "config.json", path.parent / "preprocessor_config.json"
    weights = _read.read(path)
    found, layout = _load.recognise(weights)
    _load.refuse_other_family(weights, found, layout, family, model)
    preprocess: dict = {}
    # A file that open_clip wrote needs no config.json to be understood, and one beside it may be anybody's.
    if layout is not _load.OPEN_CLIP:
        if config and config.is_file():
            model = _follow_activation(family, model, config)
            _config.check(config, model.name)
        if preprocessor and preprocessor.is_file():
            preprocess = _config.preprocessing(preprocessor, model.config()["vision_cfg"].get("image_size", 224))
    return Checkpoint(model, weights, layout, preprocess, path.parent)


def _published(tag: Tag, cache_dir: str | None) -> tuple[Path, Path | None, Path | None]:
    """Weights, config.json and preprocessor_config.json of a tag; the small files first, since they are needed too."""
    if tag.path is not None:
        return tag.path, None, None
    config = _files.fetch(tag.repo, ["config.json"], cache_dir, optional=True)
    preprocessor = _files.fetch(tag.repo, ["preprocessor_config.json"], cache_dir, optional=True)
    return _files.fetch(tag.repo, tag.files, cache_dir), config, preprocessor


def _follow_activation(family: Family, model: Model, config: Path) -> Model:
    """The QuickGELU twin, where the config asks for it."""
    if model.quickgelu and _config.is_quickgelu(config):
        return next(twin for twin in family.models if twin.name == model.quickgelu)
    return model


def _no_such(model: Model, given: str) -> str:
    tags = list(model.tags)
    close = difflib.get_close_matches(clean_tag(given), tags, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    looks_like_path = "/" in given or "\\" in given or Path(given).suffix in (".pt", ".bin", ".safetensors", ".pth")
    what = "does not exist" if looks_like_path else "is neither a tag nor a file or folder that exists"
    return f"pretrained={given!r} {what}; the tags of {model.name} are {', '.join(tags)}{hint}"
