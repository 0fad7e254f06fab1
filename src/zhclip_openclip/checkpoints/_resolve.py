"""From what a user gives as `pretrained` to a checkpoint that is known to be of the right family."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zhclip_openclip._errors import CheckpointError
from zhclip_openclip.checkpoints import _config, _files, _load, _read
from zhclip_openclip.families import Family, Model, Tag


@dataclass
class Checkpoint:
    """Weights for a model, found and recognised, not yet read.

    model: the model to build for them, which a `config.json` may have made the QuickGELU twin of the one asked for.
    pieces: the file asked for, and the file with the image tower where that is published apart.
    preprocess: what the files beside the weights say of the image preprocessing.
    """

    model: Model
    pieces: list[_load.Piece]
    preprocess: dict

    @property
    def weights(self) -> _read.Weights:
        """The file that was asked for."""
        return self.pieces[0].weights

    @property
    def folder(self) -> Path:
        """Where files that belong to the weights may be found."""
        return self.weights.path.parent


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
        path = _files.located(pretrained)
        if path is None:
            raise CheckpointError(_no_such(model, str(pretrained)))
        config, preprocessor = path.parent / "config.json", path.parent / "preprocessor_config.json"
    piece = recognise(path, family, model)
    preprocess: dict = {}
    # A file that open_clip wrote needs no config.json to be understood, and one beside it may be anybody's.
    if piece.layout is not _load.OPEN_CLIP and config and config.is_file():
        model = _follow_activation(family, model, config)
        _config.check(config, model.name, piece.layout.part)
    pieces = [piece]
    if piece.layout.part == "text":
        image, config, preprocessor = _image_tower(family, model, tag, cache_dir)
        pieces.append(image)
        if config and config.is_file():
            _config.check(config, model.name, "image")
    if piece.layout is not _load.OPEN_CLIP and preprocessor and preprocessor.is_file():
        preprocess = _config.preprocessing(preprocessor, model.config()["vision_cfg"].get("image_size", 224))
    return Checkpoint(model, pieces, preprocess)


def recognise(path: Path, family: Family, model: Model) -> _load.Piece:
    """Read names and shapes of the file at `path`. Raises CheckpointError: it is of no family, or of another one."""
    weights = _read.read(path)
    found, layout = _load.recognise(weights)
    piece = _load.Piece(weights, layout)
    _load.refuse_other_family(piece, found, family, model)
    return piece


def complete(path: Path, family: Family, model: Model, cache_dir: str | None = None) -> list[_load.Piece]:
    """The file at `path`, and the image tower from its own source where the file holds the text tower alone."""
    piece = recognise(path, family, model)
    if piece.layout.part != "text":
        return [piece]
    return [piece, _image_tower(family, model, None, cache_dir)[0]]


def _published(tag: Tag, cache_dir: str | None) -> tuple[Path, Path | None, Path | None]:
    """Weights, config.json and preprocessor_config.json of a tag; the small files first, since they are needed too."""
    if tag.path is not None:
        return tag.path, None, None
    return _from_hub(tag.repo, tag.files, cache_dir)


def _from_hub(repo: str, files: Sequence[str], cache_dir: str | None) -> tuple[Path, Path | None, Path | None]:
    config = _files.fetch(repo, ["config.json"], cache_dir, optional=True, also=files)
    preprocessor = _files.fetch(repo, ["preprocessor_config.json"], cache_dir, optional=True)
    return _files.fetch(repo, files, cache_dir), config, preprocessor


def _image_tower(
    family: Family, model: Model, tag: Tag | None, cache_dir: str | None
) -> tuple[_load.Piece, Path | None, Path | None]:
    """The image tower from its own source, with its config.json and preprocessor_config.json.

    tag: whose source; the first of the model's that has one if None.
    """
    sources = [tag] if tag else list(model.tags.values())
    source = next(source for source in sources if source.image_repo)
    path, config, preprocessor = _from_hub(source.image_repo, source.image_files, cache_dir)
    weights = _read.read(path)
    return _load.Piece(weights, _load.recognise_image(weights, family)), config, preprocessor


def _follow_activation(family: Family, model: Model, config: Path) -> Model:
    """The QuickGELU twin, where the config asks for it; a twin that was asked for by its name stays, with a warning."""
    said = _config.is_quickgelu(config) if model.quickgelu or _is_twin(family, model) else None
    if said and model.quickgelu:
        return next(twin for twin in family.models if twin.name == model.quickgelu)
    if said is False and _is_twin(family, model):
        warnings.warn(f"{model.name} is built with QuickGELU as its name says, and {config} says gelu")
    return model


def _is_twin(family: Family, model: Model) -> bool:
    return any(other.quickgelu == model.name for other in family.models)


def _no_such(model: Model, given: str) -> str:
    tags = list(model.tags)
    close = difflib.get_close_matches(clean_tag(given), tags, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    looks_like_path = "/" in given or "\\" in given or Path(given).suffix in (".pt", ".bin", ".safetensors", ".pth")
    what = "does not exist" if looks_like_path else "is neither a tag nor a file or folder that exists"
    return f"pretrained={given!r} {what}; the tags of {model.name} are {', '.join(tags)}{hint}"
