"""The feature cache as a store: what is written comes back, what is damaged or in the wrong place does not."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.commands import app
from zhclip_openclip.features import _entries
from zhclip_openclip.features import cache as cache_module
from zhclip_openclip.features.cache import FeatureCache, Place, Stored, describe
from zhclip_openclip.features.fingerprint import digest
from zhclip_openclip.features.settings import read_size, using

WHAT = describe(dataset="some", device="cpu", amp=False)
NAME, OTHER = digest("one"), digest("other")
TRIAL = torch.nn.functional.normalize(torch.arange(1.0, 7.0).view(2, 3))  # what the tower gave for two images of ours


def place(cache, name=NAME, trial=TRIAL):
    return Place(cache, name, trial, WHAT)


def rows_of(count):
    """Number of images in some batches, of which each has `count`."""
    return lambda batches: len(batches) * count


def stored(rows=5, seed=0, seconds=2.0):
    random = torch.Generator().manual_seed(seed)
    return Stored(torch.randn(rows, 3, generator=random), torch.arange(rows), seconds)


def test_what_is_written_comes_back(tmp_path):
    cache = FeatureCache(tmp_path, 10**9)
    assert place(cache, NAME).read() is None and cache.entries() == []
    place(cache, NAME).write(stored())
    read = place(cache, NAME).read()
    assert torch.equal(read.features, stored().features) and torch.equal(read.labels, stored().labels)
    assert read.seconds == 2.0 and place(cache, OTHER).read() is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_precision_is_kept_and_labels_may_be_absent(tmp_path, dtype):
    cache = FeatureCache(tmp_path, 10**9)
    place(cache, NAME).write(Stored(stored().features.to(dtype), None, 1.0))
    read = place(cache, NAME).read()
    assert torch.equal(read.features, stored().features.to(dtype)) and read.labels is None


def test_blocks_that_overlap_are_taken_once(tmp_path):
    cache = FeatureCache(tmp_path, 10**9)
    for start, stop in ((0, 2), (1, 3), (3, 4)):  # two programs have cut them differently
        place(cache, NAME).write_block(8, start, stop, stored(rows=8 * (stop - start)))
    assert sorted(place(cache, NAME).read_blocks(8, rows_of(8))) == [(0, 2), (3, 4)]
    assert place(cache, NAME).read_blocks(16, rows_of(16)) == {}
    place(cache, NAME).write(stored())
    assert place(cache, NAME).read_blocks(8, rows_of(8)) == {}
    assert sorted(path.name for path in (tmp_path / NAME).iterdir()) == ["features.safetensors"]


@pytest.mark.parametrize("damage", ["byte", "short", "empty", "place", "text"])
def test_a_damaged_file_is_refused_taken_away_and_named(tmp_path, capsys, damage):
    cache = FeatureCache(tmp_path, 10**9)
    place(cache, NAME).write(stored())
    path = tmp_path / NAME / "features.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "place":
        shutil.copytree(tmp_path / NAME, tmp_path / OTHER)
        path, wanted = tmp_path / OTHER / "features.safetensors", OTHER
    else:
        wanted = NAME
        content[-1] ^= 1
        path.write_bytes({"byte": bytes(content), "short": content[:-4], "empty": b"", "text": b"{}"}[damage])
    assert place(cache, wanted).read() is None
    told = capsys.readouterr().err
    assert str(path) in told and "damaged" in told and told.count("\n") == 1
    assert not path.exists()
    place(cache, wanted).write(stored())
    assert place(cache, wanted).read() is not None


def test_a_block_of_another_batch_size_is_not_served(tmp_path, capsys):
    """Copied into the folder of another size, or with another number of rows than its batches have."""
    cache = FeatureCache(tmp_path, 10**9)
    place(cache).write_block(4, 0, 2, stored(rows=8))
    shutil.copytree(tmp_path / NAME / "part-4", tmp_path / NAME / "part-5")
    assert place(cache).read_blocks(5, rows_of(5)) == {} and "belongs somewhere else" in capsys.readouterr().err
    assert place(cache).read_blocks(4, rows_of(5)) == {}
    assert list(place(cache).read_blocks(4, rows_of(4))) == [(0, 2)]


def test_towers_of_one_name_lie_side_by_side(tmp_path, capsys):
    """Each gets its own, whoever wrote last and whatever of them is complete; last bits are no difference."""
    cache = FeatureCache(tmp_path, 10**9)
    trials = [TRIAL, -TRIAL, TRIAL + 1e-3]
    for seed, trial in enumerate(trials):
        name = cache.place(NAME, trial)
        if seed == 1:
            place(cache, name, trial).write_block(8, 0, 1, stored(rows=8, seed=seed))
        else:
            place(cache, name, trial).write(stored(seed=seed))
    names = [cache.place(NAME, trial) for trial in trials]
    assert names[0] == NAME and len(set(names)) == 3 and len(cache.entries()) == 3
    for seed, (name, trial) in enumerate(zip(names, trials, strict=True)):
        mine = place(cache, cache.place(NAME, trial + 1e-6), trial + 1e-6)
        assert mine.name == name
        found = mine.read_blocks(8, rows_of(8))[0, 1] if seed == 1 else mine.read()
        assert torch.equal(found.features, stored(len(found.features), seed).features)
        assert place(cache, name, trials[seed - 1]).read() is None
        assert place(cache, name, trials[seed - 1]).read_blocks(8, rows_of(8)) == {}
    # Two that have got the same place in the same moment: what is there is one's, and the other takes nothing of it.
    place(cache, NAME, -TRIAL).write(stored(seed=7))
    assert place(cache, NAME).read() is None and cache.place(NAME, TRIAL) not in names
    nan = torch.full_like(TRIAL, torch.nan)
    assert place(cache, NAME, nan).read() is None
    assert not capsys.readouterr().err
    shutil.rmtree(tmp_path / NAME)
    assert cache.place(NAME, trials[2]) == names[2], "also where an earlier place is free"


def test_more_towers_than_places(tmp_path):
    cache = FeatureCache(tmp_path, 10**9)
    for seed in range(20):
        name = cache.place(NAME, TRIAL + seed)
        assert place(cache, name, TRIAL + seed).read() is None
        place(cache, name, TRIAL + seed).write(stored(seed=seed))
        assert torch.equal(place(cache, name, TRIAL + seed).read().features, stored(seed=seed).features)
    assert 1 < len(cache.entries()) < 20


def test_what_is_not_finite_is_not_kept(tmp_path):
    features = stored().features
    features[3, 1] = torch.inf
    with pytest.raises(ZhclipError, match="not finite"):
        place(FeatureCache(tmp_path, 10**9)).write(Stored(features, None, 1.0))
    assert not list(tmp_path.rglob("*"))


HEADERS = {
    "seconds": {"seconds": "soon"},
    "no number": {"seconds": "nan"},
    "infinite": {"seconds": "inf"},
    "no json": {"what": "[" * 100_000},
    "markup": {"what": "[/x] old[bold]\x1b]0;owned\x07"},
    "other facts": {"what": '{"dataset": ["[/x]"], "device": null, "amp": {}}'},
    "nothing": {},
}


@pytest.mark.parametrize("damage", [*HEADERS, "no features", "scalar", "bytes"])
def test_one_damaged_header_stops_nothing(tmp_path, damage, capsys):
    """Not the writing of other entries, the listing, or the clearing."""
    cache = FeatureCache(tmp_path, 10**9)
    path = tmp_path / OTHER / "features.safetensors"
    path.parent.mkdir()
    tensors = {"no features": {"x": torch.ones(2)}, "scalar": {"features": torch.tensor(1.0)}}
    save_file(tensors.get(damage, {"features": torch.ones(2, 3)}), path, HEADERS.get(damage, {"seconds": "1"}))
    if damage == "bytes":
        path.write_bytes(b"\xff" * 200)
    place(cache).write(stored())
    told = CliRunner().invoke(app, ["cache", "info", "--cache", str(tmp_path)], env={"COLUMNS": "200"})
    assert told.exit_code == 0 and OTHER[:12] in told.output and "\x1b" not in told.output, told.output
    assert "NaN" not in CliRunner().invoke(app, ["cache", "info", "--json", "--cache", str(tmp_path)]).output
    assert place(cache, OTHER).read() is None and "damaged" in capsys.readouterr().err
    assert cache.clear()[0] == 2 and not tmp_path.exists()


def test_a_trim_that_fails_fails_no_run(tmp_path, monkeypatch, capsys):
    cache = FeatureCache(tmp_path, 10**9)
    monkeypatch.setattr(FeatureCache, "entries", lambda self: 1 / 0)
    place(cache).write(stored())
    assert place(cache).read() is not None
    assert "could not be brought below its limit" in capsys.readouterr().err


def test_links_are_not_written_through_and_their_targets_stay(tmp_path):
    """A link at the place of an entry, of its blocks, of its file; and the folder itself by a link or with dots."""
    cache, victim = FeatureCache(tmp_path / "cache", 10**9), tmp_path / "victim"
    place(cache, OTHER).write(stored())
    shutil.copytree(tmp_path / "cache" / OTHER, victim)
    (victim / "part-9").mkdir()
    size = (victim / "features.safetensors").stat().st_size
    before = {path: path.read_bytes() for path in victim.rglob("*") if path.is_file()}
    for at in (NAME, f"{NAME}/part-8", f"{NAME}/features.safetensors"):
        link = tmp_path / "cache" / at
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(victim / "features.safetensors" if at.endswith("tensors") else victim)
        entry = next(entry for entry in cache.entries() if entry.name == NAME)
        assert entry.size < size, "what a link names is not the cache's"
        place(cache).write_block(8, 0, 1, stored(rows=8))
        assert list(place(cache).read_blocks(8, rows_of(8))) == [(0, 1)]
        place(cache).write(stored())
        assert place(cache).read() is not None and not link.is_symlink()
        _entries.remove(cache.folder, NAME)
    (tmp_path / "cache" / NAME).symlink_to(victim)
    (tmp_path / "by-link").symlink_to(tmp_path / "cache")
    assert len(FeatureCache(tmp_path / "by-link", 1).entries()) == 2
    assert FeatureCache(tmp_path / "by-link" / ".." / "cache", 1).clear()[0] == 2
    assert {path: path.read_bytes() for path in victim.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "cache").exists() and (victim / "part-9").is_dir()


def _age(folder):
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (0, 0), follow_symlinks=False)


def _work(folder):
    """All that programs do to a cache: blocks, all of it, another name that has to go for it, clearing."""
    cache = FeatureCache(folder, 1)
    for start in range(2):
        place(cache).write_block(8, start, start + 1, stored(rows=8, seed=start))
    place(cache).write(stored(rows=16, seed=2))
    place(cache, OTHER).write(stored(rows=16, seed=2))
    place(cache).write_block(8, 0, 1, stored(rows=8, seed=0))
    cache.clear()


def _killed_at(number, folder):
    """`_work` in a process of its own, which dies just before it changes the folder for that time; its number."""
    child = os.fork()
    if child:
        return child
    left = number
    events = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.utime", "tempfile.mkstemp")

    def count(event, arguments):
        nonlocal left
        if event in (*events, "tempfile.mkdtemp", "zhclip.save", "zhclip.half"):
            if left == 0:
                os._exit(9)
            left -= 1

    def save(tensors, path, about):
        sys.audit("zhclip.save")
        save_file(tensors, path, about)
        whole = Path(path).read_bytes()
        Path(path).write_bytes(whole[: len(whole) // 2])
        sys.audit("zhclip.half")
        Path(path).write_bytes(whole)

    try:
        cache_module.save_file = save
        sys.addaudithook(count)
        _work(folder)
    except BaseException:
        os._exit(1)
    os._exit(0)


def _exit_code(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_kills_beside_others_on_one_folder(tmp_path, capfd):
    """Two die at other moments each time, one goes on: it has no error, and nobody ever reads what was not written."""
    cache = FeatureCache(tmp_path / "cache", 10**9)
    for number in range(0, 40, 3):
        children = [_killed_at(at, cache.folder) for at in (number, number + 1, 10**6)]
        for _ in range(5):
            for name in (NAME, OTHER):
                found = place(cache, name).read()
                assert found is None or torch.equal(found.features, stored(rows=16, seed=2).features)
            for (start, _), block in place(cache).read_blocks(8, rows_of(8)).items():
                assert torch.equal(block.features, stored(rows=8, seed=start).features)
            cache.entries(), cache.leftovers(), cache.place(NAME, TRIAL)
        codes = [_exit_code(child) for child in children]
        assert codes[2] == 0 and set(codes[:2]) <= {0, 9}
    cache.clear()
    assert not cache.folder.exists() and "damaged" not in capfd.readouterr().err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_kill_at_every_write_costs_time_and_nothing_else(tmp_path, capfd):
    """Whatever is there is what was written; a run that comes next finds nothing in its way, and what the kill has left
    is counted, and gone when it is old."""
    for number in range(200):
        folder = tmp_path / str(number)
        code = _exit_code(_killed_at(number, folder))
        cache = FeatureCache(folder, 10**9)
        for name in (NAME, OTHER):
            found = place(cache, name).read()
            assert found is None or torch.equal(found.features, stored(rows=16, seed=2).features)
        for (start, _), block in place(cache).read_blocks(8, rows_of(8)).items():
            assert torch.equal(block.features, stored(rows=8, seed=start).features)
        on_disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if folder.is_dir():
            _age(folder)
        assert sum(entry.size for entry in cache.entries()) <= on_disk
        assert cache.leftovers() + sum(entry.size for entry in cache.entries()) >= on_disk
        place(cache).write_block(8, 0, 1, stored(rows=8, seed=0))
        place(cache).write(stored(rows=16, seed=2))
        names = {entry.name for entry in cache.entries()}
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert NAME in names and files <= {f"{name}/features.safetensors" for name in (NAME, OTHER)}, (number, files)
        assert {path.name for path in folder.iterdir()} == names
        assert cache.clear()[0] == len(names) and not folder.exists()
        if code == 0:
            break
        assert code == 9
    assert number > 30 and "damaged" not in capfd.readouterr().err


def test_what_is_being_written_is_left_alone(tmp_path):
    cache = FeatureCache(tmp_path, 10**9)
    place(cache).write_block(8, 0, 1, stored(rows=8))
    part = tmp_path / NAME / "part-8" / "000001-000002.safetensorsx.part"
    part.write_bytes(b"half")
    (tmp_path / f".{OTHER}-123").mkdir()
    cache.tidy()
    assert part.exists() and not (tmp_path / f".{OTHER}-123").exists()
    os.utime(part, (0, 0))
    assert cache.leftovers() == 4
    cache.tidy()
    assert not part.exists() and list(place(cache).read_blocks(8, rows_of(8))) == [(0, 1)]


def test_the_limit_throws_out_what_was_not_used_for_longest(tmp_path):
    cache = FeatureCache(tmp_path, 10**9)
    names = [digest(number) for number in range(4)]
    for number, name in enumerate(names):
        place(cache, name).write(stored(rows=1000))
        os.utime(tmp_path / name / "features.safetensors", (number, number))
    place(cache, names[0]).read()  # used now
    size = cache.entries()[0].size
    place(FeatureCache(tmp_path, 3 * size), digest("new")).write(stored(rows=1000))
    assert {entry.name for entry in cache.entries()} == {digest("new"), names[0], names[3]}
    place(FeatureCache(tmp_path, 1), digest("large")).write(stored())
    assert [entry.name for entry in cache.entries()] == [digest("large")], "what was just written stays"


def test_clear_takes_its_own_files_only(tmp_path):
    cache = FeatureCache(tmp_path, 10**9)
    place(cache, NAME).write(stored())
    place(cache, OTHER).write_block(8, 0, 1, stored())
    (tmp_path / "notes.txt").write_text("mine")
    assert [entry.complete for entry in sorted(cache.entries(), key=lambda entry: not entry.complete)] == [True, False]
    assert cache.clear()[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ZhclipError, match=r"file.*cannot be kept there.*ZHCLIP_FEATURE_CACHE"):
        place(FeatureCache(tmp_path / "file", 10**9), NAME).write(stored())


def _write_many(folder, seed):
    cache = FeatureCache(folder, 10**9)
    for number in range(20):
        for start in range(4):
            place(cache, NAME).write_block(8, start, start + 1, stored(rows=300, seed=start))
        if number % 3 == seed:
            place(cache, NAME).write(stored(rows=300))
        read = place(cache, NAME).read()
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
    blocks = place(cache, NAME).read_blocks(8, rows_of(300))
    assert all(torch.equal(block.features, stored(300, key[0]).features) for key, block in blocks.items())
    assert not list(tmp_path.rglob("*.part"))


def test_command_line(tmp_path, monkeypatch):
    run = CliRunner().invoke
    monkeypatch.delenv("ZHCLIP_FEATURE_CACHE", raising=False)
    failed = run(app, ["cache", "info"])
    assert isinstance(failed.exception, ZhclipError) and "ZHCLIP_FEATURE_CACHE" in str(failed.exception)
    monkeypatch.setenv("ZHCLIP_FEATURE_CACHE", str(tmp_path))
    place(FeatureCache(tmp_path, 10**9), NAME).write(stored())
    told = json.loads(run(app, ["cache", "info", "--json"]).output)
    assert told["limit"] == 50 * 10**9
    assert [(entry["name"], entry["rows"], entry["seconds"]) for entry in told["entries"]] == [(NAME, 5, 2.0)]
    assert "some on cpu" in run(app, ["cache", "info"]).output
    assert run(app, ["cache", "clear"], input="n\n").exit_code == 1
    assert "1 names" in run(app, ["cache", "clear", "--yes"]).output
    assert isinstance(run(app, ["cache", "info"]).exception, ZhclipError), "the empty folder is gone"


def test_names_from_data_do_nothing_to_the_terminal(tmp_path):
    folder = tmp_path / "old[/x] \x1b]0;owned\x07"
    what = describe(dataset="[/b]\x1b[2J\udc80", device="cpu", amp=True)
    Place(FeatureCache(folder, 10**9), NAME, TRIAL, what).write(stored())
    told = CliRunner().invoke(app, ["cache", "info", "--cache", str(folder)], env={"COLUMNS": "300"})
    assert told.exit_code == 0 and "old[/x] \\x1b]0;owned\\x07" in told.output, told.output
    assert "[/b]\\x1b[2J\\x80 on cpu, mixed precision" in told.output
    cleared = CliRunner().invoke(app, ["cache", "clear", "--yes", "--cache", str(folder)])
    assert cleared.exit_code == 0 and "\x1b" not in cleared.output
    missing = CliRunner().invoke(app, ["cache", "info", "--cache", str(folder)])
    assert "\x1b" not in str(missing.exception)


def test_leftovers_are_told_of(tmp_path):
    cache = FeatureCache(tmp_path, 10**9)
    place(cache).write(stored())
    (tmp_path / f".{OTHER}-123").mkdir()
    (tmp_path / f".{OTHER}-123" / "features.safetensors").write_bytes(bytes(3_000_000))
    os.utime(tmp_path / NAME / "features.safetensors", (4e11, 4e11))  # a clock that was wrong
    told = CliRunner().invoke(app, ["cache", "info", "--cache", str(tmp_path)])
    assert told.exit_code == 0 and "3.0 MB left by programs that were killed" in told.output, told.output


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
    place(cache, NAME).write(stored())
    original = safetensors.safe_open

    def too_late(path, **options):
        original(path, **options)  # its header is read
        Path(path).unlink()
        raise RuntimeError(f"unable to open file <{path}> in read-only mode: No such file or directory (2)")

    monkeypatch.setattr(safetensors, "safe_open", too_late)
    assert place(cache, NAME).read() is None
    place(cache, NAME).write(stored())
    assert [entry.rows for entry in cache.entries()] == [0]
    assert not capfd.readouterr().err
