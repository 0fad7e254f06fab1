"""Chinese-CLIP's evaluation data, in the layout that its zip has."""

from __future__ import annotations

import json
import re
import sys

import pytest
from PIL import Image

from zhclip_openclip import prompts
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.datasets import elevater

pytest.importorskip("cn_clip", reason="has the templates that this data is published with")


def unpack(
    root, chinese=("飞机", "汽车", "鸟"), folders=("0", "1", "2"), images=2, english=("airplane", "car", "bird")
):
    """A data set of a few grey images: folder i is i steps lighter, image 1 wider than image 0."""
    for label, folder in enumerate(folders):
        for split in ("test", "train"):
            (root / split / folder).mkdir(parents=True)
            for number in range(images):
                image = Image.new("L", (8 + number, 8), 40 * label)
                image.save(root / split / folder / f"{number}.jpg")
    (root / "label_cn.txt").write_text("\n".join(chinese) + "\n", encoding="utf-8")
    (root / "label.txt").write_text("\n".join(english) + "\n", encoding="utf-8")
    return root


@pytest.fixture
def root(tmp_path):
    return unpack(tmp_path / "cifar-10")


def test_labels_and_images(root):
    dataset = elevater.build(
        "cifar-10", root, transform=lambda image: (image.mode, image.size, image.getpixel((0, 0))[0])
    )
    assert dataset.classes == ["飞机", "汽车", "鸟"] and dataset.english_classes == ["airplane", "car", "bird"]
    assert dataset.classname_source == str(root / "label_cn.txt")
    assert len(dataset) == 6 and dataset.targets == [0, 0, 1, 1, 2, 2]
    (mode, size, grey), label = dataset[3]
    assert (mode, size, label) == ("RGB", (9, 8), 1) and abs(grey - 40) <= 2
    prompts.check(dataset, "elevater/cifar-10")


@pytest.mark.parametrize("name", ["cifar-10", "elevater/cifar-10", "cifar10"])
def test_root_is_the_folder_or_the_one_above(root, name):
    assert len(elevater.build(name, root)) == len(elevater.build(name, root.parent)) == 6


def test_order_is_torchvisions(tmp_path):
    folders = pytest.importorskip("torchvision.datasets")
    names = [f"{i:03d}" for i in range(12)]
    root = unpack(tmp_path, [f"类{i}" for i in range(12)], names, images=11, english=[f"c{i}" for i in range(12)])
    (root / "test" / "003" / "notes.txt").write_text("no image")
    assert elevater.build("x", root).samples == folders.ImageFolder(str(root / "test")).samples


def test_a_class_without_images_shifts_nothing(tmp_path):
    root = unpack(tmp_path, folders=("000", "002"))
    assert elevater.build("x", root).targets == [0, 0, 2, 2]


@pytest.mark.parametrize(
    ("name", "functions"),
    [("cifar-10", "openai_templates"), ("food-101", "food_templates"), ("somebody-elses", "openai_templates")],
)
def test_templates_are_chinese_clips_for_the_data_set(root, name, functions):
    module = pytest.importorskip("cn_clip.eval.cvinw_zeroshot_templates")
    dataset = elevater.build(name, root)
    assert dataset.template_set == "cn_clip"
    assert dataset.templates == [function("{c}") for function in getattr(module, functions)]


def test_other_templates_and_languages(root):
    dataset = elevater.build("cifar-10", root, template_file="name")
    assert (dataset.templates, dataset.template_set) == (["{c}"], "name")
    english = elevater.build("cifar-10", root, language="en")
    assert english.classes == ["airplane", "car", "bird"] and "photo" in english.templates[0]
    with pytest.raises(ZhclipError, match="not in jp"):
        elevater.build("cifar-10", root, language="jp")


def test_split(root):
    assert elevater.build("cifar-10", root, split="train", template_file="name").order is None
    with pytest.raises(ZhclipError, match="val is missing; --split is one of test, train"):
        elevater.build("cifar-10", root, split="val")


def test_index_is_the_order_of_a_submission(root):
    (root / "index.json").write_text(json.dumps([5, 4, 3, 2, 1, 0]))
    assert elevater.build("cifar-10", root).order == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[0, 1,\n 2", "index.json, line 2, column 3: not JSON"),
        ("[0, 6]", "names image 6, and there are 6"),
        ('{"0": 1}', "holds an object, not a list"),
        ("[0.5]", "no list of whole numbers"),
    ],
)
def test_bad_index(root, text, error):
    (root / "index.json").write_text(text)
    dataset = elevater.build("cifar-10", root)  # a submission alone needs it
    assert len(dataset) == 6 and dataset.order is None
    assert len(dataset.notes) == 1 and re.search(error, dataset.notes[0])


