"""The table of the docs, and the commands that print what exists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from zhclip_openclip import prompts
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.commands.classnames import classnames
from zhclip_openclip.commands.templates import templates
from zhclip_openclip.prompts import docs, registry
from zhclip_openclip.prompts.templates import SETS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "datasets_classification.md"


def run(command, *arguments):
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.skipif(not PAGE.is_file(), reason="the docs are not in a wheel")
def test_page_is_not_stale(tmp_path):
    copy = tmp_path / "page.md"
    copy.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    assert not docs.put_in(copy), "run: zhclip classnames --write docs/datasets_classification.md"


def test_stale_page_is_noticed_and_written(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{docs.BEGIN}\nstale rows\n{docs.END}\nafter\n", encoding="utf-8")
    assert "written" in run(classnames, "--write", str(page))
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "stale rows" not in text and docs.table() in text
    assert "up to date" in run(classnames, "--write", str(page))


def test_table_has_every_data_set_and_spelling():
    table = docs.table()
    assert len(table.splitlines()) == 2 + len(registry.all_datasets())
    for dataset in registry.all_datasets().values():
        assert all(f"`{spelling}`" in table for spelling in dataset.spellings)
    assert "| ImageNet-A | `imagenet-a`<br>`tfds/imagenet_a` | 200<br>`tfds/imagenet_a`: 1000 | 33 | 2 |" in table


def test_classes_that_are_alike_are_named():
    assert "| 墨镜、太阳镜 | `imagenet1k` | 836 and 837" in docs.alike()
    assert docs.alike().count("美洲狮全身") == 1 and "`caltech101`, `caltech101_vtab`" in docs.alike()


def test_sets_are_listed():
    output = run(templates)
    assert all(f"\n{name} " in f"\n{output}" for name in SETS)
    assert json.loads(run(templates, "--json")) == SETS


def test_templates_of_a_data_set():
    assert run(templates, "wds/vtab/pets", "--set", "name") == "{c}\n"
    assert "宠物" in run(templates, "pets")


def test_templates_without_a_set_are_those_of_an_evaluation(monkeypatch):
    from zhclip_openclip.prompts import templates as sets

    chosen = []
    load = sets.load
    monkeypatch.setattr(sets, "load", lambda name, *rest: chosen.append(name) or load("name", *rest))
    run(templates, "food101")
    run(templates, "elevater/food-101")
    run(templates, "elevater/food-101", "--set", "zh")
    assert chosen == ["zh", "cn_clip", "zh"]


def test_data_sets_are_listed():
    output = run(classnames)
    assert all(f"\n{name} " in output for name in registry.all_datasets())
    assert {row["name"]: row["classes"] for row in json.loads(run(classnames, "--json"))}["cars"] == 196


def test_names_of_a_data_set():
    assert "2\tbird\t鸟\n" in run(classnames, "vtab/cifar10")


def test_names_of_a_part_of_imagenet():
    """ImageNet's line 6 is the first of ImageNet-A, as label 0."""
    whole = run(classnames, "imagenet1k").splitlines()
    part = run(classnames, "imagenet-a").splitlines()
    assert len(whole) == len(run(classnames, "tfds/imagenet_a").splitlines()) == 1000 and len(part) == 200
    assert part[0].split("\t")[1:] == whole[6].split("\t")[1:] and part[0].startswith("0\t")
    assert len(json.loads(run(classnames, "imagenet-r", "--json"))["imagenet-r"]) == 200
    assert len(run(classnames, "objectnet").splitlines()) == 113


def test_names_in_the_order_of_tfds():
    """TFDS has cheesecake before the cheese plate, torchvision behind it."""
    assert [line.split("\t")[1] for line in run(classnames, "food101").splitlines()[16:18]] == [
        *("cheese plate", "cheesecake")
    ]
    for spelling in ("vtab/food101", "wds/tfds/food101"):
        assert run(classnames, spelling).splitlines()[16].split("\t")[1] == "cheesecake"


def test_names_of_elevaters_data_are_in_the_data():
    with pytest.raises(ZhclipError, match="elevater/cifar-10 has the .* own label_cn.txt; .*zhclip classnames cifar10"):
        run(classnames, "elevater/cifar-10")


@pytest.mark.parametrize("spelling", ["cifar10", "vtab/pets", "imagenet1k", "imagenet-a", "imagenet-r", "vtab/food101"])
def test_what_is_printed_as_json_can_be_given_back(spelling, tmp_path):
    """Both files that the commands print are files that an evaluation reads."""
    (tmp_path / "names.json").write_text(run(classnames, spelling, "--json"), encoding="utf-8")
    (tmp_path / "templates.json").write_text(run(templates, spelling, "--json"), encoding="utf-8")

    class Data:
        pass

    plain, given = Data(), Data()
    from zhclip_openclip.prompts import classnames as names

    plain.classes = given.classes = [english for english, _ in names.classes(registry.find(spelling), spelling)]
    prompts.localise(plain, spelling, "zh")
    prompts.localise(given, spelling, "zh", str(tmp_path / "templates.json"), str(tmp_path / "names.json"))
    assert (given.classes, given.templates) == (plain.classes, plain.templates)


@pytest.mark.parametrize("command", [classnames, templates])
def test_unknown_data_set(command):
    with pytest.raises(ZhclipError, match="vtab/cub has no Chinese"):
        run(command, "vtab/cub")


def test_missing_marks():
    with pytest.raises(ZhclipError, match="has no .*marks"):
        docs.put_in(Path(__file__))
