"""The forms in which people have checkpoints: each is recognised by its keys and gives the same model."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from tests.support import references
from tests.support.reduced import LAYERS, VOCABULARY, assert_same, build, create, expected
from tests.support.references import REFERENCES
from zhclip_openclip._errors import CheckpointError
from zhclip_openclip.checkpoints import _load, _resolve
from zhclip_openclip.families import find

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
    state |= {"token_embedding.weight": torch.zeros(49408, 4), "text_projection": torch.zeros(4, 4)}
    (source / "model.safetensors").unlink()
    save_file(state, source / "model.safetensors")
    assert_same(create("taiyiclip-vit-b-32", "idea_ccnl"), taiyi)


def test_logit_scale_comes_with_the_image_tower(taiyi, models_dir):
    taiyi.save(models_dir)
    model = create("taiyiclip-vit-b-32", "idea_ccnl")
    clip = taiyi.modules["openai/clip-vit-base-patch32"]
    assert torch.equal(model.logit_scale, clip.logit_scale)


def test_both_towers_in_one_file(taiyi, models_dir, tmp_path):
    """A fine-tuning run that saved what it loaded from two places into one file."""
    taiyi.save(models_dir)
    towers = taiyi.published()
    state = {**towers["openai/clip-vit-base-patch32"], **towers["IDEA-CCNL/Taiyi-CLIP-Roberta-102M-Chinese"]}
    state["visual_projection.weight"] = state["visual_projection.weight"] + 1
    torch.save(state, tmp_path / "mine.pt")
    assert_another(create("taiyiclip-vit-b-32", tmp_path / "mine.pt"), taiyi, state)
    no_scale = {name: tensor for name, tensor in state.items() if name.startswith(("bert.", "classifier.", "vis"))}
    torch.save(no_scale, tmp_path / "mine.pt")
    model = create("taiyiclip-vit-b-32", tmp_path / "mine.pt")
    assert model.logit_scale.exp().item() == pytest.approx(100)


def test_both_towers_of_multilingual_clip_in_one_file(models_dir, tmp_path):
    reference = build("mclip-vit-b-32", "m_clip")
    state = {}
    for tower in reversed(reference.published().values()):
        state |= tower
    state["visual_projection.weight"] = state["visual_projection.weight"] + 1
    torch.save({"module": state}, tmp_path / "mine.pt")
    assert_another(create("mclip-vit-b-32", tmp_path / "mine.pt"), reference, state)


@torch.no_grad()
def assert_another(model, reference, state):
    """Texts as in the reference, and the image tower's projection as in `state`, where the published one differs."""
    _, tokens, features = expected(reference)[1]
    assert (model.eval().encode_text(tokens) - features).abs().max() <= 1e-5
    assert torch.equal(model.visual.proj, state["visual_projection.weight"].T)


# trainers around other people's names


@pytest.mark.parametrize("form", ["DeepSpeed", "Lightning", "FSDP", "AveragedModel", "average beside"])
@pytest.mark.parametrize("kind", ["chinese_clip", "cn_clip", "altclip", "taiyi"])
@pytest.mark.filterwarnings("ignore:.*(left out|is taken)")
def test_what_trainers_make_of_it(kind, form, request, models_dir, tmp_path):
    reference = request.getfixturevalue(kind)
    name = {"altclip": "altclip-vit-l-14", "taiyi": "taiyiclip-vit-b-32"}.get(kind, CNCLIP)
    if kind == "taiyi":
        reference.save(models_dir)  # the image tower comes from its own source
    state = next(iter(reference.published().values()))
    layer = next(part for part in ("encoder.layer.0.", "encoder.layers.0.") if any(part in key for key in state))
    content = {
        "DeepSpeed": lambda: {"module": state, "ds_version": "0.16", "optimizer": None},
        "Lightning": lambda: {
            "state_dict": {**{f"model.{k}": v for k, v in state.items()}, "head.weight": torch.zeros(2)},
            "pytorch-lightning_version": "2.4.0",
        },
        "FSDP": lambda: {
            f"_fsdp_wrapped_module.{k.replace(layer, f'{layer}_checkpoint_wrapped_module.')}": v
            for k, v in state.items()
        },
        "AveragedModel": lambda: {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in state.items()}},
        "average beside": lambda: {"state_dict": state, "state_dict_ema": {k: v + 1 for k, v in state.items()}},
    }[form]()
    torch.save(content, tmp_path / "last.ckpt")
    assert_same(create(name, tmp_path / "last.ckpt"), reference)


# the hub's cache as its own tools leave it


@pytest.mark.parametrize(("name", "tag"), [("cnclip-rn50", "ofa_sys"), ("taiyiclip-vit-b-32", "idea_ccnl")])
@pytest.mark.filterwarnings("ignore:.*taken for absent")
def test_repositories_that_were_downloaded_whole(hub, tmp_path, monkeypatch, name, tag):
    from huggingface_hub import constants, snapshot_download

    from zhclip_openclip.commands.models import rows

    def here():
        return {row["model"]: row["on_this_machine"] for row in rows() if row["tag"] == tag}[name]

    reference = build(name, tag)
    reference.save(hub.root)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for repo in reference.modules:
        assert not here()
        snapshot_download(repo, cache_dir=tmp_path / "cache")
    assert here()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_same(create(name, tag, cache_dir=str(tmp_path / "cache")), reference)


