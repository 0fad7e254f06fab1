"""`zhclip dataset` with own data: looked through, looked at, and written as shards that CLIP_benchmark reads."""

from __future__ import annotations

import json
import sys
import tarfile

import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.support.own_files import folders, picture, table
from zhclip_openclip.commands import app
from zhclip_openclip.datasets.contact_sheet import load_font


def run(*words):
    return CliRunner().invoke(app, ["dataset", *map(str, words)])


def test_check_and_what_was_recognised(tmp_path):
    folders(tmp_path, 猫=2, 狗=3)
    done = run("check", tmp_path, "--name", "own/pets")
    assert done.exit_code == 0 and "own/pets is read as a folder of folders" in done.output
    for line in ("images: 5", "classes: 2", "smallest class: 猫 (2)", "largest class: 狗 (3)", "decoded: True"):
        assert line in done.output
    (tmp_path / "猫" / "0.png").write_bytes(b"no picture")
    done = run("check", tmp_path, "--name", "own/pets")
    assert "猫/0.png does not decode" in str(done.exception) and "1 of 5 pictures are bad" in str(done.exception)
    done = run("check", tmp_path, "--name", "own/pets", "--skip-bad-images")
    assert "images: 4" in done.output and "skipped: 1" in done.output


def test_options_that_decide(tmp_path):
    folders(tmp_path, 猫=1, 狗=1)
    table(tmp_path / "x.csv", ["file", "about"], [["猫/0.png", "一只猫"], ["狗/0.png", "一只狗"]])
    words = ["check", tmp_path, "--name", "own/pets", "--columns", "path=file,caption=about"]
    assert "in 2 ways" in str(run(*words).exception)
    assert "texts: 2" in run(*words, "--task", "retrieval").output
    assert "classes: 2" in run(*words, "--layout", "folders").output
    assert "add --name own/NAME" in str(run("check", tmp_path, "--layout", "folders").exception)
    assert "own data are for classification or retrieval" in str(run(*words, "--task", "x").exception)


def test_show(tmp_path):
    try:
        load_font(None, 16)
    except Exception:
        pytest.skip("this machine has no font with Chinese glyphs")
    folders(tmp_path / "data", 猫=2, 狗=2)
    done = run("show", tmp_path / "data", "--name", "own/pets", "--output", tmp_path / "sheet.png")
    assert "classes: 2 (狗, 猫)" in done.output
    assert Image.open(tmp_path / "sheet.png").width > 400


def test_export_is_what_clip_benchmark_reads(tmp_path, monkeypatch):
    """Bytes, labels and words as they were; and the same accuracy from the shards."""
    import clip_benchmark.cli as cli

    folders(tmp_path / "data", 零=3, 一=2)
    picture(tmp_path / "data" / "一" / "z.bmp", 77)  # a kind that CLIP_benchmark does not read from shards
    done = run("export", tmp_path / "data", "--name", "own/x", "--output", tmp_path / "W", "--shard-size", "4")
    assert done.exit_code == 0 and "--dataset wds/own/x" in done.output
    assert (tmp_path / "W" / "classnames.txt").read_text("utf-8") == "一\n零\n"
    assert (tmp_path / "W" / "test" / "nshards.txt").read_text() == "2\n"
    found = []
    for shard in ("0.tar", "1.tar"):
        with tarfile.open(tmp_path / "W" / "test" / shard) as tar:
            found += [(member.name, tar.extractfile(member).read()) for member in tar]
    assert [data for name, data in found if name.endswith(".cls")] == [b"0"] * 3 + [b"1"] * 3
    pictures = [data for name, data in found if name.endswith(".png")]
    files = [*sorted((tmp_path / "data" / "一").iterdir()), *sorted((tmp_path / "data" / "零").iterdir())]
    assert [data == file.read_bytes() for data, file in zip(pictures, files, strict=True)] == [1, 1, 0, 1, 1, 1]
    monkeypatch.chdir(tmp_path)
    metrics = []
    for dataset, root in (("own/x", "data"), ("wds/own/x", "W")):
        words = ["--model", "zhclip-tiny", "--dataset", dataset, "--dataset_root", root, "--output", "out.json"]
        words += ["--language", "zh", "--no_amp", "--quiet"]
        monkeypatch.setattr(sys, "argv", ["clip_benchmark", "eval", *words])
        cli.main()
        metrics.append(json.loads((tmp_path / "out.json").read_text("utf-8"))["metrics"])
    assert metrics[0]["acc1"] == pytest.approx(metrics[1]["acc1"])
