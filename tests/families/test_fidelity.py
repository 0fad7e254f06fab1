"""Both towers of every model against code that is not ours, within 1e-5, from files in their published layout."""

from __future__ import annotations

import pytest
import torch

from tests.support import references
from tests.support.reduced import LAYERS, VOCABULARY, assert_same, build, create
from tests.support.references import CN_CLIP, REFERENCES

pytestmark = pytest.mark.usefixtures("reduced")


@pytest.mark.parametrize(("name", "tag"), REFERENCES, ids=[f"{name}-{tag}" for name, tag in REFERENCES])
def test_equals_its_reference(name, tag, models_dir):
    reference = build(name, tag)
    reference.save(models_dir)
    assert_same(create(name, tag), reference)


@pytest.mark.parametrize("name", [name for name in CN_CLIP if name != "cnclip-rn50"])
def test_equals_cn_clip_itself(name, models_dir):
    reference = references.cn_clip("own", *CN_CLIP[name], layers=LAYERS, vocabulary=VOCABULARY)
    references.randomise(reference.modules["own"])
    path = models_dir / "epoch_latest.pt"
    torch.save(references.chinese_clip_training(reference.published()["own"]), path)
    assert_same(create(name, path), reference)
