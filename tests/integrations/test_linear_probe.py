"""`clip_benchmark eval --task linear_probe` on a CPU: our classifiers from our cache, clip_benchmark's own protocol for
models that are not ours, probes in files, one line for what does not do."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import clip_benchmark.cli as cli
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tests.support import host_probe
from zhclip_openclip.datasets.digits import Digits
from zhclip_openclip.features.image_pass import ImagePass
from zhclip_openclip.integrations.clip_benchmark import probing
from zhclip_openclip.metrics.per_sample import load_per_sample
from zhclip_openclip.probes import load_probe, shots
from zhclip_openclip.report.build import build
from zhclip_openclip.report.views import markdown

DIGITS = [f"数字{sign}" for sign in "零一二三四五六七八九"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


def command(patch, folder, *words, language="zh"):
    """Run the command in `folder`; gives the result of the file that it wrote, and the file."""
    patch.chdir(folder)
    given = ["--model", "zhclip-tiny", "--dataset", "digits", "--language", language, "--no_amp", "--num_workers", "0"]
    task = [] if "--task" in words else ["--task", "linear_probe"]
    patch.setattr(sys, "argv", ["clip_benchmark", "eval", *given, *task, *map(str, words)])
    cli.main()
    path = max(folder.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    return json.loads(path.read_text(encoding="utf-8")), path


@pytest.fixture(scope="module")
def runs(cache, tmp_path_factory):
    """One folder of results, each as (result, file); and how many images each pass had and took from the cache."""
    folder, passes, through = tmp_path_factory.mktemp("results"), [], ImagePass.__iter__

    def counted(self):
        yield from through(self)
        passes.append((self.total, self.reused))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZHCLIP_FEATURE_CACHE", str(cache))
        patch.setattr(ImagePass, "__iter__", counted)
        saved = folder / "probes" / "{dataset}-{model}.safetensors"
        found = {
            "default": command(patch, folder, "--quiet", "--save-probe", saved),
            "few": command(patch, folder, "--quiet", "--fewshot_k", "4", "--seed", "3", "--probe-seeds", "4"),
            "adamw": command(patch, folder, "--quiet", "--fewshot_lr", "0.05", "--fewshot_epochs", "3", "--seed", "2"),
            "zero-shot": command(patch, folder, "--quiet", "--task", "auto"),
        }
    return SimpleNamespace(
        folder=folder, passes=passes, probe=folder / "probes/digits-zhclip-tiny.safetensors", **found
    )


@pytest.fixture
def probe(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("ZHCLIP_FEATURE_CACHE", str(cache))
    return lambda *words, **given: command(monkeypatch, tmp_path, *words, **given)


@pytest.fixture(scope="module")
def features(cache):
    """Unit features of both splits as clip_benchmark computes them, without the cache."""
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    found = {}
    for split in ("train", "test"):
        images, labels = zip(*Digits(split, transform), strict=True)
        with torch.no_grad():
            parts = [model.eval().encode_image(part) for part in torch.stack(images).split(64)]
        found[split] = torch.nn.functional.normalize(torch.cat(parts), dim=-1), torch.tensor(labels)
    return found


def test_the_default_is_logistic_regression_with_a_sweep(runs, features):
    result, path = runs.default
    assert path.name == "digits_digits_zhclip-tiny_zh_linear_probe.json"
    assert not (path.parent / "features").exists()  # the environment names another folder
    metrics, told = result["metrics"], result["probe"]
    (run,) = told["seeds"]
    (train, labels), (test, answers) = features["train"], features["test"]
    order = shots.choose(labels, -1, 0)
    reference = LogisticRegression(C=run["C"], max_iter=1000)
    reference.fit(train[order].double().numpy(), labels[order].numpy())
    # Features of batches of 64 and of 8 differ in their last digits.
    assert metrics["lp_acc1"] == pytest.approx(reference.score(test.double().numpy(), answers.numpy()), abs=1 / 360)
    assert 0.9 < metrics["lp_acc1"] <= metrics["lp_acc5"] <= 1 and run["converged"] and run["validation_accuracy"] > 0.9
    assert list(metrics["lp_per_class_accuracy"]) == result["classnames"] == DIGITS
    assert np.mean(list(metrics["lp_per_class_accuracy"].values())) == pytest.approx(
        metrics["lp_mean_per_class_recall"]
    )
    assert told["images"] == {"train": 1437, "test": 360} and len(set(told["fingerprints"].values())) == 2
    assert result["versions"]["scikit-learn"] and result["split"] == "test" and "std" not in told
    assert not {"template_set", "templates"} & set(result)
    answered = load_per_sample(path.parent / result["per_sample"])
    assert answered["meta"]["task"] == "linear_probe"
    assert np.mean(answered["predicted"] == answered["target"]) == pytest.approx(metrics["lp_acc1"])


def test_images_are_encoded_once_whatever_is_trained(runs):
    assert runs.passes[:2] == [(1437, 0), (360, 0)]
    assert runs.passes[2:] == [(1437, 1437), (360, 360)] * 2 + [(360, 360)]  # zero-shot too


def test_few_shots_over_seeds(runs, probe, capsys):
    result, path = runs.few
    assert path.name == "digits_digits_zhclip-tiny_zh_linear_probe_4-shot_seed-3.json"
    told, metrics = result["probe"], result["metrics"]
    assert [run["seed"] for run in told["seeds"]] == [3, 4, 5, 6]
    each = [run["lp_acc1"] for run in told["seeds"]]
    assert metrics["lp_acc1"] == pytest.approx(np.mean(each)) and len(set(each)) > 1
    assert told["std"]["lp_acc1"] == pytest.approx(np.std(each, ddof=1))
    assert metrics["fewshot_k"] == 4 and {run["train_images"] for run in told["seeds"]} == {40}
    assert "per_sample" not in result
    for run in told["seeds"]:
        answered = load_per_sample(path.parent / run["per_sample"])
        assert np.mean(answered["predicted"] == answered["target"]) == pytest.approx(run["lp_acc1"])
    capsys.readouterr()
    one = probe("--fewshot_k", "1")[0]["probe"]
    out = capsys.readouterr()
    assert len(one["seeds"]) == 3 and "Training probes of digits: 3, " in out.err
    assert f" ± {one['std']['lp_acc1']:.4f} over 3 seeds (C = 1, by none: one image a class)" in out.out


def test_adamw_is_clip_benchmarks_where_its_options_are_given(runs, features, tmp_path):
    result, path = runs.adamw
    theirs = host_probe.evaluate(host_probe.on_cpu(), tmp_path / "host", features, seed=2, lr=0.05, epochs=3)
    assert "adamw" in path.name and result["probe"]["classifier"] == "adamw"
    for key, value in theirs.items():
        assert result["metrics"][key] == pytest.approx(value, abs=1e-12), key
    logistic = {key for key in runs.default[0]["metrics"] if not key.startswith("lp_")}
    assert logistic == {"seed", "fewshot_k", "normalized"}  # nothing of AdamW's


def test_a_saved_probe_gives_its_figures_again(runs, probe, monkeypatch):
    file, first = runs.probe, runs.default[0]
    kept = load_probe(file)
    assert (kept.classes, kept.english) == (DIGITS, [str(number) for number in range(10)])
    told = {key: kept.about[key] for key in ("model", "pretrained", "dataset", "train_split", "classifier", "seed")}
    assert told == {
        "model": "zhclip-tiny", "pretrained": "digits", "dataset": "digits", "train_split": "train",
        "classifier": "logistic", "seed": 0,
    }  # fmt: skip
    assert (
        kept.about["fingerprint"] == first["probe"]["fingerprints"]["train"] and "Resize" in kept.about["preprocessing"]
    )
    monkeypatch.setattr("zhclip_openclip.probes.evaluate.train", None)
    again, path = probe("--quiet", "--load-probe", file)
    names = [key for key in first["metrics"] if key.startswith("lp_")]
    assert {key: again["metrics"][key] for key in names} == {key: first["metrics"][key] for key in names}
    assert again["probe"]["loaded"] == file.name and path.name.endswith("_probe-digits-zhclip-tiny.json")
    english, _ = probe("--quiet", "--load-probe", file, language="en")  # the same classes by their English names
    assert english["metrics"]["lp_acc1"] == first["metrics"]["lp_acc1"]
    with pytest.raises(SystemExit, match="was trained on the images of digits, split train; give a --split"):
        probe("--load-probe", file, "--split", "train")


def test_a_probe_of_another_models_features_is_refused(runs, probe, monkeypatch):
    import open_clip

    torch.manual_seed(0)
    other, _, transform = open_clip.create_model_and_transforms("zhclip-tiny")
    monkeypatch.setattr(open_clip, "create_model_and_transforms", lambda *given, **more: (other, None, transform))
    with pytest.raises(SystemExit) as error:
        probe("--load-probe", runs.probe)
    assert f"{runs.probe} is for features of zhclip-tiny (digits); zhclip-tiny (digits) gives others" in str(
        error.value
    )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--fewshot_k", "0"], "--fewshot_k 0: give the number of images of each class"),
        (["--fewshot_k", "200"], "digits, split train has fewer images of a class: 数字"),
        (["--train_split", "test"], "--train_split test: that split is the one that is tested"),
        (["--val_split", "test"], "--val_split test: that split is the one that is tested"),
        (["--val_split", "train"], "--val_split train: that split is the one that is trained on"),
        (["--train_split", "valid"], "it has train and test"),
        (["--val_proportion", "1.5"], "--val_proportion 1.5"),
        (["--probe", "logistic", "--fewshot_lr", "1"], "--fewshot_lr: of AdamW; add --probe adamw"),
        (["--fewshot_epochs", "0"], "--fewshot_epochs 0 train nothing"),
        (["--fewshot_lr", "nan"], "--fewshot_lr nan"),
        (["--probe-seeds", "0"], "--probe-seeds 0: give the number of times"),
        (["--skip_load"], "--skip_load: the feature cache knows features by what made them"),
        (["--normalize", ""], "--normalize: the features of --task linear_probe are unit features"),
        (["--load-probe", "nix.safetensors"], "nix.safetensors: cannot be read (No such file"),
        (["--load-probe", "x", "--fewshot_k", "3"], "--fewshot_k is of training"),
        (["--load-probe", "x", "--save-probe", "y"], "--save-probe is of training"),
        (["--save-probe", "{nix}.safetensors"], "--save-probe {nix}.safetensors"),
        (["--save-probe", "."], "--save-probe . is a folder"),
        (["--task", "auto", "--probe", "adamw"], "--probe is of linear probes; add --task linear_probe"),
    ],
)
def test_one_line_before_anything_is_encoded(probe, monkeypatch, words, told):
    monkeypatch.setattr(ImagePass, "__iter__", lambda self: (_ for _ in ()).throw(InterruptedError("encoded")))
    with pytest.raises(SystemExit) as error:
        probe(*words)
    message = str(error.value)
    assert message.startswith("clip_benchmark: error: ") and told in message and "\n" not in message


def test_where_features_are_kept_without_a_feature_cache(probe, monkeypatch):
    monkeypatch.delenv("ZHCLIP_FEATURE_CACHE")
    _, path = probe("--quiet")
    assert len(list((path.parent / "features").iterdir())) == 2  # where clip_benchmark keeps its own, by content
    assert probing._cache("") is None


def test_a_probe_has_rows_of_its_own_in_a_report(runs):
    made = build([runs.folder], resamples=100)
    assert not made.problems
    tables = {table.key: table for table in made.tables if table.key.startswith("digits")}
    assert set(tables) == {"digits", "digits linear_probe"}
    assert [column.metric for column in tables["digits linear_probe"].columns] == [
        *("lp_acc1", "lp_acc5", "lp_mean_per_class_recall")
    ]
    rows = {row.variant: row.cells["lp_acc1"] for row in tables["digits linear_probe"].rows}
    assert set(rows) == {"", "4 shots, 4 seeds", "AdamW"}
    assert {cell.published for cell in rows.values()} == {None} and {cell.verdict for cell in rows.values()} == {
        *("not published",)
    }
    assert rows[""].low <= rows[""].ours <= rows[""].high and rows["4 shots, 4 seeds"].low is None
    assert [row.variant for row in tables["digits"].rows if row.cells["acc1"].ours] == [""]
    assert [one.dataset for one in made.comparisons] == ["digits"]
    assert "Handwritten digits: linear probe" in markdown.render(made)


def test_shards(probe, tmp_path):
    """clip_benchmark batches the shards of the test split alone."""
    from clip_benchmark.webdataset_builder import PIL_to_bytes, convert_dataset

    from tests.support.wds_shards import Pictures

    for split, count in (("train", 30), ("test", 12)):
        how = {"transform": PIL_to_bytes("png"), "image_format": "png", "max_count": 8, "verbose": False}
        convert_dataset(Pictures(count, ["猫", "狗", "龙"]), split, str(tmp_path / "own"), **how)
    own = ("--quiet", "--dataset", "wds/own", "--dataset_root", tmp_path / "own")
    result, _ = probe(*own, "--fewshot_k", "2", "--save-probe", tmp_path / "p.safetensors")
    assert result["probe"]["images"] == {"train": 30, "test": 12} and len(result["probe"]["fingerprints"]) == 2
    assert list(result["metrics"]["lp_per_class_accuracy"]) == ["猫", "狗", "龙"]
    again, _ = probe(*own, "--load-probe", tmp_path / "p.safetensors")
    assert again["metrics"]["lp_acc1"] == result["probe"]["seeds"][0]["lp_acc1"]


# ---------------------------------------------------------------- models that are not ours


class Theirs(torch.nn.Module):
    """A model of somebody else's."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tower = torch.nn.Linear(64, 10)

    def encode_image(self, images):
        return self.tower(images)


