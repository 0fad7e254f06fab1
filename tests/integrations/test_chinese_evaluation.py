"""`clip_benchmark eval` in Chinese, end to end with the embedded model: prompts, retrieval, what the result records."""

from __future__ import annotations

import base64
import inspect
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.support import retrieval_files
from zhclip_openclip.commands import app
from zhclip_openclip.metrics.per_query import load_per_query


@pytest.fixture
def evaluate(monkeypatch, tmp_path):
    """Run `clip_benchmark eval` in this process; returns the result file's content."""
    import clip_benchmark.cli as cli

    def run(*arguments, model="zhclip-tiny", output="result.json"):
        path = tmp_path / output
        words = ["--model", model, "--num_workers", "0", "--quiet", "--output", str(path), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", ["clip_benchmark", "eval", *words])
        cli.main()
        return json.loads(path.read_text(encoding="utf-8"))

    return run


@pytest.fixture
def faces(tmp_path):
    """fer2013 as it is unpacked: seven folders of images."""
    for index, name in enumerate(["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]):
        folder = tmp_path / "fer" / "test" / name
        folder.mkdir(parents=True)
        for number in range(3):
            Image.new("L", (48, 48), 30 * index + number).save(folder / f"{number}.png")
    return tmp_path / "fer"


def test_classification_records_what_was_asked(evaluate, faces):
    result = evaluate("--dataset", "fer2013", "--dataset_root", faces, "--language", "zh")
    assert len(result["classnames"]) == 7 and all("{c}" in template for template in result["templates"])
    assert result["english_classes"][3] == "happy" and result["classnames"][3] != "happy"
    assert result["template_set"] == "zh" and result["classname_source"] and result["prompts_version"] == 2
    metrics = result["metrics"]
    assert set(metrics["per_class_accuracy"]) == set(result["classnames"])
    assert np.mean(list(metrics["per_class_accuracy"].values())) == pytest.approx(metrics["mean_per_class_recall"])
    assert 0 <= metrics["acc1"] <= metrics["acc5"] <= 1


def test_template_sets_and_spellings_of_chinese(evaluate, faces):
    bare = evaluate(
        "--dataset", "fer2013", "--dataset_root", faces, "--language", "cn", "--custom_template_file", "name"
    )
    assert bare["templates"] == ["{c}"] and bare["language"] == "cn"
    eighty = evaluate(
        "--dataset", "fer2013", "--dataset_root", faces, "--language", "zh_Hans", "--custom_template_file", "openai80"
    )
    assert len(eighty["templates"]) == 80
    first = evaluate(
        "--dataset", "fer2013", "--dataset_root", faces, "--language", "zh", "--custom_template_file", "zh@1"
    )
    assert "看得出他很{c}" in first["templates"] and (first["template_set"], first["prompts_version"]) == ("zh", 1)
    for arguments, told in (
        (("--language", "zh", "--custom_template_file", "zh@9"), "zh@9: our prompts have the editions 1 to 2"),
        (("--language", "en", "--custom_template_file", "zh@1"), "add --language zh"),
        (("--language", "zh-tw2"), "there is no such Chinese"),
        (("--language", "en", "--custom_template_file", "cn_clip"), "cn_clip"),
        (("--language", "zh", "--custom_template_file", "nix.json"), "nix.json"),
    ):
        with pytest.raises(SystemExit, match=told):
            evaluate("--dataset", "fer2013", "--dataset_root", faces, *arguments)


def test_english_stays_english(evaluate, faces):
    result = evaluate("--dataset", "fer2013", "--dataset_root", faces, "--dump_classnames")
    assert "template_set" not in result and result["classnames"][3] == "happy"
    assert set(result["metrics"]) == {"acc1", "acc5", "mean_per_class_recall"}


def test_models_that_are_not_ours_get_the_prompts(evaluate, faces, monkeypatch):
    import clip_benchmark.cli as cli
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    model.zhclip_model = None  # somebody else's
    seen = []

    def tokenizer(texts):
        seen.extend(texts)
        return open_clip.get_tokenizer("zhclip-tiny")(texts)

    monkeypatch.setattr(cli, "load_clip", lambda **kwargs: (model, transform, tokenizer))
    result = evaluate("--dataset", "fer2013", "--dataset_root", faces, "--language", "zh", model="somebodys")
    assert {template.format(c=name) for template in result["templates"] for name in result["classnames"]} <= set(seen)


def test_bad_images(evaluate, faces):
    (faces / "test" / "sad" / "1.png").write_bytes(b"no picture")
    arguments = ("--dataset", "fer2013", "--dataset_root", faces, "--language", "zh")
    with pytest.raises(SystemExit, match=r"sad/1.png.*does not decode"):
        evaluate(*arguments)
    with pytest.raises(SystemExit) as error:
        evaluate(*arguments, "--num_workers", "1")
    assert "\n" not in str(error.value) and "sad/1.png" in str(error.value)
    result = evaluate(*arguments, "--skip-bad-images")
    assert result["skipped_images"]["count"] == 1 and "sad/1.png" in str(result["skipped_images"]["images"])


@pytest.fixture
def muge(tmp_path):
    retrieval_files.write_tsv(tmp_path / "MUGE", "valid", several=True, muge_names=True)
    return tmp_path / "MUGE"


def test_muge_from_the_download_to_its_recalls(evaluate, muge, tmp_path):
    """Default split and default k, text-to-image alone; the file beside the result has every query."""
    result = evaluate("--dataset", "muge", "--dataset_root", muge, "--language", "zh")
    assert set(result["metrics"]) == {f"image_retrieval_recall@{k}" for k in (1, 5, 10)} | {
        "image_retrieval_mean_recall"
    }
    queries = load_per_query(tmp_path / result["per_query"])
    assert queries["meta"]["model"] == "zhclip-tiny" and queries["meta"]["metrics"] == result["metrics"]
    ranks = next(value for key, value in queries.items() if key.startswith("image_retrieval") and "rank" in key)
    for k in (1, 5, 10):
        assert np.mean(ranks <= k) == pytest.approx(result["metrics"][f"image_retrieval_recall@{k}"])


def test_bad_data_is_found_before_any_model_is_loaded(evaluate, muge, faces, monkeypatch):
    import clip_benchmark.cli as cli

    monkeypatch.setattr(cli, "load_clip", lambda **kwargs: pytest.fail("the model was loaded"))
    tsv = next(muge.glob("*imgs.tsv"))
    tsv.write_text(tsv.read_text().replace("\t", " ", 1))
    with pytest.raises(SystemExit, match=f"{tsv.name}.*1"):
        evaluate("--dataset", "muge", "--dataset_root", muge)
    with pytest.raises(SystemExit, match="no coco-cn of split test here.*one of these is needed"):
        evaluate("--dataset", "coco-cn", "--dataset_root", faces)
    templates = muge / "templates.json"
    templates.write_text('{"fer2013": ["没有类名"]}', encoding="utf-8")
    with pytest.raises(SystemExit, match="{c}"):
        evaluate(
            *("--dataset", "fer2013", "--dataset_root", faces, "--language", "zh"),
            *("--custom_template_file", templates),
        )


def test_wds_scores_the_same_to_the_last_digit(evaluate, muge, tmp_path):
    first = evaluate("--dataset", "muge", "--dataset_root", muge, "--language", "zh")
    exported = CliRunner().invoke(
        app, ["dataset", "export", str(muge), "--output", str(tmp_path / "wds"), "--shard-size", "7"]
    )
    assert exported.exit_code == 0, exported.output
    second = evaluate("--dataset", "wds/muge", "--dataset_root", tmp_path / "wds", "--language", "zh")
    assert first["metrics"] == second["metrics"]


def test_check_and_show(muge, tmp_path):
    checked = CliRunner().invoke(app, ["dataset", "check", str(muge)])
    assert checked.exit_code == 0 and "images: " in checked.output and "decoded: True" in checked.output
    tsv = next(muge.glob("*imgs.tsv"))
    lines = tsv.read_text().splitlines(keepends=True)
    broken = lines[0].split("\t")[0] + "\t" + base64.b64encode(b"no picture").decode() + "\n"
    tsv.write_text(broken + "".join(lines[1:]))
    checked = CliRunner().invoke(app, ["dataset", "check", str(muge)])
    assert checked.exit_code == 1 and f"{tsv.name}" in str(checked.exception)
    skipped = CliRunner().invoke(app, ["dataset", "check", str(muge), "--skip-bad-images"])
    assert skipped.exit_code == 0 and "skipped: 1" in skipped.output
    nameless = tmp_path / "nameless"
    nameless.mkdir()
    assert "add --name" in str(CliRunner().invoke(app, ["dataset", "check", str(nameless)]).exception)


class Flickr:
    """What clip_benchmark's flickr30k is in Chinese: captions with part-of-speech tags."""

    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 4

    def __getitem__(self, index):
        captions = [f"一:m 只:q 猫:n 第{index}:m", f"第{index}:m 张:q 图片:n"]
        return self.transform(Image.new("RGB", (9, 9), (40 * index, 0, 0))), captions


@pytest.mark.parametrize("raw", [False, True])
def test_clip_benchmarks_chinese_captions_are_cleaned(evaluate, monkeypatch, raw):
    import clip_benchmark.cli as cli
    import clip_benchmark.datasets.builder as builder

    from zhclip_openclip.integrations.clip_benchmark import datasets

    original = builder.build_dataset.__zhclip_original__
    languages = []

    def stand_in(name, root, transform, split, download, annotation_file, language, *rest, **kwargs):
        languages.append(language)
        return Flickr(transform)

    stand_in.__signature__ = inspect.signature(original)
    monkeypatch.setattr(cli, "build_dataset", datasets.build_dataset(stand_in))
    texts = []
    import open_clip

    tokenizer = open_clip.get_tokenizer("zhclip-tiny")
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda *a, **k: lambda t: (texts.extend(t), tokenizer(t))[1])
    options = ["--raw-captions"] if raw else []
    result = evaluate("--dataset", "flickr30k", "--language", "zh", *options, "--recall_k", "1", "2")
    assert ("一只猫第0" in texts) is (not raw) and ("一:m 只:q 猫:n 第0:m" in texts) is raw
    assert languages == ["zh"]
    assert {"text_retrieval_recall@1", "image_retrieval_recall@2", "text_retrieval_mean_recall"} <= set(
        result["metrics"]
    )
    evaluate("--dataset", "xtd200", "--language", "zh")
    evaluate("--dataset", "xtd200", "--language", "zho_Hans")
    assert languages[1:] == ["zho_Hans", "zho_Hans"]


def test_retrieval_in_other_languages_is_clip_benchmarks_own(monkeypatch):
    import clip_benchmark.metrics.zeroshot_retrieval as module
    import open_clip
    from clip_benchmark.datasets.builder import image_captions_collate_fn

    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    loader = torch.utils.data.DataLoader(Flickr(transform), batch_size=2, collate_fn=image_captions_collate_fn)
    arguments = (model.eval(), loader, open_clip.get_tokenizer("zhclip-tiny"), "cpu")
    ours = module.evaluate(*arguments, amp=False, recall_k_list=[1])
    theirs = module.evaluate.__zhclip_original__(*arguments, amp=False, recall_k_list=[1])
    assert ours == theirs and set(ours) == {"image_retrieval_recall@1", "text_retrieval_recall@1"}


def test_the_three_sets_are_a_collection():
    from clip_benchmark.datasets.builder import dataset_collection, get_dataset_collate_fn, get_dataset_default_task

    assert dataset_collection["chinese_retrieval"] == ["muge", "flickr30k-cn", "coco-cn"]
    for name in dataset_collection["chinese_retrieval"]:
        assert get_dataset_default_task(name) == "zeroshot_retrieval"
        assert get_dataset_collate_fn(name).__name__ == "image_captions_collate_fn"
    assert get_dataset_default_task("cifar10") == "zeroshot_classification"


def test_streams_are_not_made_to_look_indexed():
    from zhclip_openclip.integrations.clip_benchmark.datasets import is_indexed

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(())

        def __len__(self):
            return 0

    assert not is_indexed(Stream()) and is_indexed(Flickr(None))


def test_nllb_knows_the_spellings_and_keeps_its_own():
    from clip_benchmark.models.nllb_clip import lang_map

    assert lang_map["zh_Hans"] == lang_map["zh-cn"] == "zho_Hans" and lang_map["zh_Hant"] == "zho_Hant"
    assert lang_map["zh"] == "zho_Hant" and lang_map["fr"] == "fra_Latn"
