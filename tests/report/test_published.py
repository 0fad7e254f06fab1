"""The packaged figures, and what is said of files of other people's.

The figures of ZH-CLIP and Chinese-CLIP were compared with the tables of their README.md and Results.md, bold type
included, when they were entered; what can be checked without those is checked here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from zhclip_openclip.integrations.clip_benchmark import COMPARISON
from zhclip_openclip.report import _names
from zhclip_openclip.report.published import load_published, read_published

ZEROSHOT = (
    *("cifar10", "cifar100", "dtd", "eurosat", "fer2013", "fgvc_aircraft", "kitti_closest_vehicle_distance"),
    *("mnist", "pcam", "voc2007", "imagenet1k"),
)
WAYS = ("image_retrieval", "text_retrieval")


@pytest.fixture(scope="module")
def sources():
    loaded, problems = load_published()
    assert not problems
    return {source.key: source for source in loaded}


# ---------------------------------------------------------------- the packaged figures


def test_zh_clip_is_complete(sources):
    source = sources["zh_clip"]
    assert {model for model, _ in source.models} == {_names.model_name(name) for name in COMPARISON}
    expected = {(dataset, "acc1") for dataset in ZEROSHOT}
    for dataset, ways in (("coco-cn", WAYS), ("flickr30k-cn", WAYS), ("muge", WAYS[:1])):
        expected |= {(dataset, f"{way}_{end}") for way in ways for end in (*recalls(), "mean_recall")}
    assert set(source.values) == expected
    assert all(set(column) == set(source.models) for column in source.values.values())
    assert source.decimals == 2 and source.rounding == 0.005
    assert source.models[("altclip-vit-l-14", "")] == "altclip-xlmr-l"


def test_cn_clip_is_complete(sources):
    source = sources["cn_clip"]
    sizes = ("rn50", "vit-b-16", "vit-l-14", "vit-l-14-336", "vit-h-14")
    assert [model for model, _ in source.models] == [f"cnclip-{size}" for size in sizes]
    assert all(set(column) == set(source.models) for column in source.values.values())
    classification = {dataset: metric for dataset, metric in source.values if not _names.is_retrieval(dataset)}
    # Published on ELEVATER, where Pascal VOC has several labels an image.
    assert set(classification) == {"voc2007_multilabel" if name == "voc2007" else name for name in ZEROSHOT}
    from zhclip_openclip.prompts import registry

    assert classification == {name: registry.find(name).published_metric or "acc1" for name in classification}
    assert source.decimals == 1


def recalls():
    return [f"recall@{k}" for k in (1, 5, 10)]


@pytest.mark.parametrize("key", ["zh_clip", "cn_clip"])
def test_a_mean_is_the_mean(sources, key):
    """Each of the three recalls and the mean itself is rounded."""
    source, checked = sources[key], 0
    for (dataset, metric), column in source.values.items():
        way, is_mean, _ = metric.partition("_mean_recall")
        for model, value in column.items() if is_mean else ():
            mean = sum(source.value(model, dataset, f"{way}_{recall}") for recall in recalls()) / 3
            assert value == pytest.approx(mean, abs=2 * source.rounding + 1e-9), (dataset, model)
            checked += 1
    assert checked == {"zh_clip": 30, "cn_clip": 5}[key]


@pytest.mark.parametrize("key", ["zh_clip", "cn_clip"])
def test_recall_grows_with_k(sources, key):
    source = sources[key]
    for dataset, metric in source.values:
        if metric.endswith("recall@1"):
            for model in source.models:
                values = [source.value(model, dataset, metric[:-1] + k) for k in ("1", "5", "10")]
                assert values == sorted(values)


def test_figures_have_the_decimals_that_the_source_says(sources):
    for source in sources.values():
        for column in source.values.values():
            assert all(round(value, source.decimals) == value for value in column.values())


def test_the_best_are_those_in_bold(sources):
    """Spot checks of the bold type in the README's tables, ties and columns that ZH-CLIP does not lead."""
    source = sources["zh_clip"]
    for dataset, metric, model in (
        ("flickr30k-cn", "image_retrieval_recall@10", "altclip-vit-l-14"),
        ("flickr30k-cn", "text_retrieval_recall@10", "altclip-vit-l-14"),
        ("muge", "image_retrieval_recall@5", "cnclip-vit-l-14"),
        ("eurosat", "acc1", "taiyiclip-vit-l-14"),
        ("fer2013", "acc1", "altclip-vit-l-14"),
        ("pcam", "acc1", "cnclip-vit-l-14"),
        ("coco-cn", "text_retrieval_mean_recall", "zhclip-vit-l-14"),
    ):
        column = source.values[dataset, metric]
        assert [key for key, value in column.items() if value == source.best(dataset, metric)] == [(model, "")]
    assert sources["zhclip_tiny"].best("digits", "acc1") is None  # of one there is no best


