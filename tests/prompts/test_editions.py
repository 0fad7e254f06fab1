"""Editions of our prompts: what a result says, what `zh@1` gives, and that nothing changes without a new one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from zhclip_openclip import prompts
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.commands.classnames import classnames as command
from zhclip_openclip.datasets import elevater
from zhclip_openclip.prompts import classnames, editions, registry, templates

DATA = Path(__file__).resolve().parents[2] / "src" / "zhclip_openclip" / "data"
VERSIONS = json.loads((DATA / "prompt_versions.json").read_text(encoding="utf-8"))
DATASETS = registry.all_datasets()
HOW = """{what} {name} is another one than edition {edition} had (digest {digest}). Other prompts are other scores: put
what it was into data/superseded/, add the next edition with its digest to data/prompt_versions.json, and see
docs/chinese_names.md."""


class StandIn:
    def __init__(self, spelling):
        self.classes = [english for english, _ in classnames.classes(registry.find(spelling), spelling)]
        self.templates = ["a photo of {c}"]

    def __len__(self):
        return 1


@pytest.mark.parametrize("file", VERSIONS["classnames"])
def test_no_class_name_changes_without_an_edition(file):
    for edition, digest in VERSIONS["classnames"][file].items():
        found = editions.digest([chinese for _, chinese in classnames.pairs(file, int(edition))])
        assert found == digest, HOW.format(what="the list of class names", name=file, edition=edition, digest=found)
    latest = int(max(VERSIONS["classnames"][file], key=int))
    assert classnames.pairs(file) == classnames.pairs(file, latest)


@pytest.mark.parametrize("dataset", VERSIONS["templates"])
def test_no_template_changes_without_an_edition(dataset):
    for edition, digest in VERSIONS["templates"][dataset].items():
        found = editions.digest(templates.load(f"zh@{edition}", DATASETS[dataset]).templates)
        assert found == digest, HOW.format(what="the list of templates", name=dataset, edition=edition, digest=found)
    latest = max(VERSIONS["templates"][dataset], key=int)
    now = templates.load("zh", DATASETS[dataset])
    assert now.templates == templates.load(f"zh@{latest}", DATASETS[dataset]).templates


def test_every_list_has_its_versions():
    assert set(VERSIONS["classnames"]) == {dataset.classnames for dataset in DATASETS.values()}
    assert set(VERSIONS["templates"]) == set(DATASETS)
    for table in VERSIONS.values():
        for name, known in table.items():
            assert "1" in known and len(set(known.values())) == len(known), name


def test_what_is_superseded_is_no_more_than_changed():
    for older in range(editions.FIRST, editions.newest()):
        content = json.loads((DATA / "superseded" / f"{older}.json").read_text(encoding="utf-8"))
        for file, lines in content["classnames"].items():
            after = classnames.pairs(file, older + 1)
            assert lines and all(after[index] != (english, chinese) for index, english, chinese in lines)
        for dataset, list_ in content["templates"].items():
            assert list_ != templates.load(f"zh@{older + 1}", DATASETS[dataset]).templates


def test_the_first_edition_is_what_it_was():
    """Names and templates of the time before there were editions, from the history of the files."""
    names = dict(classnames.pairs("cifar100", 1))
    assert (names["worm"], names["bridge"], names["apple"]) == ("蠕虫", "桥", "苹果")
    assert classnames.pairs("imagenet1k", 1)[20] == ("American dipper", "河鸟")
    assert templates.load("zh@1", DATASETS["resisc45"]).templates[-1] == "正上方看到的{c}"
    assert len(templates.load("zh@1", DATASETS["imagenet-o"]).templates) == 32


@pytest.mark.parametrize(
    ("template_set", "expected"),
    [
        (None, ("蚯蚓", "{c}的照片", 2)),
        ("zh@2", ("蚯蚓", "{c}的照片", 2)),
        ("zh@1", ("蠕虫", "照片里有{c}", 1)),
        ("name", ("蚯蚓", "{c}", 2)),
        ("name@1", ("蠕虫", "{c}", 1)),
    ],
)
def test_names_and_templates_are_of_one_edition(template_set, expected):
    dataset = StandIn("cifar100")
    prompts.localise(dataset, "wds/vtab/cifar100", "zh", template_set)
    assert (dataset.classes[-1], dataset.templates[0], dataset.prompts_version) == expected
    assert dataset.template_set == (template_set or "zh").partition("@")[0]


@pytest.mark.parametrize("template_set", [None, "zh@1", "zh@2", "name", "openai80"])
def test_what_never_changed_has_the_first_version_in_every_edition(template_set):
    dataset = StandIn("digits")
    prompts.localise(dataset, "digits", "zh", template_set)
    assert dataset.prompts_version == 1 and dataset.classes[3] == "数字三"


def test_prompts_that_are_not_ours_have_no_version(tmp_path):
    (tmp_path / "t.json").write_text('{"cifar10": ["{c}"]}', encoding="utf-8")
    (tmp_path / "n.json").write_text(json.dumps({"cifar10": list("甲乙丙丁戊己庚辛壬癸")}), encoding="utf-8")
    dataset = StandIn("cifar10")
    prompts.localise(dataset, "cifar10", "zh", str(tmp_path / "t.json"), str(tmp_path / "n.json"))
    assert dataset.prompts_version is None
    prompts.localise(dataset, "cifar10", "zh", None, str(tmp_path / "n.json"))
    assert dataset.prompts_version == 2  # the templates are ours
    prompts.localise(dataset, "cifar10", "zh", str(tmp_path / "t.json"))
    assert dataset.prompts_version == 1  # the names are, which never changed


def test_elevaters_data_have_names_of_their_own(tmp_path):
    from PIL import Image

    (tmp_path / "test" / "0").mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(tmp_path / "test" / "0" / "a.png")
    (tmp_path / "label_cn.txt").write_text("飞机\n", encoding="utf-8")
    found = {name: elevater.build("cifar-10", tmp_path, template_file=name) for name in ("name", "zh", "zh@1")}
    assert {name: dataset.prompts_version for name, dataset in found.items()} == {"name": None, "zh": 2, "zh@1": 1}


@pytest.mark.parametrize("name", ["zh@0", "zh@3", "zh@", "zh@one", "name@-1"])
def test_no_such_edition(name):
    assert templates.is_ours(name)  # clip_benchmark would look for a file
    with pytest.raises(ZhclipError, match=f"--custom_template_file {name}: our prompts have the editions 1 to 2"):
        templates.load(name, DATASETS["dtd"])


def test_a_file_may_have_the_sign_in_its_name(tmp_path):
    path = tmp_path / "mine@1"
    path.write_text('{"dtd": ["{c}"]}', encoding="utf-8")
    assert templates.load(str(path), DATASETS["dtd"]).templates == ["{c}"]


def test_a_list_that_no_longer_fits_is_noticed():
    with pytest.raises(ZhclipError, match="superseded/1.json: class 12 of cifar100 is other, not bridge"):
        editions.names("cifar100", 1, [("other", "别的")] * 100)


@pytest.mark.parametrize(
    ("template_set", "spelling", "expected"),
    [
        ("zh", "cifar100", 2),
        ("zh@1", "cifar100", None),
        ("zh", "digits", None),
        ("", "muge", None),
        ("mine.json", "wds/vtab/cifar100", 2),
        ("mine.json", "elevater/cifar-100", None),
        ("cn_clip", "elevater/cifar-100", None),
        ("zh", "elevater/cifar-100", 2),
    ],
)
def test_what_a_finished_evaluation_is_known_by(template_set, spelling, expected):
    assert templates.later_version(template_set, spelling) == expected


def test_class_names_of_an_edition_are_printed():
    app = typer.Typer()
    app.command()(command)
    now, then = (CliRunner().invoke(app, ["dtd", *more]).output for more in ([], ["--edition", "1"]))
    assert "pitted\t凹坑状" in now and "pitted\t坑坑洼洼" in then
    with pytest.raises(ZhclipError, match="--edition 9: our prompts have the editions 1 to 2"):
        CliRunner().invoke(app, ["dtd", "--edition", "9"], catch_exceptions=False)
