"""Every cell of the table in docs/deploying.md: written, read back by the library that it is for, or refused."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re

import pytest
import torch

from tests.support import reduced as reduced_models
from tests.support.exported import MODELS, MT5, OTHERS
from zhclip_openclip.export import _formats, _options, cn_clip_file, docs, transformers_folder
from zhclip_openclip.export._export_error import ExportError
from zhclip_openclip.families import all_families, find

NAMED = _options.Options(name="new-name")


def write(name: str, source, output, options=NAMED) -> dict[str, float]:
    """What was compared, by name, and its largest difference."""
    found = _formats.write(_formats.find(name), source, output, options)
    assert output.is_dir() and len(found) >= 3
    return {difference.what: difference.value for difference in found}


def slow_but(*fast: str, models=MODELS):
    """All models, those that are not named only with the slow tests."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in models]


@pytest.mark.parametrize("name", slow_but("cnclip-vit-b-16", "clip-chinese-vit-b-32", models=(*MODELS, *OTHERS)))
def test_open_clip(name, source_of, tmp_path):
    found = write("open_clip", source_of(name), tmp_path / "out")
    assert set(found.values()) == {0.0}


@pytest.mark.parametrize(
    "name", slow_but("cnclip-vit-b-16", "altclip-vit-l-14", "clip-chinese-vit-b-32", "taiyiclip-vit-b-32",
                     "mclip-vit-b-32", "zhclip-vit-l-14", "metaclip2-vit-s-16", models=(*MODELS, MT5))
)  # fmt: skip
def test_transformers(name, source_of, tmp_path):
    source = source_of(name)
    write("transformers", source, tmp_path / "out")
    assert (tmp_path / "out" / "README.md").is_file()


@pytest.mark.skipif(not importlib.util.find_spec("sentence_transformers"), reason="an extra")
@pytest.mark.parametrize(
    "name",
    slow_but("cnclip-vit-b-16", "clip-chinese-vit-b-32", models=(*MODELS, MT5, "taiyiclip-vit-h-14")),
)
def test_sentence_transformers(name, source_of, tmp_path):
    """cls, mean and tanh pooling; one projection, several and none, with bias and without; a model that is one class of
    transformers, whose padding may be the end of a text."""
    write("sentence-transformers", source_of(name), tmp_path / "out")


