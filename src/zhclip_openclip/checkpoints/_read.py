"""Reading files of weights: names and shapes first, tensors one after another later.

A checkpoint is never held in memory beside the model: files are memory-mapped, and mapped anew after every
:data:`WINDOW` bytes, so that the pages that were read do not add up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zhclip_openclip._errors import CheckpointError

if TYPE_CHECKING:
    import torch

WINDOW = 256 * 2**20
#: Wrappers around a model that leave their name in every key.
_PREFIXES = ("module.", "_orig_mod.")


@dataclass
class Weights:
    """The tensors of one checkpoint, by their names in the file without the prefixes of wrappers.

    shapes: name -> shape. sizes: name -> bytes. owner: name -> file that holds it.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    sizes: dict[str, int]
    owner: dict[str, Path]
    prefix: str

    def stream(self, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors of `names`, in the order of the files. Each is valid until the next is asked for."""
        wanted = set(names)
        by_file: dict[Path, list[str]] = {}
        for name in self.shapes:
            if name in wanted:
                by_file.setdefault(self.owner[name], []).append(name)
        for path, group in by_file.items():
            start = 0
            while start < len(group):
                stop, size = start, 0
                while stop < len(group) and (stop == start or size + self.sizes[group[stop]] <= WINDOW):
                    size += self.sizes[group[stop]]
                    stop += 1
                with _opened(path) as get:
                    for name in group[start:stop]:
                        yield name, get(self.prefix + name)
                start = stop


def read(path: str | Path) -> Weights:
    """Names and shapes of the checkpoint at `path`: safetensors, a torch pickle of tensors, or an index of shards.

    Raises CheckpointError: no such file, cut short, not weights (a pickle is never executed).
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    _refuse_lfs_pointer(path)
    if path.name.endswith(".index.json"):
        try:
            shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{path} is not an index of shards: {error}") from error
        files = [path.parent / shard for shard in shards]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise CheckpointError(f"{path} names files that are not beside it: {', '.join(missing)}")
    else:
        files = [path]
    shapes: dict[str, tuple[int, ...]] = {}
    sizes: dict[str, int] = {}
    owner: dict[str, Path] = {}
    for file in files:
        for name, (shape, size) in _listing(file).items():
            shapes[name], sizes[name], owner[name] = shape, size, file
    if not shapes:
        raise CheckpointError(f"{path} holds no tensors")
    prefix = ""
    while wrapper := next((p for p in _PREFIXES if all(name.startswith(prefix + p) for name in shapes)), ""):
        prefix += wrapper
    cut = len(prefix)
    return Weights(
        path,
        {name[cut:]: value for name, value in shapes.items()},
        {name[cut:]: value for name, value in sizes.items()},
        {name[cut:]: value for name, value in owner.items()},
        prefix,
    )


def _refuse_lfs_pointer(path: Path) -> None:
    if path.stat().st_size < 1024 and path.read_bytes().startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository, or download it"
        )


def _is_safetensors(path: Path) -> bool:
    return path.suffix == ".safetensors"


def _listing(path: Path) -> dict[str, tuple[tuple[int, ...], int]]:
    if _is_safetensors(path):
        header = _safetensors_header(path)
        entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
        return {
            name: (tuple(entry["shape"]), entry["data_offsets"][1] - entry["data_offsets"][0])
            for name, entry in entries
        }
    return {
        name: (tuple(tensor.shape), tensor.numel() * tensor.element_size())
        for name, tensor in _load_pickle(path).items()
    }


def _safetensors_header(path: Path) -> dict:
    """The header of a safetensors file (https://github.com/huggingface/safetensors, "Format"), with its size checked.

    safetensors' own error for a file that is cut short names neither the file nor what is wrong.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, 100 * 2**20):
            raise CheckpointError(f"{path} is not a safetensors file, or cut short at {size} bytes: fetch it again")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} has a broken safetensors header ({error}): fetch it again") from error
    if end != size:
        raise CheckpointError(f"{path} has {size} bytes and should have {end}: it is cut short, fetch it again")
    return header


@contextmanager
def _opened(path: Path) -> Iterator[Callable[[str], torch.Tensor]]:
    if _is_safetensors(path):
        from safetensors import safe_open

        with safe_open(str(path), framework="pt") as file:
            yield file.get_tensor
    else:
        yield _load_pickle(path).__getitem__


def _load_pickle(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a torch file. Only what `weights_only=True` allows is unpickled, so nothing in it is executed."""
    import pickle

    import torch

    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            content = torch.load(path, map_location="cpu", weights_only=True)  # the format of torch before 1.6
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error)) or re.search(r"Unsupported (?:global|class) (\S+)", str(error))
        what = f"it wants to run {refused[1]}" if refused else "it is not a file that torch.save writes"
        raise CheckpointError(
            f"{path} is not a file of weights ({what}); nothing in it was executed. "
            "Save the state dict alone, with torch.save(model.state_dict(), ...) or as safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise CheckpointError(f"{path} cannot be read, it may be cut short ({reason}): fetch it again") from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict")
    return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
