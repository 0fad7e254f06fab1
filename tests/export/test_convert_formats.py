"""`zhclip convert --format`, as a new user tries it; and that what is wrong would be noticed."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.support.reduced import ROOT
from zhclip_openclip.commands import app
from zhclip_openclip.export import _card, _check, _formats, _onnx_export, _options, immich_folder, onnx_pair
from zhclip_openclip.export._export_error import ExportError
from zhclip_openclip.export._folder import new_folder

TEXTS = ["一只猫", "手写的数字三，真的！", "数字"]


def convert(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)], catch_exceptions=True)


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory):
    """A `.pt` as open_clip_train writes it, with other weights than any that is published."""
    folder = tmp_path_factory.mktemp("run")
    model = open_clip.create_model("zhclip-tiny", pretrained="digits")
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
        for parameter in model.parameters():
            parameter.add_(0.01)
    torch.save({"epoch": 1, "name": "run", "state_dict": model.state_dict()}, folder / "epoch_1.pt")
    return folder / "epoch_1.pt"


@pytest.fixture(scope="module")
def onnx_folder(fine_tuned, tmp_path_factory):
    output = tmp_path_factory.mktemp("written") / "pair"
    result = convert(fine_tuned, "--model", "zhclip-tiny", "--output", output, "--format", "onnx")
    assert result.exit_code == 0, result.exception
    assert "onnxruntime, fp32, texts: " in result.output and "(at most 1e-04)" in result.output
    return output


# ---------------------------------------------------------------- ONNX


def test_onnx_takes_any_batch_and_any_length(onnx_folder, fine_tuned):
    model = open_clip.create_model("zhclip-tiny", pretrained=str(fine_tuned)).eval()
    session = onnx_pair.session(onnx_folder / "text.onnx")
    for batch, length in ((1, 1), (1, 12), (5, 3), (7, 32)):
        ids = torch.randint(5, 128, (batch, length), generator=torch.Generator().manual_seed(length))
        with torch.no_grad():
            ours = model.encode_text(ids, normalize=True).numpy()
        assert np.abs(session.run(None, {"text": ids.numpy()})[0] - ours).max() < 1e-5
    size = session.run(None, {"text": np.array([[2, 9, 3]])})[0].shape
    assert size == (1, 64)


def test_config_and_tokenizer_say_all_that_is_needed(onnx_folder, fine_tuned):
    from tokenizers import Tokenizer

    config = json.loads((onnx_folder / "config.json").read_text(encoding="utf-8"))
    assert config["logit_scale"] == pytest.approx(np.exp(3.01), rel=1e-4)
    assert (config["opset"], config["normalised"], config["precision"]) == (18, True, "fp32")
    tokenizer = Tokenizer.from_file(str(onnx_folder / "tokenizer.json"))
    ids = np.array([told.ids for told in tokenizer.encode_batch(TEXTS)])
    theirs = open_clip.get_tokenizer("zhclip-tiny", pretrained=str(fine_tuned))(TEXTS).numpy()
    assert ids.shape[1] < theirs.shape[1], "padded to the longest of the batch, not to the context length"
    assert (ids == theirs[:, : ids.shape[1]]).all() and not theirs[:, ids.shape[1] :].any()


def test_nothing_of_this_machine_is_in_the_files(onnx_folder):
    for name in ("image.onnx", "text.onnx"):
        content = (onnx_folder / name).read_bytes()
        assert str(ROOT).encode() not in content and b"site-packages" not in content and b".py" not in content


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = sys.modules["zhclip_openclip"] = None
exec(open(sys.argv[1], encoding="utf-8").read())
pictures = [Image.open(path) for path in sys.argv[3:]]
np.savez(sys.argv[2], images=image_features(pictures), texts=text_features(TEXTS))
"""


