"""Which models a reproduction is asked for, and where their weights are."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from zhclip_openclip._content import Content
from zhclip_openclip._errors import CheckpointError, ZhclipError
from zhclip_openclip.checkpoints import _files, _load, _open_clip_models, _read
from zhclip_openclip.checkpoints._resolve import clean_tag
from zhclip_openclip.families import Model, all_names, find
from zhclip_openclip.families._collections import SYSTEMS
from zhclip_openclip.towers import text_handling

_BYTES_A_PARAMETER = 4  # nearly all published files are fp32


@dataclass(frozen=True)
class Weights:
    """A model with a tag, and where its weights are.

    model: canonical name. pretrained: a tag, or a file or folder. checkpoint: SHA-256 of such a file, or None.
    here: whether nothing has to be fetched. bytes: of its weights; an estimate where they are not here. source: where
    they come from. image_source: where the image tower comes from, if other models have the same; "" otherwise.
    """

    model: str
    pretrained: str
    here: bool
    bytes: int
    source: str
    checkpoint: str | None = None
    image_source: str = ""

    @property
    def ours(self) -> bool:
        """Whether it is a model of this package, or one of open_clip's own."""
        return find(self.model) is not None

    @property
    def has_two_handlings(self) -> bool:
        """Whether its authors feed Chinese text to it in another way than open_clip does."""
        return not self.ours and text_handling.of_authors(self.model) is not None

    @property
    def title(self) -> str:
        return f"{self.model} ({self.pretrained})"

    def content(self) -> Content | None:
        """What the files of a tag hold as they are now; None where they are not here, and of a checkpoint, which is
        known by its digest."""
        return self._content if self.checkpoint is None and tag_files(self.model, self.pretrained) else None

    @cached_property
    def _content(self) -> Content:
        return Content(tag_files(self.model, self.pretrained))


def tag_files(name: str, pretrained: str) -> list[Path]:
    """The files of weights that a tag means; none where not all of them are on this machine."""
    found = find(name)
    if found is None:
        return _open_clip_models.files(name, pretrained)
    tag = found[1].tags[pretrained]
    if tag.path is not None:
        return [tag.path]
    files = [_files.cached(tag.repo, tag.files)]
    if tag.image_repo:
        files.append(_files.cached(tag.image_repo, tag.image_files))
    if not all(files):
        return []
    with contextlib.suppress(CheckpointError):  # the cells of this model will say what is wrong; others can be run
        files = [path for file in files for path in _read.files_of(file)]
    return files


def read_models(words: Sequence[str]) -> list[Weights]:
    """`zhclip`, `cnclip-vit-b-16`, a collection of clip_benchmark, a model of open_clip's own; and after a name its
    tag, or a checkpoint.

    words: each may be several, separated by commas: `cnclip,qa_clip,zhclip` is two models, the first with a tag.

    Raises ZhclipError: what is none of these; a model of open_clip's own that has several tags, without one.
    """
    asked: list[tuple[str, str | None]] = []
    collections = _collections()
    # A path may hold a comma, so a word that is a file is taken as it is.
    parts = [part for word in words or [SYSTEMS] for part in ([word] if os.path.exists(word) else word.split(","))]
    for part in filter(None, map(str.strip, parts)):
        if asked and asked[-1][1] is None and _is_tag(asked[-1][0], part):  # `openai` is a collection too
            asked[-1] = asked[-1][0], part
        elif find(part) is not None or _open_clip_models.is_one(part):
            asked.append((part, None))
        elif part in collections:
            asked += collections[part]
        elif asked and asked[-1][1] is None:
            asked[-1] = asked[-1][0], part
        else:
            hint = _open_clip_models.hint(part, collections)
            raise ZhclipError(f"{part} is a model neither of this package nor of open_clip, and no collection{hint}")
    weights = [_weights(name, pretrained) for name, pretrained in asked]
    return list({(one.model, one.pretrained): one for one in weights}.values())


def _is_tag(name: str, word: str) -> bool:
    found = find(name)
    return clean_tag(word) in found[1].tags if found else _open_clip_models.has_tag(name, word)


def _collections() -> dict[str, list[tuple[str, str | None]]]:
    from clip_benchmark.model_collection import model_collection

    return {name: models for name, models in model_collection.items() if name not in all_names() and models}


def _weights(name: str, pretrained: str | None) -> Weights:
    found = find(name)
    if found is None:
        return _of_open_clip(_open_clip_models.canonical(name), pretrained)
    model = found[1]
    pretrained = pretrained or model.default_tag
    tag = model.tags.get(clean_tag(pretrained))
    if tag is None:
        return _checkpoint(model, pretrained)
    estimate = _load.model_facts().get(model.name, {}).get("parameters", 0) * _BYTES_A_PARAMETER
    if tag.path is not None:
        return Weights(model.name, clean_tag(pretrained), True, tag.path.stat().st_size, "in the package")
    source = tag.repo + (f" + {tag.image_repo}" if tag.image_repo else "")
    files = tag_files(model.name, clean_tag(pretrained))
    size = sum(file.stat().st_size for file in files) or estimate
    return Weights(model.name, clean_tag(pretrained), bool(files), size, source, image_source=tag.image_repo)


def _of_open_clip(name: str, pretrained: str | None) -> Weights:
    """Of a model of open_clip's own."""
    tags = _open_clip_models.tags(name)
    if pretrained is None:
        if len(tags) != 1:
            raise ZhclipError(f"{name} needs its weights named, as in {name},TAG: {_open_clip_models.told_tags(name)}")
        pretrained = tags[0]
    if _open_clip_models.has_tag(name, pretrained):
        pretrained = _open_clip_models.clean_tag(pretrained)
        name = _open_clip_models.with_its_activation(name, pretrained)
        files = _open_clip_models.files(name, pretrained)
        size = sum(file.stat().st_size for file in files)
        size = size or _open_clip_models.facts().get(name, {}).get("parameters", 0) * _BYTES_A_PARAMETER
        return Weights(name, pretrained, bool(files), size, _open_clip_models.source(name, pretrained))
    path = _files.existing(pretrained)
    if path is None:
        raise CheckpointError(
            f"{pretrained} is neither weights of {name} ({_open_clip_models.told_tags(name, pretrained)}), nor a file, "
            f"nor a model{_open_clip_models.hint(pretrained)}"
        )
    if not path.is_file():
        raise CheckpointError(f"{path} is no file, and open_clip reads {name} from one: name the file in it")
    return Weights(name, str(path), True, path.stat().st_size, str(path), Content([path]).digest)


def _checkpoint(model: Model, pretrained: str) -> Weights:
    file = _files.located(pretrained)
    if file is None:
        tags = ", ".join(model.tags)
        raise CheckpointError(
            f"{pretrained} is neither a tag of {model.name} ({tags}), nor a file or folder, nor a model"
            f"{_open_clip_models.hint(pretrained)}"
        )
    files = _read.files_of(file)
    size = sum(one.stat().st_size for one in files)
    return Weights(model.name, pretrained, True, size, str(_files.expanded(pretrained)), Content(files).digest)
