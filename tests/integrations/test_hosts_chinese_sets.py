"""clip_benchmark's own Chinese sets: their codes, their files among the data at hand, what a result says of them."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.support import retrieval_files
from tests.support.known_captions import make_known
from zhclip_openclip.commands import app
from zhclip_openclip.datasets import at_hand, chinese_captions
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets.at_hand import Found, Missing
from zhclip_openclip.prompts._errors import PromptError
from zhclip_openclip.reproduction.plan import make_plan
from zhclip_openclip.reproduction.run import arguments

HOSTS = [entry for entry in at_hand.entries().values() if entry.host]


@pytest.fixture
def evaluate(monkeypatch, tmp_path, capsys):
    """Run `clip_benchmark eval` in this process; the result file's content, and what was printed."""
    import clip_benchmark.cli as cli

    def run(*words, model="zhclip-tiny", output="result.json"):
        path = tmp_path / output
        given = [
            "--model",
            model,
            "--num_workers",
            "0",
            "--output",
            str(path),
            "--recall_k",
            "1",
            "2",
            *map(str, words),
        ]
        monkeypatch.setattr(sys, "argv", ["clip_benchmark", "eval", *given])
        cli.main()
        return json.loads(path.read_text("utf-8")), capsys.readouterr().out

    return run


def write(root, entry, count=6):
    """The set as clip_benchmark leaves it: pictures, and its file of captions with their paths."""
    host = entry.host
    pictures = root / host["made_from"][0]
    pictures.mkdir(parents=True)
    paths = []
    for number in range(count):
        path = pictures / f"{number}.jpg"
        path.write_bytes(retrieval_files.picture(number))
        paths.append(str(path))
    texts = [f"{entry.language}：第{number}张图片，一:m 只:q 猫:n" for number in range(count)]
    content = {"image_paths": paths, "annotations": texts, "indices": list(range(count))}
    (root / host["captions"]).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return root


# ---------------------------------------------------------------- languages


def test_codes_are_those_of_the_installed_clip_benchmark():
    """The language that is asked for, in its own lists; a later version may know more."""
    import importlib

    modules = {"multilingual_mscoco_captions": "multilingual_mscoco", "flickr30k-200": "flickr30k_200"}
    for name, codes in chinese_captions.LANGUAGES.items():
        if name in ("flickr30k", "flickr8k"):  # its codes stand in the builder alone
            continue
        module = importlib.import_module(f"clip_benchmark.datasets.{modules.get(name, name)}")
        assert set(codes.values()) <= set(module.SUPPORTED_LANGUAGES), name
        chinese = {code for code in module.SUPPORTED_LANGUAGES if code.startswith("zh")}
        assert chinese == set(codes.values()), name
    for entry in HOSTS:
        assert entry.language in chinese_captions.LANGUAGES[entry.host["name"]].values()
        module = importlib.import_module(
            f"clip_benchmark.datasets.{modules.get(entry.host['name'], entry.host['name'])}"
        )
        assert module.OUTPUT_FILENAME_TEMPLATE.format(entry.language) == entry.host["captions"]


@pytest.mark.parametrize(
    ("dataset", "language", "code"),
    [
        ("crossmodal3600", "zh", "zh"),
        ("crossmodal3600", "zho_Hans", "zh"),
        ("xtd10", "cn", "zh"),
        ("multilingual_mscoco_captions", "zh-CN", "zh"),
        ("xtd200", "zh", "zho_Hans"),
        ("xtd200", "zh_Hant", "zho_Hant"),
        ("flickr30k-200", "zh", "zho_Hans"),
        ("flickr30k-200", "zho_Hant", "zho_Hant"),
        ("flickr30k", "zh-cn", "zh"),
        ("crossmodal3600", "en", None),
        ("xtd200", "yue_Hant", None),
        ("mscoco_captions", "en", None),
        ("cifar10", "zh", None),
    ],
)
def test_one_word_for_chinese_reaches_each_set(dataset, language, code):
    assert chinese_captions.code(dataset, language) == code


