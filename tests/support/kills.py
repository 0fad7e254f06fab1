"""Processes that die at a chosen moment: before the n-th time that they change a file or take a lock. Not a test."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

#: Events of `sys.audit` that come before a change; `open` is one where it may write.
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")
_KILLED = 137


def dies(number: int | None, folder: Path, work: Callable[[], object], log: Path | None = None) -> int | None:
    """Run `work` in a forked process that ends, without a word and without tidying up, before its n-th change below
    `folder`. None if it was killed so, else how many changes there were.

    Raises AssertionError: `work` failed by itself.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _be_killed(number, str(folder), work, writing, log)
    os.close(writing)
    with os.fdopen(reading) as told:
        changes = told.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == _KILLED:
        return None
    assert code == 0, (log.read_text() if log else "") or f"exit code {code}"
    return int(changes)


def _be_killed(number: int | None, folder: str, work: Callable, told: int, log: Path | None) -> None:
    done = 0
    code = 1

    def watch(event: str, arguments: tuple) -> None:
        nonlocal done
        if event == "open":
            path, _, flags = arguments
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event == "fcntl.lockf":
            path = folder
        elif event in _CHANGES:
            path = arguments[0]
        else:
            return
        if isinstance(path, (str, bytes, os.PathLike)) and os.path.abspath(os.fsdecode(path)).startswith(folder):
            if done == number:
                os._exit(_KILLED)
            done += 1

    output = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    try:
        import torch

        torch.set_num_threads(1)  # threads of the parent are not here, and would be waited for
        sys.addaudithook(watch)
        work()
        os.write(told, str(done).encode())
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)
