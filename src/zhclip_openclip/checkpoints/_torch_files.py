"""Files that torch.save wrote: their tensors, without running anything that is in them.

`torch.load` reads them with `weights_only=True`. What else a trainer left in such a file (settings, NumPy scalars, a
Namespace) is of classes that torch refuses then, though the weights beside it are wanted. So each class that it refuses
gets a stand-in under its name, one that takes whatever it is given and does nothing: the class itself is never looked
up. Modules that torch never allows (`os`, `sys`) and Python's built-in functions have none: such a file is refused.
"""

from __future__ import annotations

import contextlib
import pickle
import re
import sys
import threading
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from zhclip_openclip._errors import CheckpointError, shorten
from zhclip_openclip._reading import reading
from zhclip_openclip.checkpoints._safetensors import Held, Stored

if TYPE_CHECKING:
    import torch

#: Place of a dict of tensors: the keys that lead to it from the top.
Place = tuple[str, ...]
#: Dicts in dicts that are looked through: `{'model': {'state_dict': {...}}}` needs two.
DEPTH = 3
#: Names of classes that get a stand-in in one file; more than any trainer leaves.
_STAND_INS = 64
#: What training scripts leave so often that it is not worth a word.
_USUAL = re.compile(r"^(numpy\.|argparse\.|pathlib\.|datetime\.|collections\.)")
#: torch keeps the classes that are allowed in one table for the whole process; two readers take turns.
_turn = threading.Lock()


class StandIn:
    """Takes the place of an object of a class that torch does not allow. Keeps nothing of it and does nothing."""

    original = ""

    def __new__(cls, *args, **kwargs):
        return object.__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


def content(path: Path, quiet: bool = True, values: bool = True) -> object:
    """What a torch file holds, with tensors on the CPU, mapped where its form allows it.

    quiet: no warning about objects that were left out. values: without them tensors are on the meta device.

    Raises CheckpointError: a TorchScript archive, another archive, cut short, nothing that may be unpickled.
    """
    _refuse_other_archives(path)
    stand_ins: dict[str, type] = {}
    while True:
        try:
            advice = "it may be cut short or damaged: fetch it again"
            with reading(path, CheckpointError, advice), _turn, _allowed(stand_ins):
                result = _load(path, values)
            break
        except CheckpointError as error:
            cause = error.__cause__
            if not isinstance(cause, pickle.UnpicklingError):
                raise
            refused = re.search(r"GLOBAL (\S+)", str(cause)) or re.search(r"Unsupported class (\S+)", str(cause))
            name = refused[1] if refused else ""
            if not name or name in stand_ins or "blocked" in str(cause) or len(stand_ins) == _STAND_INS:
                raise _refusal(path, name) from cause
            stand_ins[name] = type("StandIn", (StandIn,), {"original": name})
    if isinstance(result, StandIn):
        raise CheckpointError(
            f"{path} holds a pickled {result.original} and not its weights; nothing in it was executed. "
            "Save the state dict alone, with torch.save(model.state_dict(), ...)"
        )
    if not quiet and (told := [name for name in stand_ins if not _USUAL.match(name)]):
        warnings.warn(f"{path} also holds objects of {shorten(told)}: they are left out, and nothing was executed")
    return result


def listing(path: Path) -> dict[Place, Held]:
    """Every dict of named tensors in a torch file, by where it is.

    Raises CheckpointError: as :func:`content`; it holds none.
    """
    top = _described(path)
    if not isinstance(top, dict):
        raise CheckpointError(f"{path} holds a {type(top).__name__}, not a state dict")
    found: dict[Place, Held] = {}
    with reading(path, CheckpointError):
        for place, value, tensors in _dicts(top, ()):
            size = path.stat().st_size
            found[place] = Held({name: _stored(tensor, size) for name, tensor in tensors.items()}, _metadata(value))
    if not found:
        raise CheckpointError(f"{path} holds no tensors: its keys are {shorten(top)}")
    return found


def tensor(top: object, place: Place) -> torch.Tensor:
    """The tensor at a place of :func:`listing`, its name last."""
    for key in place:
        top = top[key]
    return top


