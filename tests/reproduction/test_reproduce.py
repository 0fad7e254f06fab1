"""`zhclip reproduce` with the embedded model through clip_benchmark: every data set, failures, and being killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from tests.support import retrieval_files, table_files
from zhclip_openclip._errors import CheckpointError
from zhclip_openclip.commands.reproduce import reproduce
from zhclip_openclip.datasets.at_hand import of_tables
from zhclip_openclip.reproduction import run as running
from zhclip_openclip.reproduction._words import duration
from zhclip_openclip.reproduction.plan import Options, make_plan

#: What a user starts, whether or not the command is in the list of commands.
CODE = "import typer; from zhclip_openclip.commands.reproduce import reproduce; typer.run(reproduce)"


def zhclip(*words):
    """Run the command in this process."""
    app = typer.Typer()
    app.command()(reproduce)
    return CliRunner().invoke(app, [str(word) for word in words])


def one(output, *words):
    """zhclip-tiny, without a report and with one process."""
    return zhclip("--models", "zhclip-tiny", "--output", output, "--no-report", "--num-workers", "0", *words)


def results(folder):
    """Everything that a run leaves for good: name -> bytes."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


class Recorder:
    """A display that remembers."""

    def __init__(self):
        self.started, self.ended, self.told = [], [], []

    def start(self, cell):
        self.started.append(cell.name)

    def progress(self, stage, done, total, reused):
        self.told.append((stage, done, total, reused))

    def end(self, cell, failure, note):
        self.ended.append((cell.name, failure, note))

    def elsewhere(self, cell, finished):
        self.ended.append((cell.name, None, "another run has finished it" if finished else "another run is at it"))


# ---------------------------------------------------------------- the whole way


