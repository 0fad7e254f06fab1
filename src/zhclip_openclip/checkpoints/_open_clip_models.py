"""open_clip's own models, as far as a plan needs them: names, tags, files on this machine, measured sizes.

Nothing is built and no network is asked. open_clip itself loads them, from where it always does.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from zhclip_openclip import _paths
from zhclip_openclip._errors import shorten
from zhclip_openclip.families import all_names, find


@cache
def facts() -> dict[str, dict[str, int]]:
    """Name -> parameters, image_operations (of one image), text_operations (of one text, padded to the model's length)
    of each that has published weights. Measured by `benchmarks/open_clip_facts.py`. Not to be changed: read once."""
    return json.loads((_paths.DATA / "open_clip_models.json").read_text(encoding="utf-8"))


def names() -> list[str]:
    """Of all models that open_clip builds and that are not ours."""
    import open_clip

    return [name for name in open_clip.list_models() if find(name) is None]


def is_one(name: str) -> bool:
    """Whether `name` is one of :func:`names`."""
    return find(name) is None and _spelt(name) in names()


def canonical(name: str) -> str:
    """`name` as open_clip lists it: it takes `ViT-B/32` for `ViT-B-32`."""
    return _spelt(name)


def tags(name: str) -> list[str]:
    """The tags of its published weights."""
    from open_clip import pretrained

    return pretrained.list_pretrained_tags_by_model(_spelt(name))


def has_tag(name: str, tag: str) -> bool:
    from open_clip import pretrained

    return pretrained.is_pretrained_cfg(_spelt(name), tag)


def told_tags(name: str, close_to: str = "") -> str:
    """Its tags for an error: 'it has webli', 'it has openai, laion2b_e16 and 30 more', the closest ones first."""
    there = tags(name)
    if not there:
        return "open_clip has none for it: give a file"
    close = closest(close_to, there)
    return f"it has {shorten([*close, *(tag for tag in there if tag not in close)], 6)}"


def with_its_activation(name: str, tag: str) -> str:
    """The model that the weights of a tag are for: `ViT-B-32-quickgelu` for `ViT-B-32` and `openai`, which open_clip
    builds with another activation than they were trained with, and a warning."""
    import open_clip

    twin = f"{name}-quickgelu"
    trained = _described(name, tag).get("quick_gelu", False)
    built = (open_clip.get_model_config(name) or {}).get("quick_gelu", False)
    return twin if trained and not built and is_one(twin) and has_tag(twin, tag) else name


def clean_tag(tag: str) -> str:
    """`tag` as open_clip lists it: capitals and `-` make no difference."""
    return tag.lower().replace("-", "_")


def source(name: str, tag: str) -> str:
    """Repository of the hub, or address, that the weights of a tag come from."""
    repo, _ = _on_hub(name, tag)
    return repo or _described(name, tag).get("url", "")


def files(name: str, tag: str) -> list[Path]:
    """The files of a tag that open_clip finds on this machine; none where it would fetch them."""
    from huggingface_hub import try_to_load_from_cache

    described = _described(name, tag)
    if described.get("file"):
        path = Path(described["file"])
        return [path] if path.is_file() else []
    repo, candidates = _on_hub(name, tag)  # every tag of open_clip 3.3 is there; an address alone may be fetched again
    hits = (try_to_load_from_cache(repo, file) for file in candidates)
    return [Path(hit) for hit in hits if isinstance(hit, str)][:1]


def _on_hub(name: str, tag: str) -> tuple[str, list[str]]:
    """Repository and the files of it that open_clip tries, in its order; '' for weights that are not on the hub."""
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    place = _described(name, tag).get("hf_hub", "")
    if not place:
        return "", []
    repo, _, file = place.rpartition("/")
    if not file:
        return repo, [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
    safe = [file[:-4] + ".safetensors"] if file.endswith((".bin", ".pth")) else []
    return repo, [*safe, file]


def _described(name: str, tag: str) -> dict:
    from open_clip import pretrained

    return pretrained.get_pretrained_cfg(_spelt(name), tag)


def _spelt(name: str) -> str:
    return name.replace("/", "-")


def hint(name: str, also: Iterable[str] = ()) -> str:
    """`; did you mean x or y?` of all models that there are, ours and open_clip's; '' where none is close."""
    close = closest(name, [*all_names(), *names(), *also])
    return f"; did you mean {' or '.join(close)}?" if close else ""


def closest(name: str, known: Iterable[str], number: int = 3) -> list[str]:
    """The closest names, whatever their capitals."""
    spelt: dict[str, str] = {}
    for one in known:
        spelt.setdefault(one.lower(), one)
    return [spelt[one] for one in difflib.get_close_matches(name.lower(), spelt, n=number, cutoff=0.6)]