def _described(path: Path) -> object:
    """As :func:`content`, without values where torch can say where in the file they are."""
    if _tells_offsets(path):
        try:
            return content(path, quiet=False, values=False)
        except CheckpointError:
            pass  # what cannot be on the meta device, or is broken: the other way tells
    return content(path, quiet=False)


def _tells_offsets(path: Path) -> bool:
    """Whether torch, loading to the meta device, gives storages their place in this file: torch after 2.6, and zip
    archives that were written in the byte order of this machine."""
    import torch

    if not hasattr(torch.serialization, "_is_meta_location"):
        return False
    with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:  # what is wrong with it is said elsewhere
        names = archive.namelist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            return False
        order = next((archive.read(name) for name in names if name.endswith("/byteorder")), b"little")
        return order == sys.byteorder.encode()
    return False


def _load(path: Path, values: bool) -> object:
    import torch

    if not values:
        with path.open("rb") as file:
            return torch.load(file, map_location="meta", weights_only=True)
    if path.suffix == ".safetensors":  # by which torch would take it for one
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        return torch.load(path, map_location="cpu", weights_only=True)  # the format of torch before 1.6


@contextlib.contextmanager
def _allowed(stand_ins: dict[str, type]) -> Iterator[None]:
    import torch

    if not stand_ins:
        yield
        return
    with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in stand_ins.items()]):
        yield


def _refusal(path: Path, name: str) -> CheckpointError:
    what = f"it wants to run {name}" if name else "it is not what torch.save writes"
    return CheckpointError(
        f"{path} is not a file of weights ({what}); nothing in it was executed, also not with weights_only=False. "
        "Save the state dict alone, with torch.save(model.state_dict(), ...) or as safetensors"
    )


def _refuse_other_archives(path: Path) -> None:
    """torch's files are zip archives, and so are others."""
    with reading(path, CheckpointError):
        if not zipfile.is_zipfile(path):
            return  # the form before torch 1.6, or cut short: torch says so
    with reading(path, CheckpointError, "it is damaged, fetch it again"), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            f"{path} is a TorchScript archive: save its state_dict, with "
            "torch.save(torch.jit.load(FILE).state_dict(), ...). It is not read with weights_only=False either"
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise CheckpointError(f"{path} is a zip archive of {shorten(names)}, not weights: unpack it")


def _dicts(value: dict, place: Place) -> Iterator[tuple[Place, dict, dict[str, torch.Tensor]]]:
    import torch

    tensors = {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
    if tensors:
        yield place, value, tensors
    if len(place) < DEPTH:
        for key, inner in value.items():
            if isinstance(key, str) and isinstance(inner, dict):
                yield from _dicts(inner, (*place, key))


def _metadata(state_dict: dict) -> dict[str, object]:
    """What the modules of a model say of themselves in `state_dict()`, which torch keeps as an attribute: module ->
    {key: value}, here without the names of the modules, the outermost first."""
    told = getattr(state_dict, "_metadata", None)
    result: dict[str, object] = {}
    for values in told.values() if isinstance(told, dict) else ():
        for key, value in values.items() if isinstance(values, dict) else ():
            result.setdefault(key, value)
    return result


def _stored(tensor: torch.Tensor, file_size: int) -> Stored:
    import torch

    dtype = str(tensor.dtype).removeprefix("torch.")
    size = tensor.numel() * tensor.element_size()
    offset, described = None, False
    if tensor.is_meta and not tensor.is_nested and tensor.layout == torch.strided:
        start = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
        described = start is not None
        if described and tensor.is_contiguous():
            offset = start + tensor.storage_offset() * tensor.element_size()
            if offset + size > file_size:
                offset = None
    fault = ""
    if tensor.is_meta and not described:
        fault = "has no values (it was saved from the meta device)"
    elif tensor.is_nested or tensor.layout != torch.strided:
        fault = f"is {'nested' if tensor.is_nested else 'sparse'}: save it as a dense tensor"
    elif tensor.is_quantized:
        fault = "is quantised: save the weights before they are"
    elif type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        fault = f"is a {type(tensor).__name__}, a part or another form of a tensor: save the whole one"
    if fault:
        return Stored((), 0, dtype, fault)
    return Stored(tuple(tensor.shape), size, dtype, offset=offset)
