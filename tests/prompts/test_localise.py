"""Each spelling of each data set in Chinese, on stand-ins that have the classes the libraries give them.

`english/` holds the lists that no installed package has as a constant; tfds_*.txt are the label lists of
tensorflow_datasets 4.9.10 where they differ from clip_benchmark's in spelling or order.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

from zhclip_openclip import prompts
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.prompts import classnames, registry

ENGLISH = Path(__file__).parent / "english"
CLIP_BENCHMARK = Path(importlib.util.find_spec("clip_benchmark").origin).parent / "datasets"
IMAGENET = json.loads((CLIP_BENCHMARK / "en_classnames.json").read_text(encoding="utf-8"))["imagenet1k"]


class StandIn:
    """A data set as far as its prompts go: no images, and the labels only if given."""

    def __init__(self, classes, templates=("a photo of a {c}.",), labels=None, length=1):
        self.classes, self.templates, self._length = classes, templates, length
        if labels is not None:
            self.targets, self._length = labels, len(labels)

    def __len__(self):
        return self._length


def listed(name):
    return (ENGLISH / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def wordnet_ids():
    from clip_benchmark.datasets.builder import all_imagenet_wordnet_ids

    return list(all_imagenet_wordnet_ids)


def variant(letter):
    """Positions in ImageNet of the 200 classes of ImageNet-A, -R or -O, from the masks in clip_benchmark's source."""
    source = (CLIP_BENCHMARK / "builder.py").read_text(encoding="utf-8")
    literal = re.search(rf"imagenet_{letter}_wnids = ([\[{{].*?[\]}}])", source, re.DOTALL).group(1)
    wanted = set(re.findall(r"n\d{8}", literal))
    return [index for index, wnid in enumerate(wordnet_ids()) if wnid in wanted]


def numbers(count):
    return [str(number) for number in range(count)]


def english(spelling):
    """The classes that clip_benchmark's data set of this name has."""
    own = {
        "vtab/flowers": "tfds_oxford_flowers102",
        "tfds/oxford_flowers102": "tfds_oxford_flowers102",
        "vtab/food101": "tfds_food101",
        "tfds/food101": "tfds_food101",
        "tfds/oxford_iiit_pet": "tfds_oxford_iiit_pet",
        "tfds/eurosat": "tfds_eurosat",
        "tfds/caltech101": "tfds_caltech101",
        "vtab/sun397": "sun397",
        "tfds/sun397": "sun397",
    }
    if spelling in own:
        return listed(own[spelling])
    if spelling in ("tfds/svhn_cropped", "tfds/mnist"):
        return numbers(10)
    if spelling == "tfds/patch_camelyon":
        return numbers(2)
    if spelling == "tfds/diabetic_retinopathy_detection":
        return numbers(5)
    if spelling == "tfds/dmlab":
        return numbers(6)
    if spelling.startswith("tfds/imagenet"):
        return wordnet_ids()  # for imagenet_a and imagenet_r too, which have images of 200 of them
    if spelling in ("imagenet-a", "imagenet-r", "imagenet-o"):
        return [IMAGENET[index] for index in variant(spelling[-1])]
    return [name for name, _ in classnames.pairs(registry.find(spelling).classnames)]


SPELLINGS = [spelling for dataset in registry.all_datasets().values() for spelling in dataset.spellings]
#: The plain names of the issue, and how clip_benchmark spells those that it has in one format only.
AGREED = """cifar10 cifar100 imagenet1k imagenetv2 imagenet_sketch imagenet-a imagenet-r imagenet-o imagenet-w
imagenet1k-unverified objectnet caltech101 vtab/caltech101 cars country211 dtd eurosat fer2013 fgvc_aircraft flowers
food101 gtsrb mnist pcam pets renderedsst2 stl10 sun397 vtab/svhn voc2007 voc2007_multilabel vtab/resisc45
vtab/clevr_count_all vtab/clevr_closest_object_distance vtab/dmlab vtab/dsprites_label_orientation
vtab/dsprites_label_x_position vtab/dsprites_label_y_position vtab/smallnorb_label_azimuth
vtab/smallnorb_label_elevation vtab/kitti_closest_vehicle_distance vtab/diabetic_retinopathy digits"""
COUNTS = {
    "objectnet": 113,
    "cars": 196,
    "fgvc_aircraft": 100,
    "flowers": 102,
    "gtsrb": 43,
    "pets": 37,
    "sun397": 397,
    "vtab/resisc45": 45,
    "imagenet-o": 200,
    "imagenet1k": 1000,
    "vtab/caltech101": 102,
}


