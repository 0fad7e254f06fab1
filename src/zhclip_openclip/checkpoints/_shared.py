"""One copy of a model's weights for all processes of a machine that load the same.

The first process reads the file, as a process alone does, but into memory that has no file behind it (memfd of Linux).
Then it seals that memory: the kernel lets nobody write to it or cut it any more. All processes, the first too, map it
privately; where one changes a weight, it gets that page for itself. So nothing that happens to the file later reaches
anybody, and one process does not see what another trains.

Others find it by a small record in a folder of the user's own, which names the process and the descriptor; a lock on
the record makes them wait for the first. Whatever does not work here is no error: that process loads by itself.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import math
import mmap
import os
import stat
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from zhclip_openclip.checkpoints._transfer import local_processes

if TYPE_CHECKING:
    import torch

#: Seconds that a process waits for another to finish reading, before it reads by itself.
_PATIENCE = 600
#: What a vector of the processor wants a tensor to begin at a multiple of.
_ALIGNED = 64
Form = tuple[tuple[int, ...], "torch.dtype"]


def wanted() -> bool:
    """Whether processes share: `ZHCLIP_SHARED_WEIGHTS=1` or `0`; else where torchrun has started several here."""
    told = os.environ.get("ZHCLIP_SHARED_WEIGHTS", "")
    if not hasattr(os, "memfd_create"):
        return False
    return local_processes() > 1 if told == "" else told != "0"


def take(
    identity: object, forms: Mapping[str, Form], fill: Callable[[dict[str, torch.Tensor]], None]
) -> dict[str, torch.Tensor] | None:
    """Tensors of these forms with what `fill` writes into them, in this process or in another one before.

    identity: its `repr` says everything that the values depend on. They may be written to, each process for itself.

    None where memory cannot be shared. What `fill` raises passes.
    """
    places, size = _places(forms)
    name = "zhclip-" + hashlib.sha256(repr((identity, sorted(places.items()))).encode()).hexdigest()[:32]
    try:
        with _locked(name) as (record, path):
            descriptor = _join(record, name, size)
            joined = descriptor is not None
            if descriptor is None:
                descriptor = _make(name, places, size, fill)
            memory = _mapped(descriptor, size)
            if joined:
                os.close(descriptor)  # the map has its own
            else:
                os.ftruncate(record, 0)
                os.pwrite(record, f"{os.getpid()} {descriptor}".encode(), 0)
                weakref.finalize(memory, _forget, descriptor, path, os.getpid())
    except OSError:
        return None
    return _views(memory, places)


def _places(forms: Mapping[str, Form]) -> tuple[dict[str, tuple[int, tuple[int, ...], torch.dtype]], int]:
    places, end = {}, 0
    for target, (shape, dtype) in forms.items():
        places[target] = end, tuple(shape), dtype
        end += -(-math.prod(shape) * dtype.itemsize // _ALIGNED) * _ALIGNED
    return places, max(end, 1)


def _views(memory: mmap.mmap, places: Mapping[str, tuple]) -> dict[str, torch.Tensor]:
    """Each tensor has a storage of its own, so that one that is saved is not saved with all others."""
    import torch

    return {
        target: torch.frombuffer(memory, dtype=dtype, count=math.prod(shape), offset=start).view(shape)
        if math.prod(shape)
        else torch.empty(shape, dtype=dtype)
        for target, (start, shape, dtype) in places.items()
    }


def _mapped(descriptor: int, size: int) -> mmap.mmap:
    return mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY)


def _make(name: str, places: Mapping[str, tuple], size: int, fill) -> int:
    """A descriptor of sealed memory with the values. Raises OSError: no memory, or something may still write to it."""
    import fcntl

    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(descriptor, 0, size)
        memory = mmap.mmap(descriptor, size)
        fill(_views(memory, places))
        del memory  # not close(), which would leave a view that somebody keeps without its memory
        gc.collect()
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _seals())
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _seals() -> int:
    import fcntl

    return fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def _join(record: int, name: str, size: int) -> int | None:
    """A descriptor of what the record names; None where that is not there any more, or is not what was asked for."""
    import fcntl

    process, _, number = os.pread(record, 64, 0).decode("ascii", "replace").partition(" ")
    if not (process.isdigit() and number.isdigit()):
        return None
    place = f"/proc/{process}/fd/{number}"
    try:
        if not os.readlink(place).startswith(f"/memfd:{name}"):
            return None
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    with contextlib.suppress(OSError):
        if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) == _seals() and os.fstat(descriptor).st_size == size:
            return descriptor
    os.close(descriptor)
    return None


@contextlib.contextmanager
def _locked(name: str) -> Iterator[tuple[int, Path]]:
    """The record of that name, open, while no other process has it. Raises OSError: there can be none, or no end of
    waiting."""
    import fcntl

    folder = Path(tempfile.gettempdir()) / f"zhclip-weights-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    said = folder.lstat()
    if not stat.S_ISDIR(said.st_mode) or said.st_uid != os.getuid() or said.st_mode & 0o077:
        raise OSError(f"{folder} is not this user's alone")  # who else could write there names memory of his own
    path = folder / name
    record = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
        yield record, path
    finally:
        os.close(record)


def _forget(descriptor: int, path: Path, process: int) -> None:
    """The memory is not used in this process any more: whoever comes now reads the file."""
    with contextlib.suppress(OSError):
        os.close(descriptor)
    if os.getpid() == process:
        path.unlink(missing_ok=True)
