"""The class names of the large datasets: cars, fgvc_aircraft, sun397, country211, objectnet.

The English half of a pair is what the dataset object has in `.classes` under clip_benchmark, or every accuracy is
nonsense. Neither torchvision nor clip_benchmark holds four of the five lists as a constant, they read them from files
that come with the images; `english/` keeps these files' contents:

cars.txt           `class_names` of cars_meta.mat, one a line: STANFORDCARS_CATEGORIES of mmpretrain 1.2.0
                   (datasets/categories.py), equal to the list in tensorflow_datasets 4.9.10 (cars196.py).
fgvc_aircraft.txt  variants.txt: FGVCAIRCRAFT_CATEGORIES of mmpretrain 1.2.0, equal to pseudope/fomo_in_flux,
                   data_lib/00_info/FGVCAircraft_classnames.json.
sun397.txt         ClassName.txt: sun397_labels.txt of tensorflow_datasets 4.9.10, equal to SUN397_CATEGORIES of
                   mmpretrain 1.2.0. (data/prompts.md of openai/CLIP sorts by the readable form, which puts
                   "jail cell" before "jail indoor"; ClassName.txt, and so torchvision, has "jail indoor" first.)
objectnet.txt      folder and label of the 113 classes, from folder_to_objectnet_label.json, in the order of
                   objectnet_to_imagenet_1k.json: src/datasets/objectnet_metadata of mlfoundations/wise-ft, the code
                   that clip_benchmark's objectnet.py is adapted from.

country211 is a constant, in clip_benchmark's en_classnames.json.
"""

import importlib.util
import json
import re
import warnings
from pathlib import Path

import pytest

ENGLISH = Path(__file__).parent / "english"
CLASSNAMES = Path(__file__).parents[2] / "src" / "zhclip_openclip" / "data" / "classnames"

SIZES = {"cars": 196, "fgvc_aircraft": 100, "sun397": 397, "country211": 211, "objectnet": 113}
CJK = re.compile("[\u4e00-\u9fff]")


def read(dataset):
    return json.loads((CLASSNAMES / f"{dataset}.json").read_text(encoding="utf-8"))


def english(dataset):
    return [en for en, *_ in read(dataset)["classes"]]


def chinese(dataset):
    return [zh for _, zh, *_ in read(dataset)["classes"]]


def facts(dataset):
    return (ENGLISH / f"{dataset}.txt").read_text(encoding="utf-8").splitlines()


def built(dataset, root):
    """The classes of the dataset that clip_benchmark builds from the files under `root`."""
    datasets = pytest.importorskip("clip_benchmark.datasets.builder")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sun397 has no splits, and says so
        return list(datasets.build_dataset(dataset, root=str(root), split="test", download=False).classes)


@pytest.mark.parametrize("dataset", SIZES)
def test_file_is_about_its_dataset(dataset):
    content = read(dataset)
    assert content["dataset"] == dataset
    assert content["english"]
    assert set(content) <= {"dataset", "english", "notes", "contained", "alike", "classes"}
    assert len(content["classes"]) == SIZES[dataset]


@pytest.mark.parametrize("dataset", SIZES)
def test_one_pair_a_line(dataset):
    lines = (CLASSNAMES / f"{dataset}.json").read_text(encoding="utf-8").partition('"classes"')[2].splitlines()
    assert sum(line.startswith('    ["') for line in lines) == SIZES[dataset]


@pytest.mark.parametrize("dataset", SIZES)
def test_chinese_names(dataset):
    names = chinese(dataset)
    assert all(name == name.strip() and CJK.search(name) for name in names)
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


@pytest.mark.parametrize("dataset", SIZES)
def test_no_space_between_chinese_and_latin(dataset):
    assert [name for name in chinese(dataset) if re.search("[\u4e00-\u9fff] | [\u4e00-\u9fff]", name)] == []


@pytest.mark.parametrize("dataset", ["cars", "fgvc_aircraft"])
def test_numbers_of_a_model_survive(dataset):
    """Years and type numbers tell these classes apart: those of the English name are in the Chinese one."""
    lost = [
        (en, zh)
        for en, zh, *_ in read(dataset)["classes"]
        if not set(re.findall(r"\d+", en)) <= set(re.findall(r"\d+", zh))
    ]
    assert lost == []


@pytest.mark.parametrize("dataset", ["cars", "fgvc_aircraft"])
def test_english_is_the_list_of_the_dataset(dataset):
    assert english(dataset) == facts(dataset)


def test_english_of_country211():
    package = importlib.util.find_spec("clip_benchmark")
    if package is None:
        pytest.skip("clip_benchmark is not installed")
    constants = Path(package.submodule_search_locations[0]) / "datasets" / "en_classnames.json"
    assert english("country211") == json.loads(constants.read_text(encoding="utf-8"))["country211"]


def test_english_of_sun397():
    names = [line[3:].replace("_", " ").replace("/", " ") for line in facts("sun397")]
    assert english("sun397") == names


def test_english_of_objectnet():
    folders = dict(line.split("\t") for line in facts("objectnet"))
    assert english("objectnet") == [folders[folder].lower() for folder in sorted(folders)]


def test_clip_benchmark_builds_cars_with_these_classes(tmp_path):
    numpy = pytest.importorskip("numpy")
    scipy_io = pytest.importorskip("scipy.io")
    cars = tmp_path / "stanford_cars"
    (cars / "devkit").mkdir(parents=True)
    (cars / "cars_test").mkdir()
    names = numpy.array(facts("cars"), dtype=object)
    scipy_io.savemat(cars / "devkit" / "cars_meta.mat", {"class_names": names})
    images = numpy.array([("1.jpg", 1), ("2.jpg", 2)], dtype=[("fname", object), ("class", object)])
    scipy_io.savemat(cars / "cars_test_annos_withlabels.mat", {"annotations": images})
    assert built("cars", tmp_path) == english("cars")


def test_clip_benchmark_builds_fgvc_aircraft_with_these_classes(tmp_path):
    data = tmp_path / "fgvc-aircraft-2013b" / "data"
    data.mkdir(parents=True)
    (data / "variants.txt").write_bytes((ENGLISH / "fgvc_aircraft.txt").read_bytes())
    (data / "images_variant_test.txt").write_text("")
    assert built("fgvc_aircraft", tmp_path) == english("fgvc_aircraft")


def test_clip_benchmark_builds_sun397_with_these_classes(tmp_path):
    (tmp_path / "SUN397").mkdir()
    (tmp_path / "SUN397" / "ClassName.txt").write_bytes((ENGLISH / "sun397.txt").read_bytes())
    assert built("sun397", tmp_path) == english("sun397")


def test_clip_benchmark_builds_objectnet_with_these_classes(tmp_path):
    """Its 313 folders include some that ImageNet lacks: two of them stand here for all."""
    folders = dict(line.split("\t") for line in facts("objectnet"))
    others = {"bike_pump": "Bike pump", "squeegee": "Squeegee"}
    imagenet = [f"class {i}" for i in range(len(folders))]
    files = {
        "folder_to_objectnet_label.json": folders | others,
        "objectnet_to_imagenet_1k.json": dict(zip(folders.values(), imagenet, strict=True)),
        "pytorch_to_imagenet_2012_id.json": {str(i): i for i in range(len(folders))},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "imagenet_to_label_2012_v2").write_text("\n".join(imagenet))
    for folder in folders | others:
        images = tmp_path / "objectnet-1.0" / "images" / folder
        images.mkdir(parents=True)
        (images / "1.png").touch()
    assert built("objectnet", tmp_path) == english("objectnet")
