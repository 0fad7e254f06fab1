"""`clip_benchmark eval` in Chinese on streams, with its own command line: shards it wrote itself, and its readers of
TensorFlow's data sets over stand-ins for those."""

from __future__ import annotations

import json
import shutil
import sys
import types

import pytest

from tests.support import tf_streams, wds_shards
from tests.support.wds_shards import SPOILED
from zhclip_openclip.datasets.digits import Digits

BAD = {0: [3, 99], 1: [100, 101, 199], 3: [340]}


@pytest.fixture
def evaluate(monkeypatch, tmp_path):
    """Run `clip_benchmark eval` in this process; returns the result file's content."""
    import clip_benchmark.cli as cli

    def run(*arguments, workers=0, model="zhclip-tiny", quiet=True):
        path = tmp_path / "result.json"
        words = ["--model", model, "--num_workers", str(workers), "--output", str(path), "--language", "zh"]
        words += ["--quiet"] if quiet else []
        monkeypatch.setattr(sys, "argv", ["clip_benchmark", "eval", *words, *map(str, arguments)])
        cli.main()
        return json.loads(path.read_text(encoding="utf-8"))

    return run


def refused(evaluate, *arguments, **kwargs) -> str:
    with pytest.raises(SystemExit) as error:
        evaluate(*arguments, **kwargs)
    message = str(error.value)
    assert message.startswith("clip_benchmark: error: ") and "\n" not in message
    return message


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The test digits in four shards."""
    from clip_benchmark.webdataset_builder import PIL_to_bytes, convert_dataset

    root = tmp_path_factory.mktemp("digits")
    digits = Digits("test")
    digits.templates = ["a handwritten digit {c}"]
    convert_dataset(
        digits, "test", str(root), transform=PIL_to_bytes("png"), image_format="png", max_count=100, verbose=False
    )
    return root


@pytest.fixture
def digits(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "digits")


def spoil(root, how):
    for shard, numbers in BAD.items():
        names = [f"s{number:07d}" for number in numbers]
        changes = {f"{name}.png": how and how[place % len(how)] for place, name in enumerate(names)}
        if how is None:  # the whole sample
            changes |= {f"{name}.cls": None for name in names}
        wds_shards.change(root / "test" / f"{shard}.tar", changes)


def test_shards_score_as_the_data_set_does(evaluate, digits):
    """Fewer shards than workers are no empty data set."""
    expected = evaluate("--dataset", "digits")["metrics"]
    for workers in (0, 2, 6):
        result = evaluate("--dataset", "wds/digits", "--dataset_root", digits, workers=workers)
        assert result["metrics"] == expected and "skipped_images" not in result
        assert result["english_classes"][3] == "3" and result["template_set"] == "zh"


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_unreadable_images_of_shards(evaluate, digits, tmp_path, workers):
    """Left out, the scores are those of the same shards without these samples."""
    without = shutil.copytree(digits, tmp_path / "without")
    spoil(without, None)
    spoil(digits, list(SPOILED.values()))
    arguments = ("--dataset", "wds/digits", "--dataset_root", digits, "--batch_size", "32")
    message = refused(evaluate, *arguments, workers=min(workers, 1))  # torch takes 5 s a worker to clear up behind it
    assert ".tar: image s0000" in message and "does not decode" in message and "--skip-bad-images" in message
    result = evaluate(*arguments, "--skip-bad-images", workers=workers)
    expected = evaluate("--dataset", "wds/digits", "--dataset_root", without, "--batch_size", "32", workers=workers)
    assert result["metrics"] == expected["metrics"]
    skipped = result["skipped_images"]
    assert skipped["count"] == 6
    assert [entry[:2] for entry in skipped["images"]] == [
        [f"s{number:07d}.png", str(digits / "test" / f"{shard}.tar")] for shard in BAD for number in BAD[shard]
    ]
    assert all(entry[2] for entry in skipped["images"])


def test_unreadable_images_are_named_when_the_features_come_from_a_cache(evaluate, digits, tmp_path, monkeypatch):
    monkeypatch.setenv("ZHCLIP_FEATURE_CACHE", str(tmp_path / "features"))
    spoil(digits, [SPOILED["truncated"]])
    arguments = ("--dataset", "wds/digits", "--dataset_root", digits, "--skip-bad-images")
    first, second = evaluate(*arguments), evaluate(*arguments)
    assert first["skipped_images"] == second["skipped_images"] and first["skipped_images"]["count"] == 6
    assert first["metrics"] == second["metrics"]


def test_shards_that_are_not_there_are_found_before_the_model(evaluate, digits, monkeypatch):
    import clip_benchmark.cli as cli

    monkeypatch.setattr(cli, "load_clip", lambda **kwargs: pytest.fail("the model was loaded"))
    arguments = ("--dataset", "wds/digits", "--dataset_root", digits)
    assert "val is missing, which should have the shards of wds/digits; --split is one of test" in refused(
        evaluate, *arguments, "--split", "val"
    )
    (digits / "test" / "2.tar").unlink()
    assert "2.tar: missing" in refused(evaluate, *arguments)
    (digits / "test" / "nshards.txt").write_text("0")
    assert "wds/digits, split test is empty" in refused(evaluate, *arguments)


def test_labels_and_empty_shards(evaluate, digits):
    arguments = ("--dataset", "wds/digits", "--dataset_root", digits)
    wds_shards.change(digits / "test" / "1.tar", {"s0000150.cls": lambda data: b"10"})
    message = refused(evaluate, *arguments)
    assert "sample s0000150 of" in message and "has the label 10, and there are 10 class names (0 to 9)" in message
    members = {f"s{number:07d}.{kind}": None for number in range(100, 200) for kind in ("png", "cls")}
    wds_shards.change(digits / "test" / "1.tar", members)
    (digits / "test" / "1.tar").rename(digits / "test" / "0.tar")
    (digits / "test" / "nshards.txt").write_text("1")
    assert "wds/digits, split test is empty" in refused(evaluate, *arguments)


CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def cifar10(monkeypatch):
    """`vtab/cifar10` and `tfds/cifar10` with the given samples."""

    def put(samples):
        import timm.data
        from timm.data.dataset import IterableImageDataset

        tf_streams.install(monkeypatch, CIFAR10)
        for name in ("task_adaptation", "task_adaptation.data", "task_adaptation.data.cifar"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules["task_adaptation.data.cifar"].CifarData = lambda **kwargs: tf_streams.VtabData(samples, CIFAR10)
        monkeypatch.setattr(
            timm.data,
            "create_dataset",
            lambda name, root, split, **kwargs: IterableImageDataset(
                root, reader=tf_streams.TimmReader(samples), split=split, **kwargs
            ),
        )

    return put


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["vtab/cifar10", "tfds/cifar10"])
def test_tensorflows_data_sets(evaluate, cifar10, name, workers):
    bad = [0, 7, 8, 20]
    labels = [number * 7 % 10 for number in range(40)]
    good = [sample for sample in tf_streams.samples(40, bad, labels) if not isinstance(sample, Exception)]
    cifar10(good)
    expected = evaluate("--dataset", name, workers=workers)
    assert expected["classnames"][2] == "鸟" and "skipped_images" not in expected
    cifar10(tf_streams.samples(40, bad, labels))
    result = evaluate("--dataset", name, "--skip-bad-images", workers=workers)
    assert result["metrics"] == expected["metrics"]
    assert result["skipped_images"]["count"] == 4


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("name", ["vtab/cifar10", "tfds/cifar10"])
def test_what_is_wrong_with_tensorflows_data_sets(evaluate, cifar10, name):
    cifar10(tf_streams.samples(40, [9]))
    message = refused(evaluate, "--dataset", name)
    assert f"{name}, split test: image number 9 does not decode (Unknown image file format. One of JPEG" in message
    cifar10(tf_streams.samples(4, labels=[0, 1, 10, 2]))
    assert "has the label 10, and there are 10 class names" in refused(evaluate, "--dataset", name)
    cifar10([])
    assert f"{name}, split test is empty" in refused(evaluate, "--dataset", name)


def test_names_of_the_users_own_for_elevaters_data(evaluate, tmp_path):
    from PIL import Image

    root = tmp_path / "cifar-10"
    for label in range(3):
        (root / "test" / str(label)).mkdir(parents=True)
        Image.new("RGB", (8, 8), (80 * label,) * 3).save(root / "test" / str(label) / "1.png")
    (root / "label_cn.txt").write_text("飞机\n汽车\n鸟\n", encoding="utf-8")
    names = tmp_path / "names.json"
    names.write_text('{"elevater/cifar-10": ["客机", "轿车", "小鸟"]}', encoding="utf-8")
    arguments = ("--dataset", "elevater/cifar-10", "--dataset_root", root, "--custom_template_file", "name")
    result = evaluate(*arguments, "--custom_classname_file", names)
    assert result["classnames"] == ["客机", "轿车", "小鸟"] and result["classname_source"] == str(names)
    assert evaluate(*arguments)["classnames"] == ["飞机", "汽车", "鸟"]
    names.write_text('{"elevater/cifar-10": ["客机"]}', encoding="utf-8")
    assert "has 1 class names, and elevater/cifar-10 has 3" in refused(
        evaluate, *arguments, "--custom_classname_file", names
    )


def test_shards_of_somebody_say_that_they_stay_as_they_are(evaluate, digits, capfd):
    """Chinese was asked for, and there are no Chinese names for them."""
    evaluate("--dataset", "wds/my-own", "--dataset_root", digits, quiet=False)
    note = "Note: there are no Chinese names for wds/my-own"
    assert note in capfd.readouterr().out
    evaluate("--dataset", "wds/my-own", "--dataset_root", digits, "--language", "en", quiet=False)
    assert note not in capfd.readouterr().out
    evaluate("--dataset", "wds/my-own", "--dataset_root", digits)
    assert capfd.readouterr().out == ""  # --quiet is quiet
