"""Every family, however its weights are named and however they were saved: the same features, pixels and ids.

The reference is the model as its tag gives it, which tests/families holds against code that is not ours. From it every
way out is written, and each is read again in every way in that open_clip has for it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.push_to_hf_hub import save_for_hf
from safetensors.torch import save_file
from transformers import XLMRobertaTokenizerFast
from typer.testing import CliRunner

from tests.families.test_preprocessing import picture
from tests.support import gemma, glm
from tests.support.reduced import assert_same, build
from tests.support.references import REFERENCES
from zhclip_openclip._errors import CheckpointError
from zhclip_openclip.commands import app

pytestmark = [
    pytest.mark.usefixtures("reduced"),
    pytest.mark.filterwarnings("ignore:.*it is cut short, or of another model"),  # the vocabularies here are small
]

TEXTS = ["一只猫", "Hello T恤 （全角）！，", "“引号”"]
PICTURES = [picture(331, 224), picture(50, 70, "P"), picture(301, 224, "RGBA")]
#: One model of each family, and the twin of the one that has one.
MODELS = {
    "zhclip": ("zhclip-vit-l-14", "thu_ml"),
    "zhclip-quickgelu": ("zhclip-vit-l-14-quickgelu", "thu_ml"),
    "altclip": ("altclip-vit-l-14", "baai"),
    "cnclip": ("cnclip-vit-b-16", "ofa_sys"),
    "cnclip-rn50": ("cnclip-rn50", "ofa_sys"),
    "taiyiclip": ("taiyiclip-vit-b-32", "idea_ccnl"),
    "mclip": ("mclip-labse-vit-l-14", "m_clip"),
    "clip-chinese": ("clip-chinese-vit-b-32", "yeungnlp"),
    "m2-encoder": ("m2-encoder-0.4b", "malusama"),
    "fgclip2": ("fg-clip2-base-long", "qihoo360"),
    "metaclip2": ("metaclip2-vit-s-16", "meta"),
}
#: The others are `slow`: they take the same way, with other names.
FAST = ("zhclip-quickgelu", "cnclip-rn50", "taiyiclip")
#: What the alias of a family with a twin is called: a user never sees the twin's own name.
ASKED = {"zhclip-vit-l-14-quickgelu": "zhclip", "zhclip-vit-l-14": "zhclip"}
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *'一只猫恤引号全角（）！，,!()"“”hellotw', "hello", "t"]


def seen(name: str, pretrained: str | None = None) -> dict[str, torch.Tensor]:
    """What a user sees of a model: pixels and features of pictures, ids and features of texts."""
    model, _, transform = open_clip.create_model_and_transforms(name, pretrained=pretrained)
    tokenizer = open_clip.get_tokenizer(name, **({"pretrained": pretrained} if pretrained else {}))
    return look(model, transform, tokenizer)


@torch.no_grad()
def look(model, transform, tokenizer) -> dict[str, torch.Tensor]:
    model.eval()
    pixels = torch.stack([transform(image) for image in PICTURES])
    ids = tokenizer(TEXTS)
    text = model.encode_text(ids.clamp(max=model.text.vocab_size - 1))
    return {"pixels": pixels, "images": model.encode_image(pixels), "ids": ids, "texts": text}


def assert_seen(given: dict, expected: dict, way: str) -> None:
    for what in expected:
        assert given[what].shape == expected[what].shape, (way, what)
        assert torch.equal(given[what], expected[what]), (way, what)


def write_tokenizer(folder: Path, name: str) -> None:
    """A small vocabulary in the form of the family's: BERT's, GLM's, Gemma's or XLM-R's."""
    folder.mkdir(parents=True, exist_ok=True)
    if name.startswith("m2-encoder"):
        glm.small_model(folder)
        return
    if name.startswith("fg-clip2"):
        gemma.write(folder)
        return
    if not name.startswith(("altclip", "metaclip2")):
        (folder / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
        return
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "\u2581", *"一只猫恤引号全角（）！，“”HeloT"]
    made = XLMRobertaTokenizerFast(vocab=[(piece, -float(number)) for number, piece in enumerate(pieces)])
    made.save_pretrained(folder)


