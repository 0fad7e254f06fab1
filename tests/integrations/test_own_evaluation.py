"""`clip_benchmark eval --dataset own/NAME`: every layout with numbers that plain PyTorch and scikit-learn compute."""

from __future__ import annotations

import base64
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score

from tests.support.own_files import lines, table
from zhclip_openclip.datasets._sample import positions
from zhclip_openclip.datasets.digits import Digits
from zhclip_openclip.galleries.queries import write_gallery
from zhclip_openclip.prompts import templates
from zhclip_openclip.report.build import build as build_report
from zhclip_openclip.reproduction.plan import Options, make_plan
from zhclip_openclip.reproduction.run import run as run_plan

NAMES = "零一二三四五六七八九"
COUNT = 48
#: One of four has the label of the next digit, so that no score is 1 and every mistake in an order shows.
LABELS = [(label + (place % 4 == 0)) % 10 for place, label in enumerate(Digits().targets[:COUNT])]
FILES = [f"images/{place:03d}.png" for place in range(COUNT)]
#: A picture has one caption or two, and a caption several pictures.
CAPTIONS = [
    [f"数字{NAMES[label]}"] + [f"手写的{NAMES[label]}"] * (place % 3 == 0) for place, label in enumerate(LABELS)
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with the pictures in images/."""
    root = tmp_path_factory.mktemp("own")
    (root / "images").mkdir()
    for file, pixels in zip(FILES, Digits().images[:COUNT], strict=True):
        Image.fromarray(pixels).convert("RGB").save(root / file)
    return root


@pytest.fixture(scope="module")
def encoded(pictures):
    """(pictures, dimensions) unit features in the order of `FILES`, and a function from texts to the same."""
    import open_clip

    import zhclip_openclip  # noqa: F401

    model, _, preprocess = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    tokenizer = open_clip.get_tokenizer("zhclip-tiny")
    model.eval()

    def texts(words):
        with torch.no_grad():
            return torch.nn.functional.normalize(model.encode_text(tokenizer(words)), dim=-1).numpy()

    with torch.no_grad():
        batch = torch.stack([preprocess(Image.open(pictures / file)) for file in FILES])
        images = torch.nn.functional.normalize(model.encode_image(batch), dim=-1).numpy()
    return images, texts


def classified(encoded, classes, target, chosen=None, used=None):
    """What scikit-learn says of the pictures at `chosen`, all by default. target: of each a class by its number."""
    images, texts = encoded
    used = used or templates.load("zh", None).templates
    columns = []
    for name in classes:
        mean = texts([template.format(c=name) for template in used]).mean(axis=0)
        columns.append(mean / np.linalg.norm(mean))
    chosen = range(len(images)) if chosen is None else chosen
    scores = images[list(chosen)] @ np.stack(columns, axis=1)
    labels = range(len(classes))
    return {
        "acc1": accuracy_score(target, scores.argmax(axis=1)),
        "acc5": top_k_accuracy_score(target, scores, k=5, labels=labels),
        "mean_per_class_recall": balanced_accuracy_score(target, scores.argmax(axis=1)),
    }


def recalls(encoded, pairs, chosen=None):
    """Recall of both directions from (file, text) by sorting each row. chosen: places of the pictures."""
    images, texts = encoded
    files = [FILES[place] for place in (range(COUNT) if chosen is None else chosen)]
    words = list(dict.fromkeys(text for file, text in pairs if file in files))
    right = {(file, text) for file, text in pairs}
    scores = texts(words) @ images[[FILES.index(file) for file in files]].T
    result = {}
    for k in (1, 5, 10):
        best = [[files[place] for place in row[:k]] for row in np.argsort(-scores, axis=1, kind="stable")]
        found = [any((file, word) in right for file in row) for word, row in zip(words, best, strict=True)]
        result[f"image_retrieval_recall@{k}"] = np.mean(found)
        best = [[words[place] for place in row[:k]] for row in np.argsort(-scores.T, axis=1, kind="stable")]
        found = [any((file, word) in right for word in row) for file, row in zip(files, best, strict=True)]
        result[f"text_retrieval_recall@{k}"] = np.mean(found)
    return result


def same(found, expected):
    for key, value in expected.items():
        assert found["metrics"][key] == pytest.approx(value, abs=1e-6), key
    assert any(0 < value < 1 for value in expected.values())


@pytest.fixture
def evaluate(evaluate_digits):
    """The result of `clip_benchmark eval --dataset own/x --dataset_root ROOT ...`."""

    def run(root, *arguments, dataset="own/x", output="out.json"):
        words = ("--no_amp", "--dataset_root", root, "--output", output, *arguments)
        folder = evaluate_digits(*words, dataset=dataset)
        return json.loads((folder / output).read_text("utf-8"))

    return run


# ---------------------------------------------------------------- layouts


def put(root, pictures, layout):
    """The data in a layout, in a folder of its own."""
    if layout == "folders":
        for file, label in zip(FILES, LABELS, strict=True):
            (root / NAMES[label]).mkdir(exist_ok=True)
            shutil.copy(pictures / file, root / NAMES[label])
        return root
    shutil.copytree(pictures / "images", root / "images")
    if layout == "labels.csv":
        rows = [[file.replace("/", "\\"), NAMES[label]] for file, label in zip(FILES, LABELS, strict=True)]
        table(root / "labels.csv", ["图片", "标签"], rows, "gbk", "\r\n")
    elif layout == "labels.jsonl":
        lines(root / "x.jsonl", [{"path": f, "label": NAMES[n]} for f, n in zip(FILES, LABELS, strict=True)])
    elif layout == "captions.csv":
        rows = [[file, text] for file, texts in zip(FILES, CAPTIONS, strict=True) for text in texts]
        table(root / "captions.csv", ["image", "caption"], rows, "utf-16")
    elif layout == "image_queries.jsonl":
        entries = [{"image_path": file, "query": texts} for file, texts in zip(FILES, CAPTIONS, strict=True)]
        lines(root / layout, entries)
    elif layout == "Chinese-CLIP":
        content = [f"{f}\t{base64.b64encode((pictures / f).read_bytes()).decode()}\n" for f in FILES]
        (root / "test_imgs.tsv").write_text("".join(content))
        texts = sorted({text for texts in CAPTIONS for text in texts})
        of = {text: [f for f, some in zip(FILES, CAPTIONS, strict=True) if text in some] for text in texts}
        entries = [{"text_id": n, "text": text, "image_ids": of[text]} for n, text in enumerate(texts)]
        lines(root / "test_texts.jsonl", entries)
        shutil.rmtree(root / "images")
    return root


@pytest.mark.parametrize("layout", ["folders", "labels.csv", "labels.jsonl"])
def test_labels(layout, pictures, encoded, evaluate, tmp_path):
    (tmp_path / "data").mkdir()
    result = evaluate(put(tmp_path / "data", pictures, layout))
    assert result["classnames"] == sorted(NAMES) and result["task"] == "zeroshot_classification"
    same(result, classified(encoded, sorted(NAMES), [sorted(NAMES).index(NAMES[label]) for label in LABELS]))
    assert (
        result["dataset"] == "own/x" and result["fingerprint"] and result["recognised"].startswith("own/x is read as")
    )
    with np.load(tmp_path / "results" / result["per_sample"]) as file:
        order = (
            sorted(range(COUNT), key=lambda n: (NAMES[LABELS[n]], FILES[n])) if layout == "folders" else range(COUNT)
        )
        assert file["target"].tolist() == [sorted(NAMES).index(NAMES[LABELS[n]]) for n in order]
        assert json.loads(str(file["meta"]))["fingerprint"] == result["fingerprint"]


@pytest.mark.parametrize("layout", ["captions.csv", "image_queries.jsonl", "Chinese-CLIP"])
def test_captions(layout, pictures, encoded, evaluate, tmp_path):
    (tmp_path / "data").mkdir()
    root = put(tmp_path / "data", pictures, layout)
    result = evaluate(root)
    same(result, recalls(encoded, [(file, text) for file, some in zip(FILES, CAPTIONS, strict=True) for text in some]))
    assert result["task"] == "zeroshot_retrieval"
    page = write_gallery(tmp_path / "results" / "out.json", tmp_path / "page.html", root, number=2)
    assert "own/x" in page.read_text("utf-8")


def test_lists_and_templates_beside(pictures, encoded, evaluate, tmp_path):
    """Numbered folders, names in `label_cn.txt`, one of them without pictures; templates of one's own."""
    for file, label in zip(FILES, LABELS, strict=True):
        (tmp_path / "data" / f"{label:03d}").mkdir(parents=True, exist_ok=True)
        shutil.copy(pictures / file, tmp_path / "data" / f"{label:03d}")
    names = [f"数字{name}" for name in NAMES] + ["数字十"]
    (tmp_path / "data" / "label_cn.txt").write_text("\r\n".join(names) + "\r\n", encoding="utf-8-sig")
    (tmp_path / "data" / "templates_cn.txt").write_text("一个{c}\n{c}\n", encoding="utf-8")
    result = evaluate(tmp_path / "data")
    assert result["classnames"] == names and result["classname_source"] == "label_cn.txt"
    assert result["template_set"] == "templates_cn.txt"
    same(result, classified(encoded, names, LABELS, used=["一个{c}", "{c}"]))


# ---------------------------------------------------------------- samples


def test_a_sample_is_scored_as_such_and_never_taken_for_the_whole(pictures, encoded, evaluate, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    root = put(tmp_path / "data", pictures, "labels.csv")
    target = [sorted(NAMES).index(NAMES[label]) for label in LABELS]
    chosen = positions(COUNT, 30)
    result = evaluate(root, "--limit", "30")
    same(result, classified(encoded, sorted(NAMES), [target[place] for place in chosen], chosen))
    assert result["limit"] == {"asked": 30, "images": 30, "of": COUNT}
    evaluate(root, "--limit", "30", "--skip_existing")
    assert "exists already" in capsys.readouterr().out
    whole = evaluate(root, "--skip_existing")
    told = capsys.readouterr()
    assert "is of a sample of 30: evaluated again" in told.out and "is replaced" in told.err
    assert "limit" not in whole
    same(whole, classified(encoded, sorted(NAMES), target))
    evaluate(root, "--limit", "20", "--skip_existing")
    assert "is of all images: evaluated again" in capsys.readouterr().out


@pytest.mark.parametrize("dataset", ["digits", "digits-retrieval"])
def test_samples_of_data_sets_that_are_known(dataset, evaluate_digits, tmp_path):
    folder = evaluate_digits("--limit", "25", "--quiet", dataset=dataset)
    (path,) = folder.glob("*.json")
    assert path.stem.endswith("_limit-25")
    result = json.loads(path.read_text("utf-8"))
    assert {key: result["limit"][key] for key in ("asked", "images", "of")} == {"asked": 25, "images": 25, "of": 360}
    with np.load(folder / (result.get("per_sample") or result["per_query"])) as file:
        assert len(file["target" if dataset == "digits" else "image_ids"]) == 25


def test_a_sample_of_captions(pictures, encoded, evaluate, tmp_path):
    (tmp_path / "data").mkdir()
    root = put(tmp_path / "data", pictures, "captions.csv")
    result = evaluate(root, "--limit", "20")
    pairs = [(file, text) for file, some in zip(FILES, CAPTIONS, strict=True) for text in some]
    same(result, recalls(encoded, pairs, positions(COUNT, 20)))
    write_gallery(tmp_path / "results" / "out.json", tmp_path / "page.html", root, number=1)


# ---------------------------------------------------------------- reproduce and report


def test_reproduce_keeps_the_sample_and_the_whole_apart(pictures, encoded, tmp_path):
    (tmp_path / "DIR" / "own" / "cats").mkdir(parents=True)
    put(tmp_path / "DIR" / "own" / "cats", pictures, "folders")
    (tmp_path / "DIR" / "shop").mkdir()
    put(tmp_path / "DIR" / "shop", pictures, "captions.csv")

    def plan(limit):
        names, options = ["own/cats", "own/shop"], Options(workers=0, amp=False, limit=limit)
        return make_plan(["zhclip-tiny"], names, tmp_path / "DIR", tmp_path / "R", options, timed=False)

    class Silent:
        def __getattr__(self, name):
            return lambda *args, **kwargs: None

    assert [cell.images for cell in plan(10).cells] == [10, 10]
    assert [outcome.failure for outcome in run_plan(plan(10), Silent())] == [None, None]
    assert [cell.state for cell in plan(10).cells] == ["finished"] * 2
    assert [cell.state for cell in plan(None).cells] == ["run"] * 2
    assert [outcome.failure for outcome in run_plan(plan(None), Silent())] == [None, None]
    assert [cell.state for cell in plan(None).cells] == ["finished"] * 2
    target = [sorted(NAMES).index(NAMES[label]) for label in LABELS]
    report = build_report([tmp_path / "R"], datasets=["own/cats"])
    (found,) = [one for one in report.tables if one.key == "own/cats"]
    rows = {row.variant: row.cells for row in found.rows}
    assert set(rows) == {"", "sample of 10"}
    assert rows[""]["acc1"].ours == pytest.approx(100 * classified(encoded, sorted(NAMES), target)["acc1"])
    assert rows["sample of 10"]["acc1"].samples == 10 and not report.comparisons
    assert not [one for one in report.problems if "cannot be compared" in str(one)]
    assert "sample of 10 of 48 images" in " ".join(map(str, report.problems))
    # Another picture of the same size and name is other data.
    first = sorted((tmp_path / "DIR" / "own" / "cats").rglob("*.png"))[0]
    first.write_bytes(first.read_bytes()[:-1] + b"\0")
    assert [cell.state for cell in plan(None).cells] == ["run", "finished"]


def test_what_is_published_is_not_held_against_a_sample(evaluate_digits, tmp_path):
    folder = evaluate_digits("--limit", "25", "--quiet")
    (path,) = folder.glob("*.json")
    result = json.loads(path.read_text("utf-8"))
    result.update(dataset="cifar10", model="zhclip-vit-l-14", pretrained="thu_ml")
    result.pop("per_sample")
    path.write_text(json.dumps(result), encoding="utf-8")
    report = build_report([folder])
    cells = [row.cells["cifar10"] for one in report.tables for row in one.rows if "cifar10" in row.cells]
    (ours,) = [cell for cell in cells if cell.ours is not None]
    assert ours.published is None and ours.verdict == "not published" and ours.difference is None


# ---------------------------------------------------------------- one line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--task", "captioning"], "zhclip-tiny compares texts with images and writes none"),
        (["--task", "zeroshot_retrieval"], "own/x is read as a table of paths and labels, which is for zeroshot_class"),
        (["--split", "train"], "has no part train: it is one whole"),
        (["--layout", "folders"], "is no a folder of folders|--layout folders"),
        (["--columns", "path=nowhere"], "--columns path=nowhere: .* has no column nowhere"),
        (["--limit", "0"], "a sample has one image at least"),
        (["--language", "ja"], "there are templates for zh and en, and none for ja"),
    ],
)
def test_mistakes_are_told_in_a_line_before_the_model_is_loaded(
    pictures, evaluate, tmp_path, arguments, told, monkeypatch, capsys
):
    import clip_benchmark.cli as cli

    (tmp_path / "data").mkdir()
    root = put(tmp_path / "data", pictures, "labels.csv")
    monkeypatch.setattr(cli, "load_clip", lambda *args, **kwargs: pytest.fail("loaded"))
    with pytest.raises(SystemExit) as error:
        evaluate(root, *arguments)
    text = str(error.value) if isinstance(error.value.code, str) else capsys.readouterr().err.splitlines()[-1]
    assert re.search(told, text) and "\n" not in text


def test_captioning_with_anybodys_contrastive_model(monkeypatch):
    import sys

    import clip_benchmark.cli as cli

    monkeypatch.setattr(cli, "load_clip", lambda *args, **kwargs: pytest.fail("loaded"))
    words = ["--model", "ViT-B-32", "--pretrained", "openai", "--dataset", "mscoco_captions", "--task", "captioning"]
    monkeypatch.setattr(sys, "argv", ["clip_benchmark", "eval", *words])
    with pytest.raises(SystemExit, match="ViT-B-32 compares texts with images and writes none; .*coca_ViT-L-14"):
        cli.main()