def test_the_example_of_the_page_equals_open_clip(onnx_folder, fine_tuned, tmp_path):
    """docs/deploying.md, in a Python that has no torch."""
    page = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    example = page.partition("```python\n")[2].partition("```")[0]
    assert 20 <= len([line for line in example.splitlines() if line.strip()]) <= 30
    code = example.replace('Path("cn-b16-onnx")', f"Path({str(onnx_folder)!r})") + f"TEXTS = {TEXTS!r}\n"
    assert str(onnx_folder) in code
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    files = []
    for kind, picture in _check.pictures().items():
        if picture.mode in ("RGB", "L"):
            files.append(tmp_path / f"{kind}.png")
            picture.save(files[-1])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, tmp_path / "example.py", tmp_path / "out.npz", *files],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained=str(fine_tuned))
    tokenizer = open_clip.get_tokenizer("zhclip-tiny", pretrained=str(fine_tuned))
    model.eval()
    with torch.no_grad():
        images = model.encode_image(torch.stack([transform(Image.open(file)) for file in files]), normalize=True)
        texts = model.encode_text(tokenizer(TEXTS), normalize=True)
    with np.load(tmp_path / "out.npz") as told:
        assert np.abs(told["images"] - images.numpy()).max() < 1e-5
        assert np.abs(told["texts"] - texts.numpy()).max() < 1e-5


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_smaller_files(precision, tiny, onnx_folder, tmp_path, monkeypatch):
    """And with weights beside the files, as they are where a file would be over 2 GB."""
    monkeypatch.setattr(_onnx_export, "IN_ONE_FILE", 1000)
    options = _options.Options(precision=precision, check_data="digits-retrieval" if precision == "int8" else "")
    found = _formats.write(_formats.find("onnx"), tiny, tmp_path / "out", options)
    assert (tmp_path / "out" / "text.onnx.data").is_file() and not list((tmp_path / "out").glob("tmp*"))
    plain, small = (_onnx_export.sizes(folder) for folder in (onnx_folder, tmp_path / "out"))
    assert all(small[name] < 0.95 * plain[name] for name in plain), "weights are a part of these small files only"
    losses = [difference for difference in found if difference.what.startswith("loss in ")]
    assert bool(losses) == (precision == "int8")
    for difference in losses:
        assert abs(difference.value) < 0.05 and difference.bound is None


def test_an_opset_that_is_not_to_be_had_is_refused(tiny, tmp_path):
    """The exporter would write another one and say nothing, and config.json would be wrong."""
    import onnx

    with pytest.raises(ExportError, match="--opset 12: PyTorch's exporter wrote version 18"):
        _formats.write(_formats.find("onnx"), tiny, tmp_path / "out", _options.Options(opset=12))
    _formats.write(_formats.find("onnx"), tiny, tmp_path / "out", _options.Options(opset=20))
    assert {i.domain: i.version for i in onnx.load(tmp_path / "out" / "text.onnx").opset_import}[""] == 20


def test_raw_features_have_the_length_of_ours(tiny, tmp_path):
    _formats.write(_formats.find("onnx"), tiny, tmp_path / "out", _options.Options(raw=True))
    ids = tiny.ids(TEXTS)
    theirs = onnx_pair.session(tmp_path / "out" / "text.onnx").run(None, {"text": ids.numpy()})[0]
    assert np.abs(np.linalg.norm(theirs, axis=-1) - 1).min() > 0.1
    assert _check.largest(theirs, tiny.text(ids)) < 1e-5


# ---------------------------------------------------------------- Immich


def test_immich_has_one_input_and_one_normalised_output(tiny, tmp_path):
    _formats.write(_formats.find("immich"), tiny, tmp_path / "mine", _options.Options(name="mine"))
    for part, kind in (("visual", "tensor(float)"), ("textual", "tensor(int32)")):
        session = onnx_pair.session(tmp_path / "mine" / part / "model.onnx")
        (given,), (out,) = session.get_inputs(), session.get_outputs()
        assert (given.name, given.type, out.name) == ({"visual": "image", "textual": "text"}[part], kind, "embedding")
    assert json.loads((tmp_path / "mine" / "textual" / "tokenizer_config.json").read_text())["pad_token"] == "[PAD]"


