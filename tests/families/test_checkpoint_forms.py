"""The forms in which people have checkpoints: each is recognised by its keys and gives the same model."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from tests.support import references
from tests.support.reduced import LAYERS, VOCABULARY, assert_same, build, create
from tests.support.references import REFERENCES
from zhclip_openclip._errors import CheckpointError

pytestmark = pytest.mark.usefixtures("reduced")

CNCLIP = "cnclip-vit-b-16"


@pytest.fixture(scope="module")
def chinese_clip():
    """transformers' ChineseCLIPModel."""
    return build(CNCLIP, "ofa_sys")


@pytest.fixture(scope="module")
def cn_clip():
    """cn_clip's own model."""
    reference = references.cn_clip("own", *references.CN_CLIP[CNCLIP], layers=LAYERS, vocabulary=VOCABULARY)
    references.randomise(reference.modules["own"])
    return reference


@pytest.fixture(scope="module")
def altclip():
    return build("altclip-vit-l-14", "baai")


@pytest.fixture(scope="module")
def taiyi():
    return build("taiyiclip-vit-b-32", "idea_ccnl")


def module_of(reference):
    return next(iter(reference.modules.values()))


# Hugging Face's forms


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_hub_files(chinese_clip, models_dir, file):
    chinese_clip.save(models_dir, "safetensors" if file.endswith("safetensors") else "bin")
    folder = models_dir / "OFA-Sys/chinese-clip-vit-base-patch16"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", file]
    assert_same(create(CNCLIP, "ofa_sys"), chinese_clip)
    assert_same(create(CNCLIP, folder), chinese_clip)
    assert_same(create(CNCLIP, folder / file), chinese_clip)


def test_safetensors_come_first(chinese_clip, models_dir):
    chinese_clip.save(models_dir, "safetensors")
    folder = models_dir / "OFA-Sys/chinese-clip-vit-base-patch16"
    (folder / "pytorch_model.bin").write_bytes(b"nobody looks here")
    assert_same(create(CNCLIP, "ofa_sys"), chinese_clip)


@pytest.mark.parametrize("kind", ["chinese_clip", "altclip"])
def test_save_pretrained_of_transformers(kind, request, tmp_path):
    reference = request.getfixturevalue(kind)
    module_of(reference).save_pretrained(tmp_path / "saved")
    name = {"chinese_clip": CNCLIP, "altclip": "altclip-vit-l-14"}[kind]
    assert_same(create(name, tmp_path / "saved"), reference)


