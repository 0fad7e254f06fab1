"""Whatever goes wrong in a command is one line and exit code 1; `ZHCLIP_DEBUG=1` shows where."""

from __future__ import annotations

import os
import sys

import pytest

from tests.support import report_files as files
from zhclip_openclip import commands
from zhclip_openclip._errors import CheckpointError

ERRORS = {
    "ours": (CheckpointError("a.pt: no such\nfile"), "zhclip: error: a.pt: no such\\nfile\n"),
    "bug": (KeyError("a\x1b[2J"), "zhclip: error: KeyError: 'a\\x1b[2J'; this is a bug, ZHCLIP_DEBUG=1 shows where\n"),
    "silent bug": (AssertionError(), "zhclip: error: AssertionError; this is a bug, ZHCLIP_DEBUG=1 shows where\n"),
    "disk": (
        OSError(28, "No space left on device", "/x/\udcff"),
        "zhclip: error: [Errno 28] No space left on device: '/x/\\udcff'; ZHCLIP_DEBUG=1 shows where\n",
    ),
    "memory": (MemoryError(), "zhclip: error: this does not fit into memory; ZHCLIP_DEBUG=1 shows where\n"),
}


@pytest.fixture
def raising(monkeypatch):
    def use(error):
        def app():
            raise error

        monkeypatch.setattr(commands, "app", app)

    return use


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("debug", ["", "0", "1"])
def test_an_error_is_one_line(raising, capsys, monkeypatch, kind, debug):
    error, said = ERRORS[kind]
    raising(error)
    monkeypatch.setenv("ZHCLIP_DEBUG", debug)
    with pytest.raises(SystemExit) as ended:
        commands.main()
    told = capsys.readouterr().err
    assert ended.value.code == 1 and told.endswith(said)
    assert ("Traceback" in told and "in app" in told) == (debug == "1") and (debug == "1" or told == said)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=type)
def test_what_ends_a_command_on_purpose_ends_it(raising, error):
    raising(error)
    with pytest.raises(type(error)) as ended:
        commands.main()
    assert ended.value is error


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are UTF-8 elsewhere")
def test_folders_whose_names_are_no_utf8_on_a_terminal_that_has_no_unicode(tmp_path, run_python):
    folder = tmp_path / os.fsdecode(b"results \xff")
    files.write_json(folder / "a.json", dataset="cifar10", model="模型 [/x]", metrics={"acc1": 0.5, "acc5": 7})
    files.write_json(folder / os.fsdecode(b"\xfe.json"), dataset="cifar10")
    code = "import sys; from zhclip_openclip.commands import main; main()"
    for options in (["--format", "html", "--output", f"{folder}/report.html"], ["--format", "terminal"]):
        done = run_python(code, "report", str(folder), *options, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
        assert done.returncode == 0 and "Traceback" not in done.stderr and "\\xfe.json" in done.stderr
    assert r"\u6a21\u578b [/x]" in done.stdout
    assert b"report.html" in os.listdir(os.fsencode(folder))
