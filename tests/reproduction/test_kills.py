"""Runs that are killed, and several runs on one folder: nothing half, nothing lost, nothing called done that is not."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.kills import dies
from tests.support.reproduction import Recorder, one, results, start
from zhclip_openclip import _workplace
from zhclip_openclip.reproduction import run as running
from zhclip_openclip.reproduction.finished import state_of
from zhclip_openclip.reproduction.plan import Options, make_plan

pytest.importorskip("fcntl")

HOLDER = """
import sys, time
from pathlib import Path
from zhclip_openclip import _workplace
with _workplace.workplace(Path(sys.argv[1]), sys.argv[2]) as folder:
    assert folder
    print("held", flush=True)
    sys.stdin.read()
"""
#: The same with a reader that lives on, as DataLoader's does for some seconds after its parent, or for ever.
PARENT = HOLDER.replace("    print", "    import os, signal\n    if not os.fork():\n        signal.pause()\n    print")


@contextlib.contextmanager
def another(parent, name, code=HOLDER):
    """Another process that works at `parent/name`."""
    command = [sys.executable, "-c", code, str(parent), name]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its readers too
        process.communicate()


def planned(output, *datasets, workers=0):
    return make_plan(["zhclip-tiny"], datasets or ["digits"], None, output, Options(workers=workers), timed=False)


# ---------------------------------------------------------------- several runs


def test_a_lock_dies_with_its_process_and_not_with_its_readers(tmp_path):
    with another(tmp_path, "cell", PARENT) as process:
        with _workplace.workplace(tmp_path, "cell") as folder:
            assert folder is None
        process.kill()
        process.wait()
        os.killpg(process.pid, 0)  # its reader lives on
        with _workplace.workplace(tmp_path, "cell") as folder:
            assert folder is not None and list(folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_cell_that_another_run_is_at_is_not_done(tmp_path):
    """It is waited for, said, and has an exit code of its own; the others are run."""
    name = planned(tmp_path).cells[0].name
    with another(tmp_path / running.PARTS, name):
        done = one(tmp_path, "--datasets", "digits,digits-retrieval", "--wait", "0.1")
    assert done.exit_code == 3
    assert "1 cell is being run elsewhere" in done.output and "another run is at it" in done.output
    assert not re.search(r"on digits: .*(done|finished|acc1)", done.output)
    assert [path.stem for path in tmp_path.glob("*.json")] == ["zhclip-tiny_digits_digits-retrieval"]
    done = one(tmp_path, "--datasets", "digits,digits-retrieval")
    assert done.exit_code == 0 and "acc1" in done.output and not (tmp_path / running.PARTS).exists()


def test_a_cell_is_taken_over_when_it_is_left(tmp_path):
    """The other run dies while this one waits at the end."""
    plan = planned(tmp_path, "digits", "digits-retrieval")
    recorder = Recorder()
    with another(tmp_path / running.PARTS, plan.cells[0].name) as process:
        recorder.elsewhere = lambda cell, finished: (Recorder.elsewhere(recorder, cell, finished), process.kill())
        outcomes = running.run(plan, recorder, wait=60)
    assert recorder.others == [(plan.cells[0].name, False)]
    assert recorder.started == [plan.cells[1].name, plan.cells[0].name]
    assert not any(outcome.failure or outcome.elsewhere for outcome in outcomes)
    assert [outcome.cell for outcome in outcomes] == plan.cells


def test_a_cell_that_another_run_finishes_is_finished(tmp_path):
    plan = planned(tmp_path)
    assert one(tmp_path, "--datasets", "digits").exit_code == 0
    recorder = Recorder()
    outcomes = running.run(plan, recorder)  # this plan does not know
    assert recorder.others == [(plan.cells[0].name, True)] and recorder.started == []
    assert [(outcome.note, outcome.elsewhere) for outcome in outcomes] == [("another run has finished it", False)]


def test_every_wait_has_an_end(tmp_path):
    """Another report that is stuck is not waited for longer than is said."""
    one(tmp_path, "--datasets", "digits")
    with another(tmp_path / running.PARTS, running.REPORT), pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "REPORT_WAIT", 0.0)
        page, _ = running.write_report(tmp_path)
    assert page.read_text("utf-8").rstrip().endswith("</html>")


def test_folders_of_those_at_work_are_left_alone(tmp_path):
    with another(tmp_path, "at-work"):
        (tmp_path / "killed").mkdir()
        (tmp_path / "killed" / "half.npz").write_bytes(b"half")
        (tmp_path / "killed.lock").touch()
        _workplace.tidy(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["at-work", "at-work.lock"]


def test_a_lock_is_not_written_through_a_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "cell.lock").symlink_to(victim)
    with pytest.raises(OSError), _workplace.workplace(tmp_path, "cell"):
        pass
    assert victim.read_text() == "mine"


def test_what_killed_runs_have_left_is_taken_away(tmp_path):
    left = tmp_path / running.PARTS / "some-model_tag_mnist_zh"
    left.mkdir(parents=True)
    (left / "half.npz").write_bytes(b"half")
    left.with_name(left.name + ".lock").touch()
    assert one(tmp_path, "--datasets", "digits").exit_code == 0
    assert not (tmp_path / running.PARTS).exists()


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    import fcntl

    def lockf(*args):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    assert one(tmp_path, "--datasets", "digits").exit_code == 0
    assert len(list(tmp_path.glob("*.json"))) == 1


# ---------------------------------------------------------------- a kill at every write


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an uninterrupted run leaves, how often it changes a file, and its feature cache, which others share."""
    folder = tmp_path_factory.mktemp("whole")
    work(folder / "out", folder / "features")()
    changes = dies(None, folder / "again", work(folder / "again", folder / "features"), folder / "log")
    assert results(folder / "again") == results(folder / "out")
    return results(folder / "out"), changes, folder / "features"