@pytest.mark.parametrize(
    ("dataset", "language", "message"),
    [
        ("crossmodal3600", "zh_Hant", "captions of crossmodal3600 are in simplified characters; that is --language zh"),
        ("xtd10", "zho_Hant", "--language zh$"),
        ("mscoco_captions", "zh", "--language zh: mscoco_captions has English texts alone, --language en; coco-cn"),
        ("winoground", "zh", "English texts alone"),
        ("sugar_crepe/add_att", "cn", "English texts alone"),
        ("xtd200", "zh-TW", "there is no such Chinese; simplified characters are zh .*traditional ones zh_Hant"),
    ],
)
def test_another_language_is_never_taken_in_silence(evaluate, tmp_path, dataset, language, message):
    with pytest.raises((DatasetError, PromptError), match=message):
        chinese_captions.code(dataset, language)
    with pytest.raises(SystemExit) as told:
        evaluate("--dataset", dataset, "--language", language, "--dataset_root", tmp_path)
    assert "\n" not in str(told.value) and f"--language {language}" in str(told.value)


def test_shards_of_others_have_the_language_that_they_have(evaluate, tmp_path):
    from zhclip_openclip.datasets.retrieval import build_retrieval_dataset
    from zhclip_openclip.datasets.wds_export import export_wds

    folder = retrieval_files.write_tsv(tmp_path / "data", "test", False)
    export_wds(build_retrieval_dataset("flickr30k-cn", folder), tmp_path / "shards")
    _, printed = evaluate("--dataset", "wds/mscoco_captions", "--dataset_root", tmp_path / "shards", "--language", "zh",
                          "--task", "zeroshot_retrieval")  # fmt: skip
    assert "wds/mscoco_captions has the texts of its shards" in printed


# ---------------------------------------------------------------- through clip_benchmark


@pytest.mark.parametrize("entry", HOSTS, ids=lambda entry: entry.name)
def test_each_is_read_in_chinese_and_scored(evaluate, tmp_path, monkeypatch, entry):
    """clip_benchmark's own readers, with a tokenizer of ours, and the scoring of our sets."""
    import open_clip

    write(tmp_path / "root", entry)
    texts, tokenizer = [], open_clip.get_tokenizer("zhclip-tiny")
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda *a, **k: lambda t: (texts.extend(t), tokenizer(t))[1])
    asked = "zh_Hant" if entry.language == "zho_Hant" else "zh"
    words = ["--dataset", entry.host["name"], "--dataset_root", tmp_path / "root", "--language", asked]
    result, printed = evaluate(*words)
    assert [text for text in texts if text.startswith(entry.language)] == [
        f"{entry.language}：第{number}张图片，一只猫" for number in range(6)
    ]
    assert result["language"] == entry.language  # which is what NLLB-CLIP's tokenizer is set to
    assert {"image_retrieval_mean_recall", "text_retrieval_recall@2"} <= set(result["metrics"])
    assert f"6 pictures, and the published {entry.host['name']} has" in printed and result["notes"]


def test_nllbs_script_is_that_of_the_captions(evaluate, tmp_path, monkeypatch):
    """clip_benchmark maps zh to traditional characters, and its two sets of 200 languages have captions in either."""
    from clip_benchmark.models import nllb_clip

    assert nllb_clip.lang_map["zh"] == "zho_Hant"
    for entry in HOSTS:
        if entry.language.startswith("zho_"):
            asked = {"zho_Hans": "zh", "zho_Hant": "zh_Hant"}[entry.language]
            assert nllb_clip.lang_map[chinese_captions.code(entry.host["name"], asked)] == entry.language


