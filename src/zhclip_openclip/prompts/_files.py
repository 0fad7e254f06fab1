"""Reading the JSON files of prompts, ours and the user's."""

from __future__ import annotations

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from zhclip_openclip import _paths
from zhclip_openclip._errors import shorten
from zhclip_openclip.prompts._errors import PromptError


@cache
def packaged(*path: str):
    """The contents of a JSON file below this package's `data` folder. Not to be changed: it is read once."""
    return json.loads(_paths.DATA.joinpath(*path).read_text(encoding="utf-8"))


@cache
def clip_benchmarks(name: str):
    """The contents of a JSON file in clip_benchmark's `datasets` folder. Not to be changed: it is read once."""
    return json.loads((clip_benchmark_folder() / name).read_text(encoding="utf-8"))


@cache
def clip_benchmark_folder() -> Path:
    """clip_benchmark's `datasets` folder, found without importing the package."""
    spec = find_spec("clip_benchmark")
    return Path(spec.submodule_search_locations[0]) / "datasets"


def find(name: str, option: str) -> Path:
    """The file that the user names: a path, or, as clip_benchmark has it, a file of its `datasets` folder.

    Raises PromptError: neither.
    """
    path = Path(name).expanduser()
    for candidate in (path, clip_benchmark_folder() / name):
        if candidate.is_file():
            return candidate
    raise PromptError(f"{option} {name}: there is no such file, neither there nor in {clip_benchmark_folder()}")


def read(path: Path, option: str):
    """The contents of a JSON file of the user.

    Raises PromptError: it is no JSON (file, line, column), no UTF-8, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors put a byte order mark
    except UnicodeDecodeError as error:
        raise PromptError(f"{option}: {path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise PromptError(f"{option}: {path} cannot be read: {error.strerror}") from error
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, path, option))
    except json.JSONDecodeError as error:
        raise PromptError(
            f"{option}: {path}, line {error.lineno}, column {error.colno}: {error.msg}; it is no JSON"
        ) from error


def _unique(pairs: list, path: Path, option: str) -> dict:
    keys = [key for key, _ in pairs]
    twice = sorted({key for key in keys if keys.count(key) > 1}) if len(set(keys)) < len(keys) else []
    if twice:
        raise PromptError(f"{option}: {path} has {shorten(repr(key) for key in twice)} twice; keep one of each")
    return dict(pairs)
