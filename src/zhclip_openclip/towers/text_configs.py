"""Architectures of text towers that are known without asking the hub, by the name of their repository."""

from __future__ import annotations

import importlib
import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from zhclip_openclip import _paths
from zhclip_openclip._errors import CheckpointError
from zhclip_openclip.checkpoints._beside import MISSING
from zhclip_openclip.families import Model, all_families


def _path(name: str) -> Path | None:
    folders = [_paths.DATA / "text_configs"]
    folders += [family.configs / "text_configs" for family in all_families().values() if family.configs]
    name = name.removeprefix(MISSING)
    for folder in folders:
        path = folder / f"{name.replace('/', '--')}.json"
        if path.is_file():
            return path
    return None


@cache
def is_known(name: str) -> bool:
    """Whether `hf_model_name: name` of a model config means a text tower of ours."""
    return isinstance(name, str) and _path(name) is not None


def load(name: str):
    """The transformers config of a known text tower, or the same attributes for one that is not of transformers. Sizes
    are facts of the published `config.json`."""
    values = json.loads(_path(name).read_text(encoding="utf-8"))
    values.pop("base", None)
    if values.pop("tower", None):
        return SimpleNamespace(**values)
    from transformers import AutoConfig

    return AutoConfig.for_model(values.pop("model_type"), **values)


def tower_class(name: str) -> type:
    """What builds a known text tower: the class that `tower` in its file names (`module:Class`), or ours for an encoder
    of transformers."""
    named = json.loads(_path(name).read_text(encoding="utf-8")).get("tower")
    module, _, attribute = (named or "zhclip_openclip.towers.text:ChineseTextEncoder").partition(":")
    return getattr(importlib.import_module(module), attribute)


def base(name: str) -> str:
    """The repository of the encoder that a text tower began its training from: `base` in its file, or its own name."""
    return json.loads(_path(name).read_text(encoding="utf-8")).get("base", name)


def positions(config) -> int:
    """How many tokens a text may have for the encoder of a transformers config."""
    # RoBERTa counts from the id of its padding plus one, so its first positions are never taken.
    unused = config.pad_token_id + 1 if "roberta" in config.model_type else 0
    return config.max_position_embeddings - unused


def of(model: Model):
    """The transformers config of the text tower of a model, None for one that is not of this package's making."""
    name = model.config()["text_cfg"].get("hf_model_name")
    return load(name) if is_known(name) else None


def check_length(model: Model, length: int | None) -> None:
    """An error for a context length with which the text tower of `model` cannot work. None is no length at all.

    Raises CheckpointError.
    """
    config = of(model) if length is not None else None
    if config is not None:
        check_positions(length, positions(config), model.name)


def check_positions(length: int, longest: int | None, name: str = "this model") -> None:
    """As `check_length`, for a known number of positions. Raises CheckpointError."""
    if length < 3:
        raise CheckpointError(f"context_length={length} leaves no room for a text between its first and its last token")
    if longest is not None and length > longest:
        raise CheckpointError(
            f"context_length={length} is too much: {name} has positions for {longest} tokens, so give {longest} or less"
        )