def test_xm3600_is_written_from_its_own_files(evaluate, tmp_path):
    """clip_benchmark takes the first Chinese caption of each picture; nothing is fetched where the files are there."""
    entry = at_hand.find_entry("crossmodal3600")
    root = write(tmp_path / "DIR" / "crossmodal3600", entry)
    (root / entry.host["captions"]).unlink()
    lines = [
        {"image/key": str(n), "zh": {"caption": [f"第一句{n}", f"第二句{n}"]}, "en": {"caption": [f"one {n}"]}}
        for n in range(6)
    ]
    (root / "xm3600" / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    found = at_hand.look(entry, tmp_path / "DIR", "zh")
    assert isinstance(found, Found) and found.root == root and found.images == 3600
    evaluate("--dataset", "crossmodal3600", "--dataset_root", root, "--language", "zh")
    written = json.loads((root / "crossmodal3600_captions-zh.json").read_text("utf-8"))
    assert written["annotations"] == [f"第一句{n}" for n in range(6)]
    after = at_hand.look(entry, tmp_path / "DIR", "zh")
    assert (after.images, after.listing) == (6, found.listing)  # so that the result stays the one of these data


# ---------------------------------------------------------------- at hand, and in a plan


@pytest.mark.parametrize("entry", HOSTS, ids=lambda entry: entry.name)
def test_found_where_it_lies(tmp_path, entry):
    for place in (".", *dict.fromkeys((entry.host["name"], *entry.host["folders"]))):
        base = tmp_path / "data" if place == "." else tmp_path / f"in {place}"
        root = write(base / place, entry)
        found = at_hand.look(entry, base, "zh")
        assert (found.spelling, found.root.resolve(), found.images) == (entry.host["name"], root.resolve(), 6)
        assert found.expected == entry.images and found.listing
    (root / entry.host["captions"]).unlink()
    assert at_hand.look(entry, base, "zh") == Missing(f"not in {base}", absent=True)


def test_captions_in_the_other_script_are_not_taken(tmp_path):
    simplified, traditional = map(at_hand.find_entry, ("xtd200", "xtd200-zho_Hant"))
    write(tmp_path, traditional)
    assert isinstance(at_hand.look(traditional, tmp_path, "zh"), Found)
    assert isinstance(at_hand.look(simplified, tmp_path, "zh"), Missing)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("404: Not Found", "xtd10-zh.json, line 1, column 4: not JSON"),
        ('{"image_paths": [], "annotations": []}', "not a caption for each of its pictures; remove it"),
        ('{"image_paths": ["a.jpg"], "annotations": []}', "not a caption for each of its pictures"),
        ('{"image_paths": [1], "annotations": ["一"]}', "paths and captions are texts"),
        (
            '{"image_paths": ["gone/a.jpg"], "annotations": ["一"]}',
            "gone/a.jpg is not there; if the pictures were moved",
        ),
    ],
)
def test_a_file_of_captions_that_is_none(tmp_path, content, message):
    entry = at_hand.find_entry("xtd10")
    write(tmp_path, entry)
    (tmp_path / "xtd10-zh.json").write_text(content, encoding="utf-8")
    found = at_hand.look(entry, tmp_path, "zh")
    assert isinstance(found, Missing) and message in found.reason and not found.absent


def test_a_server_that_answered_nothing(evaluate, tmp_path):
    entry = at_hand.find_entry("xtd10")
    write(tmp_path, entry)
    (tmp_path / "xtd10-zh.json").write_text('{"image_paths": [], "annotations": []}', encoding="utf-8")
    with pytest.raises(SystemExit, match="xtd10: there is no caption in it; remove .*xtd10-zh.json"):
        evaluate("--dataset", "xtd10", "--dataset_root", tmp_path, "--language", "zh")


