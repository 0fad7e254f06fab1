"""Which models a reproduction is asked for, and where their weights are."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from zhclip_openclip._content import Content
from zhclip_openclip._errors import CheckpointError, ZhclipError
from zhclip_openclip.checkpoints import _files, _load, _read
from zhclip_openclip.checkpoints._resolve import clean_tag
from zhclip_openclip.families import Model, all_names, find

#: The systems of the published comparison, a collection of clip_benchmark that this package adds.
SYSTEMS = "chinese_clip"
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
    tag = find(name)[1].tags[pretrained]
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
    """`zhclip`, `cnclip-vit-b-16`, a collection of clip_benchmark; and after a name its tag, or a checkpoint.

    words: each may be several, separated by commas: `cnclip,qa_clip,zhclip` is two models, the first with a tag.

    Raises ZhclipError: what is none of these.
    """
    asked: list[tuple[str, str | None]] = []
    # A path may hold a comma, so a word that is a file is taken as it is.
    parts = [part for word in words or [SYSTEMS] for part in ([word] if os.path.exists(word) else word.split(","))]
    for part in filter(None, map(str.strip, parts)):
        if find(part) is not None:
            asked.append((part, None))
        elif part in _collections():
            asked += _collections()[part]
        elif asked and asked[-1][1] is None:
            asked[-1] = asked[-1][0], part
        else:
            raise ZhclipError(f"{part} is not a model of this package{_hint(part)}; zhclip models lists them")
    weights = [_weights(name, pretrained) for name, pretrained in asked]
    return list({(one.model, one.pretrained): one for one in weights}.values())


def _collections() -> dict[str, list[tuple[str, str | None]]]:
    from clip_benchmark.model_collection import model_collection

    return {
        name: models
        for name, models in model_collection.items()
        if name not in all_names() and models and all(find(model) is not None for model, _ in models)
    }


def _hint(part: str) -> str:
    close = difflib.get_close_matches(part, all_names(), n=2)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _weights(name: str, pretrained: str | None) -> Weights:
    _, model = find(name)
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


def _checkpoint(model: Model, pretrained: str) -> Weights:
    file = _files.located(pretrained)
    if file is None:
        tags = ", ".join(model.tags)
        raise CheckpointError(
            f"{pretrained} is neither a tag of {model.name} ({tags}), nor a file or folder, nor a model"
            f"{_hint(pretrained)}"
        )
    files = _read.files_of(file)
    size = sum(one.stat().st_size for one in files)
    return Weights(model.name, pretrained, True, size, str(_files.expanded(pretrained)), Content(files).digest)