def spoil(root):
    (root / "test" / "1" / "0.jpg").write_bytes(b"no picture")
    whole = (root / "test" / "2" / "1.jpg").read_bytes()
    (root / "test" / "2" / "1.jpg").write_bytes(whole[: len(whole) - 40])  # its header is in order


def test_unreadable_image_is_an_error_with_its_name(root):
    spoil(root)
    dataset = elevater.build("cifar-10", root)
    with pytest.raises(ZhclipError, match=r"1/0\.jpg does not decode.*--skip-bad-images"):
        dataset[2]
    assert dataset[0][1] == 0


def test_unreadable_images_are_skipped_and_named(root):
    spoil(root)
    (root / "index.json").write_text(json.dumps([5, 4, 3, 2, 1, 0]))
    dataset = elevater.build("cifar-10", root, skip_bad_images=True)
    assert [skipped.key for skipped in dataset.skipped] == ["1/0.jpg", "2/1.jpg"]
    assert dataset.targets == [0, 0, 1, 2] and [label for _, label in dataset] == [0, 0, 1, 2]
    assert dataset.order == [3, 2, 1, 0]


def test_nothing_readable(tmp_path):
    root = unpack(tmp_path, images=1, folders=("0",))
    (root / "test" / "0" / "0.jpg").write_bytes(b"")
    with pytest.raises(ZhclipError, match="none of 1 images can be read"):
        elevater.build("x", root, skip_bad_images=True)


def test_missing_folder_says_what_is_there(root):
    with pytest.raises(ZhclipError, match="no label_cn.txt.*there are cifar-10; --dataset_root"):
        elevater.build("food-101", root.parent)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda root: (root / "label_cn.txt").write_text("飞机\n汽车\n"), "there is no class 2, the labels end at 1"),
        (
            lambda root: (root / "label_cn.txt").write_text("飞机\n\n鸟\n"),
            "label_cn.txt, line 2: there is no class name",
        ),
        (lambda root: (root / "label_cn.txt").write_text(""), "label_cn.txt, line 1: there is no class name"),
        (lambda root: (root / "label_cn.txt").unlink(), "label_cn.txt is missing"),
        (lambda root: (root / "label_cn.txt").write_bytes("飞机".encode("gb18030")), "not UTF-8"),
        (lambda root: (root / "test" / "2").rename(root / "test" / "bird"), "called by the number of its class"),
    ],
)
def test_bad_layout(root, change, error):
    change(root)
    with pytest.raises(ZhclipError, match=error) as caught:
        elevater.build("cifar-10", root)
    assert "\n" not in str(caught.value)


def test_empty_split(tmp_path):
    root = unpack(tmp_path, images=0)
    with pytest.raises(ZhclipError, match="has no images"):
        elevater.build("x", root)


def test_two_labels_of_one_name_are_kept_and_said(tmp_path):
    root = unpack(tmp_path, chinese=("鹤", "汽车", "鹤"))
    with pytest.warns(UserWarning, match="the class name 鹤 more than once"):
        assert elevater.build("x", root).classes == ["鹤", "汽车", "鹤"]


def test_windows_files(tmp_path):
    root = unpack(tmp_path)
    (root / "label_cn.txt").write_bytes("飞机\r\n汽车\r\n鸟\r\n".encode("utf-8-sig"))
    assert elevater.build("x", root).classes == ["飞机", "汽车", "鸟"]


def named(tmp_path, content):
    path = tmp_path / "names.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("key", ["elevater/cifar-10", "cifar-10", "cifar10"])
def test_names_of_the_users_own(root, tmp_path, key):
    path = named(tmp_path, {key: ["客机", "轿车", "小鸟"]})
    dataset = elevater.build("cifar-10", root, classname_file=path)
    assert (dataset.classes, dataset.classname_source) == (["客机", "轿车", "小鸟"], path)
    assert dataset.english_classes == ["airplane", "car", "bird"]
    prompts.check(dataset, "elevater/cifar-10")
    traditional = elevater.build("cifar-10", root, classname_file=path, language="zh_Hant")
    assert traditional.classes == dataset.classes  # a file is taken as it is written


