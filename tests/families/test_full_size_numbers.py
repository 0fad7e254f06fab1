"""One model of every family at its full size, in numbers, against the reference. ZH-CLIP's is in test_zhclip.py."""

from __future__ import annotations

import gc

import pytest
import torch

from tests.support import references
from tests.support.reduced import create
from tests.support.references import CN_CLIP, REFERENCES

pytestmark = pytest.mark.slow

DEFAULTS = [
    ("altclip-vit-l-14", "baai"),
    ("cnclip-vit-l-14", "ofa_sys"),
    ("cnclip-rn50", "ofa_sys"),
    ("taiyiclip-vit-l-14", "idea_ccnl"),
    ("taiyiclip-102m-vit-l-14", "idea_ccnl"),
    ("mclip-vit-l-14", "m_clip"),
    ("clip-chinese-vit-b-32", "yeungnlp"),
    *((name, tag) for name, tag in REFERENCES if tag == "malusama"),  # both of M2-Encoder: 4 GB with their references
    ("fg-clip2-base", "qihoo360"),
    ("fg-clip2-base-long", "qihoo360"),
    ("metaclip2-vit-b-16", "meta"),  # its vocabulary alone is 462 of 586 million parameters
]


@torch.no_grad()
def inputs_and_features(reference: references.Reference):
    size = reference.image_size
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    pixels = reference.pixels() if reference.pixels else pixels
    tokens = references.ids(reference, 3, 14 if reference.length == 16 else reference.length, padded=True)
    return pixels, reference.image(pixels), tokens, reference.text(tokens, (tokens != reference.pad).long())


@torch.no_grad()
def assert_same(model, pixels, image_features, tokens, text_features):
    """Features have a length of about 20 here; what counts, and is at most 1, are the normalised ones."""
    model.eval()
    for ours, theirs in ((model.encode_image(pixels), image_features), (model.encode_text(tokens), text_features)):
        assert theirs.norm(dim=1).min() > 0.5, "the reference says nothing"
        directions = (torch.nn.functional.normalize(features, dim=1) for features in (ours, theirs))
        assert (next(directions) - next(directions)).abs().max() <= 1e-5
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.norm(dim=1).max()


@pytest.mark.parametrize(("name", "tag"), DEFAULTS, ids=[f"{name}-{tag}" for name, tag in DEFAULTS])
def test_equals_its_reference(name, tag, models_dir):
    reference = REFERENCES[name, tag]()
    for number, module in enumerate(reference.modules.values()):
        references.randomise(module, number)
    reference.save(models_dir)
    given = inputs_and_features(reference)
    del reference  # one model in memory at a time
    gc.collect()
    assert_same(create(name, tag), *given)
    gc.collect()


def test_cn_clip_itself(tmp_path):
    reference = references.cn_clip("own", *CN_CLIP["cnclip-vit-l-14"])
    references.randomise(reference.modules["own"])
    torch.save(references.chinese_clip_training(reference.published()["own"]), tmp_path / "epoch_latest.pt")
    given = inputs_and_features(reference)
    del reference
    gc.collect()
    assert_same(create("cnclip-vit-l-14", tmp_path / "epoch_latest.pt"), *given)
