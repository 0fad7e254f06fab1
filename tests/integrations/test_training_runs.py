"""A run of open_clip_train from its beginning to the report: its tokenizer, what it refuses, what it was worth."""

from __future__ import annotations

import json
import random
import shutil
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pytest
import torch
from open_clip_train import data as host_data
from open_clip_train.params import parse_args
from torch.utils.data import DataLoader
from typer.testing import CliRunner

import zhclip_openclip
from tests.support.digit_files import write_digits
from zhclip_openclip.commands import app
from zhclip_openclip.integrations.open_clip_train import data, tokenizers, validation
from zhclip_openclip.metrics.evaluate import evaluate
from zhclip_openclip.report.build import build
from zhclip_openclip.training import TrainingError
from zhclip_openclip.training.sources import open_sets

TINY = Path(zhclip_openclip.__file__).parent / "data" / "tiny"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("own") / "DIGITS", {"train": range(32), "valid": range(40)})


@pytest.fixture(scope="module")
def other_vocabulary(tmp_path_factory):
    """zhclip-tiny with its words in another order, in the vocabulary and in the weights: the same model, as long as it
    is given ids of the vocabulary that lies beside it. The file of weights."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("weights")
    words = (TINY / "vocab.txt").read_text("utf-8").splitlines()
    order = list(range(5, len(words)))  # the first five are the special tokens
    random.Random(0).shuffle(order)
    order = [*range(5), *order]
    (folder / "vocab.txt").write_text("".join(words[k] + "\n" for k in order), "utf-8")
    shutil.copy(TINY / "tokenizer_config.json", folder)
    weights = load_file(TINY / "model.safetensors")
    (name,) = [name for name in weights if name.endswith("word_embeddings.weight")]
    weights[name] = weights[name][order].contiguous()
    save_file(weights, folder / "model.safetensors")
    return folder / "model.safetensors"


def ids_of(tokenizer, texts) -> set[int]:
    return set(tokenizer(texts).flatten().tolist()) - {tokenizer.pad_token_id}


def scores(checkpoint, folder, tokenizer):
    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained=str(checkpoint))
    (dataset,) = open_sets(str(folder), train=False)
    dataset.transform = transform
    loader = DataLoader(dataset, 16, collate_fn=lambda b: (torch.stack([one[0] for one in b]), [one[1] for one in b]))
    return evaluate(model.eval(), loader, tokenizer, "cpu", amp=False)


def test_the_tokenizer_beside_the_weights_is_the_runs(train, digits, other_vocabulary):
    """It reads the training data and the validation data, and goes with the checkpoint."""
    run, (row,) = train(
        *("--pretrained", other_vocabulary, "--train-data", digits, "--val-data", digits, "--epochs", 1),
        *("--precision", "fp32", "--wd", 0),
    )
    checkpoint = run / "checkpoints" / "epoch_1.pt"
    own, default = (open_clip.get_tokenizer("zhclip-tiny", pretrained=p) for p in (str(other_vocabulary), None))
    (dataset,) = open_sets(str(digits), train=True)
    texts = [entry.text for entry in dataset.texts]
    assert ids_of(own, texts) != ids_of(default, texts)
    # Without weight decay the words that were read are those that have learnt.
    before, after = (
        open_clip.create_model("zhclip-tiny", pretrained=str(p)).text.transformer.embeddings.word_embeddings.weight
        for p in (other_vocabulary, checkpoint)
    )
    assert set((before != after).any(1).nonzero().flatten().tolist()) == ids_of(own, texts)
    # Whoever evaluates the checkpoint finds the vocabulary beside it, and what the log said.
    kept = open_clip.get_tokenizer("zhclip-tiny", pretrained=str(checkpoint))
    assert torch.equal(kept(texts), own(texts))
    found = scores(checkpoint, digits, kept)
    assert {key: row[key] for key in found} == found and found != scores(checkpoint, digits, default)


def run_of(pretrained=None, resume=None, **options) -> Namespace:
    told = {"force_context_length": None, "cache_dir": None, "model": "zhclip-tiny", **options}
    return Namespace(pretrained=pretrained and str(pretrained), resume=resume and str(resume), **told)


def test_a_run_that_goes_on_has_the_tokenizer_that_it_had(other_vocabulary, tmp_path):
    default, text = open_clip.get_tokenizer("zhclip-tiny"), ["图中手写的数字很像六"]
    first = run_of(other_vocabulary, checkpoint_path=str(tmp_path))
    wanted = tokenizers.of_run(first, default)(text)
    assert not torch.equal(wanted, default(text))
    tokenizers.keep(first)
    assert torch.equal(tokenizers.of_run(run_of(resume=tmp_path / "epoch_1.pt"), default)(text), wanted)
    tokenizers.keep(run_of(resume=tmp_path / "epoch_1.pt", checkpoint_path=str(tmp_path)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer_config.json", "vocab.txt"]


@pytest.mark.parametrize("pretrained", [None, "digits"])
def test_other_runs_keep_the_tokenizer_that_they_are_given(pretrained, tmp_path):
    given = open_clip.get_tokenizer("zhclip-tiny")
    for args in (run_of(pretrained, checkpoint_path=str(tmp_path)), run_of("openai", model="ViT-B-32")):
        assert tokenizers.of_run(args, given) is given
        tokenizers.keep(args)
    assert not list(tmp_path.iterdir())


def test_a_run_from_a_checkpoint_of_another_context_length_cuts_texts_there(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(TINY / "model.safetensors", tmp_path / "checkpoints")
    (tmp_path / "params.txt").write_text("force_context_length: 24\ntrain_data: x\n")
    begun, given = tmp_path / "checkpoints" / "model.safetensors", open_clip.get_tokenizer("zhclip-tiny")
    assert tokenizers.of_run(run_of(begun), given)(["数字"]).shape == (1, 24)
    assert tokenizers.of_run(run_of(begun, force_context_length=16), given)(["数字"]).shape == (1, 16)


def test_imagenet_is_read_with_it_too(other_vocabulary):
    seen = []

    def inside(model, data, epoch, args, tb_writer=None, tokenizer=None):
        seen.append(tokenizer)
        return {}

    given = open_clip.get_tokenizer("zhclip-tiny")
    for name in ("imagenet-val", "val"):
        validation.evaluate(inside)(
            None, {name: SimpleNamespace(dataloader=None)}, 1, run_of(other_vocabulary), None, given
        )
    assert seen[0] is not given and not torch.equal(seen[0](["数字"]), given(["数字"])) and seen[1] is given


# ---------------------------------------------------------------- what is refused


def made(train_data, *options, world_size=1):
    """What open_clip_train gets for its training data."""
    args = parse_args(["--model", "zhclip-tiny", "--train-data", str(train_data), "--batch-size", "8", *options])
    vars(args).update(rank=0, world_size=world_size, distributed=False, workers=0)
    return data.exact_data(args, None, True, tokenizer=open_clip.get_tokenizer("zhclip-tiny"))


def test_half_a_gradient_is_refused(digits):
    """--local-loss alone, on several processes: what the loss of one process lacks no loss of ours can add."""
    with pytest.raises(TrainingError, match="add --gather-with-grad, or --plain-loss") as told:
        made(digits, "--local-loss", world_size=2)
    assert "\n" not in str(told.value)
    for more in ("--gather-with-grad", "--plain-loss", "--siglip"):
        assert made(digits, "--local-loss", more, world_size=2).dataloader.num_samples == 64
    assert made(digits, "--local-loss").dataloader.num_samples == 64


def test_splits_and_factors_of_joined_sets(digits):
    """64 pairs of one, 80 of the other and of these a half or twice as many."""
    joined = f"{digits}::{digits}:valid"
    for factors, pairs in ((None, 144), ("1::0.5", 104), ("1::2", 224)):
        info = made(joined, *(["--train-data-upsampling-factors", factors] if factors else []))
        assert info.dataloader.num_samples == pairs
        assert [dataset.split for dataset in info.dataloader.pairs.sets] == ["train", "valid"]


def test_more_samples_than_pairs_is_told(digits, caplog):
    caplog.set_level("INFO")
    assert made(digits, "--train-num-samples", "1000").dataloader.num_samples == 64
    assert "--train-num-samples 1000: an epoch is all 64 pairs" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train-num-samples", "4"], "make --train-num-samples larger, or --batch-size"),
        (["--batch-size", "0"], "--batch-size 0, 1 accumulated: one at least is needed"),
        (["--train-data-upsampling-factors", "1::2"], "2 upsampling factors for 1 sets"),
        (["--train-data-upsampling-factors", "nan"], "positive numbers are needed"),
    ],
)
def test_numbers_that_cannot_be(digits, options, message):
    with pytest.raises(TrainingError, match=message):
        made(digits, *options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{above}/MUGE", "MUGE: no such file or folder$"),
        ("data/MUGE:train", "data/MUGE:train: no such file or folder$"),
        ("{own}/train_imgs.tsv:valid", "train_imgs.tsv is of one split; for another name .*DIGITS:valid"),
    ],
)
def test_a_folder_that_is_not_there(digits, name, message):
    with pytest.raises(TrainingError, match=message):
        host_data.get_dataset_fn(name.format(above=digits.parent, own=digits), "auto")


def test_a_table_of_pictures_is_no_csv(digits, tmp_path):
    """A message that would hold a picture in base64 helps nobody."""
    args = parse_args(["--model", "zhclip-tiny", "--train-data", str(digits / "train_imgs.tsv")])
    vars(args).update(batch_size=1, distributed=False, workers=0)
    with pytest.raises(TrainingError, match="leave out --dataset-type csv") as told:
        host_data.get_csv_dataset(args, None, True, tokenizer=None)
    assert len(str(told.value)) < 200


# ---------------------------------------------------------------- the loop


def test_train_evaluate_report(train, evaluate_digits):
    """The report knows by itself which result is of a fine-tuned checkpoint, what that began from, which is better."""
    options = (
        "--pretrained digits --train-data digits-retrieval --val-data digits-retrieval --train-num-samples 1437 "
        "--epochs 2 --val-frequency 2 --save-frequency 2 --lr 1e-3 --warmup 4 --wd 0.02 --grad-clip-norm 1 "
        "--precision fp32"
    )
    run, rows = train(*options.split(), batch=64)
    checkpoint = run / "checkpoints" / "epoch_2.pt"
    for pretrained in ("digits", checkpoint):
        results = evaluate_digits("--pretrained", pretrained, "--no_amp", dataset="digits-retrieval")
    found = {path.name: json.loads(path.read_text()) for path in results.glob("*.json")}
    (tuned,) = [told for told in found.values() if "trained" in told]
    assert len(found) == 2 and tuned["trained"] == {"began": "digits", "data": "digits-retrieval"}
    assert tuned["metrics"]["image_retrieval_recall@1"] == rows[-1]["image_retrieval_recall@1"]
    made = build([results], resamples=500)
    assert not made.problems
    own = {table.key: [row.label for row in table.rows] for table in made.tables if "digits" in table.key}
    assert own == {
        "digits-retrieval": ["zhclip-tiny"],
        "digits-retrieval fine-tuned": ["zhclip-tiny (epoch_2.pt, fine-tuned on digits-retrieval)"],
    }
    significant = [c for c in made.comparisons if c.significant]
    assert significant and {(c.better, c.worse, c.origin) for c in significant} == {
        ("zhclip-tiny (epoch_2.pt, fine-tuned on digits-retrieval)", "zhclip-tiny (digits)", "worse")
    }
    told = CliRunner().invoke(app, ["report", str(results), "--resamples", "500", "--format", "markdown"])
    assert told.exit_code == 0 and "zhclip-tiny (digits), which the other began from" in told.stdout