# what does not fit


def large(size: str) -> dict:
    reference = {"224": "cnclip-vit-l-14", "336": "cnclip-vit-l-14-336"}[size]
    return next(iter(build(reference, "ofa_sys").published().values()))


@pytest.mark.parametrize(
    ("size", "asked", "fits"),
    [("336", "cnclip-vit-l-14", "cnclip-vit-l-14-336"), ("224", "cnclip-vit-l-14-336", "cnclip-vit-l-14")],
)
def test_another_image_size_is_refused_where_none_is_asked_for(tmp_path, size, asked, fits):
    torch.save(large(size), tmp_path / "mine.pt")
    model = open_clip.create_model(asked, pretrained_text=False)
    pieces = [_resolve.recognise(tmp_path / "mine.pt", *find(asked))]
    with pytest.raises(CheckpointError, match=f"; it fits {fits}: load it under that name$"):
        _load.load(model, pieces, asked, resize=False)
    _load.load(model, pieces, asked, resize=True)


def test_another_image_size_that_no_model_has_is_told_in_pixels(tmp_path):
    for name, size in (("cnclip-vit-b-16", 384), ("cnclip-rn50", 64)):
        other = open_clip.create_model(name, force_image_size=size, pretrained_text=False)
        torch.save(other.state_dict(), tmp_path / "mine.pt")
        model = open_clip.create_model(name, pretrained_text=False)
        pieces = [_resolve.recognise(tmp_path / "mine.pt", *find(name))]
        with pytest.raises(CheckpointError, match=f"its images are of {size} pixels and the model's of 224: see force"):
            _load.load(model, pieces, name, resize=False)


@pytest.mark.parametrize("fault", ["a part of another size", "a part missing", "a scalar", "twice"])
def test_parts_that_do_not_fit_together(chinese_clip, tmp_path, fault):
    """Query, key and value are one tensor here: rows that add up by chance are not enough."""
    state = dict(module_of(chinese_clip).state_dict())
    place = "vision_model.encoder.layers.0.self_attn."
    query, key, value = (state[f"{place}{part}_proj.weight"] for part in "qkv")
    if fault == "a part of another size":
        state |= {f"{place}q_proj.weight": query[:1], f"{place}k_proj.weight": torch.cat([key, query[1:]])}
    elif fault == "a part missing":
        del state[f"{place}v_proj.weight"]
        state[f"{place}k_proj.weight"] = torch.cat([key, value])
    elif fault == "a scalar":
        state[f"{place}q_proj.weight"] = torch.zeros(())
    else:
        state["vision_model.encoder.layer.0.self_attn.q_proj.weight"] = query
    torch.save(state, tmp_path / "mine.pt")
    with pytest.raises(CheckpointError, match=r"1 have another shape \(vision_model.*q_proj.weight.* together for"):
        create(CNCLIP, tmp_path / "mine.pt")


@pytest.mark.parametrize("lost", ["classifier.bias", "vision_model.post_layernorm.bias"])
def test_only_models_that_read_the_file_are_named(taiyi, models_dir, tmp_path, lost):
    """Other families have towers of the same shapes, and do not know these names."""
    taiyi.save(models_dir)
    name = "taiyiclip-vit-b-32"
    if lost.startswith("classifier"):
        state = dict(taiyi.published()["IDEA-CCNL/Taiyi-CLIP-Roberta-102M-Chinese"])
        path = tmp_path / "mine.pt"
    else:
        path = models_dir / "openai/clip-vit-base-patch32/model.safetensors"
        state = dict(taiyi.published()["openai/clip-vit-base-patch32"])
    del state[lost]
    path.unlink(missing_ok=True)
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="parameters are missing") as error:
        create(name, path if path.suffix == ".pt" else "idea_ccnl")
    assert "it fits" not in str(error.value)


def test_an_image_tower_of_another_size_is_not_to_be_loaded_by_name(taiyi, models_dir):
    taiyi.save(models_dir)
    large = build("taiyiclip-vit-l-14", "idea_ccnl")
    large.save(models_dir)
    folders = [models_dir / f"openai/clip-vit-{size}" for size in ("base-patch32", "large-patch14")]
    for folder in folders:
        (folder / "config.json").unlink()
    (folders[0] / "model.safetensors").replace(folders[1] / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not fit taiyiclip-vit-l-14.*; it is the image tower of ") as error:
        create("taiyiclip-vit-l-14", "idea_ccnl")
    assert "taiyiclip-vit-b-32" in str(error.value) and "clip-chinese" not in str(error.value)


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
    with pytest.raises(CheckpointError, match=f"{part}.{key} is {value!r}"):
        create(CNCLIP, folder)