@pytest.fixture(
    scope="module", params=[pytest.param(key, marks=() if key in FAST else pytest.mark.slow) for key in MODELS]
)
def published(request, tmp_path_factory):
    """Name to ask for, the folder of the published repository, and what a user sees of it under its tag.

    The preprocessing beside the weights is unusual, and so is a context length, so that both have to be obeyed.
    """
    name, tag = MODELS[request.param]
    root = tmp_path_factory.mktemp("published")
    build(name, tag).save(root)
    from zhclip_openclip.families import find

    tagged = find(name)[1].tags[tag]
    folder = root / tagged.repo
    write_tokenizer(folder, name)
    processor = {"image_mean": [0.4, 0.5, 0.6], "image_std": 0.25, "resample": 2, "do_center_crop": None}
    (root / (tagged.image_repo or tagged.repo) / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZHCLIP_MODELS_DIR", str(root))
        asked = ASKED.get(name, name)
        yield asked, tag, folder, seen(asked, tag), root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def saved(published, tmp_path_factory):
    """Every way out: name -> what was written. All are of a model that was loaded under the name of the fixture."""
    asked, tag, _, _, _ = published
    base = tmp_path_factory.mktemp("saved")
    model, tokenizer = open_clip.create_model(asked, pretrained=tag), open_clip.get_tokenizer(asked, pretrained=tag)
    result = CliRunner().invoke(
        app, ["convert", tag, "--model", asked, "--output", str(base / "converted")], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    save_for_hf(model, tokenizer.tokenizer, open_clip.get_model_config(asked), base / "open_clip")
    (base / "run/checkpoints").mkdir(parents=True)
    wrapped = torch.nn.Module()  # as DistributedDataParallel wraps a model
    wrapped.module = model
    torch.save({"epoch": 1, "state_dict": wrapped.state_dict()}, base / "run/checkpoints/epoch_1.pt")
    write_tokenizer(base / "run/checkpoints", asked)
    yield base
    shutil.rmtree(base)


WAYS = {
    "folder": lambda asked, base: seen(asked, str(base / "converted")),
    "file in the folder": lambda asked, base: seen(asked, str(base / "converted/open_clip_model.safetensors")),
    "local-dir": lambda asked, base: seen(f"local-dir:{base / 'converted'}"),
    "folder of save_for_hf": lambda asked, base: seen(asked, str(base / "open_clip")),
    "local-dir of save_for_hf": lambda asked, base: seen(f"local-dir:{base / 'open_clip'}"),
    "checkpoint of a training run": lambda asked, base: seen(asked, str(base / "run/checkpoints/epoch_1.pt")),
}


@pytest.mark.parametrize("way", WAYS)
def test_saved_and_read_again(published, saved, way):
    asked, _, _, expected, _ = published
    assert_seen(WAYS[way](asked, saved), expected, way)


def test_converted_again(published, saved, tmp_path):
    """A round trip of two steps, the second from the folder of the first, gives the same bytes."""
    asked, _, _, expected, _ = published
    for number, source in enumerate(("converted", "run/checkpoints/epoch_1.pt", "open_clip")):
        again = tmp_path / f"again{number}"
        arguments = ["convert", str(saved / source), "--model", asked, "--output", str(again)]
        assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
        assert_seen(seen(f"local-dir:{again}"), expected, source)
    for file in ("open_clip_model.safetensors", "vocab.txt"):
        if (saved / "converted" / file).exists():
            assert (tmp_path / "again0" / file).read_bytes() == (saved / "converted" / file).read_bytes()


def test_uploaded(published, saved, hub):
    """`hf-hub:me/mine`, as name and as `pretrained`, of what was converted and of what open_clip itself uploads."""
    asked, _, _, expected, root = published
    for folder in ("converted", "open_clip"):
        repo = f"me-{root.name}/{folder}"  # each family's its own, as the cache of the hub knows them by name
        shutil.copytree(saved / folder, hub.root / repo)
        assert_seen(seen(f"hf-hub:{repo}"), expected, folder)
        assert_seen(seen(asked, f"hf-hub:{repo}"), expected, folder)


def test_the_published_repository_by_its_own_name(published):
    asked, tag, folder, expected, _ = published
    if folder.parent.name == "M-CLIP":  # its image tower is published apart
        return
    repo = f"{folder.parent.name}/{folder.name}"
    for way in (seen(asked, repo), seen(asked, f"hf-hub:{repo}"), seen(asked, str(folder))):
        assert_seen(way, expected, repo)
    from zhclip_openclip.checkpoints._resolve import repository_of

    if repository_of(repo)[1].name == "fg-clip2-base" != asked:  # one of three models that its repository holds
        return
    assert_seen(seen(f"hf-hub:{repo}"), expected, "as a model")


def test_into_a_model_that_is_there(published, saved):
    """`load_checkpoint` of every file, into the model as its tag builds it."""
    asked, tag, folder, expected, _ = published
    model, _, transform = open_clip.create_model_and_transforms(asked, pretrained=tag)
    tokenizer = open_clip.get_tokenizer(asked, pretrained=tag)
    for source in (saved / "run/checkpoints/epoch_1.pt", saved / "converted/open_clip_model.safetensors", folder):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        open_clip.load_checkpoint(model, source)
        assert_seen(look(model, transform, tokenizer), expected, str(source))


# QuickGELU and its twin


@pytest.fixture
def quick(tmp_path):
    """ZH-CLIP with QuickGELU in a folder with its config.json, and the same file alone."""
    root = tmp_path / "repos"
    build("zhclip-vit-l-14-quickgelu", "thu_ml").save(root)
    folder = root / "thu-ml/zh-clip-vit-roberta-large-patch14"
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(folder / "model.safetensors", alone)
    return folder, alone / "model.safetensors"


def told_of_twins(caught) -> list[str]:
    return [str(one.message) for one in caught if "zhclip-vit-l-14-quickgelu" in str(one.message)]


def test_a_file_that_cannot_tell_names_both_twins(quick, tmp_path):
    folder, alone = quick
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = open_clip.create_model("zhclip", pretrained=str(folder))
        assert not told_of_twins(caught) and model.zhclip_model == "zhclip-vit-l-14-quickgelu"
    bare = {key: value for key, value in model.state_dict().items()}  # safetensors without a word of ours
    save_file(bare, tmp_path / "bare.safetensors")
    for path in (alone, tmp_path / "bare.safetensors"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert open_clip.create_model("zhclip", pretrained=str(path)).zhclip_model == "zhclip-vit-l-14"
        assert len(told_of_twins(caught)) == 1, path
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            open_clip.create_model("zhclip-vit-l-14-quickgelu", pretrained=str(path))  # decided by name
        assert not told_of_twins(caught)


def test_a_run_is_known_by_what_it_began_from(quick, tmp_path):
    """A checkpoint of a trainer that knows nothing of this package, beside its `params.txt`."""
    folder, _ = quick
    model = open_clip.create_model("zhclip", pretrained=str(folder))
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    state = {f"module.{key}": value for key, value in model.state_dict().items()}  # its metadata is lost
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "run/checkpoints/epoch_1.pt")
    (tmp_path / "run/params.txt").write_text(f"model: zhclip\npretrained: {folder}\nimage_mean: [0.1, 0.2, 0.3]\n")
    again, _, transform = open_clip.create_model_and_transforms(
        "zhclip", pretrained=str(tmp_path / "run/checkpoints/epoch_1.pt")
    )
    assert again.zhclip_model == "zhclip-vit-l-14-quickgelu"
    assert transform.transforms[-1].mean == [0.1, 0.2, 0.3] or transform.transforms[-1].mean == (0.1, 0.2, 0.3)


def test_weights_of_the_twin_do_not_go_into_a_built_model(quick):
    folder, _ = quick
    model = open_clip.create_model("zhclip-vit-l-14", pretrained_text=False)
    with pytest.raises(CheckpointError, match="create_model\\('zhclip-vit-l-14-quickgelu'"):
        open_clip.load_checkpoint(model, folder / "model.safetensors")


# Every argument of create_model that brings values


def zeros(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in module.state_dict().items()}


def total(module: torch.nn.Module) -> float:
    return sum(float(parameter.detach().abs().sum()) for parameter in module.parameters())


@pytest.mark.parametrize("option, tower", [("pretrained_image_path", "visual"), ("pretrained_text_path", "text")])
def test_a_tower_that_is_given_wins(option, tower, tmp_path):
    model = open_clip.create_model("zhclip-tiny", pretrained="digits")
    torch.save(zeros(getattr(model, tower)), tmp_path / "tower.pt")
    given = open_clip.create_model("zhclip-tiny", pretrained="digits", **{option: str(tmp_path / "tower.pt")})
    other = {"visual": "text", "text": "visual"}[tower]
    assert total(getattr(given, tower)) == 0 and total(getattr(model, tower)) > 0
    assert total(getattr(given, other)) == total(getattr(model, other)) > 0


def test_a_tower_under_other_names_is_told(tmp_path):
    model = open_clip.create_model("zhclip-tiny", pretrained="digits")
    torch.save({f"visual.{key}": value for key, value in zeros(model.visual).items()}, tmp_path / "tower.pt")
    with pytest.warns(UserWarning, match=r"tower.pt holds 0 of the \d+ tensors"):
        open_clip.create_model("zhclip-tiny", pretrained="digits", pretrained_image_path=str(tmp_path / "tower.pt"))


OPTIONS = [
    {},
    {"load_weights": True},
    {"precision": "bf16"},
    {"precision": "fp16"},
    {"precision": "pure_bf16"},
    {"pretrained_image": True},
    {"pretrained_text": False},
    {"pretrained_hf": False},
    {"force_custom_text": True},
    {"force_context_length": 12},
    {"force_patch_dropout": 0.0},
    {"init_logit_scale": 1.0},
    {"output_dict": True},
    {"require_pretrained": True},
    {"weights_only": False},
    {"device": torch.device("cpu")},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: next(iter(options), "none"))
def test_no_argument_leaves_a_parameter_unfilled(options):
    expected = open_clip.create_model("zhclip-tiny", pretrained="digits").state_dict()
    with contextlib.redirect_stderr(None):
        model = open_clip.create_model("zhclip-tiny", pretrained="digits", **options)
    state = model.state_dict()
    assert state.keys() == expected.keys()
    for key, value in state.items():
        assert torch.equal(value, expected[key].to(value.dtype)), key


def test_a_parameter_that_nothing_fills_is_an_error(monkeypatch):
    from zhclip_openclip.checkpoints import _load

    load = _load.load

    def forgetful(*args, **kwargs):
        told = load(*args, **kwargs)
        told.missing_keys.append("logit_scale")
        return told

    monkeypatch.setattr(_load, "load", forgetful)
    with pytest.raises(CheckpointError, match="1 parameters were given no values \\(logit_scale\\)"):
        open_clip.create_model("zhclip-tiny", pretrained="digits")


def test_all_models_have_a_reference():
    """A new family has to be in the table above."""
    from zhclip_openclip.families import all_families

    tested = {name for name, _ in MODELS.values()}
    for family in all_families().values():
        if any((model.name, tag) in REFERENCES for model in family.models for tag in model.tags):
            assert tested & {model.name for model in family.models}, family.name


# Sizes


def positions(model) -> torch.Tensor:
    visual = model.visual
    return getattr(visual, "positional_embedding", None) if hasattr(visual, "conv1") else visual.trunk.pos_embed


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    """Chinese-CLIP's ViT-L/14 for 336 and 224 pixels, in two layouts each."""
    root = tmp_path_factory.mktemp("sizes")
    files = {}
    for size, name in ((336, "cnclip-vit-l-14-336"), (224, "cnclip-vit-l-14")):
        reference = build(name, "ofa_sys")
        state = next(iter(reference.published().values()))
        files[size, "hub"] = root / f"{size}.safetensors"
        save_file({key: value.contiguous() for key, value in state.items()}, files[size, "hub"])
        model = open_clip.create_model(name, pretrained=str(files[size, "hub"]))
        files[size, "open_clip"] = root / f"{size}.pt"
        torch.save(dict(model.state_dict()), files[size, "open_clip"])
    yield files
    shutil.rmtree(root)


@pytest.mark.parametrize("layout", ["hub", "open_clip"])
@pytest.mark.parametrize("size, fits", [(336, "cnclip-vit-l-14-336"), (224, "cnclip-vit-l-14")])
def test_a_file_of_another_size_names_the_model_that_fits(sizes, layout, size, fits):
    other = {336: "cnclip-vit-l-14", 224: "cnclip-vit-l-14-336"}[size]
    with pytest.raises(CheckpointError, match=f"it fits {fits}: load it under that name"):
        open_clip.create_model(other, pretrained=str(sizes[size, layout]))


def test_positions_are_interpolated_where_a_size_is_asked_for(sizes):
    """As open_clip's own `resize_pos_embed` does it, which its own loading calls."""
    from open_clip.model import resize_pos_embed

    model = open_clip.create_model("cnclip-vit-l-14", pretrained=str(sizes[224, "hub"]), force_image_size=336)
    expected = dict(open_clip.create_model("cnclip-vit-l-14", pretrained=str(sizes[224, "hub"])).state_dict())
    resize_pos_embed(expected, model)
    assert torch.equal(model.visual.positional_embedding, expected["visual.positional_embedding"])


def test_folders_are_held_against_the_size_that_is_asked_for(sizes, tmp_path):
    """config.json and preprocessor_config.json say 336, and so does the call."""
    shutil.copy(sizes[336, "hub"], tmp_path / "model.safetensors")
    config = {"vision_config": {"image_size": 336, "patch_size": 14}, "projection_dim": 768}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 336, "width": 336}}))
    model = open_clip.create_model("cnclip-vit-l-14", pretrained=str(tmp_path), force_image_size=336)
    with open_clip_file(sizes[336, "open_clip"]) as state:
        assert torch.equal(model.visual.positional_embedding, state["visual.positional_embedding"])
    with pytest.raises(CheckpointError, match="image_size is 336 and cnclip-vit-l-14 has 224|resizes to 336"):
        open_clip.create_model("cnclip-vit-l-14", pretrained=str(tmp_path))