@pytest.fixture(scope="module")
def all_data(tmp_path_factory):
    return table_files.everything(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def everything(all_data, tmp_path_factory):
    """A run over all data sets of the tables; returns (what was printed, results folder)."""
    output = tmp_path_factory.mktemp("out") / "results"
    done = one(output, "--data-root", all_data)
    assert done.exit_code == 0, done.output
    return done.output, output


def test_every_data_set_of_the_tables_runs(everything):
    printed, output = everything
    found = {json.loads(path.read_text("utf-8"))["cell"]["dataset"] for path in output.glob("*.json")}
    assert found == set(of_tables())
    assert "14 cells to run, 0 finished, 0 without data" in printed
    for name in of_tables():
        assert f"zhclip-tiny on {name}: " in printed
    assert not (output / running.PARTS).exists()
    assert sorted(path.stem for path in (output / "logs").iterdir()) == sorted(
        path.stem for path in output.glob("*.json")
    )


def test_only_ours_is_on_the_terminal(everything):
    """What clip_benchmark prints is in the logs."""
    printed, output = everything
    assert "Dump results to" not in printed and "img/s" not in printed
    assert all("Dump results to" in log.read_text("utf-8") for log in (output / "logs").iterdir())


def test_results_are_clip_benchmarks_own(everything, all_data, tmp_path, monkeypatch):
    """The same command line without us gives the same metrics, and the same outcome of each image."""
    import clip_benchmark.cli as cli

    _, output = everything
    for name, words in (
        ("fer2013_zh", ["fer2013", "--dataset_root", str(all_data / "fer2013"), "--custom_template_file", "zh"]),
        ("muge", ["muge", "--dataset_root", str(all_data / "MUGE")]),
        ("cifar100_zh", ["wds/vtab/cifar100", "--dataset_root", str(all_data / "wds_vtab-cifar100")]),
    ):
        made = tmp_path / f"{name}.json"
        words = ["--model", "zhclip-tiny", "--language", "zh", "--num_workers", "0", "--dataset", *words]
        monkeypatch.setattr(sys, "argv", ["clip_benchmark", "eval", "--quiet", "--output", str(made), *words])
        cli.main()
        plain = json.loads(made.read_text("utf-8"))
        ours = json.loads((output / f"zhclip-tiny_digits_{name}.json").read_text("utf-8"))
        assert repr(ours["metrics"]) == repr(plain["metrics"])  # nan is nan
        assert set(ours) - set(plain) <= {"cell", "fingerprint", "device", "templates", "classnames", "incomplete"}
        assert (ours["dataset"], ours["task"], ours["language"]) == (plain["dataset"], plain["task"], "zh")
        with np.load(output / f"zhclip-tiny_digits_{name}.npz") as left, np.load(made.with_suffix(".npz")) as right:
            assert left.files == right.files
            assert all(np.array_equal(left[key], right[key]) for key in left.files if key != "meta")


def test_results_hold_nothing_of_the_run(everything, all_data):
    """No path of the results folder; data are named as they were given."""
    _, output = everything
    for path in output.glob("*.json"):
        text = path.read_text("utf-8")
        assert str(output) not in text and running.PARTS not in text
        result = json.loads(text)
        assert result["versions"]["torch"] and result["cell"]["read_as"] == result["dataset"]
    muge = json.loads((output / "zhclip-tiny_digits_muge.json").read_text("utf-8"))
    assert muge["fingerprint"] == muge["cell"]["fingerprint"] and len(muge["fingerprint"]) == 64


def test_galleries_of_retrieval(everything):
    _, output = everything
    pages = {path.stem.rpartition("_")[2] for path in output.glob("*.html")}
    assert pages == {"coco-cn", "flickr30k-cn", "muge"}


def test_nothing_is_run_twice(everything, all_data):
    _, output = everything
    before = results(output)
    again = one(output, "--data-root", all_data)
    assert again.exit_code == 0 and "0 cells to run, 14 finished" in again.output and "Nothing is left" in again.output
    assert results(output) == before


def test_a_gallery_that_is_missing_is_made_later(everything, all_data):
    _, output = everything
    page = output / "zhclip-tiny_digits_muge.html"
    before = page.read_bytes()
    page.unlink()
    assert one(output, "--data-root", all_data, "--datasets", "muge", "--no-galleries").exit_code == 0
    assert not page.exists()
    assert one(output, "--data-root", all_data, "--datasets", "muge").exit_code == 0
    assert page.read_bytes() == before


def test_features_are_reused(everything, all_data, tmp_path):
    """Another set of templates costs no pass over the images."""
    _, output = everything
    plan = make_plan(["zhclip-tiny"], ["fer2013"], all_data, tmp_path, template_set="name", timed=False)
    recorder = Recorder()
    running.run(plan, recorder, output / running.FEATURES)
    assert recorder.ended == [("zhclip-tiny_digits_fer2013_name", None, "21 of 7,178 images")]
    assert ("images", 21, 21, 21) in recorder.told and {stage for stage, *_ in recorder.told} >= {"images"}


# ---------------------------------------------------------------- the plan on the terminal


def test_dry_run(all_data, tmp_path):
    done = zhclip("--models", "cnclip,zhclip", "--data-root", all_data, "--output", tmp_path / "out", "--dry-run")
    assert done.exit_code == 0 and not (tmp_path / "out").exists()
    assert "28 cells to run" in done.output and "time: about" in done.output
    assert "GB to fetch from OFA-Sys/chinese-clip-vit-large-patch14" in done.output
    as_json = zhclip("--models", "zhclip-tiny", "--data-root", tmp_path, "--dry-run", "--json")
    assert as_json.exit_code == 2 and "none of 14 data sets" in as_json.stderr
    plan = json.loads(as_json.stdout)
    assert {entry["dataset"] for entry in plan["missing"]} == set(of_tables())
    assert plan["gb_data_missing"] > 30 and plan["gb_weights_to_fetch"] == 0
    assert zhclip("--json").exit_code == 2


@pytest.mark.parametrize("words", [[], ["--data-root", "no/such/folder"]])
def test_no_data_at_all(words, tmp_path):
    done = one(tmp_path / "out", *words)
    assert done.exit_code == 2 and not (tmp_path / "out").exists()
    told = done.stderr.strip()
    assert told.startswith("zhclip: error: none of 14 data sets") and "\n" not in told and "--offline-demo" in told
    assert "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz" in done.stdout  # where to get it


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (59, "59 s"), (60, "1 min"), (9000, "2.5 h"), (300000, "3.5 days")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


# ---------------------------------------------------------------- what goes wrong


def test_a_cell_that_fails_is_told_and_the_others_go_on(tmp_path):
    folder = table_files.fer2013(tmp_path / "data")
    retrieval_files.write_tsv(tmp_path / "data" / "MUGE", "valid", several=True)
    (folder / "test" / "sad" / "1.png").write_bytes(b"no picture")
    words = ["--data-root", tmp_path / "data", "--datasets", "fer2013,muge,digits"]
    done = one(tmp_path / "out", *words)
    assert done.exit_code == 1
    line = next(line for line in done.output.splitlines() if "FAILED" in line)
    assert "fer2013: FAILED" in line and "sad/1.png" in line and "does not decode" in line
    log = tmp_path / "out" / "logs" / "zhclip-tiny_digits_fer2013_zh.log"
    assert str(log) in line and "Traceback" in log.read_text("utf-8")
    made = {path.stem for path in (tmp_path / "out").glob("*.json")}
    assert made == {"zhclip-tiny_digits_muge", "zhclip-tiny_digits_digits_zh"}
    assert not (tmp_path / "out" / running.PARTS).exists()
    # With leave it runs, and nothing else is run again.
    done = one(tmp_path / "out", *words, "--skip-bad-images")
    assert done.exit_code == 0 and "1 cell to run" in done.output and "1 bad images left out" in done.output
    result = json.loads((tmp_path / "out" / "zhclip-tiny_digits_fer2013_zh.json").read_text("utf-8"))
    assert result["skipped_images"]["count"] == 1


def test_an_error_in_a_reader_process_is_one_line(tmp_path):
    folder = table_files.fer2013(tmp_path / "data")
    (folder / "test" / "sad" / "1.png").write_bytes(b"no picture")
    done = one(tmp_path / "out", "--data-root", tmp_path / "data", "--datasets", "fer2013", "--num-workers", "1")
    line = next(line for line in done.output.splitlines() if "FAILED" in line)
    assert "sad/1.png" in line and "Traceback" not in line


def test_nothing_is_downloaded(tmp_path, monkeypatch):
    """torchvision would fetch a CIFAR whose checksums are wrong; here it is an error of that cell."""
    table_files.cifar100(tmp_path / "data")
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: asked.append(args) or [])
    done = one(tmp_path / "out", "--data-root", tmp_path / "data", "--datasets", "cifar100")
    assert done.exit_code == 1 and "Dataset not found or corrupted" in done.output
    assert not asked


