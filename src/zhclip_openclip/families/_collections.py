"""Models under one name: `chinese_clip`, the systems of the published comparison, and `multilingual`, open_clip's own
models that know Chinese."""

from __future__ import annotations

import json
from functools import cache

from zhclip_openclip import _paths

#: The systems of the published comparison.
SYSTEMS = "chinese_clip"


@cache
def collections() -> dict[str, list[tuple[str, str | None]]]:
    """Name -> (model, tag) of each; no tag for the default one of a model of ours. Not to be changed: read once."""
    described = json.loads((_paths.DATA / "collections.json").read_text(encoding="utf-8"))
    return {name: [_split(word) for word in words] for name, words in described.items()}


def _split(word: str) -> tuple[str, str | None]:
    model, _, tag = word.partition(",")
    return model, tag or None