def test_a_name_that_immich_knows_has_to_fit():
    immich_folder.refuse_name("ViT-L-14__openai", 768)
    immich_folder.refuse_name("something-new", 768)
    for name, width, why in (
        ("ViT-L-14__openai", 512, "features of 768 channels"),
        ("XLM-Roberta-Large-Vit-B-32", 512, "attention mask"),
        ("nllb-clip-base-siglip__v1", 768, "language"),
    ):
        with pytest.raises(ExportError, match=why):
            immich_folder.refuse_name(name, width)
    page = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    for width in (512, 768, 1024):
        line = next(part for part in page.replace("\n", " ").split("; ") if f"{width}: `" in part)
        named = line.partition(f"{width}: ")[2].partition(".")[0].replace("`", "").split(", ")
        assert named and set(named) <= set(immich_folder.known_names(width))


# ---------------------------------------------------------------- what is wrong


def test_another_model_is_noticed_and_not_left_behind(tiny, tmp_path):
    form = _formats.find("open_clip")

    def wrong(source, folder, options):
        form.write(source, folder, options)
        path = folder / "open_clip_model.safetensors"
        content = bytearray(path.read_bytes())
        content[-3] ^= 1  # one bit of one weight
        path.write_bytes(content)

    with pytest.raises(ExportError, match="not the same model"):
        _formats.write(dataclasses.replace(form, write=wrong), tiny, tmp_path / "out", _options.Options())
    assert list(tmp_path.iterdir()) == []


def test_another_activation_another_scale_and_other_pixels_are_noticed(tiny):
    class Same:
        ids, pixels, text, image = tiny.ids, tiny.pixels, tiny.text, tiny.image

    exact = _check.Bounds(1e-6, 1e-6, 1e-6)
    assert all(d.value == 0 for d in _check.compare(tiny, Same(), exact))
    for change in (  # each is held against bounds that are far below what it does
        {"text": lambda ids: tiny.text(ids) * 1.001},
        {"image": lambda pixels: tiny.image(pixels * 1.001)},
        {"pixels": lambda pictures: tiny.pixels([p.convert("RGB").transpose(0) for p in pictures])},
        {"text": lambda ids: tiny.text(ids) * torch.nan},
        {"ids": lambda texts: tiny.ids(["A" + text for text in texts])},
    ):
        other = Same()
        vars(other).update(change)
        with pytest.raises(ExportError, match=r"not the same model|another model"):
            _check.compare(tiny, other, exact)


def test_refusals_leave_nothing(fine_tuned, tmp_path, monkeypatch):
    new = tmp_path / "new"
    monkeypatch.setattr(_formats.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else True)
    for arguments, told in (
        (("--format", "tflite"), "known are open_clip, transformers, onnx"),
        (("--format", "transformers"), "have a class for ZH-CLIP tiny"),
        (("--format", "onnx"), r"needs onnxscript: pip install 'zhclip-openclip[onnx]'"),
        (("--format", "onnx", "--check-data", "nix"), "'nix' is no retrieval data set"),
        (("--format", "onnx", "--check-data", "muge:/nowhere"), "/nowhere is no folder"),
        (("--raw",), "--raw means nothing to --format open_clip; it is for onnx"),
        (("--result", "x.json", "--format", "immich"), "it is for transformers, sentence-transformers"),
    ):
        result = convert(fine_tuned, "--model", "zhclip-tiny", "--output", new, *arguments)
        assert result.exit_code == 1 and told in str(result.exception), result.exception
    assert list(tmp_path.iterdir()) == []


def test_a_preprocessing_that_a_format_has_no_word_for(tiny, tmp_path, monkeypatch):
    told = dict(tiny.module.visual.preprocess_cfg)
    for form, change in (("onnx", {"resize_mode": "longest"}), ("immich", {"interpolation": "random"})):
        monkeypatch.setattr(tiny.module.visual, "preprocess_cfg", {**told, **change})
        with pytest.raises(ExportError, match=next(iter(change.values()))):
            _formats.write(_formats.find(form), tiny, tmp_path / "out", _options.Options())
    assert list(tmp_path.iterdir()) == []