def test_names_of_the_users_own_by_name(root, tmp_path):
    """By the English names; by the published ones where there are no English names."""
    path = named(tmp_path, {"cifar10": {"Bird": "小鸟", "car": "轿车", "airplane": "客机"}})
    assert elevater.build("cifar-10", root, classname_file=path).classes == ["客机", "轿车", "小鸟"]
    (root / "label.txt").unlink()
    path = named(tmp_path, {"cifar10": {"鸟": "小鸟", "汽车": "轿车", "飞机": "客机"}})
    dataset = elevater.build("cifar-10", root, classname_file=path)
    assert dataset.classes == ["客机", "轿车", "小鸟"] and dataset.english_classes is None


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"cifar10": ["甲", "乙"]}, "has 2 class names, and elevater/cifar-10 has 3 classes"),
        ({"cifar10": ["甲", "乙", "甲"]}, "classes 0 and 2 are both named '甲' .'airplane' and 'bird'"),
        ({"cifar10": {"airplane": "甲", "car": "乙"}}, "no name for the class 'bird' of elevater/cifar-10"),
        ({"mnist": ["甲"]}, "no names for elevater/cifar-10; it has mnist, and it may have them under elevater/"),
    ],
)
def test_bad_names_of_the_users_own(root, tmp_path, content, error):
    with pytest.raises(ZhclipError, match=error) as caught:
        elevater.build("cifar-10", root, classname_file=named(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_prompts_for_each_class(root, tmp_path):
    path = named(tmp_path, {"cifar10": {"飞机": ["天上的飞机"], "car": ["路上的车"], "鸟": ["树上的鸟"]}})
    dataset = elevater.build("cifar-10", root, template_file=path)
    assert dataset.templates == {"飞机": ["天上的飞机"], "汽车": ["路上的车"], "鸟": ["树上的鸟"]}


def test_without_cn_clip(root, monkeypatch):
    """Said before an image is read, with both ways out."""
    monkeypatch.setitem(sys.modules, "cn_clip.eval.cvinw_zeroshot_templates", None)
    monkeypatch.setattr(elevater, "_samples", lambda *args: pytest.fail("the images were listed"))
    with pytest.raises(
        ZhclipError,
        match="elevater/cifar-10 takes the prompts that it is published with: .*pip install cn_clip.*"
        "--custom_template_file zh",
    ) as caught:
        elevater.build("cifar-10", root)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "cn_clip.eval.cvinw_zeroshot_templates", None)
    assert elevater.build("cifar-10", root, template_file="zh").template_set == "zh"


def test_labels_in_another_encoding_say_how_to_convert_them(root):
    (root / "label_cn.txt").write_text("飞机\n汽车\n鸟\n", encoding="gbk")
    with pytest.raises(ZhclipError, match=r"label_cn.txt: not UTF-8 \(looks like GBK\); convert it: iconv -f GBK"):
        elevater.build("cifar-10", root)
    (root / "label_cn.txt").write_text("飞机\n汽车\n鸟\n", encoding="utf-16")
    with pytest.raises(ZhclipError, match="label_cn.txt is not UTF-8 but UTF-16"):
        elevater.build("cifar-10", root)


def test_files_of_other_kinds_are_counted(root):
    for number in range(3):
        (root / "test" / "1" / f"{number}.GIF").write_bytes(b"GIF89a")
    (root / "test" / "2" / "9.avif").write_bytes(b"x")
    dataset = elevater.build("cifar-10", root)
    assert len(dataset) == 6 and len(dataset.notes) == 1
    assert dataset.notes[0].startswith("4 files of other kinds (.avif, .gif) in ")
    for path in (root / "test").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(ZhclipError, match=r"no images.*4 of kinds that are not read: \.avif, \.gif; convert them"):
        elevater.build("cifar-10", root)


def test_train_split_of_a_linear_probe(root):
    """clip_benchmark asks for it without a language, and makes nothing of its names."""
    (root / "label.txt").unlink()
    train = elevater.build("cifar-10", root, split="train", language="en")
    assert len(train) == 6 and train.targets == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ZhclipError, match="label.txt is missing"):
        elevater.build("cifar-10", root, language="en")


def test_a_folder_of_a_number_without_end(root):
    (root / "test" / ("9" * 200)).mkdir()
    with pytest.raises(ZhclipError, match="there is no class 999"):
        elevater.build("cifar-10", root)
