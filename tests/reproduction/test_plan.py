"""What `zhclip reproduce` plans: data at hand, models, finished cells, costs; and the page on where to get data."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support import retrieval_files, table_files
from zhclip_openclip import _paths
from zhclip_openclip._errors import CheckpointError, ZhclipError
from zhclip_openclip.datasets import at_hand, docs
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets.at_hand import Found, Missing
from zhclip_openclip.datasets.retrieval import build_retrieval_dataset
from zhclip_openclip.features.image_pass import IMAGES_AT_ONCE
from zhclip_openclip.features.spent import IMAGES, LOADING, READING, REST, STAGES
from zhclip_openclip.prompts import registry, templates
from zhclip_openclip.reproduction import _cost
from zhclip_openclip.reproduction.plan import Options, make_plan, state_of
from zhclip_openclip.reproduction.weights import read_models

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reproducing.md"
SIX = ["zhclip", "altclip", "cnclip", "taiyiclip", "mclip", "clip-chinese"]


def look(name, root, **more):
    return at_hand.look(at_hand.find_entry(name), root, "zh", **more)


# ---------------------------------------------------------------- the table of data sets


def test_every_data_set_of_the_tables_is_described():
    names = at_hand.of_tables()
    assert len(names) == len(set(names)) == 14
    for entry in map(at_hand.find_entry, [*names, "digits", "digits-retrieval"]):
        assert entry.images > 0 and entry.get and entry.place and entry.licence
        assert entry.gb is not None or entry.gb_note
        assert (entry.task == "retrieval") == bool(entry.texts)
        assert entry.embedded or entry.gb != 0
        if entry.task == "classification":
            assert registry.find(entry.name).name == entry.name
            assert entry.embedded or at_hand.layouts(entry)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("Flickr30K_CN", "flickr30k-cn"), ("vtab/pcam", "pcam"), ("elevater/cifar-10", "cifar10"), ("wds/muge", "muge")],
)
def test_other_spellings(given, meant):
    assert at_hand.find_entry(given).name == meant


def test_unknown_data_set():
    with pytest.raises(DatasetError, match="cifa10 is not a data set.*did you mean cifar10"):
        at_hand.find_entry("cifa10")
    with pytest.raises(DatasetError, match="there are coco-cn"):
        at_hand.find_entry("zzz")


# ---------------------------------------------------------------- what is at hand


def classification_layouts():
    for entry in at_hand.entries().values():
        if entry.task == "classification" and not entry.embedded:
            for number, layout in enumerate(at_hand.layouts(entry)):
                for folder in dict.fromkeys(layout["folders"]):
                    yield pytest.param(entry.name, number, folder, id=f"{layout['dataset']} in {folder}")


@pytest.mark.parametrize(("name", "number", "folder"), list(classification_layouts()))
def test_each_layout_in_each_folder(tmp_path, monkeypatch, name, number, folder):
    """The files that it needs make it found, under the spelling that reads them; without one of them it is not."""
    monkeypatch.setattr(at_hand, "find_spec", lambda name: object())
    layout = at_hand.layouts(at_hand.find_entry(name))[number]
    root = tmp_path / "data"
    place = root / folder
    if layout["layout"] == "elevater":
        table_files.elevater(place.parent, place.name, ["甲", "乙"], each=1)
    for file in layout["files"]:
        path = place / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text("1" if path.name == "nshards.txt" else "")
    if layout.get("one_file_an_image"):
        (place / layout["files"][0]).unlink()
        table_files.picture(place / layout["files"][0] / "1.png", 1)
    found = look(name, root)
    assert (found.spelling, found.root.resolve()) == (layout["dataset"], place.resolve())
    known = registry.find(name)
    assert found.images > 0 and found.texts >= (len(known.spellings) if known else 885 * 80)
    for file in layout["files"]:
        path = place / file
        if path.is_dir():
            path.rename(path.with_name(path.name + ".gone"))
        else:
            path.unlink()
        assert isinstance(look(name, root), Missing)
        if path.with_name(path.name + ".gone").exists():
            path.with_name(path.name + ".gone").rename(path)
        else:
            path.write_text("1" if path.name == "nshards.txt" else "")


def test_chinese_clips_layout_goes_first(tmp_path):
    table_files.fer2013(tmp_path)
    assert look("fer2013", tmp_path).spelling == "fer2013"
    table_files.elevater(tmp_path, "fer-2013", ["生气", "厌恶", "恐惧", "高兴", "平静", "悲伤", "惊讶"], each=1)
    found = look("fer2013", tmp_path)
    assert (found.spelling, found.images) == ("elevater/fer-2013", 7)


def test_retrieval_sets(tmp_path):
    muge = retrieval_files.write_tsv(tmp_path / "MUGE", "valid", several=True, muge_names=True)
    retrieval_files.write_tsv(tmp_path / "datasets" / "Flickr30k-CN", "test", several=False)
    dataset = build_retrieval_dataset("muge", muge)
    assert look("muge", tmp_path) == Found(
        "muge", muge, dataset.layout, len(dataset), len(dataset.texts), dataset.fingerprint()
    )
    assert look("muge", muge) == look("muge", tmp_path)  # the folder itself is as good
    assert look("flickr30k-cn", tmp_path).root == tmp_path / "datasets" / "Flickr30k-CN"
    assert look("coco-cn", tmp_path) == Missing(f"not in {tmp_path}", absent=True)


def test_files_of_another_set_are_not_taken(tmp_path):
    """Chinese-CLIP calls the files of all three sets the same."""
    retrieval_files.write_tsv(tmp_path / "Flickr30k-CN", "test", several=False)
    assert isinstance(look("coco-cn", tmp_path / "Flickr30k-CN"), Missing)
    assert isinstance(look("flickr30k-cn", tmp_path / "Flickr30k-CN"), Found)


def test_shards_of_a_retrieval_set(tmp_path):
    from zhclip_openclip.datasets.wds_export import export_wds

    muge = retrieval_files.write_tsv(tmp_path / "source" / "MUGE", "valid", several=True)
    dataset = build_retrieval_dataset("muge", muge)
    export_wds(dataset, tmp_path / "wds" / "muge")
    found = look("muge", tmp_path)
    assert (found.spelling, found.root) == ("wds/muge", tmp_path / "wds" / "muge")
    assert found.fingerprint == dataset.fingerprint()


def test_data_that_cannot_be_read_say_why(tmp_path, monkeypatch):
    folder = retrieval_files.write_tsv(tmp_path / "MUGE", "valid", several=True)
    (folder / "valid_texts.jsonl").write_text("{broken\n")
    assert "valid_texts.jsonl:1" in look("muge", tmp_path).reason and not look("muge", tmp_path).absent
    table_files.shards(tmp_path / "wds_cifar100", table_files.english("cifar100"))
    (tmp_path / "wds_cifar100" / "test" / "1.tar").unlink()
    assert "1.tar: missing, though nshards.txt says 2" in look("cifar100", tmp_path).reason
    elevater = table_files.elevater(tmp_path, "dtd", ["甲", "乙"], each=1)
    (elevater / "test" / "007").mkdir()
    assert "there is no class 7" in look("dtd", tmp_path).reason
    for file in ("x", "y"):
        path = tmp_path / "pcam" / f"camelyonpatch_level_2_split_test_{file}.h5"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    monkeypatch.setattr(at_hand, "find_spec", lambda name: None)
    assert "pip install h5py" in look("pcam", tmp_path).reason


def test_bad_pictures_are_no_reason_with_leave(tmp_path):
    folder = retrieval_files.write_tsv(tmp_path / "MUGE", "valid", several=True)
    with open(folder / "valid_imgs.tsv", "a") as file:
        file.write("77\t***\n")
    assert "bad base64" in look("muge", tmp_path).reason
    found = look("muge", tmp_path, skip_bad_images=True)
    assert found.spelling == "muge" and found.fingerprint is None


def test_embedded_data_need_no_folder():
    assert look("digits", None).root is None and look("digits-retrieval", None).texts == 70
    assert look("cifar10", None) == Missing("no --data-root was given", absent=True)


# ---------------------------------------------------------------- models


def test_the_six_systems_by_default():
    models = [weights.model for weights in read_models([])]
    from zhclip_openclip.families import find

    assert models == [find(name)[1].name for name in SIX]


def test_names_tags_and_checkpoints(tmp_path):
    checkpoint = tmp_path / "epoch, latest.safetensors"
    checkpoint.write_bytes((_paths.DATA / "tiny" / "model.safetensors").read_bytes())
    words = ["cnclip-vit-b-16,qa_clip,zhclip", "zhclip-tiny", str(checkpoint), "altclip-vit-l-14", "zhclip-vit-l-14"]
    read = [(weights.model, weights.pretrained) for weights in read_models(words)]
    assert read == [
        ("cnclip-vit-b-16", "qa_clip"),
        ("zhclip-vit-l-14", "thu_ml"),
        ("zhclip-tiny", str(checkpoint)),
        ("altclip-vit-l-14", "baai"),
    ]
    assert len(read_models(["cnclip_all"])) >= 5


def test_checkpoints_are_known_by_their_content(tmp_path):
    import hashlib

    data = (_paths.DATA / "tiny" / "model.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(data)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "model.safetensors").write_bytes(data)
    one, other = read_models(["zhclip-tiny", str(tmp_path / "a.safetensors"), "zhclip-tiny", str(tmp_path / "b")])
    assert one.checkpoint == other.checkpoint == hashlib.sha256(data).hexdigest()
    assert one.here and one.bytes == len(data)


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        (["zhclp"], ZhclipError, "did you mean zhclip"),
        (["cnclip,no_such_tag"], CheckpointError, "neither a tag of cnclip-vit-l-14 .*ofa_sys"),
        (
            ["zhclip,thu_ml,thu_ml"],
            ZhclipError,
            "thu_ml is a model neither of this package nor of open_clip, and no collection",
        ),
        (["cnclip,cnclip-vit-b-61"], CheckpointError, "did you mean cnclip-vit-b-16"),
    ],
)
def test_what_is_no_model(words, error, told):
    with pytest.raises(error, match=told):
        read_models(words)


def test_weights_on_this_machine(models_dir):
    weights = read_models(["clip-chinese,mclip"])
    assert not any(one.here for one in weights) and weights[0].bytes == pytest.approx(0.76e9, rel=0.01)
    folder = models_dir / "YeungNLP" / "clip-vit-bert-chinese-1M"
    folder.mkdir(parents=True)
    (folder / "pytorch_model.bin").write_bytes(b"x" * 1234)
    text = models_dir / "M-CLIP" / "XLM-Roberta-Large-Vit-L-14"
    text.mkdir(parents=True)
    (text / "pytorch_model.bin").write_bytes(b"x")
    first, second = read_models(["clip-chinese,mclip"])
    assert first.here and first.bytes == 1234
    assert not second.here  # its image tower is published apart


# ---------------------------------------------------------------- cells


def tiny(tmp_path, **more):
    return make_plan(["zhclip-tiny"], ["digits", "digits-retrieval"], None, tmp_path, timed=False, **more)


def test_cells_are_grouped_by_model_and_named_apart(tmp_path):
    plan = make_plan(["zhclip-tiny", "cnclip"], [], None, tmp_path, timed=False)
    assert len(plan.cells) == 28 and {cell.state for cell in plan.cells} == {"missing"}
    assert [cell.weights.model for cell in plan.cells] == ["zhclip-tiny"] * 14 + ["cnclip-vit-l-14"] * 14
    assert [cell.entry.name for cell in plan.cells[:14]] == at_hand.of_tables()
    assert [entry.name for entry, _ in plan.missing] == at_hand.of_tables()
    assert len({cell.name for cell in plan.cells}) == 28
    several = tiny(tmp_path, more_templates={"digits": ["name"]})
    assert [cell.name for cell in several.cells] == [
        "zhclip-tiny_digits_digits_zh",
        "zhclip-tiny_digits_digits_name",
        "zhclip-tiny_digits_digits-retrieval",
    ]


def finish(cell, folder, **more):
    """A result of the cell, as far as the plan looks at it."""
    result = {"metrics": {}, "cell": cell.described(), **more}
    (folder / f"{cell.name}.json").write_text(json.dumps(result))


def test_finished_cells(tmp_path):
    plan = tiny(tmp_path)
    assert {cell.state for cell in plan.cells} == {"run"}
    finish(plan.cells[0], tmp_path)
    again = tiny(tmp_path)
    assert [cell.state for cell in again.cells] == ["finished", "run"]
    assert again.as_json()["cells"][0]["state"] == "finished"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{broken", "is no result"),
        ("[]", "is no result"),
        ('{"metrics": {}}', "was not made by zhclip reproduce"),
        ('{"metrics": {}, "cell": {"model": "zhclip-tiny"}}', "was made with another"),
    ],
)
def test_results_that_do_not_count(tmp_path, content, told):
    cell = tiny(tmp_path).cells[0]
    (tmp_path / f"{cell.name}.json").write_text(content)
    state, note = state_of(cell, tmp_path)
    assert state == "run" and told in note and cell.name in note


def test_a_result_without_its_outcomes_does_not_count(tmp_path):
    cell = tiny(tmp_path).cells[1]
    finish(cell, tmp_path, per_query="gone.npz")
    assert state_of(cell, tmp_path) == ("run", f"{cell.name}.json lacks its gone.npz: run again")


def test_another_precision_or_checkpoint_is_run_again(tmp_path):
    cell = tiny(tmp_path).cells[0]
    finish(cell, tmp_path)
    other = tiny(tmp_path, options=Options(amp=False)).cells[0]
    assert state_of(other, tmp_path)[0] == "run" and "another amp" in other.note
    checkpoint = tmp_path / "my.safetensors"
    checkpoint.write_bytes((_paths.DATA / "tiny" / "model.safetensors").read_bytes())

    def planned():
        return make_plan(["zhclip-tiny", str(checkpoint)], ["digits"], None, tmp_path, timed=False).cells[0]

    finish(planned(), tmp_path)
    assert planned().state == "finished"
    checkpoint.write_bytes(checkpoint.read_bytes() + b"more training")
    assert planned().state == "run" and "another checkpoint" in planned().note


def test_changed_data_are_run_again(tmp_path):
    folder = retrieval_files.write_tsv(tmp_path / "MUGE", "valid", several=True)

    def planned(root=tmp_path):
        return make_plan(["zhclip-tiny"], ["muge"], root, tmp_path, timed=False).cells[0]

    finish(planned(), tmp_path)
    assert planned().state == "finished"
    texts = (folder / "valid_texts.jsonl").read_text("utf-8").splitlines()
    (folder / "valid_texts.jsonl").write_text("\n".join(texts[:-1]) + "\n", "utf-8")
    assert planned().state == "run" and "another fingerprint" in planned().note
    gone = planned(tmp_path / "elsewhere")
    assert (gone.state, gone.note) == ("finished", "its data are not here any more")


def one_cell(root, output, name):
    return make_plan(["zhclip-tiny"], [name], root, output, timed=False).cells[0]


def cut_off(folder):
    (folder / "test" / "3" / "1.png").unlink()


def another_picture(folder):
    table_files.picture(folder / "test" / "3" / "1.png", 1, size=25)


def other_labels(folder):
    names = (folder / "label_cn.txt").read_text("utf-8").splitlines()
    (folder / "label_cn.txt").write_text("\n".join(reversed(names)) + "\n", "utf-8")


def moved_picture(folder):
    (folder / "test" / "3" / "1.png").rename(folder / "test" / "4" / "9.png")


@pytest.mark.parametrize("change", [cut_off, another_picture, other_labels, moved_picture])
def test_a_class_list_is_bound_to_its_files(tmp_path, change):
    """An unzip that was cut off and repaired must not leave the wrong accuracy."""
    folder = table_files.elevater(tmp_path / "elevater", "cifar-10", list("甲乙丙丁戊己庚辛壬癸"))
    finish(one_cell(tmp_path, tmp_path, "cifar10"), tmp_path)
    assert one_cell(tmp_path, tmp_path, "cifar10").state == "finished"
    change(folder)
    cell = one_cell(tmp_path, tmp_path, "cifar10")
    assert cell.state == "run" and "another list of files of the data" in cell.note


def test_shards_and_published_files_are_bound_too(tmp_path):
    shards = table_files.shards(tmp_path / "wds_vtab-cifar100", table_files.english("cifar100"))
    faces = table_files.fer2013(tmp_path)
    for name in ("cifar100", "fer2013"):
        finish(one_cell(tmp_path, tmp_path, name), tmp_path)
        assert one_cell(tmp_path, tmp_path, name).state == "finished"
    names = (shards / "classnames.txt").read_text("utf-8").splitlines()
    (shards / "classnames.txt").write_text("\n".join(reversed(names)) + "\n", "utf-8")  # of the same size
    (faces / "test" / "sad" / "0.png").unlink()
    for name in ("cifar100", "fer2013"):
        assert "another list of files" in one_cell(tmp_path, tmp_path, name).note


def test_pictures_of_equal_size_that_were_swapped(tmp_path):
    folder = retrieval_files.write_tsv(tmp_path / "MUGE", "valid", several=True)
    pictures = folder / "valid_imgs.tsv"
    finish(one_cell(tmp_path, tmp_path, "muge"), tmp_path)
    lines = pictures.read_text().splitlines()
    sizes = [len(line.partition("\t")[2]) for line in lines]
    size = next(size for size in sizes if sizes.count(size) > 1)
    one, other = [number for number, found in enumerate(sizes) if found == size][:2]
    (key, _, data), (other_key, _, other_data) = lines[one].partition("\t"), lines[other].partition("\t")
    assert data != other_data and len(key) == len(other_key)
    pictures.write_text(pictures.read_text())  # touched, and the same
    assert one_cell(tmp_path, tmp_path, "muge").state == "finished"
    lines[one], lines[other] = f"{key}\t{other_data}", f"{other_key}\t{data}"
    pictures.write_text("\n".join(lines) + "\n")
    cell = one_cell(tmp_path, tmp_path, "muge")
    assert cell.state == "run" and "another content of the pictures" in cell.note


def test_weights_of_a_tag_are_known_by_their_content(tmp_path, models_dir):
    folder = models_dir / "YeungNLP" / "clip-vit-bert-chinese-1M"
    folder.mkdir(parents=True)
    weights = folder / "pytorch_model.bin"
    weights.write_bytes(b"some")

    def planned():
        return make_plan(["clip-chinese"], ["digits"], None, tmp_path, timed=False).cells[0]

    finish(planned(), tmp_path)
    weights.write_bytes(b"some")  # fetched again
    assert planned().state == "finished"
    weights.write_bytes(b"mine")
    assert planned().state == "run" and "another file of weights" in planned().note
    weights.unlink()
    assert planned().state == "finished"  # nothing to compare with


def test_prompts_of_the_package_count(tmp_path, monkeypatch):
    from zhclip_openclip.prompts import templates

    finish(tiny(tmp_path).cells[0], tmp_path)
    monkeypatch.setattr(templates, "_zh", lambda dataset, edition: ["改过的{c}"])
    cell = tiny(tmp_path).cells[0]
    assert cell.state == "run" and "another set of class names and templates" in cell.note


def test_a_result_that_does_not_say_its_data_is_run_again(tmp_path):
    """As version 0.1.0 wrote them."""
    cell = tiny(tmp_path).cells[0]
    said = {key: value for key, value in cell.described().items() if key not in ("listing", "prompts", "weights")}
    (tmp_path / f"{cell.name}.json").write_text(json.dumps({"metrics": {}, "cell": said}))
    state, note = state_of(cell, tmp_path)
    assert state == "run" and "does not say with which set of class names and templates and file of weights" in note


def test_other_versions_are_noted(tmp_path):
    cell = tiny(tmp_path).cells[0]
    finish(cell, tmp_path, versions={"torch": "1.0", "nothing-of-ours": "1"})
    state, note = state_of(cell, tmp_path)
    assert state == "finished" and note.startswith("made with torch 1.0 (here ") and "nothing" not in note


def test_an_incomplete_copy_is_told(tmp_path):
    table_files.elevater(tmp_path / "elevater", "cifar-10", list("甲乙丙丁戊己庚辛壬癸"))
    cell = one_cell(tmp_path, tmp_path, "cifar10")
    assert cell.incomplete() == "20 of 10,000 images" and cell.incomplete(10_000) == ""
    assert tiny(tmp_path).cells[0].incomplete() == tiny(tmp_path).cells[1].incomplete() == ""


def test_names_that_a_file_system_takes(tmp_path):
    """Of a checkpoint with the longest name there is; two of them stay apart."""
    files = [tmp_path / ("x" * 240 + f"{number}.safetensors") for number in (1, 2)]
    for file in files:
        file.write_bytes((_paths.DATA / "tiny" / "model.safetensors").read_bytes())
    words = [word for file in files for word in ("zhclip-tiny", str(file))]
    cells = make_plan(words, ["digits"], None, tmp_path, timed=False).cells
    assert all(len(cell.name) <= 180 for cell in cells) and cells[0].name != cells[1].name
    other = make_plan([",".join(["zhclip-tiny"] * 40)], ["digits"], None, tmp_path, timed=False)
    assert len(other.cells) == 1  # 479 characters that are no path


def test_weights_of_one_model_are_told_apart(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for name in ("one.safetensors", f"{folder}.safetensors"):
            (tmp_path / folder / name).write_bytes((_paths.DATA / "tiny" / "model.safetensors").read_bytes())
    files = ["a/one.safetensors", "b/one.safetensors", "b/b.safetensors"]
    words = [word for file in files for word in ("zhclip-tiny", str(tmp_path / file))]
    cells = make_plan(words, ["digits"], None, tmp_path, timed=False).cells
    assert [cell.title for cell in cells] == [
        f"zhclip-tiny ({name}) on digits" for name in ("a/one.safetensors", "b/one.safetensors", "b.safetensors")
    ]


@pytest.mark.parametrize("table", ["[]", '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "../x"}}', "{", '{"a": 1}'])
def test_an_index_of_weights_that_is_none(tmp_path, table):
    (tmp_path / "model.safetensors.index.json").write_text(table)
    with pytest.raises(CheckpointError, match="model.safetensors.index.json"):
        read_models(["zhclip-tiny", str(tmp_path)])


def test_a_reader_that_fails_leaves_out_its_data_set_alone(tmp_path, monkeypatch):
    def broken(entry, *args):
        raise RecursionError("deep") if entry.name == "digits" else AssertionError

    monkeypatch.setattr(at_hand, "_embedded", broken)
    plan = tiny(tmp_path)
    assert [cell.state for cell in plan.cells] == ["missing", "missing"]
    assert "digits: nested too deeply" in plan.cells[0].note


def test_leave_to_skip_matters_only_where_an_image_is_bad(tmp_path):
    skipping = Options(skip_bad_images=True)
    cell = tiny(tmp_path, options=skipping).cells[0]
    finish(cell, tmp_path)
    assert tiny(tmp_path).cells[0].state == "finished"
    finish(cell, tmp_path, skipped_images={"count": 1})
    assert tiny(tmp_path).cells[0].state == "run"
    assert tiny(tmp_path, options=skipping).cells[0].state == "finished"


def test_a_result_of_an_older_version_of_the_prompts_is_run_again(tmp_path, monkeypatch):
    """Digits have never changed: results that do not say their version are theirs. Here they change."""
    cell = tiny(tmp_path).cells[0]
    finish(cell, tmp_path)
    path = tmp_path / f"{cell.name}.json"
    result = json.loads(path.read_text("utf-8"))
    assert result["cell"].pop("prompts_version") is None
    path.write_text(json.dumps(result), "utf-8")
    assert tiny(tmp_path).cells[0].state == tiny(tmp_path, template_set="zh").cells[0].state == "finished"
    monkeypatch.setattr(templates, "later_version", lambda name, spelling: 2)
    again = tiny(tmp_path).cells[0]
    assert again.state == "run" and "made with another prompts_version" in again.note


def test_a_template_file_counts_by_its_content(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"digits": ["一个{c}", "{c}"]}), "utf-8")
    plan = tiny(tmp_path, template_set=str(file))
    assert plan.cells[0].data.texts == 20
    finish(plan.cells[0], tmp_path)
    assert tiny(tmp_path, template_set=str(file)).cells[0].state == "finished"
    file.write_text(json.dumps({"digits": ["两个{c}", "{c}"]}), "utf-8")
    assert tiny(tmp_path, template_set=str(file)).cells[0].state == "run"
    with pytest.raises(ZhclipError, match="there is no such file"):
        tiny(tmp_path, template_set="nix.json")


# ---------------------------------------------------------------- costs


def test_operations_of_an_image_tower():
    """A transformer's products, counted by hand: ViT-L/14 and ViT-H/14 at 224 pixels."""
    for model, width, layers, inner in (("zhclip-vit-l-14", 1024, 24, 4096), ("cnclip-vit-h-14", 1280, 32, 5120)):
        tokens = (224 // 14) ** 2 + 1
        projections = 2 * tokens * layers * (4 * width**2 + 2 * width * inner)
        attention = 2 * layers * 2 * tokens**2 * width
        patches = 2 * (tokens - 1) * 3 * 14**2 * width
        assert _cost.image_operations(model) == pytest.approx(projections + attention + patches, rel=0.002)


def test_operations_of_a_resnet():
    """CLIP's RN50: 12.22 GFLOPs an image in open_clip's docs/model_profile.csv."""
    assert _cost.image_operations("cnclip-rn50") == pytest.approx(12.22e9, rel=0.01)
    assert 0.8 < _cost.image_work("cnclip-rn50").convolved / 12.22e9 < 0.95, "all but the attention that pools"
    assert _cost.image_work("cnclip-vit-b-16").convolved == pytest.approx(2 * 196 * 3 * 16**2 * 768), "of its patches"


def test_the_bytes_and_calls_beside_the_products():
    """A block of a transformer moves some tensors of its activations, and makes some tens of calls."""
    tokens, width, layers = 257, 1024, 24
    work = _cost.image_work("zhclip-vit-l-14")
    assert 20 < work.moved / (layers * tokens * width * 4) < 80
    assert 10 * layers < work.calls * IMAGES_AT_ONCE["cpu"] < 60 * layers


def test_a_tower_takes_products_bytes_and_calls():
    machine = _cost.Machine("cpu", rate=1e12, reading=0, readers=1, exact=1e11, moving=1e9, call=1e-3)
    work = _cost.Work(2e12, moved=3e9, calls=500)
    assert machine.computing(work, 10) == pytest.approx(10 * (2 + 3 + 0.5))
    assert machine.computing(work, 1, exact=True) == pytest.approx(20 + 3 + 0.5)
    assert machine.computing(_cost.Work(8e12)) == pytest.approx(10), "80% of the rate where no more is known"
    machine = _cost.Machine("cpu", rate=1e12, reading=0, readers=1, convolving=1e11, call=1e-3)
    assert machine.computing(_cost.Work(2e12, calls=1000, convolved=0.5e12)) == pytest.approx(1.5 + 5 + 1)


@pytest.mark.parametrize(
    ("device", "readers", "threads", "computing", "reading", "waiting"),
    [
        ("cpu", 0, 1, 10, 4, 4),  # nobody reads beside it
        ("cpu", 1, 1, 10, 4, 0),
        ("cpu", 1, 1, 4, 10, 6),
        ("cpu", 2, 2, 10, 4, 2),  # 20 + 4 seconds of a core, of which there are two
        ("cpu", 2, 2, 1, 10, 5),  # 2 + 10
        ("cuda", 2, 2, 10, 4, 0),
    ],
)
def test_readers_and_towers_share_the_cores(device, readers, threads, computing, reading, waiting):
    machine = _cost.Machine(device, 1.0, reading / 100, readers, threads=threads, cores=2)
    assert machine.waiting(computing, images=100) == pytest.approx(waiting)


def test_a_small_tower_takes_one_core():
    machine = _cost.Machine("cpu", 1.0, 0.1, readers=2, threads=2, cores=2)
    assert machine.waiting(2, images=100) == pytest.approx(7 - 2)
    assert machine.waiting(2, images=100, small=True) == pytest.approx(6 - 2)
    assert [_cost.image_work(model).small for model in ("zhclip-tiny", "metaclip2-vit-s-16")] == [True, False]


def test_stages_of_a_cell():
    machine = _cost.Machine(
        "cpu", 1e12, 0.01, 1, exact=1e11, loading=1e9, hashing=2e9, digest=0.002, cores=2, compiling=0.01
    )
    given = {"images": 1000, "texts": 50, "text_operations": 0.8e12, "dimensions": 100, "weights": 4 * 10**9}
    stages = machine.stages(_cost.Work(0.8e9), **given)
    assert list(stages) == [*STAGES, REST]
    assert [round(seconds, 6) for seconds in stages.values()] == [
        4,
        2 + (10 - 1),  # digests, and what the tower waits for
        1,
        50,
        2 * 1000 * 50 * 100 / 1e11,
        round(20 * 0.01 + 2 + 4 * 0.01, 6),  # its own, the digest of the weights, four images in fp32
    ]
    again = machine.stages(_cost.Work(0.8e9), **given | {"images": 0, "weights": 0})
    assert again[LOADING] == again[READING] == again[IMAGES] == 0 and again[REST] == pytest.approx(0.2)


def test_a_tower_that_models_share_is_counted_once(tmp_path, monkeypatch):
    monkeypatch.setattr(_cost, "measure", lambda workers, amp: _cost.Machine("cpu", 1e12, 1e-6, 1))
    table_files.elevater(tmp_path / "elevater", "cifar-10", list("甲乙丙丁戊己庚辛壬癸"), each=5)
    plan = make_plan(["mclip", "taiyiclip", "zhclip"], ["cifar10"], tmp_path, tmp_path / "out")
    first, second, third = plan.cells
    pass_over_images = 50 * _cost.image_operations("mclip-vit-l-14") / 1e12
    images = [cell.stages[IMAGES] for cell in plan.cells]
    assert images == pytest.approx([pass_over_images, 0, pass_over_images])
    assert first.seconds > second.seconds + pass_over_images, "it is tried out, too"
    assert plan.seconds == pytest.approx(sum(cell.seconds for cell in plan.cells))
    assert plan.seconds == pytest.approx(sum(plan.stages.values()))


def test_imports_are_counted_once(tmp_path, monkeypatch):
    monkeypatch.setattr(_cost, "measure", lambda workers, amp: _cost.Machine("cpu", 1e12, 0, 1, compiling=0.01))
    monkeypatch.delitem(sys.modules, "clip_benchmark.cli", raising=False)
    plan = make_plan(["zhclip-tiny"], ["digits", "digits-retrieval"], None, tmp_path)
    assert [cell.stages[REST] - 0.2 for cell in plan.cells] == pytest.approx([1, 0], abs=0.1)


def test_measured_for_real():
    machine = _cost.measure(workers=1, amp=False)
    assert machine.rate == machine.exact > 1e8 and 0 < machine.reading < 5 and machine.readers == 1
    of_the_cpu = ("moving", "call", "convolving") if machine.device == "cpu" else ()
    for name in (*of_the_cpu, "loading", "hashing", "digest", "compiling"):
        assert 0 < getattr(machine, name) < float("inf"), name


# ---------------------------------------------------------------- the page


@pytest.mark.skipif(not PAGE.is_file(), reason="the docs are not in a wheel")
def test_page_is_not_stale(tmp_path):
    copy = tmp_path / "page.md"
    copy.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    assert not docs.put_in(copy), "run: python -m zhclip_openclip.datasets.docs docs/reproducing.md"


def test_stale_page_is_noticed_and_written(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{docs.BEGIN}\nstale\n{docs.END}\nafter\n", encoding="utf-8")
    assert docs.put_in(page) and not docs.put_in(page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "stale" not in text.replace(docs.BEGIN, "")
    for name in at_hand.of_tables():
        assert f"| `{name}`" in text
    with pytest.raises(DatasetError, match="has no .*marks"):
        docs.put_in(Path(__file__))
