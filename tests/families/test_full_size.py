"""Keys and shapes of every model at full size against the reference; nothing is allocated."""

from __future__ import annotations

import functools
from pathlib import Path

import open_clip
import pytest
import torch

from tests.support import m2_reference, references
from tests.support.references import CN_CLIP, REFERENCES
from zhclip_openclip.checkpoints import _load, _read
from zhclip_openclip.checkpoints._load import Piece, signature
from zhclip_openclip.families import all_families, find


def file_of(state: dict[str, torch.Tensor], name: str = "file") -> _read.Weights:
    """What `_read.read` would say of a file with these tensors."""
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    return _read.Weights(Path(name), shapes, {}, {})


def pieces_of(reference: references.Reference, family, name: str = "") -> list[Piece]:
    """name: of the model, where a file holds several."""
    pieces = []
    for repo, state in reference.published().items():
        weights = file_of(state, repo)
        found, layout = (None, _load.recognise_image(weights, family)) if pieces else _load.recognise(weights, name)
        assert pieces or found.name == family.name
        pieces.append(Piece(weights, layout))
    return pieces


def on_meta(build) -> references.Reference:
    with torch.device("meta"):
        return build()


@functools.cache
def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = open_clip.create_model(name, pretrained_text=False, device="meta")
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def assert_covers(pieces: list[Piece], name: str):
    """The files hold each parameter of the model once, in its shape, and nothing else."""
    wanted = shapes_of(name)
    held: dict[str, tuple[int, ...]] = {}
    for piece in pieces:
        shapes = _load.planned_shapes(piece.layout, piece.weights.shapes)
        assert not held.keys() & shapes.keys()
        held |= shapes
    for piece in pieces:
        for target in piece.layout.constants:
            held.setdefault(target, wanted[target])
    assert held.keys() == wanted.keys()
    wrong = {
        key: (held[key], wanted[key]) for key in wanted if not _load._same_up_to_leading_ones(held[key], wanted[key])
    }
    assert not wrong
    # The packaged facts, from which error messages name the model that a file fits, are about this very model.
    assert _load.model_facts()[name]["signature"] == signature(wanted)


def test_every_model_has_a_reference():
    ours = {(model.name, tag) for family in all_families().values() for model in family.models for tag in model.tags}
    without = {("zhclip-tiny", "digits"), ("cnclip-rn50", "qa_clip")}
    if not m2_reference.INSTALLED:  # what it is held against is no dependency: see there
        without |= {(name, tag) for name, tag in ours if name.startswith("m2-encoder-")}
    assert ours - set(REFERENCES) == without


@pytest.mark.parametrize(("name", "tag"), REFERENCES, ids=[f"{name}-{tag}" for name, tag in REFERENCES])
def test_keys_and_shapes(name, tag):
    family, model = find(name)
    reference = on_meta(REFERENCES[name, tag])
    published = model.tags[tag]
    assert list(reference.modules) == [repo for repo in (published.repo, published.image_repo) if repo]
    assert_covers(pieces_of(reference, family, name), name)


@pytest.mark.parametrize("name", CN_CLIP)
def test_keys_and_shapes_of_cn_clip(name):
    family, _ = find(name)
    assert_covers(pieces_of(on_meta(lambda: references.cn_clip("own", *CN_CLIP[name])), family), name)
