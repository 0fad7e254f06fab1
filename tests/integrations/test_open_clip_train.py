"""open_clip_train as it is installed, with a model of ours that really trains on a folder of Chinese-CLIP's files."""

from __future__ import annotations

import inspect
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from open_clip.timm_model import TimmModel
from open_clip_train import data as host_data
from open_clip_train import main as host_main
from open_clip_train import train as host_train
from open_clip_train import zero_shot as host_zero_shot
from open_clip_train.params import parse_args
from torch.utils.data import DataLoader
from torchvision.transforms import RandomResizedCrop

from tests.support.digit_files import write_digits
from tests.support.processes import torchrun
from zhclip_openclip.datasets.digits import Digits
from zhclip_openclip.integrations._patching import APPLIED
from zhclip_openclip.integrations.open_clip_train import data, loss, validation
from zhclip_openclip.metrics.evaluate import evaluate
from zhclip_openclip.training import MultiPositiveLoss, Pairs, TrainingError
from zhclip_openclip.training.sources import open_sets

ORIGINAL = "__zhclip_original__"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """32 pictures to train on and 40 others to be judged on, two captions a digit."""
    return write_digits(tmp_path_factory.mktemp("own") / "DIGITS", {"train": range(32), "valid": range(40)})


def weights(run: Path, name: str = "epoch_1.pt") -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / name, weights_only=True)["state_dict"]


def changed(run: Path, start: str = "digits") -> set[str]:
    """Names of the weights that training has changed."""
    before = open_clip.create_model("zhclip-tiny", pretrained=start).state_dict()
    return {name for name, value in weights(run).items() if not torch.equal(value, before[name])}


# ---------------------------------------------------------------- what is not ours


def test_the_table_is_in_place():
    replaced = {f"{patch.module}.{patch.name}" for patch in APPLIED if patch.module.startswith("open_clip_train")}
    assert replaced == {
        "open_clip_train.params.parse_args",
        "open_clip_train.data.get_dataset_fn",
        "open_clip_train.data.get_csv_dataset",
        "open_clip_train.data.get_data",
        "open_clip_train.zero_shot.build_zero_shot_classifier",
        "open_clip_train.train.train_one_epoch",
        "open_clip_train.train.evaluate",
        "open_clip_train.train.get_clip_metrics",
    }
    assert host_main.train_one_epoch is host_train.train_one_epoch and hasattr(host_main.evaluate, ORIGINAL)
    assert hasattr(host_main.get_data, ORIGINAL) and hasattr(host_main.parse_args, ORIGINAL)


def test_what_it_reads_today_is_read_as_ever(tmp_path):
    ours, theirs = host_data.get_dataset_fn, getattr(host_data.get_dataset_fn, ORIGINAL)
    cases = [("x.csv", "auto"), ("x.tsv", "auto"), ("{0..9}.tar", "auto"), (None, "synthetic")]
    for path, kind in [*cases, (str(tmp_path), "csv"), (str(tmp_path), "webdataset")]:
        assert ours(path, kind) is theirs(path, kind)
    for path, kind in (("x.foo", "auto"), ("x.csv", "foo")):
        told = []
        for function in (ours, theirs):
            with pytest.raises(ValueError) as error:
                function(path, kind)
            told.append(str(error.value))
        assert told[0] == told[1]


def test_options_are_those_of_the_host():
    given = ["--model", "ViT-B-32", "--train-data", "x.csv", "--lr", "1e-3"]
    assert vars(parse_args(given)) == vars(getattr(parse_args, ORIGINAL)(given))
    ours = parse_args([*given, "--plain-loss", "--image-folder", "pictures"])
    assert {key: value for key, value in vars(ours).items() if key not in vars(parse_args(given))} == {
        "plain_loss": True,
        "image_folder": "pictures",
    }
    with pytest.raises(SystemExit):
        parse_args([*given, "--plain-los"])


