"""AltCLIP-m18: whether its image tower is ViT-H/14 or ViT-L/14 is for the weights to say.

That both equal transformers' AltCLIPModel is in test_fidelity.py.
"""

from __future__ import annotations

import json

import open_clip
import pytest
import torch

from tests.support import references
from tests.support.reduced import assert_same, build, create
from zhclip_openclip._errors import CheckpointError
from zhclip_openclip.checkpoints import _config

pytestmark = pytest.mark.usefixtures("reduced")

ASKED, LARGE, TAG, REPO = "altclip-vit-h-14", "altclip-m18-vit-l-14", "m18", "BAAI/AltCLIP-m18"


@pytest.fixture(scope="module")
def large(reduced):
    return build(LARGE, TAG)


@pytest.fixture
def published(large, models_dir):
    """The folder of the repository, as if it held ViT-L/14."""
    large.save(models_dir)
    return models_dir / REPO


def test_the_tag_is_built_as_its_weights_say(published, large):
    """And as ViT-H/14 where they are that: test_fidelity.py."""
    model = create(ASKED, TAG)
    assert model.zhclip_model == LARGE
    assert_same(model, large)


def test_a_file_alone_and_one_of_a_fine_tuning(published, large, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    (published / "model.safetensors").rename(alone / "model.safetensors")
    model = create(ASKED, alone / "model.safetensors")
    torch.save({"epoch": 1, "state_dict": dict(model.state_dict())}, tmp_path / "epoch_1.pt")
    for built in (model, create(ASKED, tmp_path / "epoch_1.pt")):
        assert built.zhclip_model == LARGE
        assert_same(built, large)


@pytest.mark.slow
def test_weights_for_other_pictures(large, tmp_path):
    """Positions say nothing of the width: 28 px are 2 x 2 patches."""
    state = dict(large.published()[REPO])
    key = "vision_model.embeddings.position_embedding.weight"
    state[key] = state[key][:5].clone()
    torch.save(state, tmp_path / "small.pt")
    with pytest.warns(UserWarning, match=f"positions for images of 28 pixels, and {LARGE} is made for 224"):
        assert create(ASKED, tmp_path / "small.pt").zhclip_model == LARGE


def test_a_config_json_that_says_otherwise_is_an_error(published):
    path = published / "config.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    told["vision_config"] |= {"hidden_size": 1280, "num_hidden_layers": 32}
    path.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"contradicts {LARGE}: vision_config.hidden_size is 1280"):
        create(ASKED, TAG)


def test_a_model_that_is_built_stays_what_it_is(published):
    model = open_clip.create_model(ASKED, pretrained_text=False)
    with pytest.raises(CheckpointError, match=f"with another image tower: open_clip.create_model\\('{LARGE}'"):
        open_clip.load_checkpoint(model, str(published / "model.safetensors"))


@pytest.mark.slow
def test_asked_for_by_name_it_is_that_or_an_error(published, models_dir):
    assert create(LARGE, TAG).zhclip_model == LARGE
    build(ASKED, TAG).save(models_dir)
    (published / "config.json").unlink()
    with pytest.raises(CheckpointError, match=f"it fits {ASKED}: load it under that name"):
        create(LARGE, published / "model.safetensors")


def test_altclip_itself_is_none_of_the_two(tmp_path):
    torch.save(references.altclip("x", layers=2, vocabulary=1200).modules["x"].state_dict(), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="it fits altclip-vit-l-14: load it under that name"):
        create(ASKED, tmp_path / "x.pt")


def test_an_activation_that_a_config_leaves_out_is_that_of_its_class(tmp_path):
    """transformers 4 wrote of the towers what differs from the default, which is QuickGELU in these classes."""
    path = tmp_path / "config.json"
    said = {"vision_config": {"model_type": "altclip_vision_model"}}
    path.write_text(json.dumps(said))
    _config.check(path, "altclip-vit-l-14")
    with pytest.raises(CheckpointError, match=r"vision_config\.hidden_act is 'quick_gelu' and altclip-vit-h-14 has"):
        _config.check(path, "altclip-vit-h-14")
    said["vision_config"]["hidden_act"] = "gelu"
    path.write_text(json.dumps(said))
    _config.check(path, "altclip-vit-h-14")
