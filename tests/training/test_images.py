"""A batch that is made in one tensor is what torch's own collation makes of its samples, to the last bit."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, default_collate
from torchvision.transforms import Compose, Normalize, PILToTensor, Resize, ToTensor

from zhclip_openclip.towers.images import as_transformers
from zhclip_openclip.training.images import InOneTensor
from zhclip_openclip.training.pairs import Batched, Pairs, as_it_is
from zhclip_openclip.training.sources import open_sets

SQUASH = open_clip.image_transform(32, is_train=False, resize_mode="squash")
TRANSFORMS = {
    "open_clip's": SQUASH,
    "transformers'": as_transformers(SQUASH),
    "open_clip's for training": open_clip.image_transform(32, is_train=True),
    "of grey pictures": Compose([Resize((16, 16)), ToTensor(), Normalize(0.5, 0.5)]),
    "with another end": Compose([Resize((16, 16)), PILToTensor()]),
    "no steps": lambda picture: torch.tensor(np.asarray(picture.resize((4, 4)))),
}


def pictures(mode: str = "RGB") -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(40, 50), (64, 33), (32, 32)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).convert(mode) for size in sizes]


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_to_the_last_bit(name, mode):
    transform, found = TRANSFORMS[name], pictures(mode)
    torch.manual_seed(1)
    wanted = default_collate([transform(picture) for picture in found])
    torch.manual_seed(1)
    parts = InOneTensor(transform)
    got = parts([parts.first(picture) for picture in found])
    assert torch.equal(got, wanted) and got.dtype == wanted.dtype and got.is_contiguous()
    assert (parts.first is transform) == (name in ("with another end", "no steps"))


def test_pictures_of_several_sizes_have_torchs_own_error():
    parts = InOneTensor(Compose([ToTensor(), Normalize((0.5,) * 3, (0.5,) * 3)]))
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
        parts([parts.first(picture) for picture in pictures()])


@pytest.mark.parametrize("workers", [0, 1])
def test_pairs_of_a_loader(workers):
    pairs = Pairs(open_sets("digits-retrieval", train=False), SQUASH, open_clip.get_tokenizer("zhclip-tiny"))
    chosen = [[5, 2, 1000], [7, 0, 5]]
    loader = DataLoader(Batched(pairs), batch_sampler=chosen, num_workers=workers, collate_fn=as_it_is)
    for indices, (images, ids, numbers) in zip(chosen, loader, strict=True):
        samples = [pairs[index] for index in indices]
        assert torch.equal(images, default_collate([sample[0] for sample in samples]))
        assert torch.equal(ids, default_collate([sample[1] for sample in samples]))
        assert numbers.tolist() == [list(sample[2:]) for sample in samples]
