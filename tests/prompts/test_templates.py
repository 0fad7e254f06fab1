"""The template sets by name, and the user's files."""

from __future__ import annotations

import importlib
import json
import sys

import pytest

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.prompts import registry, templates
from zhclip_openclip.prompts._files import clip_benchmark_folder


@pytest.mark.parametrize("name", [*templates.SETS])
@pytest.mark.parametrize("dataset", registry.all_datasets())
def test_every_set_has_every_data_set(name, dataset):
    if name == "cn_clip":
        pytest.importorskip("cn_clip")
    found = templates.load(name, registry.all_datasets()[dataset])
    assert found.source == name
    templates.check(found.templates, name)


def test_names_are_ours_and_files_are_not():
    assert all(map(templates.is_ours, ["zh", "openai80", "cn_clip", "name"]))
    assert not any(map(templates.is_ours, [None, "cupl_prompts.json", "zh.json", ""]))


def test_our_sets_are_refused_where_no_chinese_is_asked_for():
    templates.refuse_elsewhere("cupl_prompts.json", "cifar10", "en")
    templates.refuse_elsewhere(None, "cifar10", "en")
    with pytest.raises(ZhclipError, match="cifar10 is asked for in en; add --language zh"):
        templates.refuse_elsewhere("zh", "cifar10", "en")


def test_default_is_written_for_the_subject():
    found = templates.load(None, registry.find("vtab/pets"))
    assert found.source == "zh" and "宠物" in "".join(found.templates)


def test_bare_name():
    assert templates.load("name", registry.find("cifar10")).templates == ["{c}"]


def test_openai80_is_clip_benchmarks():
    path = clip_benchmark_folder() / "cn_zeroshot_classification_templates.json"
    bundled = json.loads(path.read_text(encoding="utf-8"))["imagenet1k"]
    found = templates.load("openai80", registry.find("vtab/dtd")).templates
    assert found == bundled and len(found) == 80


@pytest.mark.parametrize(
    ("spelling", "wanted"),
    {
        "fgvc_aircraft": "aircraft_templates",
        "vtab/food101": "food_templates",
        "flowers": "flower_templates",
        "eurosat": "eurosat_templates",
        "vtab/resisc45": "eurosat_templates",
        "country211": "country211_templates",
        "elevater/country211": "country211_templates",
        "imagenet1k": "openai_templates",
        "pets": "openai_templates",  # cn_clip has a list for pets, and does not use it
    }.items(),
)
def test_cn_clip_letter_by_letter(spelling, wanted):
    module = pytest.importorskip("cn_clip.eval.cvinw_zeroshot_templates")
    found = templates.load("cn_clip", registry.find(spelling)).templates
    assert [template.format(c="猫") for template in found] == [function("猫") for function in getattr(module, wanted)]


def test_cn_clips_choice_is_that_of_its_script():
    """The dictionary in its evaluation script, whose keys are the folders of its data."""
    import ast
    from pathlib import Path

    package = pytest.importorskip("cn_clip")
    source = Path(package.__path__[0], "eval", "zeroshot_evaluation.py").read_text(encoding="utf-8")
    choice = next(
        {key.value: value.id for key, value in zip(node.value.keys, node.value.values, strict=True)}
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "template_dict"
    )
    default = choice.pop("openai")
    chosen = {d.elevater: d.cn_clip for d in registry.all_datasets().values() if d.elevater}
    assert {name: wanted for name, wanted in chosen.items() if wanted != default} == choice


def test_missing_cn_clip_names_the_package(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "cn_clip"]:
        monkeypatch.delitem(sys.modules, name)
    original = importlib.import_module

    def without(name, *args):
        if name.startswith("cn_clip"):
            raise ModuleNotFoundError(name)
        return original(name, *args)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ZhclipError, match="pip install cn_clip"):
        templates.load("cn_clip", registry.find("cifar10"))


def write(tmp_path, content):
    path = tmp_path / "templates.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("key", ["wds/vtab/cifar10", "vtab/cifar10", "cifar10", "imagenet1k"])
def test_file_by_any_spelling(tmp_path, key):
    path = write(tmp_path, {key: ["一个{c}"], "mnist": ["{c}"]})
    found = templates.load(path, registry.find("wds/vtab/cifar10"), "wds/vtab/cifar10")
    assert (found.templates, found.source) == (["一个{c}"], path)


def test_file_of_clip_benchmark_by_its_name():
    found = templates.load("cn_zeroshot_classification_templates.json", registry.find("cifar10"), "cifar10")
    assert len(found.templates) == 80


def test_file_with_a_byte_order_mark(tmp_path):
    (tmp_path / "t.json").write_text('{"cifar10": ["{c}"]}', encoding="utf-8-sig")
    assert templates.load(str(tmp_path / "t.json"), None, "cifar10").templates == ["{c}"]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"cifar10": ["一个{c}", "一只猫"]}, r"cifar10: template 2, '一只猫', has no \{c\}"),
        ({"cifar10": ["一个{}"]}, r"template 1, '一个\{\}', has a brace that is not \{c\}"),
        ({"cifar10": ["一个{c}{d}"]}, "template 1"),
        ({"cifar10": ["一个{c"]}, "template 1"),
        ({"cifar10": "一个{c}"}, "needs a list of templates"),
        ({"cifar10": []}, "needs a list of templates"),
        ({"cifar10": {"飞机": "一架飞机"}}, "the class '飞机' needs a list of prompts"),
        ({"cifar10": {}}, "is empty"),
        ({"mnist": ["{c}"]}, "has no templates for cifar10; it has mnist"),
        (["{c}"], "data set"),
        ('{"cifar10": ["{c}"],\n  "mnist" ["{c}"]}', r"templates\.json, line 2, column 11"),
        ('{"cifar10": ["{c}"], "cifar10": ["{c}"]}', "has 'cifar10' twice"),
    ],
)
def test_bad_file(tmp_path, content, error):
    path = write(tmp_path, content)
    with pytest.raises(ZhclipError, match=error) as caught:
        templates.load(path, registry.find("cifar10"), "cifar10")
    assert path in str(caught.value) and "\n" not in str(caught.value)


def test_file_that_is_no_text(tmp_path):
    (tmp_path / "t.json").write_bytes('{"cifar10": ["一个{c}"]}'.encode("gb18030"))
    with pytest.raises(ZhclipError, match="not UTF-8"):
        templates.load(str(tmp_path / "t.json"), None, "cifar10")


def test_missing_file_lists_the_sets():
    with pytest.raises(ZhclipError, match="no such file.*zh, openai80, cn_clip, name"):
        templates.load("openai", registry.find("cifar10"))
