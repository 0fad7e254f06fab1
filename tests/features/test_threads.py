"""A small tower leaves its cores to the readers, and memory stays with the process: speed alone, and no number."""

from __future__ import annotations

import open_clip
import pytest
import torch

from zhclip_openclip.datasets.digits import Digits
from zhclip_openclip.features import linear, threads, using
from zhclip_openclip.features.image_pass import ImagePass


class Watched(torch.nn.Module):
    """The embedded model, noting the threads that its image tower has."""

    def __init__(self, model):
        super().__init__()
        self.visual, self._encode, self.seen = model.visual, model.encode_image, []

    def encode_image(self, images):
        self.seen.append(torch.get_num_threads())
        return self._encode(images)


@pytest.fixture(scope="module")
def tiny():
    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    return model.eval(), transform


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def run(tiny, readers: int):
    """(features, threads of the image tower in each batch)."""
    model, transform = tiny
    held = Digits("test", transform)
    held.images, held.targets = held.images[:70], held.targets[:70]
    loader = torch.utils.data.DataLoader(held, batch_size=16, num_workers=readers)
    watched, features = Watched(model).eval(), []
    with using(progress=lambda *_: None):
        for found, _ in ImagePass(watched, loader, "cpu", False, "digits"):
            assert torch.get_num_threads() == 3, "between batches torch is the caller's"
            features.append(found)
    return torch.cat(features), watched.seen


def test_a_small_tower_takes_one_thread_beside_readers(tiny, monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 4)
    alone, seen = run(tiny, readers=0)
    assert set(seen) == {3}
    beside, seen = run(tiny, readers=2)
    assert set(seen) == {1}
    assert torch.equal(alone, beside)


def test_not_where_there_are_cores_for_all(tiny, monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 5)
    assert set(run(tiny, readers=2)[1]) == {3}


def test_not_a_tower_that_has_something_to_do(tiny, monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 4)
    monkeypatch.setattr(threads, "_SMALL", 1000)
    assert set(run(tiny, readers=2)[1]) == {3}


def test_freed_memory_is_kept_for_towers_of_ours_on_a_cpu(tiny, monkeypatch):
    asked = []
    monkeypatch.setattr(linear, "keep_freed", lambda: asked.append(1))
    linear.fast_linear(tiny[0], "cuda", False)
    linear.fast_linear(torch.nn.Linear(2, 2), "cpu", False)
    assert not asked
    linear.fast_linear(tiny[0], "cpu", False)
    assert asked