def work(output, features):
    def run():
        outcomes = running.run(planned(output, "digits-retrieval"), Recorder(), features)
        assert not any(outcome.failure or outcome.elsewhere for outcome in outcomes), outcomes
        running.write_report(output)

    return run


def check_nothing_is_half(output, expected):
    """What stands under a final name is whole, and what counts as finished has all its files."""
    if not output.is_dir():
        return
    for name, content in results(output).items():
        assert content == expected[name], name
    cell = planned(output, "digits-retrieval").cells[0]
    if state_of(cell, output)[0] == "finished":
        assert {f"{cell.name}.json", f"{cell.name}.npz", f"{cell.name}.html"} <= set(results(output))


def test_a_chain_of_kills(whole, tmp_path):
    """Each run goes on where the one before was killed, a little further each time."""
    expected, changes, features = whole
    output = tmp_path / "out"
    killed = 0
    for number in range(3, changes, 7):
        killed += dies(number, output, work(output, features), tmp_path / "log") is None
        check_nothing_is_half(output, expected)
    assert killed >= 4  # the others found all done
    work(output, features)()
    assert results(output) == expected and not (output / running.PARTS).exists()


@pytest.mark.slow
def test_a_kill_at_every_change_of_a_file(whole, tmp_path):
    expected, changes, features = whole
    for number in range(changes):
        output = tmp_path / f"out-{number}"
        assert dies(number, output, work(output, features), tmp_path / "log") is None, number
        check_nothing_is_half(output, expected)
        dies(None, output, work(output, features), tmp_path / "log")
        assert results(output) == expected, number
        assert not (output / running.PARTS).exists(), number


# ---------------------------------------------------------------- the demo, and being killed


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


@pytest.mark.slow
def test_killed_with_readers_that_are_stuck(tmp_path):
    """The readers of a killed run hang, as on a network disk that does not answer; the next run does all the same."""
    output = tmp_path / "results"
    process = start(output, "--batch-size", "4", "--num-workers", "2")
    readers = []
    while process.poll() is None and not readers:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if blocks(output):
                readers = [
                    int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                ]
        time.sleep(0.002)
    assert process.poll() is None, process.communicate()[0]
    for pid in readers:
        os.kill(pid, signal.SIGSTOP)
    process.kill()
    try:
        again = start(output, "--batch-size", "4", "--num-workers", "0")
        printed, _ = again.communicate(timeout=300)
        assert again.returncode == 0 and "elsewhere" not in printed, printed
        assert len(list(output.glob("*.json"))) == 4 and not (output / running.PARTS).exists()
    finally:
        for pid in readers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True], ids=["undisturbed", "one is killed"])
def test_three_runs_share_a_folder(demo, tmp_path, kill):
    """All end well, and together they leave what one leaves, also where one of them dies at its second cell."""
    _, whole = demo
    output = tmp_path / "results"
    runs = [start(output, "--batch-size", "8") for _ in range(3)]
    if kill:
        while runs[0].poll() is None and not list(output.glob("*.json")):
            time.sleep(0.002)
        runs[0].kill()
    printed = [process.communicate(timeout=300)[0] for process in runs]
    assert [process.returncode for process in runs[kill:]] == [0] * (3 - kill), printed
    assert results(output) == results(whole)
    assert not (output / running.PARTS).exists()