@contextlib.contextmanager
def open_clip_file(path):
    yield torch.load(path, weights_only=True)


@pytest.mark.parametrize("name, size", [("zhclip-tiny", 128), ("cnclip-rn50", 96), ("cnclip-vit-b-16", 96)])
def test_trained_with_another_size_and_evaluated_without_being_told(name, size, tmp_path):
    """What open_clip_train saves of a run with --force-image-size; converted, and as state dict without a word of ours.

    Where a file says the size it is built; without one it follows from the positions, with a word.
    """
    torch.manual_seed(0)
    trained = open_clip.create_model(name, pretrained_text=False, force_image_size=size, force_context_length=20)
    pixels = torch.randn(1, 3, size, size)
    with torch.no_grad():
        expected = trained.eval().encode_image(pixels)
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "told.pt")
    torch.save({"state_dict": dict(trained.state_dict())}, tmp_path / "bare.pt")
    run = tmp_path / "run/checkpoints"
    run.mkdir(parents=True)
    shutil.copy(tmp_path / "bare.pt", run / "epoch_1.pt")
    (run.parent / "params.txt").write_text(f"model: {name}\nforce_image_size: {size}\nforce_context_length: 20\n")
    for path in (tmp_path / "told.pt", run / "epoch_1.pt"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model, _, transform = open_clip.create_model_and_transforms(name, pretrained=str(path))
        with torch.no_grad():
            assert torch.equal(model.eval().encode_image(pixels), expected), path
        assert transform(PICTURES[0]).shape == (3, size, size)
        if name == "zhclip-tiny":  # its vocabulary is at hand
            assert open_clip.get_tokenizer(name, pretrained=str(path))(TEXTS).shape == (len(TEXTS), 20)
    with pytest.warns(UserWarning, match=f"holds positions for images of {size} pixels"):
        model = open_clip.create_model(name, pretrained=str(tmp_path / "bare.pt"))
    with torch.no_grad():
        assert torch.equal(model.eval().encode_image(pixels), expected)


def test_a_timm_tower_follows_the_size_that_is_asked_for(tmp_path):
    """timm's own resampling, the same from both directions."""
    plain = open_clip.create_model("zhclip-tiny", pretrained="digits")
    grown = open_clip.create_model("zhclip-tiny", pretrained="digits", force_image_size=128)
    plain.visual.set_input_size(128)
    assert torch.equal(plain.visual.trunk.pos_embed, grown.visual.trunk.pos_embed)
    torch.save({"state_dict": grown.state_dict()}, tmp_path / "128.pt")
    back = open_clip.create_model("zhclip-tiny", pretrained=str(tmp_path / "128.pt"), force_image_size=64)
    plain.visual.set_input_size(64)
    assert torch.equal(back.visual.trunk.pos_embed, plain.visual.trunk.pos_embed)


@pytest.mark.parametrize("name, tag", [("taiyiclip-vit-b-32", "idea_ccnl"), ("mclip-vit-b-32", "m_clip")])
def test_towers_in_two_folders_are_one_model(name, tag, tmp_path):
    """What `zhclip convert --format transformers` writes of families that publish their towers apart."""
    from zhclip_openclip.families import find

    reference = build(name, tag)
    reference.save(tmp_path / "published")
    tagged = find(name)[1].tags[tag]
    (tmp_path / "two").mkdir()
    (tmp_path / "published" / tagged.repo).rename(tmp_path / "two/text")
    (tmp_path / "published" / tagged.image_repo).rename(tmp_path / "two/image")
    for given in ("two", "two/text", "two/text/model.safetensors"):
        assert_same(open_clip.create_model(name, pretrained=str(tmp_path / given)), reference)


def test_a_published_folder_of_a_size_that_no_model_has(tmp_path):
    """384 pixels, as config.json, preprocessor_config.json and positions say: built so, with or without being asked."""
    from transformers import ChineseCLIPConfig, ChineseCLIPModel

    from tests.support.references import BASE, VISION

    small = {"num_hidden_layers": 2}
    config = ChineseCLIPConfig(
        text_config={**BASE, **small, "vocab_size": 1200},
        vision_config={**VISION["b-16"], **small, "image_size": 384, "hidden_act": "quick_gelu"},
        projection_dim=512,
    )
    theirs = ChineseCLIPModel(config).eval()
    theirs.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 384, "width": 384}}))
    pixels = torch.randn(1, 3, 384, 384)
    with torch.no_grad():
        expected = theirs.visual_projection(theirs.vision_model(pixels).pooler_output)
        with pytest.warns(UserWarning, match="holds positions for images of 384 pixels"):
            model, _, transform = open_clip.create_model_and_transforms("cnclip-vit-b-16", pretrained=str(tmp_path))
        assert (model.eval().encode_image(pixels) - expected).abs().max() <= 1e-5
        assert transform(PICTURES[0]).shape == (3, 384, 384)
        asked = open_clip.create_model("cnclip-vit-b-16", pretrained=str(tmp_path), force_image_size=384)
        assert (asked.eval().encode_image(pixels) - expected).abs().max() <= 1e-5
