"""A seventh family: one file and one entry point, in a distribution of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

FAMILY = """
from pathlib import Path

from zhclip_openclip.families import Family, Layout, Model, Tag

HERE = Path(__file__).parent

FAMILY = Family(
    name="seventh",
    title="The Seventh",
    source="this test",
    models=(Model("seventh-vit-s", tags={"here": Tag(repo="someone/seventh", files=("weights.pt",))}),),
    aliases={"seventh": "seventh-vit-s"},
    layouts=(
        Layout(
            name="the seventh's own",
            telltale=(r"^seventh_text\\\\.", r"^seventh_image\\\\."),
            drop=(r"\\\\.unused$",),
            rename=(
                (r"^seventh_image\\\\.", "visual."),
                (r"^seventh_text\\\\.", "text.transformer."),
                (r"^head\\\\.", "text.proj."),
            ),
        ),
    ),
    normalise=str.upper,
    configs=HERE / "configs",
)
""".replace("\\\\", "\\")

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {
        "context_length": 12,
        "vocab_size": 30,
        "hf_model_name": "someone/seventh-bert",
        "hf_tokenizer_name": "someone/seventh-bert",
        "hf_pooler_type": "mean_pooler",
        "hf_proj_type": "linear_bias",
    },
}
TEXT = {
    "model_type": "bert",
    "vocab_size": 30,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 12,
    "pad_token_id": 0,
}

USE = """
import sys, torch, open_clip
import clip_benchmark.cli
from zhclip_openclip import list_models

assert {"seventh", "seventh-vit-s"} <= set(list_models())
assert ("seventh", "here") in open_clip.list_pretrained()
model, _, preprocess = open_clip.create_model_and_transforms("seventh", pretrained="here")
wanted = torch.load(sys.argv[1], weights_only=True)
loaded = model.state_dict()
assert torch.equal(loaded["visual.proj"], wanted["seventh_image.proj"])
assert torch.equal(loaded["text.proj.bias"], wanted["head.bias"])
tokens = open_clip.get_tokenizer("seventh")(["a"])
assert tokens.tolist() == [[2, 5, 3] + [0] * 9], tokens
print(tuple(model.encode_text(tokens).shape), len(list_models()))
"""


@pytest.fixture
def distribution(tmp_path) -> Path:
    """What pip would have put into site-packages."""
    site = tmp_path / "site"
    package = site / "seventh_family"
    info = site / "seventh_family-1.0.dist-info"
    for folder in (package / "configs/text_configs", info):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text(FAMILY)
    (package / "configs/seventh-vit-s.json").write_text(json.dumps(MODEL))
    (package / "configs/text_configs/someone--seventh-bert.json").write_text(json.dumps(TEXT))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: seventh-family\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[zhclip_openclip.families]\nseventh = seventh_family:FAMILY\n")
    return site


@pytest.fixture
def weights(tmp_path) -> Path:
    """Its published file, in a folder of downloaded repositories."""
    from open_clip.model import _build_vision_tower
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    visual = _build_vision_tower(16, dict(MODEL["vision_cfg"]))
    bert = BertModel(BertConfig(**{k: v for k, v in TEXT.items() if k != "model_type"}), add_pooling_layer=False)
    state = {f"seventh_image.{name}": tensor for name, tensor in visual.state_dict().items()}
    state |= {f"seventh_text.{name}": tensor for name, tensor in bert.state_dict().items()}
    state |= {"head.weight": torch.randn(16, 32), "head.bias": torch.randn(16), "logit_scale": torch.tensor(4.0)}
    state["seventh_text.unused"] = torch.zeros(3)
    folder = tmp_path / "models/someone/seventh"
    folder.mkdir(parents=True)
    torch.save(state, folder / "weights.pt")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]))
    return folder / "weights.pt"


def test_a_family_outside_the_package(distribution, weights, tmp_path, run_python):
    paths = dict(PYTHONPATH=str(distribution), ZHCLIP_MODELS_DIR=str(tmp_path / "models"))
    done = run_python(USE, str(weights), **paths)
    shape, number = done.stdout.strip().rsplit(" ", 1)
    assert shape == "(1, 16)"
    without = run_python("from zhclip_openclip import list_models; print(len(list_models()))")
    assert int(number) == int(without.stdout) + 2


def test_a_broken_family_is_left_out_with_a_warning(distribution, run_python):
    (distribution / "seventh_family/__init__.py").write_text("raise RuntimeError('boom')")
    code = "import open_clip; print(*(name in open_clip.list_models() for name in ('zhclip-tiny', 'seventh')))"
    done = run_python(code, PYTHONPATH=str(distribution))
    assert done.stdout.split() == ["True", "False"]
    assert "the model family 'seventh' is left out (RuntimeError: boom)" in done.stderr


def test_a_name_that_is_taken_is_refused(distribution, run_python):
    file = distribution / "seventh_family/__init__.py"
    file.write_text(file.read_text().replace('aliases={"seventh": ', 'aliases={"cnclip": '))
    code = "import zhclip_openclip.families as f; print(f.find('cnclip')[0].name, f.find('seventh-vit-s'))"
    done = run_python(code, PYTHONPATH=str(distribution))
    assert done.stdout.split() == ["cnclip", "None"]
    assert "the model name 'cnclip' is taken" in done.stderr
