"""Architectures of text towers that are known without asking the hub, by the name of their repository."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from zhclip_openclip import _paths
from zhclip_openclip.checkpoints._beside import MISSING
from zhclip_openclip.families import all_families


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
    """The transformers config of a known text tower. Sizes are facts of the published `config.json`."""
    from transformers import AutoConfig

    values = json.loads(_path(name).read_text(encoding="utf-8"))
    values.pop("base", None)
    return AutoConfig.for_model(values.pop("model_type"), **values)


def base(name: str) -> str:
    """The repository of the encoder that a text tower began its training from: `base` in its file, or its own name."""
    return json.loads(_path(name).read_text(encoding="utf-8")).get("base", name)