def test_data_that_is_not_ours_goes_its_own_way():
    """The same objects reach the host's functions, and what they give comes back."""
    seen = []

    def epoch(model, data, loss, epoch, optimizer, scaler, scheduler, dist_model, args, tb_writer=None):
        seen.append((model, data, loss))
        return "done"

    given = ["model", {"train": SimpleNamespace(dataloader=DataLoader([1]))}, "loss", 0, *[None] * 4, Namespace()]
    assert loss.train_one_epoch(epoch)(*given) == "done" and seen == [tuple(given[:3])]

    def metrics(image_features, text_features, logit_scale):
        return image_features, text_features, logit_scale

    assert validation.get_clip_metrics(metrics)(1, 2, 3) == (1, 2, 3)
    transforms = (object(), object())
    assert data.training_images(Namespace(model="ViT-B-32", aug_cfg={}), transforms) is transforms
    classifier = validation.build_zero_shot_classifier(lambda *given, **named: (given, named))
    assert classifier("model", "tokenizer", ["cat"], ["{}"], device="cpu") == (
        ("model", "tokenizer", ["cat"], ["{}"]),
        {"device": "cpu"},
    )


@pytest.mark.slow
def test_a_run_without_anything_of_ours_is_the_same_with_the_plugin(tmp_path):
    """Two steps of a model of open_clip on a CSV, with and without the plugin: the same weights, bit by bit."""
    rows = ["filepath\ttitle"]
    for number in range(4):
        path = tmp_path / f"{number}.png"
        Digits("train")[number][0].save(path)
        rows.append(f"{path}\tdigit {number}")
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    for name, load in (("with", "1"), ("without", "0")):
        options = "--model ViT-S-32-alt --train-data table.csv --batch-size 2 --epochs 1 --workers 0 --warmup 1"
        options += " --device cpu --precision fp32"
        done = subprocess.run(
            [sys.executable, "-m", "open_clip_train.main", *options.split(), "--name", name],
            cwd=tmp_path,
            env={**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": load, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    one, other = (weights(tmp_path / "logs" / name) for name in ("with", "without"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    given = [(tmp_path / "logs" / name / "params.txt").read_text() for name in ("with", "without")]
    assert [line for line in given[0].splitlines() if "name" not in line and "path" not in line] == [
        line for line in given[1].splitlines() if "name" not in line and "path" not in line
    ]


# ---------------------------------------------------------------- train, evaluate


def test_train_evaluate_and_evaluate_again(train, digits, caplog):
    """What the log says while it trains is what the checkpoint is worth afterwards, to the last digit."""
    caplog.set_level(logging.INFO)
    run, rows = train("--train-data", digits, "--val-data", digits, "--epochs", 1, "--precision", "fp32")
    assert "DIGITS, train: 32 images, 20 texts, from Chinese-CLIP TSV" in caplog.text
    assert "No image and no text comes twice in a batch" in caplog.text or "Batches are drawn at random" in caplog.text
    assert changed(run) > {"logit_scale", "visual.head.proj.weight"} or len(changed(run)) > 10
    model, _, transform = open_clip.create_model_and_transforms(
        "zhclip-tiny", pretrained=str(run / "checkpoints/epoch_1.pt")
    )
    (dataset,) = open_sets(str(digits), train=False)
    dataset.transform = transform
    model.eval()
    loader = DataLoader(
        dataset, 16, collate_fn=lambda batch: (torch.stack([b[0] for b in batch]), [b[1] for b in batch])
    )
    wanted = evaluate(model, loader, open_clip.get_tokenizer("zhclip-tiny"), "cpu", amp=False)
    (told,) = rows
    assert {key: told[key] for key in wanted} == wanted
    assert not any("_to_" in key for key in told), "nothing of the host's own recall is left to be mistaken for it"


def test_64_digits_with_ten_captions(train, tmp_path, digits):
    """The host's own metric says 0.156 of a model that is nearly always right."""
    folder = write_digits(tmp_path / "TEN", {"valid": range(64)}, captions=1)
    _, ((row),) = train("--val-data", folder, "--pretrained", "digits", "--precision", "fp32")
    assert row["image_retrieval_recall@1"] == 1.0 and row["text_retrieval_recall@1"] > 0.95
    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    (dataset,) = open_sets(str(folder), train=False)
    dataset.transform = transform
    model.eval()
    with torch.no_grad():
        images = model.encode_image(torch.stack([dataset[k][0] for k in range(64)]), normalize=True)
        captions = [dataset.captions(k)[0] for k in range(64)]
        texts = model.encode_text(open_clip.get_tokenizer("zhclip-tiny")(captions), normalize=True)
    theirs = getattr(host_train.get_clip_metrics, ORIGINAL)(images, texts, torch.tensor(100.0))
    assert theirs["image_to_text_R@1"] < 0.25


def test_each_image_and_each_text_is_encoded_once(digits):
    (dataset,) = open_sets(str(digits), train=False)
    images, texts = validation.one_to_one(dataset.image_to_texts)
    assert len(set(images)) == len(images) == len(set(texts)) == len(texts) == 20
    assert all(image in dataset.text_to_images[text] for image, text in zip(images, texts, strict=True))
    assert validation.one_to_one([[0], [0], [], [0, 1]]) == ([0, 3], [0, 1])


def test_features_that_are_no_numbers_do_not_end_the_run(digits, caplog):
    (dataset,) = open_sets(str(digits), train=False)
    model = open_clip.create_model("zhclip-tiny", pretrained="digits").eval()
    transform = open_clip.image_transform(64, is_train=False)
    running = validation.ValidationData(dataset, transform, open_clip.get_tokenizer("zhclip-tiny"), 16, 0, False)
    args = Namespace(device="cpu", precision="fp32")
    broken = torch.full((20, 64), float("nan"))

    def inside(task, data, epoch, args):
        return host_train.get_clip_metrics(broken, [broken[:10], broken[10:]], 1.0)

    told = validation.evaluate(inside)(model, {"val": SimpleNamespace(dataloader=running)}, 1, args)
    assert told == {} and "not finite" in caplog.text


SWITCHES = {
    "plain": "--plain-loss --plain-batches",
    "lock text": "--lock-text",
    "lock text but one layer": "--lock-text --lock-text-unlocked-layers 1",
    "lock image": "--lock-image",
    "lock image but one group": "--lock-image --lock-image-unlocked-groups 1",
    "checkpointing": "--grad-checkpointing",
    "accumulation": "--accum-freq 2",
    "siglip": "--siglip",
    "siglip, accumulation": "--siglip --accum-freq 2",
    "bf16 mixed": "--precision amp_bf16",
    "bf16": "--precision pure_bf16",
    "distillation": "--distill-model zhclip-tiny --distill-pretrained digits",
    "patch dropout": "--force-patch-dropout 0.5",
    "image size": "--force-image-size 32",
    "context length": "--force-context-length 24",
    "most recent": "--save-most-recent",
    "local loss": "--local-loss --gather-with-grad",
    "workers": "--workers 2",
    "augmentation": "--chinese-clip-augment",
    "timm's optimizer": "--opt timm/sgd --momentum 0.9",
    "constant rate": "--lr-scheduler const",
    "clipped": "--grad-clip-norm 1.0",
}
#: Whether weights of the two towers change, where not both do.
LOCKED = {"lock text": "text.transformer", "lock image": "visual.trunk"}


@pytest.mark.parametrize("switch", SWITCHES)
def test_switches_of_the_host(switch, train, digits):
    run, (row,) = train(
        *("--pretrained", "digits", "--train-data", digits, "--val-data", digits, "--epochs", 1, "--precision", "fp32"),
        *SWITCHES[switch].split(),
    )
    assert 0.5 < row["image_retrieval_recall@1"] <= 1.0 or switch == "image size"
    if switch in ("image size", "context length", "siglip", "siglip, accumulation", "bf16"):
        assert all(value.isfinite().all() for value in weights(run).values())
        assert ("logit_bias" in weights(run)) == switch.startswith("siglip")
        return
    towers = {name.split(".")[0] for name in changed(run)}
    # norms of a locked text tower learn unless --lock-text-freeze-layer-norm is given
    locked = {name for name in changed(run) if name.startswith(LOCKED.get(switch, "-")) and "LayerNorm" not in name}
    # open_clip 4 counts the head of a timm tower to what --lock-image locks, version 3 does not
    whole = switch == "lock image" and hasattr(TimmModel, "layer_groups")
    assert not locked and towers >= ({"text"} if whole else {"visual", "text"})
    assert not (whole and "visual" in towers)


@pytest.mark.slow
def test_compiled(train, digits):
    options = (
        "--pretrained",
        "digits",
        "--train-data",
        digits,
        "--val-data",
        digits,
        "--epochs",
        1,
        "--precision",
        "fp32",
    )
    run, (row,) = train(*options, "--torchcompile")
    assert row["image_retrieval_recall@1"] > 0.5
    assert {name.split(".")[0] for name in changed(run)} >= {"visual", "text"}


def test_tensorboard_and_the_log_get_the_same(digits, tmp_path):
    """Through the host's own `evaluate`, which writes what the metrics hold."""
    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits", output_dict=True)
    (dataset,) = open_sets(str(digits), train=False)
    loader = validation.ValidationData(dataset, transform, open_clip.get_tokenizer("zhclip-tiny"), 16, 0, False)
    args = parse_args(["--device", "cpu", "--precision", "fp32"])
    vars(args).update(rank=0, distributed=False, save_logs=True, wandb=False, checkpoint_path=str(tmp_path))
    scalars = {}
    writer = SimpleNamespace(add_scalar=lambda name, value, step: scalars.update({name: value}))
    if hasattr(open_clip.factory, "create_task"):
        vars(args).update(world_size=1, distill=False)
        loader = validation.ValidationData(dataset, transform, loader.tokenizer, 16, 0, True)
        model = open_clip.factory.create_task(args, model=model)
    told = host_train.evaluate(model, {"val": SimpleNamespace(dataloader=loader)}, 1, args, tb_writer=writer)
    assert scalars == {f"val/{name}": value for name, value in told.items()}
    assert told == json.loads((tmp_path / "results.jsonl").read_text())
    assert {"image_retrieval_mean_recall", "text_retrieval_recall@1", "clip_val_loss", "num_samples"} <= told.keys()


@pytest.mark.parametrize("size", [["--force-image-size", "32"], ["--force-context-length", "24"]])
@pytest.mark.parametrize("alone", [False, True])
def test_a_checkpoint_of_another_size_is_evaluated_without_being_told(size, alone, train, digits, tmp_path):
    run, (row,) = train(
        "--pretrained",
        "digits",
        "--train-data",
        digits,
        "--val-data",
        digits,
        "--epochs",
        1,
        "--precision",
        "fp32",
        *size,
    )
    checkpoint = run / "checkpoints" / "epoch_1.pt"
    held = weights(run)["visual.trunk.pos_embed"]
    if alone:
        checkpoint = Path(shutil.move(checkpoint, tmp_path / "mine.pt"))
    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained=str(checkpoint))
    (dataset,) = open_sets(str(digits), train=False)
    dataset.transform = transform
    model.eval()
    loader = DataLoader(
        dataset, 16, collate_fn=lambda batch: (torch.stack([b[0] for b in batch]), [b[1] for b in batch])
    )
    tokenizer = open_clip.get_tokenizer("zhclip-tiny", pretrained=str(checkpoint))
    found = evaluate(model, loader, tokenizer, "cpu", amp=False)
    assert {key: row[key] for key in found} == found
    assert torch.equal(model.visual.trunk.pos_embed, held)
    if "--force-image-size" in size:  # said all the same, it is not interpolated there and back
        told = open_clip.create_model("zhclip-tiny", pretrained=str(checkpoint), force_image_size=32)
        assert torch.equal(told.visual.trunk.pos_embed, held)
        larger = open_clip.create_model("zhclip-tiny", pretrained=str(checkpoint), force_image_size=48)
        assert larger.visual.trunk.pos_embed.shape[1] == 10


def test_going_on_after_a_kill(train, digits, monkeypatch):
    """The epochs after `--resume latest` have the batches that they would have had."""
    seen: dict[str, list] = {}
    right = MultiPositiveLoss._right

    def noticed(self, n, device):
        seen.setdefault(current[0], []).append(self._ids().tolist())
        return right(self, n, device)

    monkeypatch.setattr(MultiPositiveLoss, "_right", noticed)
    current = ["whole"]
    options = ("--pretrained", "digits", "--train-data", digits, "--precision", "fp32")
    train(*options, "--epochs", 2, name="whole")
    current[0] = "first"
    train(*options, "--epochs", 1, name="killed")
    current[0] = "second"
    train(*options, "--epochs", 2, "--resume", "latest", name="killed")
    assert seen["whole"] == seen["first"] + seen["second"] and seen["first"] != seen["second"]


def test_two_processes(tmp_path, digits):
    """Under torchrun each has its part of every batch, one of them tells and scores, and the checkpoint is as ever."""
    options = (
        "--model zhclip-tiny --pretrained digits --device cpu --dist-backend gloo --workers 0 --warmup 2 --lr 1e-4"
    )
    options += f" --train-data {digits} --val-data {digits} --batch-size 8 --epochs 1 --precision fp32"
    options += " --local-loss --gather-with-grad --name two"
    script = Path(__file__).parents[1] / "support" / "cpu_ranks.py"
    done = torchrun(2, script, *options.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("DIGITS, train: 32 images") == 1, "one of them tells"
    run = tmp_path / "logs" / "two"
    row = json.loads((run / "checkpoints" / "results.jsonl").read_text())
    assert row["image_retrieval_recall@1"] > 0.5
    model = open_clip.create_model("zhclip-tiny", pretrained=str(run / "checkpoints" / "epoch_1.pt"))
    assert model.zhclip_model == "zhclip-tiny"


# ---------------------------------------------------------------- images


def transforms(model: str, **options):
    args = {"model": model, "aug_cfg": {}, "image_resize_mode": None, **options}
    made = open_clip.image_transform(64, True), open_clip.image_transform(64, False, resize_mode="squash")
    return data.training_images(Namespace(**args), made), made


def test_chinese_clip_squashes_in_training_too():
    (train, val), (crop, squash) = transforms("cnclip-vit-b-16")
    assert train is squash and val is squash
    for options in ({"aug_cfg": {"scale": (0.5, 1.0)}}, {"image_resize_mode": "shortest"}):
        (train, _), (crop, _) = transforms("cnclip-vit-b-16", **options)
        assert train is crop and isinstance(train.transforms[0], RandomResizedCrop)
    (train, _), (crop, _) = transforms("zhclip-tiny")
    assert train is crop, "of this family nothing else is known"


def test_chinese_clip_augmentation_is_its_own():
    """Step by step the transform of cn_clip's own data set with use_augment."""
    LMDBDataset = pytest.importorskip("cn_clip.training.data").LMDBDataset
    theirs = LMDBDataset._build_transform(SimpleNamespace(split="train", use_augment=True), 64)
    (train, _), _ = transforms("cnclip-vit-b-16", chinese_clip_augment=True)
    # theirs converts to RGB after the policy, of pictures that are RGB already in all sets of its authors
    assert [repr(step) for step in train.transforms[1:]] == [
        repr(step) for step in theirs.transforms if "_convert_to_rgb" not in repr(step)
    ]
    with pytest.raises(TrainingError, match="give one of them"):
        transforms("cnclip-vit-b-16", chinese_clip_augment=True, aug_cfg={"scale": (0.9, 1.0)})
    with pytest.raises(TrainingError, match="ViT-B-32 is none"):
        transforms("ViT-B-32", chinese_clip_augment=True)


# ---------------------------------------------------------------- ImageNet


def test_imagenet_in_chinese():
    names, templates = validation.chinese_imagenet(open_clip.IMAGENET_CLASSNAMES)
    assert len(names) == 1000 and names[1] == "金鱼"
    assert all("金鱼" in template("金鱼") and "{" not in template("金鱼") for template in templates)
    given = []
    original = inspect.signature(getattr(host_zero_shot.build_zero_shot_classifier, ORIGINAL))

    def classifier(model, tokenizer, classnames, templates, *args, **kwargs):
        original.bind(model, tokenizer, classnames, templates, *args, **kwargs)
        given.append((classnames, templates))

    ours = SimpleNamespace(module=SimpleNamespace(zhclip_model="zhclip-tiny"))
    patched = validation.build_zero_shot_classifier(classifier)
    patched(ours, None, classnames=open_clip.IMAGENET_CLASSNAMES, templates=open_clip.OPENAI_IMAGENET_TEMPLATES)
    assert given[0][0] == names


# ---------------------------------------------------------------- mistakes


@pytest.fixture
def table(tmp_path):
    """Writes a CSV of two pictures; gives its path and the arguments of a run with it."""
    picture = tmp_path / "0.png"
    Digits("train")[0][0].save(picture)

    def table(rows: list[list[str]], separator: str = "\t", encoding: str = "utf-8", **options):
        path = tmp_path / "table.csv"
        path.write_bytes(
            "".join(separator.join(row) + "\n" for row in rows).replace("@", str(picture)).encode(encoding)
        )
        words = ["--model", "zhclip-tiny", "--train-data", str(path)]
        return path, parse_args([*words, *(word for pair in options.items() for word in pair)])

    return table


HEAD, ROWS = ["filepath", "title"], [["@", "数字三"], ["@", "数字四"]]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([HEAD, *ROWS], {"separator": ","}, r"the columns are filepath, title, .*: give --csv-separator ','$"),
        (
            [["filepath", "caption"], *ROWS],
            {},
            r"columns are filepath, caption, .*: give --csv-caption-key with the name",
        ),
        (
            [["图片", "标题"], *ROWS],
            {"separator": ";"},
            "--csv-separator ';', --csv-img-key with .*, --csv-caption-key with",
        ),
        ([HEAD, *ROWS], {"encoding": "gb18030"}, "not UTF-8 but GB18030, as Excel writes it: iconv -f GB18030"),
        ([HEAD, *ROWS], {"encoding": "utf-16"}, "not UTF-8 but UTF-16"),
    ],
)
def test_a_csv_that_pandas_does_not_understand(rows, options, message, table):
    path, args = table(rows, **options)
    args.batch_size, args.distributed, args.workers = 1, False, 0
    with pytest.raises(TrainingError, match=message) as told:
        host_data.get_csv_dataset(args, None, True, tokenizer=None)
    assert str(path) in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_that_it_does_understand(encoding, table):
    _, args = table([HEAD, *ROWS], encoding=encoding)
    args.batch_size, args.distributed, args.workers = 1, False, 0
    made = host_data.get_csv_dataset(args, lambda image: image, True, tokenizer=lambda texts: texts)
    assert list(made.dataloader.dataset.captions) == ["数字三", "数字四"]


