"""From what a user gives as `pretrained` to a checkpoint that is known to be of the right family."""

from __future__ import annotations

import difflib
import logging
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

from zhclip_openclip._errors import CheckpointError
from zhclip_openclip.checkpoints import _beside, _config, _files, _load, _read
from zhclip_openclip.checkpoints._place import Folder, Place, Repository
from zhclip_openclip.families import Family, Model, Tag, all_families

logger = logging.getLogger(__name__)

HUB = "hf-hub:"


@dataclass
class Checkpoint:
    """Weights for a model, found and recognised, not yet read.

    model: the model to build for them, which the files beside them may have made the QuickGELU twin of the one asked
        for, or their shapes one of its `sizes`.
    pieces: the file asked for, and the file with the image tower where that is published apart.
    preprocess: what lies with the weights says of the image preprocessing.
    image_size, context_length: to build the model with, where they are not its own; None otherwise.
    held_size: the image size that the position embeddings in the files are made for; None where they do not say.
    """

    model: Model
    pieces: list[_load.Piece]
    preprocess: dict
    image_size: int | None = None
    context_length: int | None = None
    held_size: int | None = None

    @property
    def weights(self) -> _read.Weights:
        """The file that was asked for."""
        return self.pieces[0].weights


@dataclass(frozen=True)
class Asked:
    """What the caller of `create_model` asks for beside the weights, which goes before what lies with them.

    image_size: `force_image_size`: positions are interpolated to it. preprocess: whether a preprocessing is given.
    """

    image_size: int | tuple[int, int] | None = None
    preprocess: bool = False


def clean_tag(tag: str) -> str:
    """A tag in the spelling of the table, as open_clip cleans it."""
    return tag.lower().replace("-", "_")


def repository_of(repo: str) -> tuple[Family, Model, str] | None:
    """The model and the tag whose weights the hub's repository `repo` publishes."""
    for family in all_families().values():
        for model in family.models:
            for name, tag in model.tags.items():
                if tag.repo and tag.repo.lower() == repo.lower():
                    return family, model, name
    return None


def find_tag(model: Model, pretrained: str) -> Tag | None:
    """The tag of `model` that is named, by its name or by its repository on the hub (`org/name`, `hf-hub:org/name`)."""
    tag = model.tags.get(clean_tag(pretrained))
    if tag is None and "/" in pretrained and _files.existing(pretrained) is None:
        repo = pretrained.removeprefix(HUB)
        tag = next((tag for tag in model.tags.values() if tag.repo.lower() == repo.lower()), None)
    return tag


def where(model: Model, pretrained: str, cache_dir: str | None = None) -> tuple[Place, Tag | None, Path | None]:
    """Where `pretrained` is: its place, its tag if it is one, and its file if it is a path.

    Raises CheckpointError: neither a tag, a path, nor a repository; what was meant, where that can be told.
    DownloadError: a tag whose weights are not on the hub, nor here.
    """
    tag = find_tag(model, pretrained)
    if tag is not None and tag.host:
        path = _files.of_other_host(tag)
        return Folder(path.parent), tag, path
    if tag is not None:
        return (Folder(None) if tag.path else Repository(tag.repo, cache_dir)), tag, tag.path
    if pretrained.startswith(HUB):
        repo = pretrained.removeprefix(HUB)
        _refuse_repository(model, repo)
        return Repository(repo, cache_dir), None, None
    path = _files.located(pretrained)
    if path is None:
        raise CheckpointError(_no_such(model, pretrained))
    return Folder(path.parent), None, path


def resolve(
    family: Family, model: Model, pretrained: str, cache_dir: str | None = None, asked: Asked | None = None
) -> Checkpoint:
    """Find `pretrained`, a tag, a file, a folder or a repository (`hf-hub:org/name`), and recognise it.

    Raises CheckpointError and DownloadError as the steps do.
    """
    asked = asked or Asked()
    place, tag, path = where(model, str(pretrained), cache_dir)
    if path is None:
        files = tag.files if tag else _files.WEIGHTS
        # Before the large file: what is needed later too fails at once, and says all that is needed.
        place.get("config.json", also=files)
        path = _files.fetch(place.repo, files, cache_dir)
    piece = recognise(path, family, model)
    return _put_together(family, model, piece, place, tag, asked, cache_dir)


def recognise(path: Path, family: Family, model: Model) -> _load.Piece:
    """Read names and shapes of the file at `path`. Raises CheckpointError: it is of no family, or of another one."""
    weights = _read.read(path)
    found, layout = _load.recognise(weights, model.name)
    piece = _load.Piece(weights, layout)
    _load.refuse_other_family(piece, found, family, model)
    return piece


