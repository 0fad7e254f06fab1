"""Architectures of text towers that are known without asking the hub, by the name of their repository."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from zhclip_openclip import _paths
from zhclip_openclip._errors import CheckpointError
from zhclip_openclip.checkpoints._beside import MISSING
from zhclip_openclip.families import Model, all_families


@dataclass(frozen=True)
class OpenClipText:
    """What is asked of a transformers config, for a text tower that is open_clip's own TextTransformer.

    eos_token_id: of the token that features are taken from, None where they are taken from the last one.
    """

    vocab_size: int
    pad_token_id: int
    max_position_embeddings: int
    eos_token_id: int | None
    model_type: str = "open_clip"

    @classmethod
    def of(cls, text: Mapping) -> OpenClipText:
        """text: `text_cfg` of a model config, with open_clip's defaults for what it does not say."""
        return cls(
            text.get("vocab_size", 49408),
            text.get("pad_id", 0),
            text.get("context_length", 77),
            text.get("eos_id", 2) if text.get("pool_type") == "eos" else None,
        )


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


def of_transformers(model: Model) -> bool:
    """Whether transformers has a class for the text tower of a model."""
    name = model.config()["text_cfg"].get("hf_model_name")
    return bool(name) and "tower" not in json.loads(_path(name).read_text(encoding="utf-8"))


def base(name: str) -> str:
    """The repository of the encoder that a text tower began its training from: `base` in its file, or its own name."""
    return json.loads(_path(name).read_text(encoding="utf-8")).get("base", name)


def positions(config) -> int:
    """How many tokens a text may have for the encoder of a transformers config."""
    # RoBERTa counts from the id of its padding plus one, so its first positions are never taken.
    unused = config.pad_token_id + 1 if "roberta" in config.model_type else 0
    return config.max_position_embeddings - unused


def of(model: Model):
    """The transformers config of the text tower of a model, or an :class:`OpenClipText`; None for one that is not of
    this package's making."""
    text = model.config()["text_cfg"]
    if not text.get("hf_model_name"):
        return OpenClipText.of(text)
    return load(text["hf_model_name"]) if is_known(text["hf_model_name"]) else None


def check_length(model: Model, length: int | None) -> None:
    """An error for a context length with which the text tower of `model` cannot work. None is no length at all.

    Raises CheckpointError.
    """
    config = of(model) if length is not None else None
    if config is not None:
        check_positions(length, positions(config), model.name, only(config))


def only(config) -> bool:
    """Whether a text tower works with as many tokens as it has positions and with no others: SigLIP's features are
    those of the last token, and open_clip 3 has one causal mask for all lengths."""
    return isinstance(config, OpenClipText)


def check_positions(length: int, longest: int | None, name: str = "this model", only: bool = False) -> None:
    """As `check_length`, for a known number of positions. Raises CheckpointError."""
    if only and length != longest:
        raise CheckpointError(
            f"context_length={length} does not fit: {name} takes {longest} tokens of every text, padding included, so "
            f"give {longest} or nothing"
        )
    if length < 3:
        raise CheckpointError(f"context_length={length} leaves no room for a text between its first and its last token")
    if longest is not None and length > longest:
        raise CheckpointError(
            f"context_length={length} is too much: {name} has positions for {longest} tokens, so give {longest} or less"
        )