def test_a_csv_with_something_else_wrong_keeps_the_hosts_error(table, tmp_path):
    _, args = table([HEAD, *ROWS])
    args.train_data = str(tmp_path / "absent.csv")
    args.batch_size, args.distributed, args.workers = 1, False, 0
    with pytest.raises(FileNotFoundError):
        host_data.get_csv_dataset(args, None, True, tokenizer=None)


def spoil(folder: Path, how: str) -> list[str]:
    """A set with something wrong in it, and the options of the run."""
    write_digits(folder, {"train": range(32), "valid": range(12)})
    texts = folder / "train_texts.jsonl"
    if how == "equal captions":
        lines = [{**json.loads(line), "text": "数字"} for line in texts.read_text("utf-8").splitlines()]
        texts.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    elif how == "another language":
        lines = [{**json.loads(line), "text": f"Ein Bild der {k}. Zahl"} for k, line in enumerate(texts.open())]
        texts.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    elif how == "no picture":
        table = folder / "train_imgs.tsv"
        rows = table.read_text().splitlines()
        rows[4] = rows[4].split("\t")[0] + "\tAAAA"
        table.write_text("\n".join(rows) + "\n")
    elif how == "two to be judged on":
        return ["--val-data", f"{folder}::{folder}"]
    elif how == "fewer than a batch":
        return ["--train-data", str(folder), "--accum-freq", "5"]
    elif how == "factors":
        return ["--train-data", str(folder), "--train-data-upsampling-factors", "1::two"]
    elif how == "no split":
        return ["--train-data", f"{folder}:trian"]
    return ["--train-data", str(folder)]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("equal captions", "all 64 captions read '数字': there is nothing to tell apart"),
        ("another language", "knows .* of the words of its texts .* another language than the model's"),
        ("two to be judged on", "one set at a time is scored"),
        ("fewer than a batch", "64 pairs are fewer than one batch of 80 .*: make --batch-size or --accum-freq smaller"),
        ("factors", "--train-data-upsampling-factors 1::two: numbers are needed"),
        ("no split", "no split trian here; there is train, valid"),
    ],
)
def test_mistakes_before_the_first_step(how, message, train, tmp_path):
    with pytest.raises(RuntimeError, match=message) as told:
        train(*spoil(tmp_path / "own", how), "--epochs", 1)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_does_not_decode(workers, train, tmp_path, caplog):
    """Named with file and line, by one line, whoever reads it; or left out and counted."""
    caplog.set_level(logging.INFO)
    options = [*spoil(tmp_path / "own", "no picture"), "--epochs", 1, "--workers", workers, "--pretrained", "digits"]
    with pytest.raises(RuntimeError, match="train_imgs.tsv:5: image 9004 does not decode") as told:
        train(*options)
    assert "\n" not in str(told.value)
    train(*options, "--skip-bad-images", name="left out")
    assert "31 images, 20 texts, from Chinese-CLIP TSV; 1 left out" in caplog.text