def test_cells_of_a_plan(tmp_path):
    """Two scripts are two cells, each with the language of its captions; Babel-ImageNet takes no templates."""
    for name in ("xtd200", "xtd200-zho_Hant"):
        entry = at_hand.find_entry(name)
        if (tmp_path / "xtd200").exists():
            content = (tmp_path / "xtd200-zho_Hans.json").read_text("utf-8")
            (tmp_path / entry.host["captions"]).write_text(content, "utf-8")
        else:
            write(tmp_path, entry)
    for file in ("ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"):
        (tmp_path / "imagenet1k").mkdir(exist_ok=True)
        (tmp_path / "imagenet1k" / file).write_text("")
    asked = ["xtd200", "XTD200_zho_hant", "babel-imagenet"]
    plan = make_plan(["zhclip-tiny"], asked, tmp_path, tmp_path / "out", timed=False)
    words = {cell.entry.name: arguments(cell, tmp_path / "x.json") for cell in plan.cells}
    languages = {name: line[line.index("--language") + 1] for name, line in words.items()}
    assert languages == {"xtd200": "zho_Hans", "xtd200-zho_Hant": "zho_Hant", "babel_imagenet": "zh"}
    assert {line[line.index("--dataset") + 1] for line in words.values()} == {"xtd200", "babel_imagenet"}
    assert len({cell.name for cell in plan.cells}) == 3 and {cell.state for cell in plan.cells} == {"run"}
    assert "--custom_template_file" not in words["babel_imagenet"]
    babel = next(cell for cell in plan.cells if cell.entry.name == "babel_imagenet")
    assert (babel.data.images, babel.data.texts, babel.templates) == (885 * 50, 885 * 80, "")


def test_reproduce_runs_one(tmp_path):
    """The whole way: found, run, finished; a second run has nothing to do."""
    write(tmp_path / "data" / "xtd10", at_hand.find_entry("xtd10"))
    command = ["reproduce", "--models", "zhclip-tiny", "--datasets", "xtd10,flickr30k-cna", "--data-root"]
    words = [*command, str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--no-report", "--num-workers", "0"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "out").glob("*.json")
    content = json.loads(path.read_text("utf-8"))
    assert (content["dataset"], content["language"], content["cell"]["dataset"]) == ("xtd10", "zh", "xtd10")
    assert content["incomplete"] == {"images": 6, "published": 1000}
    assert not list((tmp_path / "out").glob("*.html"))
    before = path.stat().st_mtime_ns
    assert CliRunner().invoke(app, words).exit_code == 0 and path.stat().st_mtime_ns == before


# ---------------------------------------------------------------- what a result of ours says of its captions


def test_a_result_says_whose_captions_it_is_on(evaluate, tmp_path, monkeypatch):
    texts = [text for _, text, _ in retrieval_files.relations(False)]
    make_known(monkeypatch, {"coco-cn": ["人写的"], "coco-cn-translated": texts})
    folder = retrieval_files.write_tsv(tmp_path / "data", "test", False)
    result, _ = evaluate("--dataset", "coco-cn-translated", "--dataset_root", folder)
    assert result["dataset"] == "coco-cn-translated"
    assert result["captions"] == {"of": "coco-cn-translated", "images": 14, "texts": 28}
    assert np.load(tmp_path / "result.npz")["text_ids"].shape == (28,)
    with pytest.raises(SystemExit, match="what is here is coco-cn-translated .* use coco-cn-translated"):
        evaluate("--dataset", "coco-cn", "--dataset_root", folder)
    folder.rename(tmp_path / "COCO-CN")
    folder = tmp_path / "COCO-CN"
    words = ["--datasets", "coco-cn,coco-cn-translated", "--data-root", str(tmp_path), "--dry-run", "--json"]
    plan = json.loads(CliRunner().invoke(app, ["reproduce", "--models", "zhclip-tiny", *words]).stdout)
    assert {cell["dataset"]: cell["state"] for cell in plan["cells"]} == {
        "coco-cn": "missing",
        "coco-cn-translated": "run",
    }
    assert "what is here is coco-cn-translated" in plan["missing"][0]["reason"]
    page = ["--dataset-root", str(folder), "--output", str(tmp_path / "page.html")]
    result = CliRunner().invoke(app, ["gallery", str(tmp_path / "result.json"), *page])
    assert result.exit_code == 0, result.output


def test_babel_imagenet_is_found_with_its_own_prompts(tmp_path):
    entry = at_hand.find_entry("babel_imagenet")
    assert not entry.has_templates and not entry.has_gallery
    assert isinstance(at_hand.look(entry, tmp_path, ""), Missing)
