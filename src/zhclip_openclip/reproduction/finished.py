"""Whether a result in the results folder is the finished result of a cell, and what to say of it."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip._reading import read_json
from zhclip_openclip.datasets import at_hand

if TYPE_CHECKING:
    from zhclip_openclip.reproduction.plan import Cell

#: Keys of a cell's identity that its data tell.
_OF_DATA = ("read_as", "fingerprint", "listing", "prompts", "prompts_version", "pictures")
_CALLED = {
    "read_as": "layout of the data",
    "listing": "list of files of the data",
    "pictures": "content of the pictures",
    "prompts": "set of class names and templates",
    "weights": "file of weights",
    "text_handling": "text handling",
}
#: Packages whose versions can change figures.
_VERSIONS = ("zhclip-openclip", "open_clip_torch", "clip_benchmark", "torch", "transformers")


def state_of(cell: Cell, output: Path) -> tuple[str, str]:
    """'finished', 'missing' or 'run', and a note.

    A result counts as finished if it has the identity that the cell has now: the same model, precision and prompts,
    weights and pictures of the same content, the same files. Other versions of the packages are noted.
    """
    path = output / f"{cell.name}.json"
    result: Any = None
    if os.path.lexists(path):
        try:
            result = read_json(path)
        except ZhclipError:
            result = {}
    data = cell.data
    if isinstance(data, at_hand.Missing):
        # Without its data a result cannot be compared with them; all else has to fit.
        if _wrong(result, cell, path, _OF_DATA) is None:
            return "finished", "its data are not here any more"
        return "missing", data.reason
    if result is None:
        return "run", ""
    why = _wrong(result, cell, path)
    return ("finished", _other_versions(result)) if why is None else ("run", f"{path.name} {why}: run again")


def _wrong(result: Any, cell: Cell, path: Path, but: Sequence[str] = ()) -> str | None:
    """None if this is the result of the cell, else what is wrong with it."""
    if result is None:
        return "is not there"
    if not isinstance(result.get("metrics"), dict):
        return "is no result"
    if not isinstance(result.get("cell"), dict):
        return "was not made by zhclip reproduce"
    for key in ("per_query", "per_sample"):
        if result.get(key) and not is_beside(path, result[key]):
            return f"lacks its {str(result[key])[:100]}"
    asked, has = cell.identity(), result["cell"]
    other = [key for key in asked if key not in but and asked[key] != has.get(key)]
    if other == ["skip_bad_images"] and "skipped_images" not in result:
        other = []  # no image was bad, so it makes no difference
    unsaid = [key for key in other if key in _CALLED and key not in has]
    for key, content in cell.contents().items():
        if content is not None and key not in but:
            if key not in has:
                unsaid.append(key)
            elif not other and not content.is_what(has[key]):
                other.append(key)
    said = [_CALLED.get(key, key) for key in other if key not in unsaid]
    if said:
        return f"was made with another {' and '.join(said)}"
    if unsaid:
        called = " and ".join(_CALLED[key] for key in dict.fromkeys(unsaid))
        return f"does not say with which {called} (an earlier version made it)"
    return None


def is_beside(path: Path, name: Any) -> bool:
    """Whether `name` is a file beside `path`, with something in it."""
    if not isinstance(name, str) or Path(name).name != name:
        return False
    try:
        return (path.parent / name).stat().st_size > 0
    except (OSError, ValueError):
        return False


def _other_versions(result: dict) -> str:
    """'made with torch 2.6.0 (here 2.11.0)', or ''."""
    made = result.get("versions")
    if not isinstance(made, dict):
        return ""
    other = []
    for package in _VERSIONS:
        here = importlib.metadata.version(package)
        if package in made and made[package] != here:
            other.append(f"{package} {str(made[package])[:40]} (here {here})")
    return f"made with {', '.join(other)}" if other else ""
