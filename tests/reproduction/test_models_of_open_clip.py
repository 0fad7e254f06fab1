"""Models of open_clip's own in a reproduction: how they are named, what they cost, whether their weights are here."""

from __future__ import annotations

import json
import socket

import open_clip
import pytest
import torch

from tests.support import reproduction
from tests.support.reduced import load_script
from zhclip_openclip._errors import CheckpointError, ZhclipError
from zhclip_openclip.checkpoints import _open_clip_models
from zhclip_openclip.families._collections import collections
from zhclip_openclip.reproduction import _cost
from zhclip_openclip.reproduction.plan import Options, make_plan
from zhclip_openclip.reproduction.run import arguments
from zhclip_openclip.reproduction.weights import read_models


def named(*words):
    return [(one.model, one.pretrained) for one in read_models(words)]


def test_names_and_tags():
    assert named("ViT-B-16-SigLIP2,webli") == named("ViT-B-16-SigLIP2") == [("ViT-B-16-SigLIP2", "webli")]
    assert named("ViT-L-14,commonpool_xl_s13b_b90k,cnclip,qa_clip,ViT-B-16-SigLIP2") == [
        ("ViT-L-14", "commonpool_xl_s13b_b90k"),
        ("cnclip-vit-l-14", "qa_clip"),
        ("ViT-B-16-SigLIP2", "webli"),
    ]
    # `openai` is a tag of what stands before it, and else clip_benchmark's collection.
    assert named("ViT-B-32-quickgelu,openai") == [("ViT-B-32-quickgelu", "openai")]
    assert len(named("openai")) == 4 and len(named("zhclip,openai")) == 5
    assert named("xlm-roberta-base-ViT-B-32,LAION5B-s13b-b90k") == [("xlm-roberta-base-ViT-B-32", "laion5b_s13b_b90k")]


def test_weights_get_the_activation_that_they_were_trained_with():
    """open_clip builds ViT-B-32 with GELU for OpenAI's weights, and warns."""
    assert named("ViT-B/32,openai", "ViT-H-14-worldwide") == [
        ("ViT-B-32-quickgelu", "openai"),
        ("ViT-H-14-worldwide-quickgelu", "metaclip2_worldwide"),
    ]
    assert named("ViT-B-32,laion2b_s34b_b79k") == [("ViT-B-32", "laion2b_s34b_b79k")]
    for model, tag in named("openclip_all"):
        built = open_clip.get_model_config(model).get("quick_gelu", False)
        assert built or not open_clip.pretrained.get_pretrained_cfg(model, tag).get("quick_gelu", False), (model, tag)


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        (
            ["ViT-B-16-SigLIP3"],
            ZhclipError,
            "^ViT-B-16-SigLIP3 is a model neither .* no collection; did you mean .*SigLIP2",
        ),
        (["multilingal"], ZhclipError, "did you mean multilingual"),
        (["vit-b-16-siglip2"], ZhclipError, "did you mean ViT-B-16-SigLIP2 or"),
        (["ViT-L-14"], ZhclipError, "^ViT-L-14 needs its weights named, as in ViT-L-14,TAG: it has openai, .* more$"),
        (["ViT-L-14", "cnclip"], ZhclipError, "needs its weights named"),
        (["mt5-base-ViT-B-32"], ZhclipError, "open_clip has none for it: give a file$"),
        (
            ["ViT-B-16-SigLIP2,weblii"],
            CheckpointError,
            r"^weblii is neither weights of ViT-B-16-SigLIP2 \(it has webli\)",
        ),
        (["ViT-B-16-SigLIP2,ViT-L-16-SigLIP2"], CheckpointError, "nor a model; did you mean ViT-B-16-SigLIP2 or"),
        (["ViT-B-16-SigLIP2,."], CheckpointError, "is no file, and open_clip reads ViT-B-16-SigLIP2 from one"),
    ],
)
def test_what_is_no_model(words, error, told):
    with pytest.raises(error, match=told):
        read_models(words)


def test_a_checkpoint_of_ones_own(tmp_path):
    (tmp_path / "epoch_1.pt").write_bytes(b"12345")
    (one,) = read_models(["ViT-B-16-SigLIP2", str(tmp_path / "epoch_1.pt")])
    assert (one.here, one.bytes) == (True, 5) and len(one.checkpoint) == 64


# ---------------------------------------------------------------- the collection


def test_the_collection_has_what_open_clip_has():
    """All of SigLIP 2 and of MetaCLIP 2 worldwide, each once; the next one trips this."""
    from clip_benchmark.model_collection import model_collection

    multilingual = collections()["multilingual"]
    assert named("multilingual") == [(model, tag) for model, tag in multilingual] == model_collection["multilingual"]
    expected = {
        (_open_clip_models.with_its_activation(model, tag), tag)
        for model, tag in open_clip.list_pretrained()
        if "SigLIP2" in model or "-worldwide" in model
    }
    assert len(multilingual) == 12 + len(expected) == len(set(multilingual)) and expected < set(multilingual)