def test_an_english_tokenizer_is_told_of(caplog):
    (dataset,) = open_sets("digits-retrieval", train=True)
    data._check_texts([dataset], open_clip.SimpleTokenizer(), "digits-retrieval", logging.info)
    assert "CLIP's English one" in caplog.text


def test_the_command_ends_with_one_line(tmp_path, digits):
    words = f"--model zhclip-tiny --train-data {digits}:trian --device cpu --workers 0 --name x"
    done = subprocess.run(
        [sys.executable, "-m", "open_clip_train.main", *words.split()], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "zhclip-openclip: " in done.stderr and "no split trian here; there is train, valid" in done.stderr


# ---------------------------------------------------------------- workers, other versions


def test_spawned_workers_can_have_it(digits):
    _, preprocess, _ = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    pairs = Pairs(open_sets(str(digits), train=True), preprocess, open_clip.get_tokenizer("zhclip-tiny"))
    again = pickle.loads(pickle.dumps(pairs))
    for index in (0, len(pairs) - 1):
        assert torch.equal(again[index][1], pairs[index][1]) and again[index][2:] == pairs[index][2:]
    images, texts, ids = again.batch([0, 1, 2])
    assert images.shape == (3, 3, 64, 64) and texts.shape == (3, 32) and ids.dtype == torch.int64


class Task(torch.nn.Module):
    """A task of open_clip 4, as far as it concerns us (open_clip/task/clip_task.py)."""

    def __init__(self, model):
        super().__init__()
        self.trainable_module, self.trainable_module_ema, self.loss = model, None, open_clip.ClipLoss()


def test_open_clip_4_has_its_loss_in_a_task(digits):
    _, preprocess, _ = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    pairs = Pairs(open_sets(str(digits), train=True), preprocess, open_clip.get_tokenizer("zhclip-tiny"))
    batches = data.PairBatches(pairs.image, pairs.text, 8)
    loader = data.TrainingData(pairs, batches, 0, as_dict=True)
    batch = next(iter(loader))
    assert set(batch) == {"image", "text"} and len(batch["image"]) == 8
    assert loader.recent().shape == (8, 2)
    seen = []

    def epoch(state, data, args, tb_writer=None):
        seen.append(state.task.loss)

    task = Task(torch.nn.Linear(1, 1))
    given = (SimpleNamespace(task=task), {"train": SimpleNamespace(dataloader=loader)}, Namespace())
    for _ in range(2):  # the loss is kept from epoch to epoch
        loss.train_one_epoch(epoch)(*given)
    assert seen[0] is seen[1] and isinstance(seen[0], MultiPositiveLoss)


def test_open_clip_4_validates_a_task_in_parts(digits):
    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    model.eval()
    (dataset,) = open_sets(str(digits), train=False)
    loader = validation.ValidationData(dataset, transform, open_clip.get_tokenizer("zhclip-tiny"), 8, 0, True)

    def evaluation(task, data, epoch, args, tb_writer=None, tokenizer=None):
        with torch.inference_mode():
            parts = [model(batch["image"], batch["text"])[:2] for batch in data["val"].dataloader]
            return host_train.get_clip_metrics(
                [p[0] for p in parts], [p[1] for p in parts], logit_scale=torch.tensor(1.0)
            )

    args = Namespace(device="cpu", precision="fp32")
    told = validation.evaluate(evaluation)(Task(model), {"val": SimpleNamespace(dataloader=loader)}, 1, args)
    assert told["image_retrieval_recall@1"] == 1.0 and np.isfinite(list(told.values())).all()


def test_naflex_is_refused_in_one_line(digits):
    args = Namespace(train_data=str(digits), val_data=None)
    with pytest.raises(TrainingError, match="not for NaFlex"):
        data.exact_data(args, None, True, naflex_data_config=object())
