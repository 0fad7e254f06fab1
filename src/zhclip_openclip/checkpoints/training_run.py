"""The training run that a checkpoint is from, by the `params.txt` that open_clip_train leaves with it, or the
`params_TIME.txt` that Chinese-CLIP's own trainer leaves at each start.

An evaluation writes what it finds here into its result, so that a result tells it by itself wherever it goes; a result
without it is asked for its checkpoint, while that still lies where it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zhclip_openclip._errors import CheckpointError
from zhclip_openclip.checkpoints import _beside
from zhclip_openclip.checkpoints._place import Folder
from zhclip_openclip.families import Tag, all_families

#: Runs that began from another run's checkpoint, and so on: as far as anybody goes, and no circle.
_CHAIN = 8


@dataclass(frozen=True)
class TrainingRun:
    """began: the value of `--pretrained` (Chinese-CLIP's `--resume`, or the tag whose file that is), '' for random
    weights. data: of `--train-data`, that of the runs before it among it, joined by `::`."""

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
    """What the run of a checkpoint was told, in open_clip_train's names."""
    try:
        path = Path(pretrained or "").expanduser().absolute()
        if not pretrained or not path.is_file():
            return None
        params = _beside.params(Folder(path.parent))
        told = _beside.read_params(params) if params else _of_chinese_clip(path)
    except (CheckpointError, OSError, RuntimeError, ValueError):  # no home folder; a name that no file can have
        return None
    return told if "train_data" in told else None


def _of_chinese_clip(path: Path) -> dict[str, object]:
    """The options of the first start of a run of Chinese-CLIP (`RUN/checkpoints/epoch3.pt`): later ones go on from it.

    Source: cn_clip/training/main.py. Its `--train-data` is the LMDB of a split, which is a set and its split here.
    """
    starts = sorted(path.parent.parent.glob("params_*.txt")) if path.parent.name == "checkpoints" else []
    told = _beside.read_params(starts[0]) if starts else {}
    if "vision_model" not in told or "train_data" not in told:
        return {}
    data = Path(_text(told["train_data"]))
    split = f"{data.parent}:{data.name}" if data.parent.name == "lmdb" else str(data)
    began = _text(told.get("resume"))
    return {"pretrained": _tag_of(began) or began, "train_data": split}


def _tag_of(began: str) -> str | None:
    """The tag whose weights are published as a file of that name, where there is one such name."""
    name = Path(began).name
    tags = {
        tag
        for family in all_families().values()
        for model in family.models
        for tag, published in model.tags.items()
        if name in published.files and name not in Tag.files
    }
    return tags.pop() if name and len(tags) == 1 else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