def test_force_replaces_the_same_kind_and_nothing_else(tmp_path):
    output = tmp_path / "out"

    def fill(text, force=False, **others):
        with new_folder(output, force) as folder:
            for name, content in {"a.txt": text, **others}.items():
                (folder / name).write_text(content)

    fill("first")
    with pytest.raises(ExportError, match="--force"):
        fill("second")
    fill("second", force=True)
    assert (output / "a.txt").read_text() == "second"
    (output / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"also holds notes\.txt"):
        fill("third", force=True)
    assert sorted(path.name for path in output.iterdir()) == ["a.txt", "notes.txt"]
    with pytest.raises(KeyboardInterrupt), new_folder(output, force=True):
        raise KeyboardInterrupt
    (tmp_path / "link").symlink_to(output)
    with pytest.raises(ExportError, match="not a folder"), new_folder(tmp_path / "link", force=True):
        pass
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["link", "out"]
    assert (output / "a.txt").read_text() == "second"


# ---------------------------------------------------------------- model cards


SLOW_ZHCLIP = pytest.param("zhclip-vit-l-14", marks=pytest.mark.slow)


SLOW_PLAIN = pytest.param("taiyiclip-102m-vit-l-14", marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "name", ["cnclip-vit-b-16", "taiyiclip-vit-b-32", "mclip-vit-b-32", "metaclip2-vit-s-16", SLOW_PLAIN, SLOW_ZHCLIP]
)
def test_the_card_says_where_it_comes_from_and_its_code_runs(name, source_of, tmp_path, monkeypatch):
    from zhclip_openclip.export import transformers_folder

    source = source_of(name)
    result = {
        "dataset": "muge", "model": name, "pretrained": source.given, "language": "zh", "per_query": {"x": 1},
        "metrics": {"image_retrieval_recall@5": 0.853, "text_retrieval_recall@5": None},
    }  # fmt: skip
    (tmp_path / "result.json").write_text(json.dumps(result), encoding="utf-8")
    folder = tmp_path / "out"
    folder.mkdir()
    transformers_folder.write(source, folder, _options.Options(result=tmp_path / "result.json"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlanguage: zh\n")
    for part in (source.tag.repo, source.tag.licence, source.family.source, "Data set muge", "recall@5 | 0.8530"):
        assert part in card
    monkeypatch.chdir(tmp_path)
    picture = _check.pictures()["wide"]
    picture.save("cat.jpg")
    space = {"DIR": str(folder)}
    with torch.no_grad():
        exec(card.partition("```python\n")[2].partition("```")[0], space)
        ours = source.text(source.ids(["一只猫", "一条狗"]))
        images = source.image(source.pixels([Image.open("cat.jpg")]))
    assert _check.largest(space["text_features"], ours) < 1e-5
    assert _check.largest(space["image_features"], images) < transformers_folder.TORCHVISION


def test_the_card_of_weights_of_ones_own_claims_no_licence(fine_tuned, tiny, tmp_path):
    own = dataclasses.replace(tiny, given=str(fine_tuned))
    card = _card.text(own, "pass")
    assert "\nlicense:" not in card and "which nothing here states" in card and "base_model" not in card
    assert "None was given" in card
    for content, why in (("[1]", "not an object"), ('{"dataset": "x", "metrics": {}}', "no result of clip_benchmark")):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(ExportError, match=why):
            _card.text(own, "pass", tmp_path / "x.json")


def test_source_is_anything_that_pretrained_takes(source_of, tmp_path):
    """A tag of a published layout, then the open_clip folder that was written of it."""
    source = source_of("clip-chinese-vit-b-32")
    for given, output in ((source.given, "first"), (tmp_path / "first", "second")):
        result = convert(given, "--model", "clip-chinese", "--output", tmp_path / output)
        assert result.exit_code == 0, result.exception
    name = "open_clip_model.safetensors"
    assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@pytest.mark.parametrize("form", ["transformers", "cn_clip"])
def test_the_bias_of_siglips_loss_has_no_place_there(form, source_of, tmp_path):
    source = source_of("cnclip-vit-b-16")
    source.module.logit_bias = torch.nn.Parameter(torch.tensor(-10.0))
    with pytest.raises(ExportError, match="logit_bias has no place in this form: --format open_clip and"):
        _formats.write(_formats.find(form), source, tmp_path / "out", _options.Options())
    assert not (tmp_path / "out").exists()
