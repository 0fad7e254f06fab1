"""Folders of one process to write in, beside the place where the result will be: locked while they are in use, and
taken away by whoever comes next when their process has died.

    PARENT/NAME.lock     held by the process that works there
    PARENT/NAME/         what it has written so far

The locks are POSIX record locks: they belong to the process that took them and to none that it has forked, so that the
kernel frees them when that process dies, whatever becomes of its reader processes; over NFS too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows, where two processes must not share a folder of results
    fcntl = None

#: What the folders are called that have no name of their own.
PREFIX = ".zhclip-"
_TAKEN = (errno.EAGAIN, errno.EACCES)  # POSIX allows either


@contextlib.contextmanager
def workplace(parent: Path, name: str) -> Iterator[Path | None]:
    """An empty folder `parent/name`, taken away at the end of the block; None where another process has it.

    Raises OSError: it cannot be made.
    """
    with locked(parent / f"{name}.lock") as mine:
        if not mine:
            yield None
            return
        folder = parent / name
        _remove(folder)  # of a process that was killed
        folder.mkdir()
        try:
            yield folder
        finally:
            _remove(folder)


@contextlib.contextmanager
def nameless(parent: Path) -> Iterator[Path]:
    """The same with a name that nobody else has. `parent` is made if it is not there, and what killed processes have
    left in it is taken away.

    Raises OSError: it cannot be made.
    """
    parent.mkdir(parents=True, exist_ok=True)
    tidy(parent, f"{PREFIX}*.lock")
    while True:
        with workplace(parent, PREFIX + secrets.token_hex(4)) as folder:
            if folder is not None:  # None: somebody who tidies up was between its making and its locking
                yield folder
                return


def move(part: Path, to: Path, last: str) -> None:
    """Put the files of a workplace in place, `last` at the end: where that is, all is. An old one goes first where
    there are others, for it must not stand beside newer ones. Raises OSError."""
    others = sorted(path for path in part.iterdir() if path.name != last)
    for path in [*others, part / last]:
        _to_the_disk(path)
    if others:
        (to / last).unlink(missing_ok=True)
    for path in others:
        os.replace(path, to / path.name)
    os.replace(part / last, to / last)


def tidy(parent: Path, pattern: str = "*.lock") -> None:
    """Take away what processes that were killed have left, but nothing of those that are at work."""
    for path in list(parent.glob(pattern)):
        with contextlib.suppress(OSError), locked(path, certain=True) as free:
            if free:
                _remove(path.with_suffix(""))


@contextlib.contextmanager
def locked(path: Path, certain: bool = False) -> Iterator[bool]:
    """Whether the lock `path` is this process's until the end of the block; it is not waited for.

    certain: where the file system has no locks, take it for taken, not for free.

    Raises OSError: its file cannot be made.
    """
    if fcntl is None:
        yield not certain
        return
    handle, sure = _lock(path)
    if handle is None:
        yield False
        return
    try:
        yield sure or not certain
    finally:
        if sure or not certain:
            path.unlink(missing_ok=True)
        os.close(handle)


def _lock(path: Path) -> tuple[int | None, bool]:
    """An open file that holds the lock, None if another process has it; and whether it locks anything at all."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    while True:
        try:
            handle = os.open(path, flags, 0o666)
        except FileNotFoundError:  # its folder: another process has just tidied up
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                os.close(handle)
                return None, True
            return handle, False
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle, True
        os.close(handle)  # somebody removed it between the two steps, and it locks nothing any more


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _to_the_disk(path: Path) -> None:
    """A rename can reach the disk before the content does, and a power cut then leaves an empty file of that name."""
    if path.is_file():
        with path.open("rb+") as file, contextlib.suppress(OSError):  # some network file systems cannot
            os.fsync(file.fileno())
