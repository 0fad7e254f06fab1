"""ZH-CLIP is bit for bit what its authors run, against a reference of plain Hugging Face modules.

Towers of two layers, everything else at its real size; the published depth is in test_zhclip_full_size.py.
"""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from tests.support.zhclip_reference import Reference, ids
from zhclip_openclip.checkpoints import _config, _load
from zhclip_openclip.towers import text_configs

TOLERANCE = 1e-5
NAMES = {"gelu": "zhclip-vit-l-14", "quick_gelu": "zhclip-vit-l-14-quickgelu"}


def published_repo(root, reference, file="pytorch_model.bin", **kwargs):
    return reference.save(root / "thu-ml" / "zh-clip-vit-roberta-large-patch14", file, **kwargs)


@pytest.fixture(scope="module")
def shallow():
    """Both towers with two layers, wherever their depth is decided."""
    with pytest.MonkeyPatch.context() as patch:
        create, load, facts = timm.create_model, text_configs.load, json.loads(json.dumps(_load.model_facts()))

        def two_layers(name):
            config = load(name)
            config.num_hidden_layers = 2
            return config

        for name in NAMES.values():
            facts[name]["image_tower"]["num_hidden_layers"] = facts[name]["text_tower"]["num_hidden_layers"] = 2
        patch.setattr(timm, "create_model", lambda name, **kwargs: create(name, depth=2, **kwargs))
        patch.setattr(text_configs, "load", two_layers)
        patch.setattr(_config, "model_facts", lambda: facts)
        yield


@pytest.fixture(scope="module", params=["gelu", "quick_gelu"])
def reference(request, shallow):
    torch.manual_seed(0)
    return Reference(request.param, layers=2).eval()


@pytest.fixture(scope="module")
def saved(reference, tmp_path_factory):
    return published_repo(tmp_path_factory.mktemp("models"), reference)


def compare(model, reference, images=(1, 3), texts=((1, 77), (4, 77), (5, 12))):
    generator = torch.Generator().manual_seed(1)
    model.eval()
    with torch.no_grad():
        for batch in images:
            pixels = torch.randn(batch, 3, 224, 224, generator=generator)
            assert (model.encode_image(pixels) - reference.image_features(pixels)).abs().max() <= TOLERANCE
        for batch, length in texts:
            for padded in (False, True):
                x = ids(batch, length, padded, generator)
                assert (model.encode_text(x) - reference.text_features(x)).abs().max() <= TOLERANCE


def test_both_towers(reference, saved):
    """A file with its config.json: the config's activation decides."""
    model, _, _ = open_clip.create_model_and_transforms("zhclip", pretrained=str(saved))
    assert model.zhclip_model == NAMES[reference.image_config.hidden_act]
    assert float(model.logit_scale.detach()) == pytest.approx(math.log(100))
    compare(model, reference)


def test_official_tag_from_models_dir(reference, saved, monkeypatch):
    monkeypatch.setenv("ZHCLIP_MODELS_DIR", str(saved.parents[2]))
    model = open_clip.create_model("zhclip", pretrained="thu_ml")
    assert model.zhclip_model == NAMES[reference.image_config.hidden_act]
    compare(model, reference, images=(1,), texts=((2, 20),))


def test_safetensors_and_folder(reference, tmp_path):
    reference.save(tmp_path, "model.safetensors")
    compare(open_clip.create_model("zhclip", pretrained=str(tmp_path)), reference, (1,), ((2, 20),))


def test_without_a_config_the_name_decides(reference, tmp_path):
    path = reference.save(tmp_path, config=False)
    compare(open_clip.create_model(NAMES[reference.image_config.hidden_act], pretrained=str(path)), reference, (1,), ())
    other = {"gelu": "zhclip-vit-l-14-quickgelu", "quick_gelu": "zhclip-vit-l-14"}[reference.image_config.hidden_act]
    wrong = open_clip.create_model(other, pretrained=str(path)).eval()
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert (wrong.encode_image(pixels) - reference.image_features(pixels)).abs().max() > TOLERANCE


def test_fine_tuned_and_saved_as_open_clip_train_does(reference, saved, tmp_path):
    model = open_clip.create_model("zhclip", pretrained=str(saved))
    path = tmp_path / "epoch_1.pt"
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters()).state_dict()
    torch.save({"epoch": 1, "name": "run", "state_dict": state, "optimizer": optimizer}, path)
    again = open_clip.create_model(model.zhclip_model, pretrained=str(path))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_preprocessing_follows_the_published_file(reference, saved, tmp_path):
    """Against transformers' own processor, with other constants than open_clip's."""
    folder = tmp_path / "model"
    shutil.copytree(saved.parent, folder)
    published = {
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "size": {"shortest_edge": 224},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(published))
    _, _, transform = open_clip.create_model_and_transforms("zhclip", pretrained=str(folder))
    processor = CLIPImageProcessor.from_pretrained(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    theirs = torch.as_tensor(np.asarray(processor(images=image)["pixel_values"][0]))
    # Transformers' processor works on tensors and rounds after resizing: one step of 255 here and there.
    assert (transform(image) - theirs).abs().max() <= 2 / 255 + 1e-6
    assert (transform(image) - theirs).abs().mean() < 1e-3

    published["size"] = {"shortest_edge": 336}
    (folder / "preprocessor_config.json").write_text(json.dumps(published))
    with pytest.raises(RuntimeError, match="preprocessor_config.json: resizes to 336 and crops 224"):
        open_clip.create_model("zhclip", pretrained=str(folder))


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("vision_config", "hidden_size", 768),
        ("vision_config", "num_hidden_layers", 12),
        ("text_config", "vocab_size", 250002),
        ("text_config", "num_attention_heads", 12),
    ],
)
def test_a_config_that_contradicts_is_an_error(reference, saved, tmp_path, part, key, value):
    config = reference.config()
    config[part][key] = value
    path = tmp_path / "pytorch_model.bin"
    path.symlink_to(saved)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match=rf"config.json contradicts zhclip-vit-l-14\S*: {part}.{key} is {value} and"):
        open_clip.create_model("zhclip", pretrained=str(path))


def test_unknown_activation_and_broken_config(reference, saved, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.symlink_to(saved)
    config = reference.config()
    config["vision_config"]["hidden_act"] = "relu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match="hidden_act is 'relu'; known are"):
        open_clip.create_model("zhclip", pretrained=str(path))
    (tmp_path / "config.json").write_text('{"vision_config": {,}}')
    with pytest.raises(RuntimeError, match=r"config.json, line 1, column \d+"):
        open_clip.create_model("zhclip", pretrained=str(path))


def test_the_twin_by_name_warns_where_the_config_says_otherwise(reference, saved):
    if reference.image_config.hidden_act == "quick_gelu":
        pytest.skip("nothing to contradict")
    with pytest.warns(UserWarning, match="QuickGELU.*config.json says gelu"):
        open_clip.create_model("zhclip-vit-l-14-quickgelu", pretrained=str(saved))
