"""Made-up captions that count as those of the published sets. Not a test."""

from __future__ import annotations

from zhclip_openclip.datasets import _which_set
from zhclip_openclip.datasets._which_set import digest, sketch


def make_known(monkeypatch, captions: dict[str, list[str]], pictures: dict[str, list[str]] | None = None) -> None:
    """For the length of a test the published captions of these sets are these."""
    packaged = _which_set.packaged
    table = {
        "captions": {
            name: {"texts": len(texts), "captions": sketch(map(digest, texts))} for name, texts in captions.items()
        },
        "pictures": {
            name: {"count": len(ids), "images": sketch(map(digest, ids))} for name, ids in (pictures or {}).items()
        },
        "picture_names": packaged("known_captions.json")["picture_names"],
    }
    monkeypatch.setattr(_which_set, "packaged", lambda name: table if name == "known_captions.json" else packaged(name))