def test_save_pretrained_in_shards(chinese_clip, tmp_path):
    module_of(chinese_clip).save_pretrained(tmp_path, max_shard_size="20MB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_same(create(CNCLIP, tmp_path), chinese_clip)


def test_state_dict_of_transformers_as_it_is_in_memory(altclip, tmp_path):
    """transformers 5 calls AltCLIP's text layers `layers` in memory and `layer` on disk."""
    state = module_of(altclip).state_dict()
    assert any(".roberta.encoder.layers." in name for name in state)
    torch.save(state, tmp_path / "mine.pt")
    assert_same(create("altclip-vit-l-14", tmp_path / "mine.pt"), altclip)


# Chinese-CLIP's own


def flash_attention(state: dict) -> dict:
    """The names that a model of cn_clip has under --use-flash-attention, made by cn_clip itself."""
    from cn_clip.clip.model import convert_state_dict

    return convert_state_dict({f"module.{name}": tensor for name, tensor in state.items()})


@pytest.mark.parametrize("form", ["training", "weights", "half", "flash", "compiled"])
def test_chinese_clips_own(cn_clip, tmp_path, form):
    state = module_of(cn_clip).state_dict()
    content = {
        "training": lambda: references.chinese_clip_training(state),
        "weights": lambda: dict(state),
        "half": lambda: references.chinese_clip_training({k: v.half() for k, v in state.items()}),
        "flash": lambda: {"epoch": 1, "state_dict": flash_attention(state)},
        "compiled": lambda: {"state_dict": {f"_orig_mod.module.{k}": v for k, v in state.items()}},
    }[form]()
    if form == "flash":
        assert any("attention.self.Wqkv" in name for name in content["state_dict"])
        assert any("attn.Wqkv" in name for name in content["state_dict"])
    torch.save(content, tmp_path / "epoch_latest.pt")
    model = create(CNCLIP, tmp_path / "epoch_latest.pt")
    if form == "half":
        assert model.visual.proj.dtype == torch.float32
        assert torch.equal(model.visual.proj, state["visual.proj"].half().float())
    else:
        assert_same(model, cn_clip)
        assert torch.equal(model.logit_scale, state["logit_scale"])


def test_a_folder_of_chinese_clips_training(cn_clip, tmp_path):
    torch.save(references.chinese_clip_training(cn_clip.published()["own"]), tmp_path / "epoch_latest.pt")
    assert_same(create("cnclip-vit-b-16", tmp_path), cn_clip)


# open_clip's


def test_what_open_clips_training_writes(chinese_clip, models_dir, tmp_path):
    chinese_clip.save(models_dir)
    model = create(CNCLIP, "ofa_sys")
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoint = {
        "epoch": 2,
        "name": "run",
        "state_dict": {f"module.{name}": tensor for name, tensor in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
    }
    torch.save(checkpoint, tmp_path / "epoch_2.pt")
    assert_same(create(CNCLIP, tmp_path / "epoch_2.pt"), chinese_clip)


def test_open_clip_directory(taiyi, models_dir, tmp_path):
    """One file with both towers, also of a family whose towers are published apart."""
    taiyi.save(models_dir)
    model = create("taiyiclip-vit-b-32", "idea_ccnl")
    folder = tmp_path / "converted"
    folder.mkdir()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": open_clip.get_model_config("taiyiclip-vit-b-32"), "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    assert_same(create("taiyiclip-vit-b-32", folder), taiyi)


# towers that are published apart


def test_image_tower_is_fetched_once_and_shared(hub, tmp_path):
    large = dict(layers=LAYERS, vocabulary=VOCABULARY)
    for name, tag in (("taiyiclip-vit-b-32", "idea_ccnl"), ("mclip-vit-b-32", "m_clip")):
        reference = REFERENCES[name, tag](**large)
        reference.save(hub.root)
        create(name, tag, cache_dir=str(tmp_path / "cache"))
    image = [path for path in hub.downloads() if "openai/clip-vit-base-patch32" in path and "model.safetensors" in path]
    assert len(image) == 1
    texts = [path for path in hub.downloads() if path.endswith("model.safetensors")]
    assert len(texts) == 3


@pytest.mark.parametrize("given", ["file", "folder"])
def test_a_text_tower_of_ones_own(taiyi, models_dir, tmp_path, given):
    """A fine-tuned text tower; the image tower comes from its own source."""
    taiyi.save(models_dir)
    text = models_dir / "IDEA-CCNL/Taiyi-CLIP-Roberta-102M-Chinese"
    mine = text.rename(tmp_path / "mine")
    assert_same(create("taiyiclip-vit-b-32", mine / "model.safetensors" if given == "file" else mine), taiyi)


def test_load_checkpoint_of_a_text_tower(taiyi, models_dir):
    taiyi.save(models_dir)
    model = open_clip.create_model("taiyiclip-vit-b-32", pretrained_text=False)
    open_clip.load_checkpoint(model, models_dir / "IDEA-CCNL/Taiyi-CLIP-Roberta-102M-Chinese/model.safetensors")
    assert_same(model, taiyi)


def test_image_tower_in_open_clips_form(taiyi, models_dir, tmp_path):
    """OpenAI's weights are on the hub as open_clip writes them, too."""
    taiyi.save(models_dir)
    source = models_dir / "openai/clip-vit-base-patch32"
    model = create("taiyiclip-vit-b-32", "idea_ccnl")
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("text.")}
    state |= {"token_embedding.weight": torch.zeros(3, 4), "text_projection": torch.zeros(4, 4)}
    (source / "model.safetensors").unlink()
    save_file(state, source / "model.safetensors")
    assert_same(create("taiyiclip-vit-b-32", "idea_ccnl"), taiyi)


def test_logit_scale_comes_with_the_image_tower(taiyi, models_dir):
    taiyi.save(models_dir)
    model = create("taiyiclip-vit-b-32", "idea_ccnl")
    clip = taiyi.modules["openai/clip-vit-base-patch32"]
    assert torch.equal(model.logit_scale, clip.logit_scale)


# what does not fit


def test_another_size_is_named(cn_clip, tmp_path):
    torch.save(references.chinese_clip_training(cn_clip.published()["own"]), tmp_path / "epoch_latest.pt")
    with pytest.raises(CheckpointError) as error:
        create("cnclip-vit-l-14", tmp_path / "epoch_latest.pt")
    assert "does not fit cnclip-vit-l-14" in str(error.value)
    assert "it fits cnclip-vit-b-16: load it under that name" in str(error.value)
    assert "\n" not in str(error.value)


def test_another_family_is_named(cn_clip, tmp_path):
    torch.save(references.chinese_clip_training(cn_clip.published()["own"]), tmp_path / "epoch_latest.pt")
    with pytest.raises(CheckpointError, match="holds Chinese-CLIP weights.* load it as cnclip-vit-b-16$"):
        create("zhclip-vit-l-14", tmp_path / "epoch_latest.pt")


def test_a_text_tower_of_another_family_is_named(taiyi, tmp_path):
    taiyi.save(tmp_path)
    with pytest.raises(CheckpointError, match="holds Taiyi-CLIP weights.* load it as taiyiclip-vit-b-32$"):
        create("mclip-vit-b-32", tmp_path / "IDEA-CCNL/Taiyi-CLIP-Roberta-102M-Chinese")


def test_an_image_tower_alone_is_not_a_model(taiyi, tmp_path):
    taiyi.save(tmp_path)
    with pytest.raises(CheckpointError, match="without a Chinese text tower.*image tower of .*Taiyi-CLIP"):
        create("taiyiclip-vit-b-32", tmp_path / "openai/clip-vit-base-patch32")


def test_the_wrong_image_tower_is_named(taiyi, models_dir):
    taiyi.save(models_dir)
    folder = models_dir / "openai/clip-vit-base-patch32"
    clip = references.openai_clip("b-16", LAYERS, 512)
    clip.save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"patch32\S* contradicts.*patch_size is 16 and taiyiclip\S* has 32"):
        create("taiyiclip-vit-b-32", "idea_ccnl")
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"patch32/model.safetensors .* does not fit .* have another shape"):
        create("taiyiclip-vit-b-32", "idea_ccnl")


