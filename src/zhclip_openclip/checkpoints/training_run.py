"""The training run that a checkpoint is from, by the `params.txt` that open_clip_train leaves with it.

An evaluation writes what it finds here into its result, so that a result tells it by itself wherever it goes; a result
without it is asked for its checkpoint, while that still lies where it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zhclip_openclip._errors import CheckpointError
from zhclip_openclip.checkpoints import _beside
from zhclip_openclip.checkpoints._place import Folder

#: Runs that began from another run's checkpoint, and so on: as far as anybody goes, and no circle.
_CHAIN = 8


@dataclass(frozen=True)
class TrainingRun:
    """began: the value of `--pretrained`, '' for random weights. data: of `--train-data`, that of the runs before it
    among it, joined by `::`."""

    began: str
    data: str


def training_run(pretrained: str | None) -> TrainingRun | None:
    """The run that wrote the checkpoint file `pretrained`; None for a tag, and for a file with no run beside it."""
    began, data, here = None, [], pretrained
    for _ in range(_CHAIN):
        told = _options(here)
        if told is None:
            break
        here = _text(told.get("pretrained"))
        began = here if began is None else began
        data.append(_text(told.get("train_data")))
    return None if began is None else TrainingRun(began, "::".join(filter(None, data)))


def _options(pretrained: str | None) -> dict[str, object] | None:
    try:
        path = Path(pretrained or "").expanduser().absolute()
        if not pretrained or not path.is_file():
            return None
        params = _beside.params(Folder(path.parent))
        told = _beside.read_params(params) if params else {}
    except (CheckpointError, OSError, RuntimeError, ValueError):  # no home folder; a name that no file can have
        return None
    return told if "train_data" in told else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