@pytest.mark.parametrize("name", slow_but("cnclip-vit-b-16", "metaclip2-vit-s-16", models=(*MODELS, *OTHERS)))
def test_onnx(name, source_of, tmp_path):
    source = source_of(name)
    write("onnx", source, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    lengths = {"metaclip2": 77, "fg-clip2": 64}
    assert told["text"]["input"]["text"][1] == next((lengths[n] for n in lengths if name.startswith(n)), "length")
    assert ("logit_bias" in told) == name.startswith("fg-clip2")


@pytest.mark.parametrize("name", slow_but("clip-chinese-vit-b-32"))
def test_immich(name, source_of, tmp_path):
    write("immich", source_of(name), tmp_path / "out")


def test_rn50_in_what_takes_it(reduced, tmp_path):
    """A ResNet image tower: open_clip, ONNX."""
    source = cn_clips_own("cnclip-rn50", tmp_path)
    assert set(write("open_clip", source, tmp_path / "open_clip").values()) == {0.0}
    write("onnx", source, tmp_path / "onnx")


def cn_clips_own(name: str, tmp_path, words: int = reduced_models.VOCABULARY):
    """A model out of a file of Chinese-CLIP's own training, reduced, beside a vocabulary."""
    from tests.families.test_tokenizers import VOCABULARY
    from tests.support import references
    from zhclip_openclip.export import _source

    reference = references.cn_clip("own", *references.CN_CLIP[name], layers=reduced_models.LAYERS, vocabulary=words)
    references.randomise(reference.modules["own"])
    folder = tmp_path / "trained"
    folder.mkdir()
    torch.save(references.chinese_clip_training(reference.modules["own"].state_dict()), folder / "epoch_latest.pt")
    lines = VOCABULARY.read_text(encoding="utf-8").split("\n")[:words]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return _source.load(str(folder / "epoch_latest.pt"), name)


class TestChineseClipsOwn:
    """cn_clip has one vocabulary, so these models have the whole one; and its configs, made as small as the models."""

    @pytest.fixture
    def whole_vocabulary(self, tmp_path, monkeypatch):
        monkeypatch.setattr(reduced_models, "VOCABULARY", 21128)
        (tmp_path / "configs").mkdir()
        with reduced_models.reduced_models(tmp_path / "configs"):
            yield

    @pytest.fixture
    def small_configs(self, monkeypatch):
        real = cn_clip_file._info

        def info(vision: str, text: str) -> dict:
            told = real(vision, text)
            told["vision_layers"] = [1, 1, 1, 1] if isinstance(told["vision_layers"], list) else reduced_models.LAYERS
            told["text_num_hidden_layers"] = min(reduced_models.LAYERS, told["text_num_hidden_layers"])
            return told

        monkeypatch.setattr(cn_clip_file, "_info", info)

    @pytest.mark.parametrize("name", ["cnclip-vit-b-16", "cnclip-rn50"])
    def test_cn_clip(self, name, whole_vocabulary, small_configs, tmp_path, monkeypatch):
        source = cn_clips_own(name, tmp_path, words=21128)
        found = write("cn_clip", source, tmp_path / "out")
        assert "cn_clip, pictures, worst of 8 kinds" in " ".join(found)
        self.as_its_own_loader_reads_it(source, tmp_path / "out" / cn_clip_file.file_name(source.model), monkeypatch)

    def as_its_own_loader_reads_it(self, source, path, monkeypatch):
        """`cn_clip.clip.load_from_name`, which rounds weights to fp16: the way that its README shows."""
        from cn_clip.clip import utils

        def create_model(name, checkpoint):
            model = utils.CLIP(**cn_clip_file._info(*name.split("@")))
            utils.convert_weights(model)
            model.load_state_dict({k.removeprefix("module."): v for k, v in checkpoint["state_dict"].items()})
            return model

        monkeypatch.setattr(utils, "create_model", create_model)
        with contextlib.redirect_stdout(io.StringIO()):
            model, _ = utils.load_from_name(
                str(path), "cpu", None, *cn_clip_file.NAMES[source.model.name], source.image_size
            )
        ids = source.ids(["一只猫", "两条狗"])
        theirs, ours = model.eval().encode_text(ids), source.text(ids)  # it comes in training mode, with dropout
        assert (theirs - ours).abs().max() <= 0.01 * ours.norm(dim=-1).max()


#: What a model cannot be written as, beside `cn_clip`, by a pattern that the names of such models begin
#: with.
REFUSED = {
    "cnclip-rn50": ("transformers", "sentence-transformers"),
    "zhclip-tiny": ("transformers", "sentence-transformers"),
    # towers of our own, of which ONNX needs no class
    "m2-encoder-": ("transformers", "sentence-transformers", "immich"),
    # pictures as patches but for these, and white space that counts
    "fg-clip2-": ("transformers", "immich", "sentence-transformers"),
    **{f"fg-clip2-{size}{kind}": ("onnx",) for size in ("base", "large", "so400m") for kind in ("$", "-long")},
    # SigLIP's tokenizer
    "metaclip2-vit-.*-mt5": ("onnx", "immich"),
}


def test_every_cell_is_written_or_refused():
    """What the table says: nothing is neither."""
    refused = {
        (model.name, form.name)
        for family in all_families().values()
        for model in family.models
        for form in _formats.FORMATS.values()
        if form.refused(family, model)
    }
    names = [model.name for family in all_families().values() for model in family.models]
    others = {(name, "cn_clip") for name in names if not name.startswith("cnclip-")}
    assert refused == others | {
        (name, form) for name in names for start, forms in REFUSED.items() if re.match(start, name) for form in forms
    }


def test_a_refusal_says_why_before_anything_is_loaded():
    for name, form, why in (
        ("cnclip-rn50", "transformers", "ResNet"),
        ("taiyiclip-vit-b-32", "cn_clip", "Taiyi-CLIP's"),
        ("zhclip-tiny", "sentence-transformers", "pooled"),
        ("m2-encoder-1b", "transformers", "layers in common"),
        ("m2-encoder-1b", "sentence-transformers", "no class for its towers"),
        ("m2-encoder-1b", "immich", "sp.model; --format onnx writes it"),
        ("fg-clip2-base", "onnx", "a picture keeps its shape"),
        ("fg-clip2-base", "immich", "a picture keeps its shape"),
        ("fg-clip2-base-square256", "immich", "folds white space .*; --format onnx writes it"),
        ("fg-clip2-base-square256", "sentence-transformers", "no class for its towers"),
        ("metaclip2-vit-s-16-mt5", "onnx", "SigLIP's, .*; --format open_clip writes it"),
        ("metaclip2-vit-s-16-mt5", "immich", "SigLIP's"),
        ("fg-clip2-large", "transformers", "authors' repository"),
    ):
        with pytest.raises(ExportError, match=why):
            _formats.prepare(_formats.find(form), *find(name), _options.Options())


def test_the_page_is_up_to_date():
    path = reduced_models.ROOT / "docs" / "deploying.md"
    text = path.read_text(encoding="utf-8")
    assert (
        text == text.split(docs.BEGIN)[0] + f"{docs.BEGIN}\n\n{docs.table()}\n\n{docs.END}" + text.split(docs.END)[1]
    ), "run python -m zhclip_openclip.export.docs docs/deploying.md"
    for family in all_families().values():
        assert family.title in text


def test_every_family_that_publishes_for_transformers_has_a_home_there():
    published = {family.name for family in all_families().values() if family.layouts}
    assert set(transformers_folder.HOMES) == published - {"m2-encoder", "fgclip2"}, "which are refused"
