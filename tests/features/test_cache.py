"""The feature cache as a store: what is written comes back, what is damaged or in the wrong place does not."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
import safetensors
import torch
from typer.testing import CliRunner

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.commands import app
from zhclip_openclip.features.cache import FeatureCache, Stored, describe
from zhclip_openclip.features.fingerprint import digest
from zhclip_openclip.features.settings import read_size, using

WHAT = describe(dataset="some", device="cpu", amp=False)
NAME, OTHER = digest("one"), digest("other")


def stored(rows=5, seed=0, seconds=2.0):
    random = torch.Generator().manual_seed(seed)
    return Stored(torch.randn(rows, 3, generator=random), torch.arange(rows), seconds)


def test_what_is_written_comes_back(tmp_path):
    cache = FeatureCache(tmp_path, 10**9)
    assert cache.read(NAME) is None and cache.entries() == []
    cache.write(NAME, WHAT, stored())
    read = cache.read(NAME)
    assert torch.equal(read.features, stored().features) and torch.equal(read.labels, stored().labels)
    assert read.seconds == 2.0 and cache.read(OTHER) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_precision_is_kept_and_labels_may_be_absent(tmp_path, dtype):
    cache = FeatureCache(tmp_path, 10**9)
    cache.write(NAME, WHAT, Stored(stored().features.to(dtype), None, 1.0))
    read = cache.read(NAME)
    assert torch.equal(read.features, stored().features.to(dtype)) and read.labels is None


def test_blocks_that_overlap_are_taken_once(tmp_path):
    cache = FeatureCache(tmp_path, 10**9)
    for start, stop in ((0, 2), (1, 3), (3, 4)):  # two programs have cut them differently
        cache.write_block(NAME, WHAT, 8, start, stop, stored())
    assert sorted(cache.read_blocks(NAME, 8)) == [(0, 2), (3, 4)]
    assert cache.read_blocks(NAME, 16) == {}
    cache.write(NAME, WHAT, stored())
    assert cache.read_blocks(NAME, 8) == {}
    assert sorted(path.name for path in (tmp_path / NAME).iterdir()) == ["features.safetensors"]


@pytest.mark.parametrize("damage", ["byte", "short", "empty", "place", "text"])
def test_a_damaged_file_is_refused_taken_away_and_named(tmp_path, capsys, damage):
    cache = FeatureCache(tmp_path, 10**9)
    cache.write(NAME, WHAT, stored())
    path = tmp_path / NAME / "features.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "place":
        shutil.copytree(tmp_path / NAME, tmp_path / OTHER)
        path, wanted = tmp_path / OTHER / "features.safetensors", OTHER
    else:
        wanted = NAME
        content[-1] ^= 1
        path.write_bytes({"byte": bytes(content), "short": content[:-4], "empty": b"", "text": b"{}"}[damage])
    assert cache.read(wanted) is None
    told = capsys.readouterr().err
    assert str(path) in told and "damaged" in told and told.count("\n") == 1
    assert not path.exists()
    cache.write(wanted, WHAT, stored())
    assert cache.read(wanted) is not None


def test_the_limit_throws_out_what_was_not_used_for_longest(tmp_path):
    import os

    cache = FeatureCache(tmp_path, 10**9)
    names = [digest(number) for number in range(4)]
    for number, name in enumerate(names):
        cache.write(name, WHAT, stored(rows=1000))
        os.utime(tmp_path / name / "features.safetensors", (number, number))
    cache.read(names[0])  # used now
    size = cache.entries()[0].size
    FeatureCache(tmp_path, 3 * size).write(digest("new"), WHAT, stored(rows=1000))
    assert {entry.name for entry in cache.entries()} == {digest("new"), names[0], names[3]}
    FeatureCache(tmp_path, 1).write(digest("large"), WHAT, stored())
    assert [entry.name for entry in cache.entries()] == [digest("large")], "what was just written stays"


def test_clear_takes_its_own_files_only(tmp_path):
    cache = FeatureCache(tmp_path, 10**9)
    cache.write(NAME, WHAT, stored())
    cache.write_block(OTHER, WHAT, 8, 0, 1, stored())
    (tmp_path / "notes.txt").write_text("mine")
    assert [entry.complete for entry in sorted(cache.entries(), key=lambda entry: not entry.complete)] == [True, False]
    assert cache.clear()[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ZhclipError, match=r"file.*cannot be kept there.*ZHCLIP_FEATURE_CACHE"):
        FeatureCache(tmp_path / "file", 10**9).write(NAME, WHAT, stored())


def _write_many(folder, seed):
    cache = FeatureCache(folder, 10**9)
    for number in range(20):
        for start in range(4):
            cache.write_block(NAME, WHAT, 8, start, start + 1, stored(rows=300, seed=start))
        if number % 3 == seed:
            cache.write(NAME, WHAT, stored(rows=300))
        read = cache.read(NAME)
        assert read is None or torch.equal(read.features, stored(rows=300).features)


def test_several_programs_write_at_once(tmp_path, capfd):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(tmp_path, seed)) for seed in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert "damaged" not in capfd.readouterr().err
    cache = FeatureCache(tmp_path, 10**9)
    assert all(
        torch.equal(block.features, stored(300, key[0]).features) for key, block in cache.read_blocks(NAME, 8).items()
    )
    assert not list(tmp_path.rglob("*.part"))


def test_command_line(tmp_path, monkeypatch):
    run = CliRunner().invoke
    monkeypatch.delenv("ZHCLIP_FEATURE_CACHE", raising=False)
    failed = run(app, ["cache", "info"])
    assert isinstance(failed.exception, ZhclipError) and "ZHCLIP_FEATURE_CACHE" in str(failed.exception)
    monkeypatch.setenv("ZHCLIP_FEATURE_CACHE", str(tmp_path))
    FeatureCache(tmp_path, 10**9).write(NAME, WHAT, stored())
    told = json.loads(run(app, ["cache", "info", "--json"]).output)
    assert told["limit"] == 50 * 10**9
    assert [(entry["name"], entry["rows"], entry["seconds"]) for entry in told["entries"]] == [(NAME, 5, 2.0)]
    assert "some on cpu" in run(app, ["cache", "info"]).output
    assert run(app, ["cache", "clear"], input="n\n").exit_code == 1
    assert "1 names" in run(app, ["cache", "clear", "--yes"]).output
    assert isinstance(run(app, ["cache", "info"]).exception, ZhclipError), "the empty folder is gone"


def test_sizes_are_read(monkeypatch):
    assert [read_size(text) for text in ("50GB", "1.5 t", "20m", "7", "3 GiB")] == [
        50 * 10**9,
        15 * 10**11,
        20 * 10**6,
        7,
        3 * 10**9,
    ]
    monkeypatch.setenv("ZHCLIP_FEATURE_CACHE_SIZE", "much")
    with pytest.raises(ZhclipError, match="ZHCLIP_FEATURE_CACHE_SIZE=much: not a size; write it like 50GB"), using():
        pass


def test_a_file_that_goes_away_while_it_is_opened(tmp_path, monkeypatch, capfd):
    """Another program has thrown it out between our look at the folder and at the file."""
    cache = FeatureCache(tmp_path, 10**9)
    cache.write(NAME, WHAT, stored())
    original = safetensors.safe_open

    def too_late(path, **options):
        original(path, **options)  # its header is read
        Path(path).unlink()
        raise RuntimeError(f"unable to open file <{path}> in read-only mode: No such file or directory (2)")

    monkeypatch.setattr(safetensors, "safe_open", too_late)
    assert cache.read(NAME) is None
    cache.write(NAME, WHAT, stored())
    assert [entry.rows for entry in cache.entries()] == [0]
    assert not capfd.readouterr().err