@pytest.mark.parametrize(("shots", "validated"), [(-1, True), (3, False)])
def test_clip_benchmarks_own_protocol_on_a_cpu(tmp_path, monkeypatch, shots, validated):
    """What asserts CUDA as it stands: the same figures as its code with that taken out, and nothing more."""
    monkeypatch.delenv("ZHCLIP_FEATURE_CACHE", raising=False)
    model, random = Theirs(), torch.Generator().manual_seed(1)

    def loader(count):
        labels = torch.arange(count) % 6
        images = torch.randn(count, 64, generator=random) + 0.4 * torch.nn.functional.one_hot(labels, 64)
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), 32, pin_memory=True)

    loaders = {"train": loader(120), "val": loader(60) if validated else None, "test": loader(60)}
    splits = {}
    for name, one in loaders.items():
        if one is not None:
            images, labels = one.dataset.tensors
            splits[name] = torch.nn.functional.normalize(model.encode_image(images), dim=-1).detach(), labels
    theirs = host_probe.evaluate(host_probe.on_cpu(), tmp_path / "host", splits, fewshot_k=shots, epochs=2)
    ours = cli.linear_probe.evaluate(
        model, loaders["train"], loaders["test"], shots, 64, 0, 0.1, 2, "id", 0, "", "cpu",
        val_dataloader=loaders["val"], amp=False,
    )  # fmt: skip
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, abs=1e-12, nan_ok=True), key
    assert list(tmp_path.iterdir()) == [tmp_path / "host"]


def test_a_foreign_model_on_a_gpu_is_clip_benchmarks_own(monkeypatch):
    original = cli.linear_probe.evaluate.__zhclip_original__
    given = (Theirs(), [], [], 1, 64, 0, 0.1, 1, "id", 0, "", "cuda:0")
    with pytest.raises(AssertionError):
        original(*given)
    with pytest.raises(AssertionError):  # with its own mistakes
        probing.evaluate_probe(original)(*given)


def test_options_are_in_the_help(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["clip_benchmark", "eval", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().out
    assert all(
        option in said for option in ("--probe {logistic,adamw}", "--probe-seeds", "--save-probe", "--load-probe")
    )