def test_a_model_that_cannot_be_loaded_is_tried_once(tmp_path, monkeypatch, offline):
    from zhclip_openclip.checkpoints import _files

    tries, fetch = [], _files.fetch

    def counted(repo, *args, **kwargs):
        tries.append(repo)
        return fetch(repo, *args, **kwargs)

    monkeypatch.setattr(_files, "fetch", counted)
    words = ["--output", tmp_path, "--no-report", "--datasets", "digits,digits-retrieval"]
    done = zhclip("--models", "clip-chinese,zhclip-tiny", *words)
    assert done.exit_code == 1 and done.output.count("could not be fetched") == 2
    assert "2 of 4 cells failed" in done.output and len(list(tmp_path.glob("zhclip-tiny*.json"))) == 2
    assert set(tries) == {"YeungNLP/clip-vit-bert-chinese-1M"} and len(tries) == 1


def test_stopped_by_hand(tmp_path, monkeypatch):
    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "_complete", stopped)
    done = one(tmp_path / "out", "--datasets", "digits")
    assert done.exit_code == 130 and "the same command goes on from there" in done.output
    assert not list((tmp_path / "out").glob("*.json")) and not (tmp_path / "out" / running.PARTS).exists()


def test_what_killed_runs_have_left_is_taken_away(tmp_path):
    left = tmp_path / running.PARTS / "some-model_tag_mnist_zh"
    left.mkdir(parents=True)
    (left / "half.npz").write_bytes(b"half")
    left.with_name(left.name + ".lock").touch()
    assert one(tmp_path, "--datasets", "digits").exit_code == 0
    assert not (tmp_path / running.PARTS).exists()


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def lockf(*args):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    assert one(tmp_path, "--datasets", "digits").exit_code == 0
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    done = one(tmp_path / "file", "--datasets", "digits")
    assert done.exit_code == 1 and "cannot be written" in done.stderr and "--output" in done.stderr


