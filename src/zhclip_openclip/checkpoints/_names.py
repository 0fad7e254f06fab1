"""What a model name means: a name of ours, or a folder or repository that holds a model of ours."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from zhclip_openclip._errors import CheckpointError, DownloadError
from zhclip_openclip._reading import read_json
from zhclip_openclip.checkpoints import _beside, _files, _read, _resolve
from zhclip_openclip.checkpoints._place import Folder, Place, Repository
from zhclip_openclip.families import Family, Model, all_names, find

LOCAL = "local-dir:"


@dataclass(frozen=True)
class Named:
    """A model of ours that was asked for.

    place: the folder or repository that was named in place of a model; it is in open_clip's own form, which open_clip
    builds by itself. tag: of the weights that the name itself means.
    """

    family: Family
    model: Model
    place: Place | None = None
    tag: str = ""


def named(name: str, cache_dir: str | os.PathLike[str] | None = None) -> Named | None:
    """The model of ours behind `name`: a name, an alias, `local-dir:DIR`, `hf-hub:org/name`; None for anybody else's.

    A repository of the hub that publishes the weights of a tag of ours means that model with that tag.

    Raises CheckpointError: a name of ours in another spelling of its letters, which open_clip would not know.
    """
    if name.startswith(LOCAL):
        place: Place = Folder(Path(name.removeprefix(LOCAL)))
        return _of_config(place)
    if name.startswith(_resolve.HUB):
        repo = name.removeprefix(_resolve.HUB).split("@")[0]
        if published := _resolve.repository_of(repo):
            family, model, tag = published
            return Named(family, model, tag=tag)
        return _of_config(Repository(repo, cache_dir))
    found = find(name)
    if found is not None:
        return Named(*found)
    close = [ours for ours in all_names() if ours.lower() == name.lower()]
    if close:
        raise CheckpointError(f"there is no model {name!r}: it is written {close[0]!r}")
    return None


def _of_config(place: Place) -> Named | None:
    """The model of ours that an `open_clip_config.json` describes. What cannot be read is open_clip's to tell."""
    try:
        path = place.get(_beside.OPEN_CLIP_CONFIG)
        found = find(_beside.model_of(read_json(path, CheckpointError))) if path else None
    except (CheckpointError, DownloadError):
        return None
    return Named(*found, place=place) if found else None


def tokenizer_place(
    named: Named, pretrained: str | os.PathLike[str] | None, cache_dir
) -> tuple[Path | Repository | None, int | None]:
    """Where to look for tokenizer files first, and the context length that is told there, if it is.

    pretrained: as for `create_model`; what is no path and no repository says nothing here.
    """
    place = named.place
    if place is None and pretrained:
        given = str(pretrained)
        if _resolve.find_tag(named.model, given) is None:
            if given.startswith(_resolve.HUB):
                place = Repository(given.removeprefix(_resolve.HUB), cache_dir)
            elif (path := _files.existing(given)) is not None:
                return _of_path(path)
    if place is None:
        return None, None
    return place.path if isinstance(place, Folder) else place, _context_length(place, _beside.Said())


def _of_path(path: Path) -> tuple[Path, int | None]:
    """The folder of tokenizer files of a checkpoint at `path`, and the context length that it says of itself."""
    said = _beside.Said()
    folder = path if path.is_dir() else path.parent
    with contextlib.suppress(CheckpointError):  # what is wrong with weights is said where they are loaded
        weights = _files.located(path)
        folder = weights.parent
        if own := _read.read(weights).own:
            _beside.add_own(said, own, weights)
    return folder, _context_length(Folder(folder), said)


def _context_length(place: Place, said: _beside.Said) -> int | None:
    if (path := place.get(_beside.OPEN_CLIP_CONFIG)) is not None:
        _beside.add_open_clip_config(said, path)
    if (path := _beside.params(place)) is not None:
        _beside.add_params(said, path)
    return said.context_length
