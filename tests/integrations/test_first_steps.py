"""What a user meets first: a command that says nothing needless, and one line for what is mistyped or does not fit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import clip_benchmark.cli as cli
import pytest
import torch

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.integrations.clip_benchmark import checks, command_line

README = ["--model", "zhclip-tiny", "--dataset", "digits", "--language", "zh"]


def test_the_first_command_says_nothing_needless(tmp_path):
    """With all warnings of Python shown: two lines of progress where there is no terminal, and with --quiet nothing."""
    script = Path(sys.executable).with_name("clip_benchmark")
    if not script.exists():
        pytest.skip("the script is not beside this Python")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}

    def first(*words):
        command = [sys.executable, "-W", "default", str(script), "eval", *README, *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, env=environment)

    done = first()
    assert done.returncode == 0
    lines = done.stderr.strip().splitlines()
    assert [line.split(":")[0] for line in lines] == ["Encoding prompts", "Encoding images of digits"], done.stderr
    assert "60/60" in lines[0] and "360/360" in lines[1] and "Mixed precision" not in done.stdout
    done = first("--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("cores", "given", "workers"), [(2, [], 2), (1, [], 1), (64, [], 4), (2, ["--num_workers", "4"], 4)]
)
def test_no_more_workers_than_cores(monkeypatch, cores, given, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.setattr(sys, "argv", ["clip_benchmark", "eval", *given])
    args = SimpleNamespace(
        model="zhclip-tiny", dataset="digits", language="en", amp=False, num_workers=4, recall_k=[5], task="auto",
        output="x.json",
    )  # fmt: skip
    command_line._prepare(args, SimpleNamespace())
    assert args.num_workers == workers


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--dataset", "digts"], "did you mean digits"),
        (["--dataset", "Mugee"], "did you mean muge"),
        (["--dataset", "cifar11"], "did you mean cifar1"),
        (["--dataset", "digits", "flikr30k"], "did you mean flickr30k"),
        (["--model", "zhclip-tny"], "did you mean zhclip-tiny"),
        (["--model", "ViT-B-23"], "did you mean ViT-B-32"),
        (["--pretrained", "digit"], "did you mean 'digits'"),
        (["--pretrained_model", "zhclp"], "did you mean zhclip"),
        (["--split", "valid"], "it has train and test"),
        (["--task", "captioning"], "compares texts with images and writes none"),
        (["--task", "zeroshot_retrieval"], "digits is a data set for zeroshot_classification"),
        (["--task", "image_caption_selection"], "digits is a data set for zeroshot_classification"),
        (["--dataset", "muge", "--task", "zeroshot_classification"], "muge is a data set for zeroshot_retrieval"),
        (["--dataset_root", "/x/{y}"], "--dataset_root /x/{y}"),
        (["--dataset", "fer2013", "--dataset_root", "."], "looked for in --dataset_root: test/angry"),
        (["--dataset", "wds/own", "--custom_template_file", "zh"], "wds/own is none"),
        (["--dataset", "elevater/cifra-10"], "no label_cn.txt"),
    ],
)
def test_one_line_for_what_does_not_fit(evaluate_digits, words, told):
    with pytest.raises(SystemExit) as error:
        evaluate_digits("--quiet", *words)
    message = str(error.value)
    assert message.startswith("clip_benchmark: error: ") and told in message and "\n" not in message
    assert "add --language zh" not in message  # it is there


def test_a_host_that_fails_is_one_line(evaluate_digits, monkeypatch):
    monkeypatch.setattr(cli.zeroshot_classification, "evaluate", lambda *args, **kwargs: {}["two\nlines"])
    with pytest.raises(SystemExit) as error:
        evaluate_digits("--quiet")
    assert "digits with zhclip-tiny: KeyError" in str(error.value) and "\n" not in str(error.value)
    monkeypatch.setenv("ZHCLIP_DEBUG", "1")
    with pytest.raises(KeyError):
        evaluate_digits("--quiet")


def test_features_that_are_not_finite_are_one_line(evaluate_digits, monkeypatch):
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    monkeypatch.setattr(model, "encode_image", lambda images: torch.full((len(images), 64), torch.nan))
    tokenizer = open_clip.get_tokenizer("zhclip-tiny")
    monkeypatch.setattr(cli, "load_clip", lambda **kwargs: (model, transform, tokenizer))
    with pytest.raises(SystemExit) as error:
        evaluate_digits("--quiet", dataset="digits-retrieval")
    assert "not finite" in str(error.value) and "\n" not in str(error.value)


def test_every_name_of_clip_benchmark_is_known():
    """What is in its collections or has prompts of ours is never refused, nor is a name of another plugin's."""
    from clip_benchmark.datasets import builder

    known = {name for names in builder.dataset_collection.values() for name in names}
    base = {"pretrained_model": "", "model": ["zhclip-tiny"], "pretrained": None, "language": "zh"}
    for name in [*known, "cifar10", "imagenet-w", "dummy", "babel_imagenet", "wds/anything", "elevater/own", "xtd200"]:
        checks.names(SimpleNamespace(dataset=[name], **base))
    with pytest.raises(ZhclipError):
        checks.names(SimpleNamespace(dataset=["nix"], **base))


def test_names_of_other_plugins_are_left_alone(monkeypatch):
    from clip_benchmark.datasets import builder

    monkeypatch.setattr(builder, "build_dataset", lambda *args, **kwargs: None)
    base = {"pretrained_model": "", "model": ["somebodys"], "pretrained": None, "language": "zh"}
    checks.names(SimpleNamespace(dataset=["theirs"], **base))


@pytest.mark.parametrize(("model", "dataset"), [("ViT-B-99", "cifar10"), ("RN50", "cifr10")])
def test_mistakes_in_what_is_not_ours_get_the_hosts_answer(evaluate_digits, monkeypatch, model, dataset):
    monkeypatch.setattr(cli, "run", lambda args: (_ for _ in ()).throw(InterruptedError(args.dataset)))
    with pytest.raises(InterruptedError):
        evaluate_digits("--quiet", model=model, dataset=dataset, language="en")


def test_progress_in_a_log_and_on_a_terminal(capsys, monkeypatch):
    from zhclip_openclip.features import progress, using

    monkeypatch.setattr(progress, "EVERY", 0.0)
    with progress.Progress("images", "mnist", 3) as bar:
        bar.add(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Encoding images of mnist: 0/3, ") and "1/3" in lines[1] and "3/3" in lines[-1]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.Progress("images", "mnist", 3) as bar:
        bar.add(3)
    assert capsys.readouterr().err.count("\n") == 1  # one line, drawn again and again
    with using(quiet=True), progress.Progress("images", "mnist", 3) as bar:
        bar.add(3)
    assert capsys.readouterr().err == ""
