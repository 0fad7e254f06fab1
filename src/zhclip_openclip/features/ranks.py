"""One evaluation over several processes: who is who, which part is whose, and bringing the parts together.

    with joined():              # what `zhclip eval` does where a launcher has started several processes
        for batch in part(batches): ...
        rows = gather_rows(...)     # on rank 0; the others leave the evaluation here, by `Elsewhere`

Outside of `joined` there is one process, rank 0 of 1, and everything here gives back what it got.

Parts are contiguous and in the order of the ranks, and cut between batches, so that every batch goes through the tower
exactly as it does in one process. Before anything is exchanged the processes meet (`_roll_call.py`), so that nobody
waits for a dead one. PyTorch's gloo carries it, on GPUs NCCL.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import socket
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.features import arithmetic
from zhclip_openclip.features._deadline import Deadline, end_process
from zhclip_openclip.features._launch import Place, find_each_other, place_from_environment, seconds, take_device
from zhclip_openclip.features._roll_call import INTERVAL, Elsewhere, Lost, RollCall
from zhclip_openclip.features.settings import read_size

__all__ = ["Elsewhere", "Place", "RankFailed", "place_from_environment"]

#: Names of the environment variables.
GATHER, PATIENCE, STALL = "ZHCLIP_GATHER_LIMIT", "ZHCLIP_RANK_TIMEOUT", "ZHCLIP_RANK_STALL_TIMEOUT"
DEFAULT_GATHER, DEFAULT_PATIENCE, DEFAULT_STALL = "4 GB", 300.0, 7 * 24 * 3600.0
#: Seconds in which PyTorch says itself that it has found nobody, before we do.
_JOIN_GRACE = 15.0
#: Bytes that go over the wire at once; on a GPU a buffer of this size is needed.
_CHUNK = 64 * 2**20
#: Of one transfer. Waiting for others is no transfer: see `_roll_call.py`.
_TRANSFER_LIMIT = timedelta(minutes=30)


class RankFailed(ZhclipError):
    """This process ends the evaluation of all.

    code: exit code. told: the error has been printed. lost: another process is the reason.
    """

    def __init__(self, message: str, code: int = 1, told: bool = False, lost: bool = False):
        super().__init__(message)
        self.code, self.told, self.lost = code, told, lost


@dataclass
class _World:
    place: Place
    roll: RollCall
    control: Any  # process group for what is on the CPU
    device: torch.device  # where data has to lie to be sent
    turn: int = 0
    turns: int = 1


_current: contextvars.ContextVar[_World | None] = contextvars.ContextVar("zhclip_world", default=None)


# ---------------------------------------------------------------- who is who


def rank() -> int:
    world = _current.get()
    return world.place.rank if world else 0


def size() -> int:
    world = _current.get()
    return world.place.size if world else 1


def part(count: int) -> range:
    """Which of 0..count-1 are this process's: contiguous, in the order of the ranks, the sizes at most 1 apart."""
    return range(count * rank() // size(), count * (rank() + 1) // size())


def gather_limit() -> int:
    """Bytes that rank 0 may get of the scores of one data set."""
    return read_size(os.environ.get(GATHER) or DEFAULT_GATHER, GATHER)


# ---------------------------------------------------------------- joining


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Be one of the processes that a launcher has started, until the end of the block.

    Raises RankFailed: any error in the block, here or in another process; all processes end then.
    """
    import torch.distributed as dist

    place = place_from_environment()
    world = _join(place)
    token, roll = _current.set(world), world.roll
    try:
        _compare_machines(world)
        with arithmetic.taken(arithmetic.agreed(_exchange(world, arithmetic.offered(rank() == 0)))):
            yield
        roll.next_cell()
        roll.meet()  # rank 0 is the last to come: it has written the results
    except BaseException as error:
        failure = _failure(error, roll, place)
        if not failure.lost and not roll.fail(str(failure).partition(": ")[2]):
            failure.told = True
        raise failure from failure.__cause__
    else:
        dist.destroy_process_group()
    finally:
        roll.leave()
        _current.reset(token)


def _failure(error: BaseException, roll: RollCall, place: Place) -> RankFailed:
    """What to tell of an error that ends everything; caused by it where its message does not say all."""
    who = f"rank {place.rank} of {place.size}"
    # A connection that breaks off says less than the process at its other end, which is heard of a little later.
    reason = roll.why(3 * INTERVAL if isinstance(error, RuntimeError) and not isinstance(error, ZhclipError) else 0.0)
    if reason is not None or isinstance(error, Lost):
        return RankFailed(f"{who} ends: {reason or error}", lost=True)
    if isinstance(error, SystemExit) and isinstance(error.code, str):
        return RankFailed(f"{who}: {error.code.removeprefix('clip_benchmark: error: ')}")
    if isinstance(error, SystemExit):
        return RankFailed(f"{who}: see above", error.code or 0, told=True)
    if isinstance(error, KeyboardInterrupt):
        return RankFailed(f"{who}: interrupted", 130)
    if isinstance(error, ZhclipError):
        return RankFailed(f"{who}: {error}")
    traceback.print_exception(error)
    text = str(error).strip()
    if "Original Traceback" in text:  # torch puts a worker's whole traceback into the message
        text = text.splitlines()[-1]
    failure = RankFailed(f"{who}: {type(error).__name__}: {' '.join(text.split())[:500]}")
    failure.__cause__ = error
    return failure


def _join(place: Place) -> _World:
    import torch.distributed as dist

    device = take_device(place)
    patience, stall = seconds(PATIENCE, DEFAULT_PATIENCE), seconds(STALL, DEFAULT_STALL)
    find_each_other(place)
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    missing = f"rank {place.rank} of {place.size} did not find the others at {address} within {patience:.0f} s"
    advice = "all have to be started, with the same MASTER_ADDR and MASTER_PORT"
    deadline = Deadline(patience + _JOIN_GRACE, lambda: end_process(f"zhclip eval: error: {missing}; {advice}"))
    try:
        limit = timedelta(seconds=patience)
        store, _, _ = next(dist.rendezvous("env://", place.rank, place.size, timeout=limit))
        deadline.heard()
        roll = RollCall(dist.PrefixStore("zhclip", store), place.rank, place.size, patience, deadline, stall)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=dist.PrefixStore("torch", store),
            rank=place.rank,
            world_size=place.size,
            timeout=_TRANSFER_LIMIT,
        )
        deadline.heard()
        control = dist.new_group(backend="gloo") if device.type == "cuda" else dist.group.WORLD
    except (RuntimeError, ValueError) as error:  # what PyTorch's stores and groups raise
        deadline.stop()
        raise ZhclipError(f"{missing} ({' '.join(str(error).split())[:200]}); {advice}") from None
    except BaseException:
        deadline.stop()
        raise
    roll.start()
    return _World(place, roll, control, device)


def _compare_machines(world: _World) -> None:
    """Refuse two processes on one GPU, and say who goes first on each machine."""
    gpu = ""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        gpu = f"{socket.gethostname()} {getattr(properties, 'uuid', '') or torch.cuda.current_device()}"
    told = _exchange(world, (gpu, world.place.local))
    first: dict[str, int] = {}
    for other, (theirs, _) in enumerate(told):
        if theirs and first.setdefault(theirs, other) != other:
            raise ZhclipError(
                f"rank {first[theirs]} and rank {other} have the same GPU; start as many processes a machine as it has "
                "GPUs"
            )
    several = any(local == 0 for _, local in told[1:])
    world.turns = 3 if several else 2
    world.turn = 0 if world.place.rank == 0 else 1 if several and world.place.local == 0 else world.turns - 1


# ---------------------------------------------------------------- cells


def next_cell() -> None:
    """Begin another evaluation."""
    if world := _current.get():
        world.roll.next_cell()


def end_cell() -> None:
    """The evaluation is over: rank 0 has its results, or has skipped it."""
    world = _current.get()
    if world and world.place.rank == 0:
        world.roll.end_cell()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One process as far as the code in the block can see: for what is not split."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """Rank 0 first, then the first of each other machine, then all others at once: what downloads into a folder that
    is not there yet does so once."""
    world = _current.get()
    if world:
        for _ in range(world.turn):
            world.roll.meet()
    yield
    if world:
        for _ in range(world.turn, world.turns - 1):
            world.roll.meet()


# ---------------------------------------------------------------- bringing together


def meet(tick: Callable[[], None] | None = None) -> None:
    """Wait for all processes. tick: called now and then meanwhile."""
    if world := _current.get():
        world.roll.meet(tick)


def everyones(value: Any) -> list[Any]:
    """What each process has given, in the order of the ranks, on all of them. Small things: they are pickled."""
    world = _current.get()
    if world is None:
        return [value]
    world.roll.meet()
    return _exchange(world, value)


def agree(what: str, value: Any) -> None:
    """All processes must have the same.

    Raises ZhclipError: another one has something else.
    """
    told = everyones(value)
    for other, theirs in enumerate(told):
        if theirs != told[0]:
            raise ZhclipError(
                f"{what} of rank {other} differ from rank 0's ({theirs} and {told[0]}); all processes need the same "
                "command line, data, weights and versions"
            )


def everyones_rows(rows: torch.Tensor | None) -> list[torch.Tensor]:
    """The (n, ...) tensors of all processes, n any number, None for none; on the CPU, on all of them."""
    world = _current.get()
    if world is None:
        return [] if rows is None else [rows]
    return [tensor for tensor in _transfer(world, rows, to_all=True) if tensor is not None]


def gather(tensor: torch.Tensor | None) -> list[torch.Tensor]:
    """The tensors of all processes, without those that gave None, in the order of the ranks, on the CPU of rank 0;
    nothing on the others."""
    world = _current.get()
    if world is None:
        return [] if tensor is None else [tensor]
    return [found for found in _transfer(world, tensor, to_all=False) if found is not None]


def only_first() -> None:
    """What follows is rank 0's.

    Raises Elsewhere: on all others.
    """
    if rank():
        raise Elsewhere


def gather_rows(blocks: Sequence[tuple[torch.Tensor, ...]], starts: Sequence[int]) -> tuple[torch.Tensor, ...]:
    """Rows of all processes as one, on rank 0.

    blocks: of each batch some tensors with a row for each of its samples, on the CPU. starts: the place of its first
    row in the whole.

    Returns the tensors of the whole; none if there are no rows at all.

    Raises Elsewhere: on all others. ZhclipError: rows are missing or there twice.
    """
    runs = [(start, len(block[0])) for start, block in zip(starts, blocks, strict=True)]
    told = everyones((runs, len(blocks[0]) if blocks else 0))
    columns = max(width for _, width in told)
    mine = [torch.cat(column) for column in zip(*blocks, strict=True)] if blocks else [None] * columns
    found = [gather(column) for column in mine]
    only_first()
    runs = [run for theirs, _ in told for run in theirs]
    order = sorted(range(len(runs)), key=runs.__getitem__)
    end = 0
    for index in order:
        if runs[index][0] != end:
            raise ZhclipError(f"sample {min(end, runs[index][0])} was read by no process, or by two; look at the data")
        end += runs[index][1]
    whole = [torch.cat(rows) for rows in found]
    if order != list(range(len(runs))):
        lengths = [length for _, length in runs]
        parts = [rows.split(lengths) for rows in whole]
        whole = [torch.cat([pieces[index] for index in order]) for pieces in parts]
    return tuple(whole)


def from_first(tensor: torch.Tensor) -> torch.Tensor:
    """Rank 0's tensor, on all; each has one of the same shape, and gets it on the device of its own."""
    world = _current.get()
    if world is None:
        return tensor
    return _transfer(world, tensor if rank() == 0 else None, to_all=True)[0].to(tensor.device)


def _exchange(world: _World, value: Any) -> list[Any]:
    import torch.distributed as dist

    told: list[Any] = [None] * world.place.size
    dist.all_gather_object(told, value, group=world.control)
    return told


def _transfer(world: _World, tensor: torch.Tensor | None, to_all: bool) -> list[torch.Tensor | None]:
    """The tensors of all processes, on the CPU: on all of them, or on rank 0 (the others get Nones)."""
    import torch.distributed as dist

    world.roll.meet()
    about = _exchange(world, None if tensor is None else (tuple(tensor.shape), tensor.dtype))
    me = world.place.rank
    found: list[torch.Tensor | None] = [None] * world.place.size
    for source, described in enumerate(about):
        if described is None:
            continue
        if source == me:
            whole = tensor.detach().cpu().contiguous()
        elif to_all or me == 0:
            whole = torch.empty(described[0], dtype=described[1])
        else:
            continue
        if to_all or me == 0:
            found[source] = whole
        if whole.numel() == 0 or (source == 0 and not to_all):
            continue
        for chunk in whole.view(-1).view(torch.uint8).split(_CHUNK):
            sent = chunk.to(world.device)
            if to_all:
                dist.broadcast(sent, source)
            elif source == me:
                dist.send(sent, 0)
            else:
                dist.recv(sent, source)
            if source != me and sent is not chunk:
                chunk.copy_(sent)
    return found


# ---------------------------------------------------------------- progress


def tell_done(done: int, new_pass: bool = False) -> None:
    """How many images this process has done in the current pass, for the bar of rank 0."""
    if world := _current.get():
        world.roll.at_pass += new_pass
        world.roll.done = done


def done_by_others() -> int:
    """How many images the other processes had done a second ago, in the same pass."""
    world = _current.get()
    return world.roll.done_by_others() if world else 0