def for_model(path: Path, family: Family, model: Model, image_size: int | None, cache_dir=None) -> Checkpoint:
    """The file at `path` for a model that is built already, as `load_checkpoint` is given it.

    image_size: the model's. Raises CheckpointError: what lies with the file asks for the model's QuickGELU twin, or the
    file is of another of its `sizes`.
    """
    piece = recognise(path, family, model)
    checkpoint = _put_together(family, model, piece, Folder(path.parent), None, Asked(image_size, True), cache_dir)
    if checkpoint.model.name != model.name:
        what = "image tower" if checkpoint.model.name in model.sizes else "activation"
        raise CheckpointError(
            f"{path} holds weights of {checkpoint.model.name}, and the model was built as {model.name}, with another "
            f"{what}: open_clip.create_model({checkpoint.model.name!r}, pretrained=...)"
        )
    return checkpoint


def _put_together(
    family: Family, model: Model, piece: _load.Piece, place: Place, tag: Tag | None, asked: Asked, cache_dir
) -> Checkpoint:
    """Decide by what lies with the weights: model, sizes, preprocessing; find the image tower if it is apart."""
    model = _of_its_size(family, model, piece)
    said = _beside.Said()
    if own := piece.weights.own:
        _beside.add_own(said, own, piece.weights.path)
    configs: list[tuple[Path, str]] = []
    own_size = model.config()["vision_cfg"].get("image_size", 224)
    pieces = [piece]
    if piece.layout.part == "text":
        image, image_place = _image_tower(family, model, tag, place, cache_dir)
        pieces.append(image)
    held = next((size for one in pieces if (size := _size_of_positions(one)) is not None), None)
    # What is said of the size of pictures is held against the weights; loading holds these against the model.
    size = None if asked.image_size else held or own_size
    if piece.layout is _load.OPEN_CLIP:
        if (path := place.get(_beside.OPEN_CLIP_CONFIG)) is not None:
            _beside.add_open_clip_config(said, path)
        if (path := _beside.params(place)) is not None:
            told = _beside.add_params(said, path)
            _follow_run(said, family, model, told, path)
        _activation_of_neighbour(said, family, model, place)
    elif piece.layout.part == "text":  # what is said of pictures lies with the image tower
        if config := place.get("config.json"):
            configs.append((config, "text"))
        if config := _beside.add_hugging_face(said, image_place, size, asked.preprocess):
            configs.append((config, "image"))
    else:
        if config := _beside.add_hugging_face(said, place, size, asked.preprocess):
            configs.append((config, piece.layout.part))
        if (path := _beside.params(place)) is not None:
            _beside.add_params(said, path)
    model = _beside.follow(family, model, said)
    image_size = _image_size(model, pieces, held, said, asked, own_size)
    for config, part in configs:
        _config.check(config, model.name, part, image_size or (own_size if asked.image_size else None))
    length = said.context_length
    own_length = model.config()["text_cfg"].get("context_length", 77)
    length = length if length not in (None, own_length) else None
    return Checkpoint(model, pieces, said.preprocess, image_size, length, held)


def _of_its_size(family: Family, model: Model, piece: _load.Piece) -> Model:
    """The one of `model` and its `sizes` whose image tower is as wide, before and after its projection, as that in the
    file; `model` where none is, which loading then tells."""
    held = _load.planned_shapes(piece.layout, piece.weights.shapes).get("visual.proj") if model.sizes else None
    for name in (model.name, *model.sizes) if held else ():
        facts = _load.model_facts().get(name)
        if facts and held == (facts["image_tower"]["hidden_size"], facts["embed_dim"]):
            return next(other for other in family.models if other.name == name)
    return model


def _follow_run(said: _beside.Said, family: Family, model: Model, told: dict, path: Path) -> None:
    """The activation of a training run that began from weights which decided it (`--pretrained` in `params.txt`)."""
    began = told.get("pretrained")
    if "quickgelu" in said.by or not isinstance(began, str) or not began or not _has_twin(family, model):
        return
    before = _beside.Said()
    try:
        place, *_ = where(model, began)
        if isinstance(place, Folder):
            if config := place.get(_beside.OPEN_CLIP_CONFIG):
                _beside.add_open_clip_config(before, config)
            elif config := place.get("config.json"):
                before.add(config, quickgelu=_config.is_quickgelu(config))
        elif (config := _files.cached(place.repo, ["config.json"])) is not None:
            before.add(config, quickgelu=_config.is_quickgelu(config))
    except CheckpointError as error:
        logger.info("%s names --pretrained %s, which cannot be asked: %s", path, began, error)
        return
    for key, by in before.by.items():
        if key in ("quickgelu", "model"):
            said.add(by, **{key: getattr(before, key)})