def test_braces_in_paths(tmp_path):
    """clip_benchmark reads {dataset} in a path as something to fill in."""
    root = tmp_path / "{dataset}"
    retrieval_files.write_tsv(root / "MUGE", "valid", several=True)
    done = one(tmp_path / "{model}", "--data-root", root, "--datasets", "muge")
    assert done.exit_code == 0 and (tmp_path / "{model}" / "zhclip-tiny_digits_muge.json").is_file()


def test_one_line_of_any_error():
    assert running.one_line(CheckpointError("a b")) == "a b"
    assert running.one_line(ValueError("two\nlines")) == "ValueError: two lines"
    assert running.one_line(MemoryError()) == "MemoryError"
    assert running.one_line(SystemExit("told")) == "told"


# ---------------------------------------------------------------- the demo, and being killed


def start(output, *words, **environment):
    command = [sys.executable, "-c", CODE, "--offline-demo", "--output", str(output), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ZHCLIP_FEATURE_CACHE_BLOCK_SECONDS": "0", **environment}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def blocks(output):
    """The blocks of image features that are finished."""
    return list((output / running.FEATURES).glob("*/part-*/*.safetensors"))


MOMENTS = {
    "the first block": blocks,
    "the first result": lambda output: list(output.glob("*.json")),
    "the last cell": lambda output: list((output / running.PARTS).glob("*retrieval")),
    "the page": lambda output: list(output.glob(".part/*/*.html")) or list(output.glob("*.html")),
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo, not interrupted: (what it printed, results folder)."""
    output = tmp_path_factory.mktemp("demo") / "results"
    process = start(output, "--batch-size", "8", HF_ENDPOINT="http://127.0.0.1:9")
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return printed, output


def test_demo_ends_with_the_report(demo):
    printed, output = demo
    assert printed.strip().splitlines()[-1] == f"report: {output / 'report.html'}"
    page = (output / "report.html").read_text("utf-8")
    assert "zhclip-tiny" in page and "digits-retrieval" in page
    for name in ("zh", "name", "openai80"):
        result = json.loads((output / f"zhclip-tiny_digits_digits_{name}.json").read_text("utf-8"))
        assert result["template_set"] == name and result["metrics"]["acc1"] > 0.9
    assert 'href="zhclip-tiny_digits_digits-retrieval.html"' in page


@pytest.mark.slow
def test_killed_and_started_again_gives_the_same_bytes(demo, tmp_path):
    """SIGKILL at several moments, one after another, then to the end: the tree of an uninterrupted run."""
    _, whole = demo
    output = tmp_path / "results"
    killed = []
    for name, come in MOMENTS.items():
        process = start(output, "--batch-size", "8")
        while process.poll() is None and not come(output):
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed.append(name)
        process.communicate(timeout=60)
    assert {"the first block", "the first result"} <= set(killed)
    process = start(output, "--batch-size", "8")
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    assert set(results(output)) == set(results(whole))
    for name, content in results(whole).items():
        assert results(output)[name] == content, name
    assert not (output / running.PARTS).exists()


@pytest.mark.slow
def test_two_runs_share_a_folder(demo, tmp_path):
    """Both end well, and together they leave what one leaves."""
    _, whole = demo
    output = tmp_path / "results"
    both = [start(output, "--batch-size", "8") for _ in range(2)]
    printed = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert results(output) == results(whole)
    assert not (output / running.PARTS).exists()


def test_a_kill_inside_a_cell_costs_no_finished_block(tmp_path):
    """After a kill in the middle of the images, the next run has those of the finished blocks from the cache."""
    output = tmp_path / "results"
    process = start(output, "--batch-size", "4")
    while process.poll() is None and len(blocks(output)) < 3:
        time.sleep(0.002)
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not list(output.glob("*.json"))
    plan = make_plan(["zhclip-tiny"], ["digits"], None, output, Options(batch_size=4), timed=False)
    recorder = Recorder()
    outcomes = running.run(plan, recorder)
    assert [outcome.failure for outcome in outcomes] == [None]
    stage, done, total, reused = [told for told in recorder.told if told[0] == "images"][-1]
    assert done == total == 360 and 12 <= reused < 360