def test_what_the_embedded_model_reaches_is_measured(sources):
    """`clip_benchmark eval --model zhclip-tiny --dataset digits --language zh`, done by hand."""
    import open_clip
    import torch

    from zhclip_openclip.datasets.digits import Digits
    from zhclip_openclip.prompts import classnames, registry, templates

    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    tokenizer, model = open_clip.get_tokenizer("zhclip-tiny"), model.eval()
    digits = Digits("test", transform)
    entry = registry.find("digits")
    names = classnames.translate(entry, digits.classes)
    with torch.no_grad():
        columns = []
        for name in names:
            texts = [template.replace("{c}", name) for template in templates.load("zh", entry).templates]
            columns.append(torch.nn.functional.normalize(model.encode_text(tokenizer(texts)), dim=-1).mean(0))
        weights = torch.nn.functional.normalize(torch.stack(columns), dim=-1)
        images = torch.stack([digits[index][0] for index in range(len(digits))])
        answers = (model.encode_image(images) @ weights.T).argmax(1)
    hits = (answers == torch.tensor(digits.targets)).float().mean().item()
    assert sources["zhclip_tiny"].value(("zhclip-tiny", ""), "digits", "acc1") == round(100 * hits, 2)


# ---------------------------------------------------------------- other people's


def write(path, **changes):
    """A file of the form, as docs/reports.md has it; `changes` replace keys, None takes one away."""
    described = {
        "format": 1,
        "source": "Table 3 of a paper",
        "url": "https://example.org/paper",
        "decimals": 1,
        "models": {"cnclip-vit-l-14,qa_clip": "QA-CLIP", "r2d2-vit-l-14": "R2D2"},
        "datasets": {
            "flickr30k-cn": {
                "split": "test",
                "metrics": ["image_retrieval_recall@1", "text_retrieval_recall@1"],
                "values": {
                    "cnclip-vit-l-14,qa_clip": [69.3, 85.3],
                    "r2d2-vit-l-14": [60.9, None],
                    "zhclip": [69.6, 86],
                },
            },
            "aic-icc": {
                "title": "AIC-ICC",
                "metrics": ["image_retrieval_mean_recall"],
                "values": {"r2d2-vit-l-14": [52.3]},
            },
        },
    }
    described = {key: value for key, value in {**described, **changes}.items() if value is not None}
    path.write_text(json.dumps(described), encoding="utf-8")
    return path


def datasets_with(name, **entry):
    return {name: {"metrics": ["acc1"], "values": {"zhclip": [50.0]}, **entry}}


def test_a_file_of_other_people(tmp_path):
    sources, problems = load_published([write(tmp_path / "paper.json")])
    source = sources[-1]
    assert not problems and source.key == "paper" and source.decimals == 1
    assert source.text == "Table 3 of a paper; https://example.org/paper"
    tag, foreign, ours = ("cnclip-vit-l-14", "qa_clip"), ("r2d2-vit-l-14", ""), ("zhclip-vit-l-14", "")
    assert source.models == {tag: "QA-CLIP", foreign: "R2D2", ours: "zhclip"}
    assert source.values["flickr30k-cn", "image_retrieval_recall@1"] == {tag: 69.3, foreign: 60.9, ours: 69.6}
    assert source.values["flickr30k-cn", "text_retrieval_recall@1"] == {tag: 85.3, ours: 86.0}
    assert source.titles == {"aic-icc": ("AIC-ICC", "AIC-ICC")}


def test_spellings_of_data_sets_and_models(tmp_path):
    values = {"values": {"cnclip,ofa_sys": [50.0], "cnclip-vit-l-14,qa_clip": [51.0]}}
    described = {**datasets_with("vtab/pcam", **values), **datasets_with("wds/vtab/eurosat", **values)}
    described |= datasets_with("elevater/kitti-distance", **values)
    source, problems = read_published(write(tmp_path / "a.json", datasets=described))
    assert not problems
    assert {dataset for dataset, _ in source.values} == {"pcam", "eurosat", "kitti_closest_vehicle_distance"}
    expected = {("cnclip-vit-l-14", ""): 50.0, ("cnclip-vit-l-14", "qa_clip"): 51.0}
    assert all(column == expected for column in source.values.values())


def test_two_files_of_one_name(tmp_path):
    for folder in "abc":
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "zh_clip.json", note=f"of {folder}")
    sources, _ = load_published(tmp_path / folder / "zh_clip.json" for folder in "abc")
    assert [source.key for source in sources][-3:] == ["zh_clip-2", "zh_clip-3", "zh_clip-4"]


