"""`own/NAME`: as what a folder is read, from every layout, and what is said of those that cannot be read."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.support.own_files import folders, lines, picture, table
from tests.support.retrieval_files import relations, write_lmdb, write_tsv
from zhclip_openclip import prompts
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.datasets import own, own_data
from zhclip_openclip.datasets.own import Asked


def read(
    root, name="own/pets", *, language=None, skip=False, limit=None, classname_file=None, template_file=None, **asked
):
    found = own.recognise(name, root, Asked(**asked))
    return own_data.build(found, None, skip, language, template_file, classname_file, limit)


def labels(dataset):
    """{file below the root: name of its class}"""
    return {
        str(path).removeprefix(f"{dataset.root}/"): dataset.classes[label]
        for (path, _), label in zip(dataset.samples, dataset.targets, strict=True)
    }


def pairs(dataset):
    """{(text, picture)}"""
    return {
        (entry.text, dataset.image_ids[image])
        for entry, right in zip(dataset.texts, dataset.text_to_images, strict=True)
        for image in right
    }


# ---------------------------------------------------------------- folders of folders


def test_folder_names_are_the_classes(tmp_path):
    dataset = read(folders(tmp_path, 猫=2, 狗=3))
    assert dataset.classes == ["狗", "猫"] and dataset.language == "zh" and dataset.template_set == "zh"
    assert labels(dataset) == {
        **{f"猫/{n}.png": "猫" for n in range(2)},
        **{f"狗/{n}.png": "狗" for n in range(3)},
    }
    assert "read as a folder of folders: pictures lie in 2 folders" in dataset.recognised
    assert dataset.templates == prompts.templates.load("zh", None).templates
    prompts.check(dataset, "own/pets")


def test_english_folders_get_english_templates_unless_chinese_is_asked_for(tmp_path):
    folders(tmp_path, golden_retriever=1, cat=1)
    dataset = read(tmp_path)
    assert dataset.classes == ["cat", "golden retriever"] and dataset.language == "en"
    assert len(dataset.templates) == 80 and dataset.template_set == "clip_benchmark en"
    chinese = read(tmp_path, language="zh")
    assert chinese.classes == dataset.classes and chinese.template_set == "zh"
    assert any("no class name is Chinese" in note for note in chinese.notes)


def test_lists_beside_decide_by_name(tmp_path):
    folders(tmp_path, dog=1, cat=2)
    (tmp_path / "classnames.txt").write_text("dog\nbird\ncat\n")
    (tmp_path / "label_cn.txt").write_bytes("狗\r\n鸟\r\n猫\r\n".encode("gbk"))
    dataset = read(tmp_path)
    assert dataset.classes == ["狗", "鸟", "猫"] and dataset.english_classes == ["dog", "bird", "cat"]
    assert labels(dataset) == {"dog/0.png": "狗", "cat/0.png": "猫", "cat/1.png": "猫"}
    assert "1 of 3 classes have no pictures: bird" in " ".join(dataset.notes)
    assert read(tmp_path, language="en").classes == ["dog", "bird", "cat"]


def test_numbered_folders_take_the_lines_of_a_list(tmp_path):
    folders(tmp_path, **{"000": 1, "002": 1})
    (tmp_path / "label_cn.txt").write_text("猫\n狗\n鸟\n", encoding="utf-8")
    assert labels(read(tmp_path)) == {"000/0.png": "猫", "002/0.png": "鸟"}
    (tmp_path / "label_cn.txt").write_text("猫\n狗\n", encoding="utf-8")
    with pytest.raises(ZhclipError, match="there is no class 002: .*label_cn.txt has 2 names, 0 to 1"):
        read(tmp_path)


def test_a_file_of_names_of_ones_own(tmp_path):
    folders(tmp_path / "data", dog=1, cat=1)
    file = tmp_path / "names.json"
    for names in ({"own/pets": {"cat": "猫咪", "dog": "小狗"}}, {"pets": ["猫咪", "小狗"]}):
        file.write_text(json.dumps(names), encoding="utf-8")
        dataset = read(tmp_path / "data", classname_file=str(file))
        assert dataset.classes == ["猫咪", "小狗"] and dataset.language == "zh"
        assert "cat = 猫咪, dog = 小狗" in dataset.recognised
        assert labels(dataset) == {"cat/0.png": "猫咪", "dog/0.png": "小狗"}


def test_templates_beside(tmp_path):
    folders(tmp_path, 猫=1, 狗=1)
    (tmp_path / "templates_cn.txt").write_text("我家的{c}\n\n{c}在睡觉\n", encoding="utf-8")
    dataset = read(tmp_path)
    assert dataset.templates == ["我家的{c}", "{c}在睡觉"] and dataset.template_set == "templates_cn.txt"
    assert read(tmp_path, template_file="name").templates == ["{c}"]
    (tmp_path / "templates_cn.txt").write_text("我家的猫\n", encoding="utf-8")
    with pytest.raises(ZhclipError, match=r"template 1, '我家的猫', has no \{c\}"):
        read(tmp_path)


def test_parts_of_folders(tmp_path):
    folders(tmp_path / "train", 猫=3, 狗=3)
    folders(tmp_path / "val", 猫=1, 狗=2)
    found = own.recognise("own/pets", tmp_path)
    assert found.split == "val" and found.splits == ["train", "val"] and "part val of train, val" in found.line()
    assert len(read(tmp_path)) == 3 and len(read(tmp_path, split="train")) == 6
    assert len(read(tmp_path, split="valid")) == 3
    with pytest.raises(ZhclipError, match="has no part test: it has train, val"):
        read(tmp_path, split="test")


def test_a_class_has_one_number_in_all_parts(tmp_path):
    """Also where a part has no picture of it."""
    folders(tmp_path / "f" / "train", a猫=1, b狗=1, c鸟=1)
    folders(tmp_path / "f" / "test", b狗=1, c鸟=1)
    folders(tmp_path / "t" / "p", a=4)
    rows = [["p/a/0.png", "b狗", "test"], ["p/a/1.png", "c鸟", "test"], ["p/a/2.png", "a猫", "train"]]
    table(tmp_path / "t" / "x.csv", ["path", "label", "split"], [*rows, ["p/a/3.png", "b狗", "train"]])
    table(tmp_path / "s" / "test.csv", ["path", "label"], [["../t/" + path, label] for path, label, _ in rows[:2]])
    table(tmp_path / "s" / "train.csv", ["path", "label"], [["../t/" + path, label] for path, label, _ in rows[2:]])
    for root in ("f", "t", "s"):
        dataset = read(tmp_path / root)
        assert dataset.classes == ["a猫", "b狗", "c鸟"] and dataset.targets == [1, 2]


def test_a_class_may_be_called_like_a_part(tmp_path):
    """`train` among bus and plane is a train."""
    assert read(folders(tmp_path, train=1, bus=1, plane=1)).classes == ["bus", "plane", "train"]


def test_links_out_of_the_folder(tmp_path):
    folders(tmp_path / "in", 猫=1, 狗=1)
    folders(tmp_path / "out", 鸟=2)
    (tmp_path / "in" / "鸟").symlink_to(tmp_path / "out" / "鸟")
    dataset = read(tmp_path / "in")
    assert dataset.classes == ["狗", "猫"] and any("--follow-links follows them" in note for note in dataset.notes)
    followed = read(tmp_path / "in", follow_links=True)
    assert followed.classes == ["狗", "猫", "鸟"] and len(followed) == 4


# ---------------------------------------------------------------- tables


ENCODINGS = ("utf-8", "utf-8-sig", "gbk", "utf-16", "utf-16-le", "big5")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_table_of_labels_in_every_encoding(tmp_path, encoding, end):
    names = ["黑貓", "白狗", "花鳥"] if encoding == "big5" else ["黑猫", "白狗", "花鸟"]
    rows = [[f"images\\{n}.png" if n % 2 else f"images/{n}.png", names[n % 3]] for n in range(6)]
    for number in range(6):
        picture(tmp_path / "images" / f"{number}.png", number)
    # What tells GBK from Big5 are common characters; one name of three may have none of them.
    table(tmp_path / "labels.csv", ["图片路径" if encoding != "big5" else "path", "label"], rows, encoding, end)
    dataset = read(tmp_path)
    assert labels(dataset) == {f"images/{n}.png": names[n % 3] for n in range(6)}
    assert dataset.classes == sorted(names) and dataset.language == "zh"
    told = [note for note in dataset.notes if "no Unicode" in note]
    assert bool(told) == (encoding in ("gbk", "big5"))


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("csv", ";"), ("csv", "\t"), ("tsv", "\t")])
def test_columns_in_any_order_between_any_signs(tmp_path, suffix, delimiter):
    rows = [["1", "猫", str(picture(tmp_path / "a.png", 1))], ["2", "狗", str(picture(tmp_path / "b.png", 2))]]
    table(tmp_path / f"x.{suffix}", ["id", "类别", "File Path"], rows, delimiter=delimiter)
    assert labels(read(tmp_path)) == {"a.png": "猫", "b.png": "狗"}


def test_excels_own_first_line(tmp_path):
    folders(tmp_path / "p", a=2)
    (tmp_path / "x.csv").write_bytes("sep=;\r\nimage;label\r\np/a/0.png;猫\r\np/a/1.png;狗\r\n".encode("gbk"))
    assert labels(read(tmp_path)) == {"p/a/0.png": "猫", "p/a/1.png": "狗"}


def test_paths_of_another_machine(tmp_path):
    for number in range(3):
        picture(tmp_path / "cats" / f"{number}.png", number)
    rows = [[rf"C:\Users\Wang\pets\cats\{number}.png", "猫狗"[number % 2]] for number in range(3)]
    table(tmp_path / "x.csv", ["path", "label"], rows)
    dataset = read(tmp_path)
    assert labels(dataset) == {"cats/0.png": "猫", "cats/1.png": "狗", "cats/2.png": "猫"}
    assert f"paths that begin with C:/Users/Wang/pets/ are read from {tmp_path}" in dataset.notes


def test_a_table_of_labels_as_json_lines_with_parts_in_a_column(tmp_path):
    folders(tmp_path / "p", a=4)
    part = ["train", "train", "test", "test"]
    lines(
        tmp_path / "x.jsonl",
        [{"image": f"p/a/{n}.png", "label": "猫狗"[n % 2], "split": part[n]} for n in range(4)],
    )
    assert labels(read(tmp_path)) == {"p/a/2.png": "猫", "p/a/3.png": "狗"}
    assert labels(read(tmp_path, split="train")) == {"p/a/0.png": "猫", "p/a/1.png": "狗"}


def test_parts_in_files(tmp_path):
    folders(tmp_path / "p", a=4)
    table(tmp_path / "train.csv", ["path", "label"], [["p/a/0.png", "猫"], ["p/a/1.png", "狗"]])
    table(tmp_path / "test.csv", ["path", "label"], [["p/a/2.png", "猫"], ["p/a/3.png", "狗"]])
    assert set(labels(read(tmp_path))) == {"p/a/2.png", "p/a/3.png"}
    assert set(labels(read(tmp_path, split="train"))) == {"p/a/0.png", "p/a/1.png"}


def test_numbers_as_labels_take_the_lines_of_a_list(tmp_path):
    folders(tmp_path / "p", a=3)
    table(tmp_path / "x.csv", ["path", "label"], [[f"p/a/{n}.png", str(n % 2)] for n in range(3)])
    with pytest.raises(ZhclipError, match="x.csv:2: the labels are numbers .0, 1.: write the names"):
        read(tmp_path)
    (tmp_path / "label_cn.txt").write_text("猫\n狗\n", encoding="utf-8")
    assert labels(read(tmp_path)) == {"p/a/0.png": "猫", "p/a/1.png": "狗", "p/a/2.png": "猫"}


def test_columns_by_name_and_without_a_header(tmp_path):
    folders(tmp_path / "p", a=2)
    table(tmp_path / "x.csv", ["wo", "was"], [["p/a/0.png", "猫"], ["p/a/1.png", "狗"]])
    with pytest.raises(ZhclipError, match="no column for pictures; there are wo, was.*--columns path="):
        read(tmp_path)
    assert labels(read(tmp_path, columns="path=wo,label=was")) == {"p/a/0.png": "猫", "p/a/1.png": "狗"}
    table(tmp_path / "x.csv", None, [["p/a/0.png", "猫"], ["p/a/1.png", "狗"]])
    with pytest.raises(ZhclipError, match="is no header; .*--columns path=1,label=2"):
        read(tmp_path)
    assert labels(read(tmp_path, columns="path=1,label=2")) == {"p/a/0.png": "猫", "p/a/1.png": "狗"}


# ---------------------------------------------------------------- captions


def test_a_table_of_captions_has_several_of_either(tmp_path):
    folders(tmp_path / "p", a=3)
    rows = [["p/a/0.png", "一只猫"], ["p/a/0.png", "猫, 在睡觉"], ["p/a/1.png", "一只猫"], ["p/a/2.png", '"好"狗']]
    table(tmp_path / "x.csv", ["image", "caption"], rows, "utf-16")
    dataset = read(tmp_path)
    assert [entry.text for entry in dataset.texts] == ["一只猫", "猫, 在睡觉", '"好"狗']
    assert dataset.text_to_images == [[0, 1], [0], [2]]
    assert dataset.directions == ("image_retrieval", "text_retrieval") and dataset.name == "own/pets"


def test_captions_in_several_columns(tmp_path):
    folders(tmp_path / "p", a=2)
    table(tmp_path / "x.csv", ["path", "caption1", "caption_2"], [["p/a/0.png", "猫", "大猫"], ["p/a/1.png", "狗", ""]])
    assert pairs(read(tmp_path)) == {("猫", "p/a/0.png"), ("大猫", "p/a/0.png"), ("狗", "p/a/1.png")}


def test_evalscopes_image_queries(tmp_path):
    folders(tmp_path / "custom", a=2)
    lines(
        tmp_path / "image_queries.jsonl",
        [
            {"image_path": "custom/a/0.png", "query": ["猫", "黑猫"]},
            {"image_path": str(tmp_path / "custom/a/1.png"), "query": ["狗"]},
        ],
    )
    expected = {("猫", "custom/a/0.png"), ("黑猫", "custom/a/0.png"), ("狗", "custom/a/1.png")}
    assert pairs(read(tmp_path)) == expected
    assert "image_queries.jsonl (JSON lines, UTF-8, 2 lines) has the columns image_path and query" in (
        own.recognise("own/x", tmp_path).line()
    )


@pytest.mark.parametrize("layout", ["tsv", "tsv of MUGE", "lmdb"])
def test_chinese_clips_layouts_under_any_name(tmp_path, layout, monkeypatch):
    if layout == "lmdb":
        write_lmdb(tmp_path, "valid", True, monkeypatch)
    else:
        write_tsv(tmp_path, "valid", True, muge_names="MUGE" in layout)
    found = own.recognise("own/shop", tmp_path)
    assert found.chosen.layout == "chinese-clip" and found.split == "valid"
    dataset = own_data.build(found)
    expected = {(str(1000 + image), text) for _, text, images in relations(True) for image in images}
    assert {(image, text) for text, image in pairs(dataset)} == expected and dataset.name == "own/shop"


# ---------------------------------------------------------------- two readings, and none


def test_two_readings_are_asked_about(tmp_path):
    folders(tmp_path, 猫=1, 狗=1)
    table(
        tmp_path / "x.csv", ["path", "caption", "label"], [["猫/0.png", "一只猫", "猫"], ["狗/0.png", "一只狗", "狗"]]
    )
    with pytest.raises(ZhclipError) as told:
        read(tmp_path)
    text = str(told.value)
    assert "in 3 ways" in text and "--layout labels or captions or folders" in text and "--task" in text
    assert read(tmp_path, layout="folders").layout == "a folder of folders"
    assert read(tmp_path, layout="labels").layout == "a table of paths and labels"
    assert read(tmp_path, task=own.RETRIEVAL).layout == "CSV of paths and captions"
    (tmp_path / "own.json").write_text('{"layout": "labels"}')
    assert read(tmp_path).layout == "a table of paths and labels"


def test_two_tables_are_asked_about(tmp_path):
    folders(tmp_path / "p", a=2)
    for name in ("a.csv", "b.csv"):
        table(tmp_path / name, ["path", "label"], [["p/a/0.png", "猫"], ["p/a/1.png", "狗" + name]])
    with pytest.raises(ZhclipError, match=r'--data-file a.csv or b.csv, or write \{"data-file": "a.csv"\} in'):
        read(tmp_path)
    assert read(tmp_path, file="b.csv").classes == ["狗b.csv", "猫"]
    with pytest.raises(ZhclipError, match="--data-file c.csv: there is no such file"):
        read(tmp_path, file="c.csv")


def two(root, header=("path", "label"), rows=(("p/a/0.png", "猫"), ("p/a/1.png", "狗"))):
    folders(root / "p", a=2)
    return table(root / "x.csv", list(header), [list(row) for row in rows])


def spoil_same_file(root):
    two(root, rows=[("p/a/0.png", "猫"), ("p/a/1.png", "狗"), ("./p/a/0.png", "狗")])


def spoil_link(root):
    folders(root, 猫=1, 狗=1)
    (root / "狗" / "again.png").symlink_to(root / "猫" / "0.png")


def spoil_encoding(root):
    two(root).write_bytes(b"path,label\np/a/0.png,caf\xe9\np/a/1.png,th\xe9\n")


def spoil_list(root):
    folders(root, cat=1, dog=1)
    (root / "label_cn.txt").write_text("猫\n狗\n", encoding="utf-8")


def spoil_label(root):
    two(root)
    (root / "classnames.txt").write_text("狗\n猫咪\n", encoding="utf-8")


def spoil_workbook(root):
    two(root)
    shutil.make_archive(str(root / "x"), "zip", root / "p")
    (root / "x.zip").rename(root / "x.csv")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda root: (root / "notes.txt").write_text("x"), "there is no picture in .*1 other files"),
        (lambda root: picture(root / "a.png", 1), "1 picture in .*nothing says what they are"),
        (lambda root: folders(root, 猫=2), "one class alone .猫.*give that folder as --dataset_root"),
        (lambda root: two(root, rows=[("p/a/0.png", "猫"), ("p/a/1.png", "猫")]), "one class alone .猫"),
        (spoil_label, r"x.csv:2: the label '猫' is not in .*classnames.txt; did you mean 猫咪\?"),
        (spoil_list, "its names .猫, 狗. are none of the folders .cat, dog.*write the folders into"),
        (lambda root: folders(root, **{"0": 1, "1": 1}), "the folders are numbers .0, 1.: write the names"),
        (spoil_same_file, "x.csv:4: p/a/0.png has the label '狗', and '猫' in .*x.csv:2; one picture has one label"),
        (spoil_link, "猫/0.png has the label '猫', and '狗' in .*again.png; one picture has one label"),
        (lambda root: two(root, rows=[("p/a/0.png", "猫"), ("gone.png", "狗")]), "x.csv:3: gone.png is not there"),
        (lambda root: two(root, rows=[("p/a/0.png", ""), ("p/a/1.png", "狗")]), "x.csv:2: label: the field is empty"),
        (lambda root: two(root, rows=[("p/a/0.png", "猫", "大"), ("p/a/1.png", "狗")]), "x.csv:2: 3 fields, and there"),
        (lambda root: two(root, rows=[]), "nothing below its header"),
        (lambda root: two(root).write_text(""), "the file is empty"),
        (lambda root: two(root).write_text('path,label\n"p/a/0.png,cat\n'), "a quotation that does not end"),
        (lambda root: two(root, ("path", "file", "label")), "x.csv:.*|the columns path and file may each be the path"),
        (lambda root: two(root, rows=[("http://x/a.jpg", "猫")]), "x.csv:2: http://x/a.jpg is an address"),
        (spoil_encoding, "x.csv:2: not UTF-8 .looks like Latin-1"),
        (spoil_workbook, "x.csv is a zip archive, no table .a workbook of Excel"),
        (lambda root: lines(root / "x.jsonl", [[1]]), "x.jsonl:1: no object"),
        (lambda root: (root / "own.json").write_text('{"layuot": "x"}'), "own.json: 'layuot': layout"),
        (lambda root: (root / "a_imgs.tsv").write_text("1\tx\n"), "its other half a_texts.jsonl is not beside it"),
        (lambda root: (root / "dataset_type.txt").write_text("retrieval"), "--dataset wds/own/pets reads them"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path, spoil, told):
    spoil(tmp_path)
    with pytest.raises(ZhclipError, match=told) as error:
        read(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value) or "--" in str(error.value)


@pytest.mark.parametrize("name", ["own/", "own", "own/..", "own/a b", "own/a/b"])
def test_names(tmp_path, name):
    with pytest.raises(ZhclipError, match="a name of your choice behind own/"):
        own.recognise(name, tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(ZhclipError, match="gone is not there; --dataset_root is the folder"):
        own.recognise("own/x", tmp_path / "gone")


def test_missing_and_broken_pictures_can_be_left_out(tmp_path):
    two(tmp_path, rows=[("p/a/0.png", "猫"), ("p/a/1.png", "狗"), ("gone.png", "狗"), ("bad.png", "猫")])
    (tmp_path / "bad.png").write_bytes(b"no picture")
    dataset = read(tmp_path, skip=True)
    assert set(labels(dataset)) == {"p/a/0.png", "p/a/1.png"}
    assert sorted(entry.key.rsplit("/")[-1] for entry in dataset.skipped) == ["bad.png", "gone.png"]
    table(tmp_path / "x.csv", ["path", "caption"], [["p/a/0.png", "猫"], ["gone.png", "狗"], ["bad.png", "鸟"]])
    captions = read(tmp_path, skip=True)
    assert pairs(captions) == {("猫", "p/a/0.png")} and len(captions.skipped) == 2 and len(captions.skipped_texts) == 2


def test_the_same_picture_under_two_labels_is_noted(tmp_path):
    folders(tmp_path, 猫=2, 狗=2)
    shutil.copy(tmp_path / "猫" / "0.png", tmp_path / "狗" / "copy.png")
    notes = " ".join(read(tmp_path).notes)
    assert "1 picture under two labels" in notes and "猫/0.png (猫) is the same file as 狗/copy.png (狗)" in notes


def test_the_fingerprint_is_of_what_is_scored(tmp_path):
    """The same from folders and from a table of the same; another with another label, picture or name."""
    folders(tmp_path / "one", 猫=2, 狗=2)
    first = read(tmp_path / "one").fingerprint()
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    rows = [[f"{name}/{n}.png", name] for name in "狗猫" for n in range(2)]
    table(tmp_path / "two" / "x.csv", ["path", "label"], rows)
    assert read(tmp_path / "two", layout="labels").fingerprint() == first
    table(tmp_path / "two" / "x.csv", ["path", "label"], [[rows[0][0], "猫"], *rows[1:]])
    assert read(tmp_path / "two", layout="labels").fingerprint() != first
    picture(tmp_path / "one" / "猫" / "0.png", 9, size=9)
    assert read(tmp_path / "one").fingerprint() != first
