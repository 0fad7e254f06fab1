"""`zhclip reproduce` with the embedded model through clip_benchmark: every data set, failures, and being killed."""

from __future__ import annotations

import io
import json
import re
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import retrieval_files, table_files
from tests.support.reproduction import Recorder, one, results, zhclip
from zhclip_openclip._errors import CheckpointError
from zhclip_openclip.datasets.at_hand import of_tables
from zhclip_openclip.features.spent import IMAGES, LOADING, READING, REST, SCORING, TEXTS
from zhclip_openclip.reproduction import run as running
from zhclip_openclip.reproduction._words import duration
from zhclip_openclip.reproduction.plan import make_plan
from zhclip_openclip.reproduction.show import show_profile

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
        assert re.fullmatch(r"\w+ autocast on \w+|fp32 on cpu(, linear layers by oneDNN)?", result["arithmetic"])
    muge = json.loads((output / "zhclip-tiny_digits_muge.json").read_text("utf-8"))
    assert muge["fingerprint"] == muge["cell"]["fingerprint"] and len(muge["fingerprint"]) == 64


def test_galleries_of_retrieval(everything):
    _, output = everything
    pages = {path.stem.rpartition("_")[2] for path in output.glob("*.html")}
    assert pages == {"coco-cn", "flickr30k-cn", "muge"}


def test_where_the_time_went():
    """Stages in their order, what no stage has, and what was predicted of each."""
    from rich.console import Console

    console = Console(width=80, record=True, file=io.StringIO())
    predicted = {LOADING: 1.0, READING: 2.0, IMAGES: 40.0, TEXTS: 0.0, SCORING: 0.0, REST: 7.0}
    show_profile({IMAGES: 50.0, LOADING: 10.0}, 80.0, predicted, console)
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines[1:] == [
        ["loading", "models", "10.0", "12%", "1.0"],
        ["reading", "pictures", "0.0", "0%", "2.0"],
        ["image", "tower", "50.0", "62%", "40.0"],
        ["text", "tower", "0.0", "0%", "0.0"],
        ["scoring", "0.0", "0%", "0.0"],
        ["the", "rest", "20.0", "25%", "7.0"],
        ["all", "80.0", "50.0"],
    ]


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


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    done = one(tmp_path / "file", "--datasets", "digits")
    assert done.exit_code == 1 and "cannot be written" in done.stderr and "--output" in done.stderr


def test_what_is_finished_needs_no_place_to_write(tmp_path, monkeypatch):
    output = tmp_path / "out"
    words = ["--models", "zhclip-tiny", "--datasets", "digits", "--output", output]
    assert zhclip(*words).exit_code == 0

    def refused(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)  # who runs the tests may be root
    done = zhclip(*words)
    assert done.exit_code == 0 and "cannot be written" in done.output and "Nothing is left to run" in done.output
    (output / "zhclip-tiny_digits_digits_zh.json").unlink()
    done = zhclip(*words)
    assert done.exit_code == 1 and "cannot be written" in done.stderr


def test_an_incomplete_copy_is_told_before_and_after(tmp_path):
    table_files.elevater(tmp_path / "elevater", "cifar-10", list("甲乙丙丁戊己庚辛壬癸"))
    table_files.shards(tmp_path / "wds_vtab-pcam", ["lymph node", "lymph node containing metastatic tumor tissue"])
    words = ["--data-root", tmp_path, "--datasets", "cifar10,pcam", "--models", "zhclip-tiny", "--num-workers", "0"]
    done = zhclip(*words, "--output", tmp_path / "out")
    assert done.exit_code == 0
    before, _, after = done.output.partition("2 cells to run")
    assert "cifar10: 20 of 10,000 images" in before and "pcam" in before  # of shards it is not known before
    assert "20 of 10,000 images" in after and "6 of 32,768 images" in after
    result = json.loads((tmp_path / "out" / "zhclip-tiny_digits_cifar10_zh.json").read_text("utf-8"))
    assert result["incomplete"] == {"images": 20, "published": 10000}
    assert "20 of 10,000 images" in (tmp_path / "out" / "logs" / "zhclip-tiny_digits_cifar10_zh.log").read_text("utf-8")
    assert "was evaluated on 20 images, and 10000 are published" in done.output
    assert "was evaluated on 20 images" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_an_output_folder_that_is_not_utf8(tmp_path):
    import os

    output = os.fsdecode(os.fsencode(tmp_path) + b"/out-\xff")
    try:
        os.mkdir(output)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    done = zhclip("--models", "zhclip-tiny", "--datasets", "digits,digits-retrieval", "--output", output)
    assert done.exit_code == 0 and "report: " in done.output and "out-\\xff" in done.output


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