def _activation_of_neighbour(said: _beside.Said, family: Family, model: Model, place: Place) -> None:
    """For weights in open_clip's names, the activation in a `config.json` beside them, which may be anybody's: it
    counts where it contradicts the model in nothing else."""
    if said.by.keys() & {"model", "quickgelu"} or not _has_twin(family, model):
        return
    config = place.get("config.json") if isinstance(place, Folder) else None
    if config is None:
        return
    try:
        _config.check(config, model.name)
        said.add(config, quickgelu=_config.is_quickgelu(config))
    except CheckpointError as error:
        logger.info("not used: %s", error)


def _has_twin(family: Family, model: Model) -> bool:
    return bool(model.quickgelu) or any(other.quickgelu == model.name for other in family.models)


def _image_size(
    model: Model, pieces: list[_load.Piece], held: int | None, said: _beside.Said, asked: Asked, own_size: int
) -> int | None:
    """The image size to build the model with, where it is not the model's own.

    Positions are interpolated only where a size is asked for. Weights of another size are built as they are, if a file
    beside them says so or no model of the family is made for it; where one is, loading names it.
    """
    if asked.image_size is not None or held in (None, own_size):
        return None
    if said.image_size == held:
        return held
    if any(_load.fitting_models(piece) for piece in pieces):
        return None
    warnings.warn(
        f"{pieces[-1].weights.path} holds positions for images of {held} pixels, and {model.name} is made for "
        f"{own_size}: it is built for {held}. force_image_size={own_size} interpolates them"
    )
    return held


def _size_of_positions(piece: _load.Piece) -> int | None:
    """The image size in pixels that the position embeddings of a file are made for; None where they do not say."""
    shapes = _load.planned_shapes(piece.layout, piece.weights.shapes)
    for name, patch in (
        ("visual.positional_embedding", "visual.conv1.weight"),
        ("visual.trunk.pos_embed", "visual.trunk.patch_embed.proj.weight"),
        ("visual.attnpool.positional_embedding", ""),
    ):
        if name not in shapes or len(shapes[name]) < 2 or shapes[name][-2] < 2:
            continue
        side = math.isqrt(shapes[name][-2] - 1)
        if side * side + 1 != shapes[name][-2]:
            return None
        # A ResNet halves its image five times before it looks at positions.
        width = shapes[patch][-1] if patch in shapes and shapes[patch] else 32
        return side * width if not patch or patch in shapes else None
    return None


def _image_tower(
    family: Family, model: Model, tag: Tag | None, text: Place, cache_dir: str | None
) -> tuple[_load.Piece, Place]:
    """The image tower from its own source, and that source.

    tag: whose source; the first of the model's that has one if None. text: where the text tower is: an image tower that
    was written beside it comes first.
    """
    if isinstance(text, Folder) and text.path and (folder := _files.image_tower_beside(text.path)):
        weights = _read.read(_files.weights_in(folder))
        return _load.Piece(weights, _load.recognise_image(weights, family)), Folder(folder)
    sources = [tag] if tag else list(model.tags.values())
    source = next(source for source in sources if source.image_repo)
    place = Repository(source.image_repo, cache_dir)
    place.get("config.json", also=source.image_files)
    path = _files.fetch(source.image_repo, source.image_files, cache_dir)
    weights = _read.read(path)
    return _load.Piece(weights, _load.recognise_image(weights, family)), place


def _refuse_repository(model: Model, repo: str) -> None:
    found = repository_of(repo)
    if found is not None:
        raise CheckpointError(f"{repo} on the hub is {found[1].name}, tag {found[2]}, and not {model.name}")


def _no_such(model: Model, given: str) -> str:
    if found := repository_of(given):
        return f"pretrained={given!r} is the repository of {found[1].name}, tag {found[2]}, and not of {model.name}"
    tags = list(model.tags)
    close = difflib.get_close_matches(clean_tag(given), tags, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    looks_like_path = "/" in given or "\\" in given or Path(given).suffix in (".pt", ".bin", ".safetensors", ".pth")
    what = "does not exist" if looks_like_path else "is neither a tag nor a file or folder that exists"
    return f"pretrained={given!r} {what}; the tags of {model.name} are {', '.join(tags)}{hint}"