def test_the_whole_field_is_planned_without_network_or_models(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise AssertionError("a plan builds nothing and asks nobody")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(torch.nn.Module, "__init__", refuse)
    for words in (("multilingual,chinese_clip",), ("chinese_clip", "multilingual")):
        plan = make_plan(words, [], None, tmp_path)
        assert len(plan.models) == 37 and len(plan.cells) == 37 * 14
        assert all(weights.bytes > 5e8 and weights.source for weights in plan.models)
    shown = reproduction.zhclip("--models", "multilingual,chinese_clip", "--output", tmp_path, "--dry-run")
    assert "37 clip-chinese-vit-b-32" in shown.output and "518 without data" in shown.output
    assert " 1-37" in shown.output  # columns that are alike are one
    as_json = reproduction.zhclip("--models", "multilingual", "--output", tmp_path, "--dry-run", "--json")
    assert {cell["text_handling"] for cell in json.loads(as_json.stdout.partition("\n}\n")[0] + "\n}")["cells"]} == {
        "authors",
        None,
    }


# ---------------------------------------------------------------- costs and files

#: Millions of parameters, and GFLOP of an image: docs/model_profile.csv of open_clip.
PROFILE = {
    "ViT-B-32": (151.28, 8.82),
    "ViT-L-14": (427.62, 162.03),
    "xlm-roberta-base-ViT-B-32": (366.12, 8.82),
    "xlm-roberta-large-ViT-H-14": (1193.01, 334.59),
    "nllb-clip-base": (501.89, 8.82),
    "nllb-clip-large": (1399.22, 334.59),
    "ViT-B-16-SigLIP-i18n-256": (370.63, 46.82),
    "ViT-L-16-SigLIP-256": (652.15, 162.56),
    "ViT-bigG-14": (2539.57, 967.5),
}


def test_sizes_are_open_clips_own():
    for name, (millions, gflop) in PROFILE.items():
        facts = _open_clip_models.facts()[name]
        assert facts["parameters"] / 1e6 == pytest.approx(millions, abs=0.006)
        assert facts["image_operations"] / 1e9 == pytest.approx(gflop, abs=0.006)


def test_sizes_are_up_to_date():
    """Some of each kind; `python benchmarks/open_clip_facts.py --check` measures all."""
    script = load_script("open_clip_facts")
    some = ["ViT-B-32", "ViT-B-16-SigLIP2", "nllb-clip-base", "xlm-roberta-base-ViT-B-32"]
    assert script.facts(some) == {name: _open_clip_models.facts()[name] for name in some}
    for name, _ in collections()["multilingual"]:
        assert _open_clip_models.facts()[name].keys() == {"parameters", "image_operations", "text_operations"}


def test_costs(tmp_path):
    plan = make_plan(["ViT-B-16-SigLIP2,ViT-L-16-SigLIP2-512"], ["digits-retrieval"], None, tmp_path)
    small, large = (cell.seconds for cell in plan.cells)
    assert 0 < 3 * small < large
    assert _cost.text_operations("ViT-B-16-SigLIP2") == pytest.approx(11.02e9, rel=1e-3)  # 64 tokens, as it is padded
    assert _cost.image_operations("a-model-of-tomorrow") == 0


def test_weights_are_looked_for_where_open_clip_has_them(hub, tmp_path, monkeypatch):
    """Its own download puts them where the plan finds them."""
    from huggingface_hub import constants
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    (one,) = read_models(["ViT-B-16-SigLIP2"])
    assert not one.here and one.content() is None and one.bytes == 4 * 375_187_970
    for file, size in (("open_clip_pytorch_model.bin", 7), ("open_clip_model.safetensors", 11)):
        (hub.root / "timm" / "ViT-B-16-SigLIP2").mkdir(parents=True, exist_ok=True)
        (hub.root / "timm" / "ViT-B-16-SigLIP2" / file).write_bytes(b"x" * size)
    path = download_pretrained(get_pretrained_cfg("ViT-B-16-SigLIP2", "webli"), cache_dir=str(tmp_path))
    (one,) = read_models(["ViT-B-16-SigLIP2"])
    assert one.here and one.bytes == 11
    assert [str(file) for file in _open_clip_models.files("ViT-B-16-SigLIP2", "webli")] == [path]
    assert one.content().described()["sha256"]


def test_the_words_of_an_evaluation_say_the_handling(tmp_path):
    models = ["ViT-B-16-SigLIP2,xlm-roberta-base-ViT-B-32,zhclip-tiny"]
    for handling in ("authors", "host"):
        plan = make_plan(models, ["digits"], None, tmp_path, Options(text_handling=handling), timed=False)
        words = [arguments(cell, tmp_path / "made.json") for cell in plan.cells]
        assert ["--text-handling" in one for one in words] == [True, False, False]
        assert words[0][-2:] == ["--text-handling", handling]
        # Where there is one way alone, results made with either option are the same, and have one name.
        assert [cell.name.endswith("_text-host") for cell in plan.cells] == [handling == "host", False, False]
        assert [cell.identity()["text_handling"] for cell in plan.cells] == [handling, None, None]
