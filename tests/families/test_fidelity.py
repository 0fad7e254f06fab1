"""Both towers of every model against code that is not ours, within 1e-5, from files in their published layout."""

from __future__ import annotations

import re

import pytest
import torch

from tests.support import references
from tests.support.reduced import LAYERS, VOCABULARY, assert_same, build, create, largest_difference
from tests.support.references import CN_CLIP, REFERENCES

pytestmark = pytest.mark.usefixtures("reduced")


# Other tags are other weights for the same architecture: test_full_size.py has those. ZH-CLIP is in test_zhclip.py.
MODELS = [(name, tag) for name, tag in REFERENCES if tag not in ("m9", "qa_clip", "thu_ml", "m2cognition")]
#: Wider or larger ones of families whose sizes are built alike: the small ones are `fast`.
SLOW = re.compile("fg-clip2-(large|so400m)|metaclip2-vit-(m|b|l)-")


@pytest.mark.parametrize(
    ("name", "tag"),
    [pytest.param(name, tag, marks=pytest.mark.slow if SLOW.match(name) else ()) for name, tag in MODELS],
    ids=[f"{name}-{tag}" for name, tag in MODELS],
)
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


def test_a_wrong_activation_would_be_noticed(models_dir):
    reference = build("clip-chinese-vit-b-32", "yeungnlp")
    reference.save(models_dir)
    model = create("clip-chinese-vit-b-32", "yeungnlp", quick_gelu=False)
    assert largest_difference(model, reference) > 1e-3


def test_padding_that_is_not_masked_would_be_noticed(models_dir, monkeypatch):
    """Taiyi-CLIP's published inference passes no mask; ours agrees with it on texts without padding alone."""
    reference = build("taiyiclip-vit-b-32", "idea_ccnl")
    reference.save(models_dir)
    model = create("taiyiclip-vit-b-32", "idea_ccnl").eval()
    bert = reference.modules["IDEA-CCNL/Taiyi-CLIP-Roberta-102M-Chinese"]
    with torch.no_grad():
        for padded in (False, True):
            tokens = references.ids(reference, 4, 16, padded)
            difference = (model.encode_text(tokens) - bert(tokens).logits).abs().max()
            assert (difference > 1e-3) == padded


def test_equals_its_reference_from_metas_own_file(tmp_path):
    """The names of mini_clip. The towers are open_clip's class CLIP, which its authors' models are."""
    import open_clip

    from tests.support import reference_metaclip2

    state = reference_metaclip2.metas_own("s-16-mt5", layers=LAYERS, vocabulary=VOCABULARY)
    theirs = open_clip.CLIP(
        384,
        {"image_size": 224, "width": 384, "patch_size": 16, "layers": LAYERS},
        {"vocab_size": VOCABULARY, "width": 384, "heads": 6, "layers": LAYERS, "pool_type": "eos", "eos_id": 1},
    )
    theirs.load_state_dict(state)
    references.randomise(theirs)
    torch.save(theirs.state_dict(), tmp_path / "metaclip2_s16_224px_mt5_worldwide.pt")
    ours = create("metaclip2-vit-s-16-mt5", tmp_path / "metaclip2_s16_224px_mt5_worldwide.pt").eval()
    tokens = torch.randint(5, VOCABULARY, (3, 77))
    tokens[:, 20:] = 1
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert (ours.encode_image(pixels) - theirs.encode_image(pixels)).abs().max() <= 1e-5
        assert (ours.encode_text(tokens) - theirs.encode_text(tokens)).abs().max() <= 1e-5
