"""What a launcher has told this process: its place among the others, where they meet, and which GPU is its own."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from zhclip_openclip._errors import ZhclipError

#: Rank, number of ranks and rank on the machine, as launchers tell them: torchrun, MPICH and its kind, Open MPI, srun.
#: The same variables as `clip_benchmark eval --distributed` reads, but those of one launcher together, and of SLURM the
#: size of the step: a batch script itself has SLURM_NTASKS set and is one process.
_LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)


@dataclass(frozen=True)
class Place:
    """rank: of `size` processes. local: rank among those on this machine."""

    rank: int = 0
    size: int = 1
    local: int = 0


def place_from_environment() -> Place:
    """What the launcher says; rank 0 of 1 without any."""
    for rank_name, size_name, local_name in _LAUNCHERS:
        if os.environ.get(rank_name) and os.environ.get(size_name):
            local = next((os.environ[name] for *_, name in [(local_name,), *_LAUNCHERS] if os.environ.get(name)), "0")
            return Place(int(os.environ[rank_name]), int(os.environ[size_name]), int(local))
    return Place()


def seconds(name: str, default: float) -> float:
    """The value of an environment variable.

    Raises ZhclipError: no number above 0.
    """
    try:
        value = float(os.environ.get(name) or default)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise ZhclipError(f"{name}={os.environ[name]}: not a number of seconds; the default is {default:.0f}")
    return value


def find_each_other(place: Place) -> None:
    """torchrun says where rank 0 is; other launchers do not."""
    here = {"OMPI_COMM_WORLD_LOCAL_SIZE": place.size, "MPI_LOCALNRANKS": place.size, "SLURM_STEP_NUM_NODES": 1}
    if any(os.environ.get(name) == str(value) for name, value in here.items()):
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "29500")
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise ZhclipError(
            f"{' and '.join(missing)} not set: export the address of rank 0's machine as MASTER_ADDR and a free port "
            "of it as MASTER_PORT for all processes, or start them with torchrun"
        )


def take_device(place: Place) -> torch.device:
    """The GPU of this process becomes the current one, which `cuda` without a number means."""
    import torch.distributed as dist

    if not torch.cuda.is_available():
        return torch.device("cpu")
    # SLURM can give each process a GPU of its own, which then is number 0 for each.
    torch.cuda.set_device(place.local % torch.cuda.device_count())
    return torch.device("cuda", torch.cuda.current_device()) if dist.is_nccl_available() else torch.device("cpu")