def test_the_agreed_data_sets_are_all_there():
    assert set(AGREED.split()) <= set(SPELLINGS)
    assert {name: len(english(name)) for name in COUNTS} == COUNTS


def test_every_data_set_that_clip_benchmark_builds_is_listed():
    """Plain and VTAB names in the source of `build_dataset` that have no Chinese prompts and are no captions."""
    source = (CLIP_BENCHMARK / "builder.py").read_text(encoding="utf-8")
    plain, vtab = source.split("def build_vtab_dataset")
    vtab = vtab.split("def build_tfds_dataset")[0]
    names = set(re.findall(r"dataset_name == ['\"]([^'\"]+)['\"]", plain.split("value_from_first_key_found")[0]))
    names |= {f"vtab/{name}" for name in re.findall(r"dataset_name == \"([^\"]+)\"", vtab)}
    without = {name for name in names if registry.find(name) is None}
    assert without == {
        *("babel_imagenet", "dummy", "vtab/cub", "vtab/inaturalist", "winoground", "flickr30k", "flickr8k"),
        *("mscoco_captions", "multilingual_mscoco_captions", "crossmodal3600", "xtd10", "xtd200", "flickr30k-200"),
    }


@pytest.mark.parametrize("prefix", ["", "wds/"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling(spelling, prefix):
    dataset = StandIn(english(spelling), ["a photo of {c}"])
    before = list(dataset.classes)
    name = prefix + spelling
    assert prompts.is_chinese(name, "zh") and not prompts.is_chinese(name, "en")
    prompts.localise(dataset, name, "zh")
    prompts.check(dataset, name)
    assert dataset.english_classes == before
    assert len(set(dataset.classes)) == len(dataset.classes) == len(before)
    assert all(re.search("[\u4e00-\u9fff]|iPod", name) for name in dataset.classes)
    assert all("{c}" in template and template != "a photo of {c}" for template in dataset.templates)
    assert dataset.template_set == "zh"
    assert dataset.classname_source == f"zhclip_openclip {registry.find(spelling).classnames}.json"


@pytest.mark.parametrize(
    ("spelling", "pairs"),
    {
        "caltech101": {"background": "杂乱背景", "centered face": "居中人脸", "accordion": "手风琴"},
        "tfds/caltech101": {"faces_easy": "居中人脸", "motorbikes": "摩托车", "accordion": "手风琴"},
        "vtab/flowers": {"globe-flower": "金莲花", "rose": "玫瑰"},
        "tfds/food101": {"apple_pie": "苹果派", "baby_back_ribs": "烤猪肋排"},
        "tfds/oxford_iiit_pet": {"shiba_inu": "柴犬", "Maine_Coon": "缅因猫"},
        "tfds/eurosat": {"Forest": "森林", "SeaLake": "湖泊或海洋", "Highway": "公路"},
        "tfds/svhn_cropped": {"3": "数字3"},
        "vtab/pcam": {"lymph node": "正常淋巴结组织"},
        "tfds/imagenet2012": {"n01443537": "金鱼"},
    }.items(),
)
def test_names_belong_to_their_classes(spelling, pairs):
    dataset = StandIn(english(spelling))
    prompts.localise(dataset, spelling, "zh")
    found = dict(zip(dataset.english_classes, dataset.classes, strict=True))
    assert {name: found[name] for name in pairs} == pairs


@pytest.mark.parametrize("prefix", ["", "wds/"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_is_printed_is_what_an_evaluation_uses(spelling, prefix):
    """`zhclip classnames` numbers the classes as the labels of the data set do."""
    dataset = StandIn(english(spelling))
    prompts.localise(dataset, prefix + spelling, "zh")
    printed = classnames.classes(registry.find(prefix + spelling), prefix + spelling)
    assert [chinese for _, chinese in printed] == dataset.classes


@pytest.mark.parametrize("letter", "aro")
def test_clip_benchmark_builds_the_variants_with_these_classes(tmp_path, letter):
    """The real builder, with a folder for each of the classes."""
    from PIL import Image

    ids = wordnet_ids()
    for line in variant(letter):
        (tmp_path / ids[line]).mkdir()
        Image.new("RGB", (1, 1)).save(tmp_path / ids[line] / "1.png")
    name = f"imagenet-{letter}"
    dataset = build(name, tmp_path)
    assert [ids.index(folder) for folder in dataset.class_to_idx] == classnames.part_of_imagenet(registry.find(name))
    prompts.localise(dataset, name, "zh")
    prompts.check(dataset, name)
    assert [chinese for _, chinese in classnames.classes(registry.find(name))] == dataset.classes


@pytest.mark.parametrize("letter", "ar")
def test_timm_has_the_same_variants(letter):
    info = Path(importlib.util.find_spec("timm").origin).parent / "data" / "_info" / f"imagenet_{letter}_indices.txt"
    if not info.is_file():
        pytest.skip("timm keeps its lists somewhere else")
    wanted = [int(line) for line in info.read_text().split()]
    assert classnames.part_of_imagenet(registry.find(f"imagenet-{letter}")) == wanted


@pytest.mark.parametrize("name", ["imagenet1k", "imagenet-w", "imagenet1k-unverified", "imagenet_sketch", "imagenetv2"])
def test_clip_benchmark_builds_the_whole_of_imagenet_with_these_classes(tmp_path, monkeypatch, name):
    """The real builder and torchvision's ImageNet, of which two folders stand here for all."""
    import types

    import torch
    from clip_benchmark.datasets import imagenetv2
    from PIL import Image
    from torchvision.transforms import CenterCrop, Compose, Normalize

    ids = wordnet_ids()
    root = tmp_path / {"imagenet_sketch": "", "imagenetv2": "ImageNetV2-matched-frequency"}.get(name, "val")
    for folder in ("0", "999") if name == "imagenetv2" else (ids[0], ids[-1]):
        (root / folder).mkdir(parents=True)
        Image.new("RGB", (1, 1)).save(root / folder / "1.jpeg")
    torch.save(({wnid: (wnid,) for wnid in ids}, []), tmp_path / "meta.bin")
    monkeypatch.setattr(imagenetv2, "V2_DATASET_SIZE", 2)  # otherwise it loads 10,000
    watermark = types.ModuleType("imagenet_w")
    watermark.AddWatermark = lambda size: lambda image: image
    monkeypatch.setitem(sys.modules, "imagenet_w", watermark)
    dataset = build(name, tmp_path, transform=Compose([CenterCrop(1), Normalize(0, 1)]))
    if hasattr(dataset, "wnids"):
        assert dataset.wnids == sorted(dataset.wnids) and set(dataset.wnids) <= set(ids)
    assert ids == sorted(ids)  # the order of folders, which the labels are in
    prompts.localise(dataset, name, "zh")
    assert dataset.english_classes == IMAGENET
    assert [chinese for _, chinese in classnames.classes(registry.find(name))] == dataset.classes


def build(name, root, **more):
    builder = importlib.import_module("clip_benchmark.datasets.builder")
    original = getattr(builder.build_dataset, "__zhclip_original__", builder.build_dataset)
    arguments = prompts.chinese_arguments(name, "zh")
    return original(name, root=str(root), task="zeroshot_classification", **arguments, **more)


def test_order_is_the_data_sets():
    forward, backward = StandIn(english("cifar100")), StandIn(english("cifar100")[::-1])
    prompts.localise(forward, "cifar100", "zh")
    prompts.localise(backward, "cifar100", "zh")
    assert backward.classes == forward.classes[::-1]


@pytest.mark.parametrize("letter", "aro")
def test_imagenet_variants_derive_by_their_masks(letter):
    """Also the two `missile`: ImageNet-R has the first of them alone."""
    chinese = [name for _, name in classnames.pairs("imagenet1k")]
    dataset = StandIn([IMAGENET[index] for index in variant(letter)])
    prompts.localise(dataset, f"imagenet-{letter}", "zh")
    assert dataset.classes == [chinese[index] for index in variant(letter)]


@pytest.mark.parametrize("kept", [[657], [744], [836, 837], [657, 744], list(range(640, 850))])
def test_two_classes_of_one_english_name(kept):
    chinese = [name for _, name in classnames.pairs("imagenet1k")]
    indices = sorted({*range(0, 1000, 50), 656, 658, 743, 745, *kept})
    dataset = StandIn([IMAGENET[index] for index in indices])
    prompts.localise(dataset, "imagenet1k", "zh")
    assert dataset.classes == [chinese[index] for index in indices]


def test_all_of_imagenet_is_the_list_in_order():
    dataset = StandIn(list(IMAGENET))
    prompts.localise(dataset, "imagenetv2", "cn")
    assert dataset.classes == [name for _, name in classnames.pairs("imagenet1k")]
    assert (dataset.classes[657], dataset.classes[744]) == ("导弹", "炮弹")


def test_the_libraries_list_is_not_changed():
    """torchvision's and clip_benchmark's `classes` may be one list for the whole process."""
    shared = english("voc2007")
    dataset = StandIn(shared)
    prompts.localise(dataset, "voc2007_multilabel", "zh")
    assert shared[0] == "aeroplane" and dataset.classes[0] == "飞机"


def test_twice_is_once():
    dataset = StandIn(english("dtd"))
    prompts.localise(dataset, "dtd", "zh")
    first = vars(dataset).copy()
    prompts.localise(dataset, "dtd", "zh")
    assert vars(dataset) == first


def test_traditional():
    pytest.importorskip("opencc")
    dataset = StandIn(english("pets"))
    prompts.localise(dataset, "vtab/pets", "zh_Hant")
    assert dataset.classes[0] == "阿比西尼亞貓"
    assert "寵物" in "".join(dataset.templates) and "宠" not in "".join(dataset.templates)
    assert all("{c}" in template for template in dataset.templates)


def test_babel_imagenet_keeps_its_own():
    dataset = StandIn(["丁鱥科", "鲫鱼"], ["許多 {c} 的照片."])
    assert prompts.is_chinese("babel_imagenet", "zh-cn")
    assert prompts.chinese_arguments("babel_imagenet", "zh-cn")["language"] == "zh"
    prompts.localise(dataset, "babel_imagenet", "zh-cn")
    assert (dataset.classes, dataset.templates) == (["丁鱥科", "鲫鱼"], ["許多 {c} 的照片."])
    assert dataset.template_set == dataset.classname_source == "babel_imagenet"


def test_babel_imagenet_says_what_script_it_is_in():
    """Its own files: the prompts are NLLB's, hardly one of them simplified; the names are in either script."""
    from zhclip_openclip.prompts._files import clip_benchmarks

    prompts_there = "".join(clip_benchmarks("nllb_dist13b_prompts.json")["ZH"])
    names_there = "".join(clip_benchmarks("babel_imagenet.json")["ZH"][1])
    assert ("許" in prompts_there or "張" in prompts_there) and "许" not in prompts_there
    assert "鸟" in names_there and "鳥" in names_there
    dataset = StandIn(["丁鱥科", "鲫鱼"], ["許多 {c} 的照片."])
    prompts.localise(dataset, "babel_imagenet", "zh")
    assert "most of its prompts" in dataset.notes[0] and "traditional" in dataset.notes[0]


@pytest.mark.parametrize("name", ["vtab/cub", "vtab/inaturalist", "tfds/places365_small", "dummy"])
def test_no_chinese_names(name):
    assert prompts.is_chinese(name, "zh")
    with pytest.raises(ZhclipError, match=f"{name} has no Chinese class names.*--custom_classname_file"):
        prompts.chinese_arguments(name, "zh")


@pytest.mark.parametrize(
    "name", ["flickr30k", "xtd10", "sugar_crepe/add_att", "winoground", "muge", "wds/mscoco_captions"]
)
def test_captions_are_not_ours(name):
    assert not prompts.is_chinese(name, "zh")


def test_unknown_class_is_named():
    dataset = StandIn(["airplane", "automobile", "spaceship"])
    with pytest.raises(ZhclipError, match="CIFAR-10.*'spaceship'"):
        prompts.localise(dataset, "cifar10", "zh")
    assert dataset.classes == ["airplane", "automobile", "spaceship"]


def test_class_twice():
    with pytest.raises(ZhclipError, match="'cat'.*twice"):
        prompts.localise(StandIn(["cat", "dog", "Cat"]), "cifar10", "zh")


def test_arguments_for_the_english_build():
    plain = prompts.chinese_arguments("cifar10", "zh", "zh")
    assert plain == {"language": "en", "custom_template_file": None, "custom_classname_file": None}
    assert prompts.chinese_arguments("wds/vtab/cifar10", "zh")["custom_template_file"].startswith("en_")


def test_imagenet_w_gets_the_file_that_clip_benchmark_needs():
    path = prompts.chinese_arguments("imagenet-w", "zh")["custom_classname_file"]
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    assert content["imagenet1k"] == content["imagenet-w"] == IMAGENET


def test_clip_benchmark_builds_and_we_localise(tmp_path):
    """The real `build_dataset`, with a data set that needs no download: a folder of images."""
    from PIL import Image

    builder = importlib.import_module("clip_benchmark.datasets.builder")
    for folder in ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]:
        (tmp_path / "test" / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "test" / folder / "1.png")
    build = getattr(builder.build_dataset, "__zhclip_original__", builder.build_dataset)
    arguments = prompts.chinese_arguments("fer2013", "zh", "name")
    dataset = build("fer2013", root=str(tmp_path), task="zeroshot_classification", **arguments)
    prompts.localise(dataset, "fer2013", "zh", "name")
    prompts.check(dataset, "fer2013")
    assert dataset.classes == ["生气", "厌恶", "害怕", "开心", "平静", "难过", "惊讶"]
    assert dataset.templates == ["{c}"]


def test_clip_benchmark_builds_a_web_data_set_and_we_localise(tmp_path):
    builder = importlib.import_module("clip_benchmark.datasets.builder")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "nshards.txt").write_text("1")
    (tmp_path / "classnames.txt").write_text("\n".join(english("clevr_closest_object_distance")))
    build = getattr(builder.build_dataset, "__zhclip_original__", builder.build_dataset)
    name = "wds/vtab/clevr_closest_object_distance"
    arguments = prompts.chinese_arguments(name, "zh")
    dataset = build(name, root=str(tmp_path), task="zeroshot_classification", **arguments)
    prompts.localise(dataset, name, "zh")
    prompts.check(dataset, name)
    assert dataset.classes == ["极近", "很近", "较近", "不远不近", "较远", "很远"]
    assert dataset.batched(2).classes == dataset.classes


# Files of the user


def write(path, content):
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return str(path)


def test_names_of_the_users_own(tmp_path):
    names = list("甲乙丙丁戊己庚辛壬癸")
    path = write(tmp_path / "names.json", {"cifar10": names})
    dataset = StandIn(english("cifar10"))
    prompts.localise(dataset, "wds/vtab/cifar10", "zh", None, path)
    assert (dataset.classes, dataset.classname_source) == (names, path)


def test_names_of_the_users_own_by_english_name(tmp_path):
    path = write(tmp_path / "names.json", {"vtab/cub": {"Blue Jay": "冠蓝鸦", "Mallard": "绿头鸭"}})
    dataset = StandIn(["mallard", "blue_jay"])
    prompts.localise(dataset, "vtab/cub", "zh", None, path)
    assert dataset.classes == ["绿头鸭", "冠蓝鸦"]
    with pytest.raises(ZhclipError, match="no name for the class 'Robin' of vtab/cub"):
        prompts.localise(StandIn(["Robin"]), "vtab/cub", "zh", None, path)


@pytest.mark.parametrize("letter", "aro")
def test_clip_benchmarks_own_chinese_list_for_a_variant(letter):
    dataset = StandIn([IMAGENET[index] for index in variant(letter)])
    prompts.localise(dataset, f"imagenet-{letter}", "zh", "openai80", "cn_classnames.json")
    bundled = json.loads((CLIP_BENCHMARK / "cn_classnames.json").read_text(encoding="utf-8"))["imagenet1k"]
    assert dataset.classes == [bundled[index] for index in variant(letter)]


def test_a_list_for_imagenet_is_one_for_all_that_have_its_labels(tmp_path):
    """TFDS counts all of ImageNet's classes in its ImageNet-A."""
    names = [f"类{number}" for number in range(1000)]
    path = write(tmp_path / "names.json", {"imagenet1k": names})
    for name in ("tfds/imagenet_a", "tfds/imagenet2012", "imagenetv2"):
        dataset = StandIn(english(name))
        prompts.localise(dataset, name, "zh", None, path)
        assert dataset.classes == names
    path = write(tmp_path / "names.json", {"imagenet1k": names[:200]})
    with pytest.raises(ZhclipError, match="imagenet1k has 200 names for 1000 classes"):
        prompts.localise(StandIn(english("imagenet-a")), "imagenet-a", "zh", None, path)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"cifar10": ["甲"]}, "has 1 class names, and cifar10 has 10 classes"),
        ({"cifar100": ["甲"]}, "has no names for cifar10; it has cifar100"),
        ({"cifar10": [1]}, "list of class names"),
        ({"cifar10": []}, "list of class names"),
        (["甲"], "data set"),
        ({"cifar10": ["鹤"] * 10}, "classes 0 and 1 are both named '鹤'.*'airplane' and 'automobile'"),
    ],
)
def test_bad_names(tmp_path, content, error):
    path = write(tmp_path / "names.json", content)
    with pytest.raises(ZhclipError, match=error):
        prompts.localise(StandIn(english("cifar10")), "cifar10", "zh", None, path)


def test_prompts_for_each_class(tmp_path):
    """clip_benchmark's other form of a template file, by Chinese name or by English."""
    content = {name: [f"prompt {name}"] for name in english("cifar10")[1:]} | {"飞机": ["天上的飞机"]}
    path = write(tmp_path / "prompts.json", {"cifar10": content})
    dataset = StandIn(english("cifar10"))
    prompts.localise(dataset, "cifar10", "zh", path)
    assert list(dataset.templates) == dataset.classes
    assert dataset.templates["飞机"] == ["天上的飞机"] and dataset.templates["汽车"] == ["prompt automobile"]
    del content["bird"]
    path = write(tmp_path / "prompts.json", {"cifar10": content})
    with pytest.raises(ZhclipError, match="no prompts for the class 鸟 of cifar10"):
        prompts.localise(StandIn(english("cifar10")), "cifar10", "zh", path)