@pytest.mark.parametrize(
    "changes, where, what",
    [
        ({"datasets": datasets_with("cifar1O")}, "datasets.cifar1O", "no data set that is known.*did you mean cifar10"),
        (
            {"datasets": datasets_with("cifar10", values={"zhclipp": [1.0]})},
            "datasets.cifar10.values.zhclipp",
            "no model 'zhclipp'; did you mean zhclip.*'models'",
        ),
        (
            {"datasets": datasets_with("cifar10", values={"cnclip,qaclip": [1.0]})},
            "datasets.cifar10.values.cnclip,qaclip",
            "cnclip-vit-l-14 has no tag 'qaclip'; it has ofa_sys, qa_clip",
        ),
        (
            {"datasets": datasets_with("cifar10", values={"zhclip": [100.1]})},
            "datasets.cifar10.values.zhclip",
            "acc1 is 100.1; figures are percent",
        ),
        ({"datasets": datasets_with("cifar10", values={"zhclip": [-1]})}, "values.zhclip", "acc1 is -1"),
        ({"datasets": datasets_with("cifar10", values={"zhclip": ["56.8"]})}, "values.zhclip", 'acc1 is "56.8"'),
        ({"datasets": datasets_with("cifar10", values={"zhclip": [True]})}, "values.zhclip", "acc1 is true"),
        ({"datasets": datasets_with("cifar10", values={"zhclip": 56.8})}, "values.zhclip", "no list for 1 metrics"),
        ({"datasets": datasets_with("cifar10", values={"zhclip": [1, 2]})}, "values.zhclip", "2 figures for 1 metrics"),
        ({"datasets": datasets_with("cifar10", values=[56.8])}, "datasets.cifar10", "has no object 'values'"),
        ({"datasets": datasets_with("cifar10", metrics="acc1")}, "datasets.cifar10.metrics", "no list.*acc1, acc5"),
        (
            {"datasets": datasets_with("muge", metrics=["text_retrieval_recall@1"])},
            "datasets.muge.metrics",
            "'text_retrieval_recall@1' does not fit muge; it has image_retrieval_recall@K",
        ),
        ({"datasets": datasets_with("voc2007_multilabel")}, "metrics", "'acc1' does not fit.*mean_average_precision"),
        ({"datasets": datasets_with("coco-cn")}, "datasets.coco-cn.metrics", "'acc1' does not fit coco-cn"),
        ({"datasets": datasets_with("cifar10", split=5)}, "datasets.cifar10.split", "is 5; name the split"),
        ({"datasets": datasets_with("cifar10", metric="acc1")}, "datasets.cifar10.metric", "no key.*mean metrics"),
        ({"datasets": {}}, "datasets", "no figure of it can be used"),
        ({"datasets": None}, "", "has no object 'datasets'.*docs/reports.md"),
        ({"format": 2}, "format", "is 2, this version reads 1"),
        ({"decimals": None}, "decimals", "is None; say how many"),
        ({"decimals": True}, "decimals", "is True"),
        ({"source": " "}, "source", "is not given; say where"),
        ({"models": ["zhclip"]}, "models", "is no object"),
        ({"models": {"r2d2-vit-l-14": ""}}, "models.r2d2-vit-l-14", "has no title"),
        ({"modells": {}}, "modells", "no key of this form; did you mean models"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(tmp_path, changes, where, what):
    path = write(tmp_path / "paper.json", **changes)
    _, problems = read_published(path)
    found = [str(problem) for problem in problems if where in problem.where]
    assert found and all(line.startswith(str(path)) and "\n" not in line for line in found)
    assert re.search(what, found[0]), found


def test_the_rest_of_a_bad_file_is_used(tmp_path):
    described = {
        **datasets_with("cifar10", values={"zhclip": [97.0], "nobody": [1.0], "cnclip": [101]}),
        **datasets_with("no-such"),
        **datasets_with("dtd", metrics=["acc1", "recall"], values={"zhclip": [47.0, 3.0]}),
    }
    source, problems = read_published(write(tmp_path / "a.json", datasets=described))
    key = ("zhclip-vit-l-14", "")
    assert source.values == {("cifar10", "acc1"): {key: 97.0}, ("dtd", "acc1"): {key: 47.0}}
    assert len(problems) == 4


def test_fractions_are_noticed(tmp_path):
    described = datasets_with("cifar10", values={"zhclip": [0.97], "cnclip": [0.95]})
    _, problems = read_published(write(tmp_path / "a.json", datasets=described))
    assert "no figure is above 1; figures are percent" in str(problems[0])


def test_files_that_are_none(tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text('{\n  "format": 1,\n  "source" "x"\n}')
    (tmp_path / "picture.json").write_bytes(b"\x89PNG\xff\xfe")
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    expected = {
        "broken.json": r"broken.json:3:12: broken JSON \(Expecting ':' delimiter\)",
        "picture.json": "picture.json: is no JSON",
        "list.json": "list.json: is no table of published figures",
        "deep.json": "deep.json: is no JSON",
        "nowhere.json": r"nowhere.json: cannot be read \(No such file",
    }
    sources, problems = load_published(tmp_path / name for name in expected)
    assert [source.key for source in sources] == _names.layout()["sources"]
    for line, wanted in zip(map(str, problems), expected.values(), strict=True):
        assert re.search(wanted, line), line


def test_the_example_in_the_documentation(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "reports.md").read_text(encoding="utf-8")
    example = re.search(r"```json\n(.*?)```", text, re.S)[1]
    path = tmp_path / "example.json"
    path.write_text(example, encoding="utf-8")
    source, problems = read_published(path)
    assert not problems and source.values
