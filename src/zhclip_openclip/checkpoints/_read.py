"""Reading files of weights: names and shapes first, tensors one after another later.

A checkpoint is never held in memory beside the model: its tensors are read from where they lie in the file into those
of the model (`_transfer.py`). Files of torch.save that do not say where are mapped, and mapped anew after every
:data:`WINDOW` bytes, so that the pages that were read do not add up. What a file is, its first bytes say; its name says
nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from zhclip_openclip._errors import CheckpointError, shorten
from zhclip_openclip._reading import kind_of, read_json, reading
from zhclip_openclip.checkpoints import _files, _safetensors, _state_dicts, _torch_files
from zhclip_openclip.checkpoints._safetensors import Held, Stored
from zhclip_openclip.checkpoints._torch_files import Place
from zhclip_openclip.checkpoints._transfer import Source, Stamp, bytes_of, stamp

if TYPE_CHECKING:
    import torch

WINDOW = 256 * 2**20
#: The key of metadata under which this package says something of its own weights.
OWN = "zhclip"
_SAFETENSORS, _TORCH, _INDEX = "safetensors", "torch", "index"
#: What is wrong with a file that is none of weights, and what to do.
_AGAIN = "the download failed, fetch it again"
_ADVICE = {
    "an empty file": "nothing was written to it (cut short at 0 bytes), fetch it again",
    "a file of zeros": _AGAIN,
    "an HTML page": _AGAIN,
    "an XML page": _AGAIN,
    "a Git LFS pointer": "run `git lfs pull` in its repository, or download it",
    "a JSON text": "the download failed, fetch it again; or name the folder, or the file of weights beside it",
}


@dataclass
class Weights:
    """The tensors of one checkpoint, by their names without what wrappers put into them.

    shapes: name -> shape. sizes: name -> bytes. owner: name -> file that holds it. places: name -> the keys under
    which it stands there. dtypes: name -> type, as torch calls it. offsets: name -> its first byte in the file,
    where that is known. stamps: file -> which one it was then. own: what this package has written into the metadata of
    the file; "" where it has not.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    sizes: dict[str, int]
    owner: dict[str, Path]
    places: Mapping[str, Place] = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=dict)
    offsets: Mapping[str, int] = field(default_factory=dict)
    stamps: Mapping[Path, Stamp] = field(default_factory=dict)
    own: str = ""

    @contextmanager
    def sources(self, names: Iterable[str]) -> Iterator[dict[Path, Source]]:
        """The files that hold `names`, open. Raises CheckpointError: one is not what it was, or cannot be read."""
        with ExitStack() as stack:
            found: dict[Path, Source] = {}
            for path in dict.fromkeys(self.owner[name] for name in names):
                found[path] = stack.enter_context(closing(Source(path, self.stamps.get(path))))
            yield found

    def stream(self, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors of `names`, in the order of the files. Each is valid until the next is asked for.

        Raises CheckpointError: a file cannot be read any more.
        """
        wanted = set(names)
        if placed := [name for name in self.shapes if name in wanted and name in self.offsets]:
            import torch

            with self.sources(placed) as sources:
                for name in placed:
                    tensor = torch.empty(self.shapes[name], dtype=getattr(torch, self.dtypes[name]))
                    sources[self.owner[name]].read_into(bytes_of(tensor), self.offsets[name])
                    yield name, tensor
                for source in sources.values():
                    source.check()
            wanted -= set(placed)
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
                with reading(path, CheckpointError), _opened(path) as get:
                    for name in group[start:stop]:
                        yield name, get(self.places[name])
                start = stop


def read(path: str | Path) -> Weights:
    """Names and shapes of the checkpoint at `path`: safetensors, a file of torch.save, an index of shards, or a folder
    that holds one of them.

    Raises CheckpointError: no such file, cut short, not weights (nothing in it is ever executed).
    """
    path = _files.weights_at(path)
    shards = _shards(path) if _form(path) == _INDEX else {}
    files = _beside(path, shards) if shards else [path]
    dicts: dict[Place, dict[str, tuple[Path, Stored]]] = {}
    own: dict[Place, str] = {}
    stamps: dict[Path, Stamp] = {}
    for file in files:
        with reading(file, CheckpointError), file.open("rb") as opened:
            stamps[file] = stamp(opened)
        for place, found in _listing(file).items():
            held = dicts.setdefault(place, {})
            if isinstance(found.metadata.get(OWN), str):
                own[place] = found.metadata[OWN]
            for key, stored in found.tensors.items():
                if shards.get(key, file.name) == file.name:  # the index says which of two is meant
                    held[key] = file, stored
    if not any(dicts.values()):
        raise CheckpointError(f"{path} holds no tensors")
    chosen, notes = _state_dicts.choose(path, dicts)
    held = dicts[chosen.place]
    if absent := [key for key in shards if key not in held]:
        raise CheckpointError(
            f"{path} names {len(absent)} tensors that are not in their files ({shorten(absent)}): they are not of one "
            "download, fetch all of them again"
        )
    _refuse_what_has_no_values(path, {key: held[key][1] for key in chosen.names.values()})
    for note in notes:
        warnings.warn(note)
    order = {key: number for number, key in enumerate(held)}
    names = sorted(chosen.names, key=lambda name: order[chosen.names[name]])
    entries = {name: held[chosen.names[name]] for name in names}
    return Weights(
        path,
        shapes={name: stored.shape for name, (_, stored) in entries.items()},
        sizes={name: stored.size for name, (_, stored) in entries.items()},
        owner={name: file for name, (file, _) in entries.items()},
        places={name: (*chosen.place, chosen.names[name]) for name in names},
        dtypes={name: stored.dtype for name, (_, stored) in entries.items()},
        offsets={name: stored.offset for name, (_, stored) in entries.items() if stored.offset is not None},
        stamps=stamps,
        own=own.get(chosen.place, ""),
    )


def files_of(path: Path) -> list[Path]:
    """The files that hold a checkpoint: the one at `path`, and behind an index its shards.

    Raises CheckpointError: as :func:`read`, as far as it has to look.
    """
    return [path, *_beside(path, _shards(path))] if _form(path) == _INDEX else [path]


def _beside(path: Path, shards: Mapping[str, str]) -> list[Path]:
    files = [path.parent / name for name in sorted(set(shards.values()))]
    if absent := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(f"{path} names files that are not beside it: {', '.join(absent)}")
    return files


def _form(path: Path) -> str:
    """Which form of weights a file has, by its first bytes. Raises CheckpointError: none, and what it is."""
    with reading(path, CheckpointError):
        kind = kind_of(path)
    if kind == "a safetensors file":
        return _SAFETENSORS
    if kind in ("a zip archive", "a pickle"):
        return _TORCH
    if kind == "a JSON text" and (path.name.endswith(".index.json") or _says_weight_map(path)):
        return _INDEX
    if kind:
        raise CheckpointError(f"{path} is {kind}, not weights: {_ADVICE.get(kind) or _other(kind)}")
    with reading(path, CheckpointError), path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{" or (path.suffix.lower() == ".safetensors" and len(head) < 9):
        raise CheckpointError(
            f"{path} is a safetensors file that is cut short or damaged at its beginning: fetch it again"
        )
    raise CheckpointError(
        f"{path} is not a file of weights: it begins neither like safetensors nor like what torch.save writes. If it "
        "should be one of these, it is damaged: fetch it again"
    )


def _other(kind: str) -> str:
    if kind.endswith("archive"):
        return "unpack it and name what was in it"
    return "give the same weights as safetensors or as torch.save writes them"


def _says_weight_map(path: Path) -> bool:
    try:
        return "weight_map" in read_json(path, CheckpointError)
    except CheckpointError:
        return False


def _shards(path: Path) -> dict[str, str]:
    """Key -> name of the file that holds it, from an index of shards.

    Raises CheckpointError: it is no such index; a name that is not one of a file beside it.
    """
    mapping = read_json(path, CheckpointError).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise CheckpointError(f"{path} is not an index of shards: it has no weight_map with names of files")
    for key, name in mapping.items():
        if not isinstance(name, str) or name in ("", ".", "..") or any(c in name for c in "/\\\x00"):
            raise CheckpointError(f"{path}: weight_map gives {name!r} for {key!r}, not the name of a file beside it")
    return mapping


def _listing(file: Path) -> dict[Place, Held]:
    form = _form(file)
    if form == _INDEX:
        raise CheckpointError(f"{file} is an index of shards, not a shard")
    return {(): _safetensors.listing(file)} if form == _SAFETENSORS else _torch_files.listing(file)


def _refuse_what_has_no_values(path: Path, tensors: Mapping[str, Stored]) -> None:
    if faults := [f"{key} {stored.fault}" for key, stored in tensors.items() if stored.fault]:
        raise CheckpointError(f"{path}: {faults[0]}" + (f" ({len(faults)} such tensors)" if len(faults) > 1 else ""))
    if 2 * sum(0 in stored.shape for stored in tensors.values()) > len(tensors):
        raise CheckpointError(
            f"{path} holds empty tensors in the place of weights, as sharded training (ZeRO-3, FSDP) leaves them: "
            "join the shards first, for DeepSpeed with zero_to_fp32.py"
        )


@contextmanager
def _opened(path: Path) -> Iterator[Callable[[Place], torch.Tensor]]:
    if _form(path) == _SAFETENSORS:
        from safetensors import safe_open

        with safe_open(str(path), framework="pt") as file:
            yield lambda place: file.get_tensor(place[-1])
    else:
        content = _torch_files.content(path)
        yield lambda place: _torch_files.tensor(content, place)
