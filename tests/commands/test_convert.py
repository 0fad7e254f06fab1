"""`zhclip convert`: the folder that it writes is numerically the same model, for open_clip with and without us."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from typer.testing import CliRunner

from zhclip_openclip import _paths
from zhclip_openclip.commands import app
from zhclip_openclip.export import open_clip_folder
from zhclip_openclip.families import all_families, find


def convert(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)], catch_exceptions=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    output = tmp_path_factory.mktemp("converted") / "tiny"
    result = convert("digits", "--model", "zhclip-tiny", "--output", output)
    assert result.exit_code == 0, result.output
    return output


def test_same_model_tokenizer_and_preprocessing(folder):
    source, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    model, _, converted_transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer, converted_tokenizer = (open_clip.get_tokenizer(name) for name in ("zhclip-tiny", f"local-dir:{folder}"))
    texts = ["手写的数字三", "数字，三！", "“数字”"]  # full-width punctuation: ftfy would change it
    assert torch.equal(tokenizer(texts), converted_tokenizer(texts))
    pixels = torch.randn(2, 3, 64, 64)
    source.eval(), model.eval()
    with torch.no_grad():
        assert torch.equal(source.encode_text(tokenizer(texts)), model.encode_text(tokenizer(texts)))
        assert torch.equal(source.encode_image(pixels), model.encode_image(pixels))
    assert repr(transform) == repr(converted_transform).replace("[", "(").replace("]", ")")  # JSON has no tuples
    assert model.zhclip_model == "zhclip-tiny"
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".txt") == [
        "open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


def test_converting_the_folder_again_and_loading_it_by_path(folder, tmp_path):
    assert convert(folder, "--model", "zhclip-tiny", "--output", tmp_path / "again").exit_code == 0
    first, second = ((f / "open_clip_model.safetensors").read_bytes() for f in (folder, tmp_path / "again"))
    assert first == second
    assert open_clip.create_model("zhclip-tiny", pretrained=str(folder)).zhclip_model == "zhclip-tiny"


def test_refusals_leave_nothing(folder, tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("x")
    for arguments, told in (
        (("digits", "--model", "zhclip-tiny", "--output", taken), "not an empty folder"),
        (("digits", "--model", "nix", "--output", tmp_path / "new"), "no model 'nix'"),
        (("nix.pt", "--model", "zhclip-tiny", "--output", tmp_path / "new"), "does not exist"),
    ):
        result = convert(*arguments)
        assert result.exit_code == 1 and told in str(result.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]
    assert [path.name for path in taken.iterdir()] == ["mine.txt"]


def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    model = open_clip.create_model("zhclip-tiny", pretrained="digits")

    class Broken:
        class tokenizer:
            @staticmethod
            def save_pretrained(folder):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_clip_folder.write(model, Broken, find("zhclip-tiny")[1], "digits", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


STOCK = """
import sys, torch, open_clip
assert 'zhclip' not in open_clip.list_models()
model = open_clip.create_model('local-dir:' + sys.argv[1]).eval()
with torch.no_grad():
    torch.save(model.encode_text(torch.load(sys.argv[2])), sys.argv[3])
"""


def test_stock_open_clip_loads_what_it_can_build(hub, run_python, tmp_path):
    """Chinese-CLIP's smallest text tower (RBT3, linear head): only its architecture is asked of the hub."""
    torch.manual_seed(0)
    model = open_clip.create_model("cnclip-rn50", pretrained_text=False).eval()
    spec = find("cnclip-rn50")[1]
    assert open_clip_folder.loads_without_us(spec)

    class Tokenizer:
        class tokenizer:
            @staticmethod
            def save_pretrained(folder):
                pass

    folder = open_clip_folder.write(model, Tokenizer, spec, "random", tmp_path / "converted")
    config = json.loads((_paths.DATA / "text_configs" / "hfl--rbt3.json").read_text())
    (hub.root / "hfl" / "rbt3").mkdir(parents=True)
    (hub.root / "hfl" / "rbt3" / "config.json").write_text(json.dumps(config))
    ids = torch.tensor([[101, 2769, 102, 0, 0], [101, 2769, 2769, 2769, 102]])
    torch.save(ids, tmp_path / "ids.pt")
    run_python(
        STOCK,
        *(str(folder), str(tmp_path / "ids.pt"), str(tmp_path / "features.pt")),
        TORCH_DEVICE_BACKEND_AUTOLOAD="0",
        HF_HUB_OFFLINE="0",
        HF_HOME=str(tmp_path / "hf"),
    )
    with torch.no_grad():
        assert torch.allclose(torch.load(tmp_path / "features.pt"), model.encode_text(ids), atol=1e-6)


def test_stock_open_clip_says_what_is_missing(folder, run_python):
    done = run_python(STOCK, str(folder), "-", "-", check=False, TORCH_DEVICE_BACKEND_AUTOLOAD="0", HF_HUB_OFFLINE="1")
    assert done.returncode != 0 and "pip-install-zhclip-openclip" in done.stderr


def test_which_models_load_without_us():
    stock = {
        m.name for family in all_families().values() for m in family.models if open_clip_folder.loads_without_us(m)
    }
    assert {"zhclip-vit-l-14", "cnclip-vit-l-14", "cnclip-rn50"} <= stock
    assert not stock & {"zhclip-tiny", "altclip-vit-l-14", "taiyiclip-vit-l-14", "mclip-vit-l-14"}
    for family in all_families().values():
        for model in family.models:
            written = open_clip_folder.config(model, {}, "x")["model_cfg"]
            # The name of the text tower says what is missing; where that is open_clip's own, that of the image tower.
            text = written["text_cfg"].get("hf_model_name")
            ours = str(written["vision_cfg"].get("timm_model_name")).startswith("zhclip_openclip_")
            assert (text.startswith("pip-install") if text else ours) == (model.name not in stock)
            assert text is None or Path(text).name
