"""What lies with weights, told in the words of transformers and open_clip, and obeyed or refused."""

from __future__ import annotations

import json
import warnings

import numpy as np
import open_clip
import pytest
from PIL import Image

from tests.families.test_preprocessing import pil_processor
from zhclip_openclip import _paths
from zhclip_openclip._errors import CheckpointError
from zhclip_openclip.checkpoints import _beside, _config
from zhclip_openclip.checkpoints._place import Folder
from zhclip_openclip.families import all_families

WEIGHTS = _paths.DATA / "tiny" / "model.safetensors"
SQUARE = {"size": {"height": 64, "width": 64}, "do_center_crop": False}


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8))


def ours(told: dict):
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = _config.preprocessing(_paths.DATA, told, 64)
    return image_transform_v2(PreprocessCfg(size=64, **config), is_train=False)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"image_mean": 0.5, "image_std": 0.25},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 2},
        {"rescale_factor": 1 / 127.5},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0], "image_std": [1.0, 1.0, 1.0]},
        {"do_normalize": False},
        {"resample": None, "crop_size": None, "image_mean": None},
    ],
    ids=str,
)
def test_preprocessing_is_what_transformers_does(picture, more):
    told = {**SQUARE, **more}
    given = {key: value for key, value in told.items() if value is not None}
    if isinstance(given.get("image_mean"), float):
        given["image_mean"], given["image_std"] = [given["image_mean"]] * 3, [given["image_std"]] * 3
    assert (ours(told)(picture) - pil_processor(**given)(picture)).abs().max() <= 2e-6


@pytest.mark.parametrize(
    "told, message",
    [
        ({"do_rescale": False}, "do_rescale is false"),
        ({"do_resize": False}, "do_resize is false"),
        ({"size": {"longest_edge": 64}}, "no such way of resizing"),
        ({"size": {"shortest_edge": 73}, "crop_size": 64}, "resizes to 73 and crops 64, and the model takes 64"),
        ({"size": {"height": 64, "width": 32}}, "resizes to 64 x 32"),
        ({"resample": 5}, "resample is 5"),
        ({"image_mean": "grey"}, "image_mean is 'grey', neither a number nor three"),
        ({"image_std": [1, 2]}, r"image_std is \[1, 2\]"),
    ],
)
def test_what_cannot_be_done_is_refused_and_there_is_a_way_round(tmp_path, told, message):
    model = open_clip.create_model("zhclip-tiny", pretrained="digits")
    from safetensors.torch import save_file

    save_file(dict(model.state_dict()), tmp_path / "model.safetensors")
    # Weights in open_clip's names do not ask transformers' files; these are for the others.
    said = _beside.Said()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match=message) as error:
        _beside.add_hugging_face(said, Folder(tmp_path), 64)
    assert "preprocessor_config.json" in str(error.value) and "give image_resize_mode" in str(error.value)
    with pytest.warns(UserWarning, match=message):
        _beside.add_hugging_face(said, Folder(tmp_path), 64, lenient=True)


def test_transformers_five_writes_one_file_for_both(tmp_path):
    """What a processor of transformers 5 saves: `processor_config.json` alone, with the image processor in it."""
    from transformers import BertTokenizerFast, ChineseCLIPImageProcessor, ChineseCLIPProcessor

    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "猫"]))
    image = ChineseCLIPImageProcessor(
        image_mean=[0.5] * 3, image_std=[0.25] * 3, resample=2, size={"height": 224, "width": 224}, do_center_crop=False
    )
    processor = ChineseCLIPProcessor(image, BertTokenizerFast(str(tmp_path / "vocab.txt")))
    processor.save_pretrained(tmp_path / "saved")
    if not (tmp_path / "saved/processor_config.json").exists():
        pytest.skip("this version of transformers writes preprocessor_config.json")
    said = _beside.Said()
    _beside.add_hugging_face(said, Folder(tmp_path / "saved"), 224)
    expected = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    assert said.preprocess == expected
    # Where both files are there, transformers believes the nested one.
    (tmp_path / "saved/preprocessor_config.json").write_text(json.dumps({"image_mean": 0.1}))
    again = _beside.Said()
    _beside.add_hugging_face(again, Folder(tmp_path / "saved"), 224)
    assert again.preprocess == expected


@pytest.mark.parametrize("family", sorted(all_families()))
def test_a_config_without_our_word_is_known(family):
    """By encoder, head and pooler, and then by what else agrees: each of our models, and none of open_clip's."""
    for model in all_families()[family].models:
        config = {"model_cfg": model.config(), "preprocess_cfg": {}}
        assert _beside.model_of(config) == model.name


def test_configs_of_others_are_not_ours():
    for name in ("ViT-B-32", "roberta-ViT-B-32", "xlm-roberta-large-ViT-H-14", "nllb-clip-base", "ViT-B-16-SigLIP"):
        assert _beside.model_of({"model_cfg": open_clip.get_model_config(name)}) == "", name
    for nonsense in ({}, {"model_cfg": []}, {"zhclip": {"model": 3}}, {"zhclip": {"model": "nix"}, "model_cfg": None}):
        assert _beside.model_of(nonsense) == ""


@pytest.mark.parametrize(
    "metadata", ["[]", "{", '{"model": "nix"}', '{"model": 3}', '{"model": "RN50"}', "[" * 100_000, '{"model": null}']
)
def test_made_up_metadata_says_nothing(metadata):
    said = _beside.Said()
    _beside.add_own(said, metadata, "here")
    assert said == _beside.Said()


def test_params_of_a_run(tmp_path):
    (tmp_path / "params.txt").write_text(
        "image_mean: [0.1, 0.2, 0.3]\nforce_image_size: [96, 96]\nforce_quick_gelu: False\nmodel: zhclip\nno colon\n"
        "image_std: None\nforce_context_length: 20\npretrained: a: b\nbroken: [1, \n"
    )
    said = _beside.Said()
    told = _beside.add_params(said, tmp_path / "params.txt")
    assert (said.image_size, said.context_length, said.quickgelu) == (96, 20, None)
    assert said.preprocess == {"mean": (0.1, 0.2, 0.3)} and told["pretrained"] == "a: b"
    (tmp_path / "params.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"params.txt: not UTF-8"):
        _beside.add_params(said, tmp_path / "params.txt")


def test_the_first_that_tells_is_believed():
    said = _beside.Said()
    said.add("a", image_size=None, preprocess={})
    said.add("b", image_size=64)
    said.add("c", image_size=96, preprocess={"mean": (0, 0, 0)})
    assert (said.image_size, said.by) == (64, {"image_size": "b", "preprocess": "c"})


@pytest.mark.parametrize("name", ["CNCLIP-ViT-B-16", "ZHCLIP", "Clip_Chinese", "Zhclip-Tiny"])
def test_a_name_in_other_letters_is_answered_with_the_right_one(name):
    """open_clip lists its 150 names, and gives any tokenizer to any name."""
    for call in (open_clip.create_model, open_clip.get_tokenizer, open_clip.create_model_and_transforms):
        with pytest.raises(CheckpointError, match=f"no model '{name}': it is written '{name.lower()}'"):
            call(name)


def test_a_path_that_is_not_there_is_told_without_its_weights_too():
    with pytest.raises(CheckpointError, match="does not exist; the tags of zhclip-tiny are digits"):
        open_clip.create_model("zhclip-tiny", pretrained="/no/such/file.pt", load_weights=False)


def test_nothing_is_told_where_all_is_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_clip.create_model("zhclip-tiny", pretrained="digits")
        open_clip.create_model("zhclip-tiny", pretrained=str(WEIGHTS))
