"""Which row is of which file: against a dictionary, also where digests have their first eight bytes in common; and how
often a tower is tried out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from zhclip_openclip.datasets.pictures_of import list_pictures
from zhclip_openclip.features.settings import using
from zhclip_openclip.folders import shelf as shelves
from zhclip_openclip.folders._contents import Contents
from zhclip_openclip.folders._model import open_model
from zhclip_openclip.folders.shelf import open_shelf


@pytest.mark.parametrize("heads", [2**63, 5])
def test_places_are_those_of_a_dictionary(heads):
    random = np.random.default_rng(0)
    digests = random.integers(0, 256, (400, 32), dtype=np.uint8)
    digests[:, :8] = random.integers(0, heads, 400).astype(np.uint64)[:, None].view(np.uint8)
    known, asked = digests[random.integers(0, 300, 500)], digests[random.integers(0, 400, 500)]
    first: dict[bytes, int] = {}
    for number, one in enumerate(known):
        first.setdefault(one.tobytes(), number)
    wanted = [first.get(one.tobytes(), -1) for one in asked]
    assert Contents(known).places(asked).tolist() == wanted and -1 in wanted and len(set(wanted)) > 100
    assert Contents(known[:0]).places(asked).tolist() == [-1] * 500 and len(Contents(known).places(asked[:0])) == 0


@pytest.fixture(scope="module")
def tiny():
    return open_model("zhclip-tiny", device="cpu")


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        path = tmp_path / "pictures" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 20), (60 * number, 0, 99)).save(path)
    return path.parent


def _opened(folder, cache, opened):
    with using(cache=cache, quiet=True):
        return open_shelf(list_pictures(folder), opened, workers=0)


def test_what_lies_there_is_tried_out_once_more_and_what_is_new_oftener(folder, tiny, tmp_path, monkeypatch):
    passes = []
    real = type(tiny).encoders
    monkeypatch.setattr(
        type(tiny),
        "encoders",
        lambda self: [lambda images, one=one: (passes.append(1), one(images))[1] for one in real(self)],
    )
    assert _opened(folder, tmp_path / "cache", tiny).encoded == 4 and len(passes) == 3
    assert _opened(folder, tmp_path / "cache", tiny).encoded == 0 and len(passes) == 4


def test_what_is_not_the_same_the_second_time_is_not_kept(folder, tiny, tmp_path):
    shaken = dataclasses.replace(tiny, transform=lambda image: (x := tiny.transform(image)) + torch.rand(x.shape))
    other = open_model("zhclip-tiny", device="cpu")
    other.module.visual.register_forward_hook(lambda module, given, result: result + 0.1 * torch.rand(result.shape))
    for opened, said in ((shaken, "a preprocessing that differs"), (other, "gives other features of the same images")):
        for _ in range(2):
            shelf = _opened(folder, tmp_path / "cache", opened)
            assert shelf.encoded == 4 and said in shelf.notes[0]
    assert not list((tmp_path / "cache").glob("*"))


def test_a_file_that_changes_while_its_copy_waits_for_it(folder, tiny, tmp_path, monkeypatch):
    """A copy has no features of its own: it must not get those of another picture."""
    _opened(folder, tmp_path / "cache", tiny)
    for name in ("x.png", "y.png"):
        Image.new("RGB", (20, 20), (9, 200, 9)).save(folder / name)
    real = shelves._encode

    def changed(files, *given):
        Image.new("RGB", (20, 20), (250, 250, 9)).save(folder / "x.png")
        return real(files, *given)

    monkeypatch.setattr(shelves, "_encode", changed)
    shelf = _opened(folder, tmp_path / "cache", tiny)
    assert [(entry.key, entry.reason) for entry in shelf.skipped] == [
        ("y.png", "files changed while they were read; search again")
    ]
    assert "x.png" in shelf.names and len(shelf) == len(shelf.features) == 5
    monkeypatch.undo()
    after = _opened(folder, tmp_path / "cache", tiny)
    assert after.encoded == 1 and after.skipped == [] and len(after) == 6
    alone = _opened(folder, tmp_path / "other", tiny)
    assert torch.allclose(after.features, alone.features, atol=1e-6)