@pytest.mark.parametrize("lost", ["text_projection.weight", "vision_model.post_layernorm.bias"])
def test_a_key_that_is_missing_is_listed(chinese_clip, tmp_path, lost):
    state = dict(module_of(chinese_clip).state_dict())
    del state[lost]
    torch.save(state, tmp_path / "mine.pt")
    with pytest.raises(CheckpointError) as error:
        create(CNCLIP, tmp_path / "mine.pt")
    told = {"text_projection": "is of no known family", "vision_model": "parameters are missing (visual.ln_post.bias)"}
    assert told[lost.split(".")[0]] in str(error.value)


def test_a_key_too_many_is_listed(chinese_clip, tmp_path):
    torch.save({**module_of(chinese_clip).state_dict(), "adapter.weight": torch.zeros(2)}, tmp_path / "mine.pt")
    with pytest.raises(CheckpointError, match=r"1 keys are unknown \(adapter.weight\)"):
        create(CNCLIP, tmp_path / "mine.pt")


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("text_config", "hidden_act", "relu"),
        ("text_config", "layer_norm_eps", 1e-5),
        ("vision_config", "hidden_act", "gelu"),
    ],
)
def test_a_config_that_contradicts_is_an_error(chinese_clip, tmp_path, part, key, value):
    chinese_clip.save(tmp_path)
    folder = tmp_path / "OFA-Sys/chinese-clip-vit-base-patch16"
    config = json.loads((folder / "config.json").read_text())
    config[part][key] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"{part}.{key} is {value}"):
        create(CNCLIP, folder)
