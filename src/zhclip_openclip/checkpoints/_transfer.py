"""From the bytes of a file into the memory that they are meant for, several blocks at once.

A file of weights is read and never mapped. A mapped file that somebody cuts short or writes over, be it the program
itself that saves to the path that it has loaded from, changes the weights under a running model, or ends the process
with SIGBUS before anybody can say why. Read, it is one error in one line, and only while the reading lasts: what has
been loaded belongs to the process alone.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from zhclip_openclip._cores import cores
from zhclip_openclip._errors import CheckpointError
from zhclip_openclip._reading import reading

if TYPE_CHECKING:
    import torch

#: Bytes of a file that are read at once: enough that a block costs more than its overhead. What is converted on the way
#: goes through torch's own threads, which wait for one another after each block.
BLOCK = 8 * 2**20
#: Threads that read. More do not help with a file that is in memory already, and little with one on a disk.
_THREADS = 8
#: Which file it is, and when it was last written: device, inode, bytes, nanoseconds.
Stamp = tuple[int, int, int, int]


def stamp(file: BinaryIO) -> Stamp:
    """Of an open file; another one after it was replaced, cut or written to."""
    said = os.fstat(file.fileno())
    return said.st_dev, said.st_ino, said.st_size, said.st_mtime_ns


class Source:
    """An open file, which has to be the one whose header was read before, and to stay as it is.

    Raises CheckpointError, here and from each method: it is another by now, or cannot be read.
    """

    def __init__(self, path: Path, stamped: Stamp | None):
        self.path, self._turn = path, threading.Lock()
        with reading(path, CheckpointError):
            self._file = path.open("rb", buffering=0)
        self._stamp = stamped
        try:
            self.check()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()

    def check(self) -> None:
        """Nobody has written to it."""
        with reading(self.path, CheckpointError):
            if self._stamp is not None and stamp(self._file) != self._stamp:
                raise CheckpointError(
                    f"{self.path} was changed while it was read: load it again when nobody writes to it any more"
                )

    def read_into(self, left: memoryview, offset: int) -> None:
        """The bytes from `offset` on, as many as the memory takes."""
        with reading(self.path, CheckpointError):
            while left:
                count = self._read(left, offset)
                if not count:
                    self.check()
                    raise CheckpointError(
                        f"{self.path} ends at byte {offset}, in the middle of a tensor: fetch it again"
                    )
                left, offset = left[count:], offset + count

    def _read(self, buffer: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [buffer], offset)
        with self._turn:  # Windows, where an open file has one place
            self._file.seek(offset)
            return self._file.readinto(buffer)


@dataclass(frozen=True)
class Move:
    """A tensor, or some rows of one, on its way.

    destination: what is written, of any type, on any device. offset: of the first byte in the file. dtype, shape: as
    it is stored there, with as many values as the destination has. transposed: its dimensions are turned round.
    """

    source: Source
    destination: torch.Tensor
    offset: int
    dtype: torch.dtype
    shape: Sequence[int]
    transposed: bool = False

    @property
    def is_straight(self) -> bool:
        """The bytes of the file are those of the destination."""
        wanted = self.destination
        same = wanted.dtype == self.dtype and not self.transposed
        return same and wanted.device.type == "cpu" and wanted.is_contiguous()


def carry_out(moves: Iterable[Move]) -> None:
    """All of them, in blocks that several threads read. What no move names is not written to.

    Raises CheckpointError: a file cannot be read, or was changed meanwhile; some destinations are written then.
    """
    moves = list(moves)
    straight, converted = [], []
    for move in moves:
        for block in _blocks(move):
            (straight if block.is_straight else converted).append(block)
    _read_straight(straight)
    _read_and_convert(converted)
    for source in {id(move.source): move.source for move in moves}.values():
        source.check()


def _read_straight(blocks: Sequence[Move]) -> None:
    """To where they belong. Each thread takes the next block when it is done with one: handing blocks out and waiting
    for each took a fifth of the time, as most are small."""
    left = deque((block.source, bytes_of(block.destination), block.offset) for block in blocks)

    def work() -> None:
        while True:
            try:
                source, memory, offset = left.popleft()
            except IndexError:
                return
            source.read_into(memory, offset)

    count = min(_threads(), len(left))
    if count < 2:
        return work()
    with ThreadPoolExecutor(count, thread_name_prefix="zhclip-weights") as threads:
        try:
            for done in as_completed([threads.submit(work) for _ in range(count)]):
                done.result()
        finally:
            left.clear()  # after an error the others need not go on


def _read_and_convert(blocks: Sequence[Move]) -> None:
    """Through memory that is used again, as fresh memory costs as much as the reading.

    Of torch's functions none but the view of bytes runs in a thread of ours, where each would start threads of its own.
    """
    spare: list[torch.Tensor] = []
    count = min(_threads(), len(blocks))
    if count < 2:
        for block in blocks:
            _put(block, _read(block, spare), spare)
        return
    ahead: deque[tuple[Move, Future]] = deque()
    with ThreadPoolExecutor(count, thread_name_prefix="zhclip-weights") as threads:
        for block in blocks:
            ahead.append((block, threads.submit(_read, block, spare)))
            while len(ahead) > count or (ahead and block is blocks[-1]):  # each holds a block
                done, future = ahead.popleft()
                _put(done, future.result(), spare)


def _blocks(move: Move) -> Iterator[Move]:
    """A move in parts of :data:`BLOCK`; one that has to turn dimensions round stays whole."""
    if move.transposed or not move.destination.is_contiguous():
        yield move
        return
    flat, step = move.destination.view(-1), max(BLOCK // move.dtype.itemsize, 1)
    for start in range(0, flat.numel(), step):
        part = flat[start : start + step]
        yield Move(move.source, part, move.offset + start * move.dtype.itemsize, move.dtype, part.shape)


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    import torch

    return memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy())


def _read(move: Move, spare: list[torch.Tensor]) -> torch.Tensor:
    """A block in memory of its own. spare: such memory that is not needed any more."""
    import torch

    size = math.prod(move.shape) * move.dtype.itemsize
    try:
        memory = spare.pop()
    except IndexError:
        memory = torch.empty(max(size, BLOCK), dtype=torch.uint8)
    if memory.numel() < size:
        memory = torch.empty(size, dtype=torch.uint8)
    move.source.read_into(bytes_of(memory[:size]), move.offset)
    return memory


def _put(move: Move, memory: torch.Tensor, spare: list[torch.Tensor]) -> None:
    """Write what was read to where it belongs, in its type and order."""
    import torch

    held = memory[: math.prod(move.shape) * move.dtype.itemsize].view(move.dtype).view(tuple(move.shape))
    if move.transposed:
        held = held.permute(*reversed(range(held.ndim)))
    with torch.no_grad():
        move.destination.copy_(held.reshape(move.destination.shape))
    spare.append(memory)


def _threads() -> int:
    """One for each processor that this process may use; those that torchrun starts on one machine share them."""
    return max(1, min(_THREADS, cores() // local_processes()))


def local_processes() -> int:
    """How many processes torchrun, or who sets its variables, has started on this machine."""
    told = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(told)) if told.isascii() and told.isdigit() else 1
