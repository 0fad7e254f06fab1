"""The header of a safetensors file, checked before anything in it is believed.

The form is https://github.com/huggingface/safetensors, "Format": eight bytes with the length of the header, a JSON
object of tensors, and their values one after another without holes. What passes here is what the library reads, so
that its own errors, which name neither the file nor what is wrong, are not met.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

from zhclip_openclip._errors import CheckpointError
from zhclip_openclip._reading import parse_json

#: Bytes of a header that is read. The library's limit is 100 MB, for which Python takes a minute and 2 GB; a model of
#: 2,000 tensors has 0.3 MB.
LIMIT = 16 * 2**20
#: safetensors' name of a type -> its bits and torch's name.
TYPES = {
    "BOOL": (8, "bool"),
    "U8": (8, "uint8"),
    "I8": (8, "int8"),
    "U16": (16, "uint16"),
    "I16": (16, "int16"),
    "U32": (32, "uint32"),
    "I32": (32, "int32"),
    "U64": (64, "uint64"),
    "I64": (64, "int64"),
    "F8_E4M3": (8, "float8_e4m3fn"),
    "F8_E5M2": (8, "float8_e5m2"),
    "F16": (16, "float16"),
    "BF16": (16, "bfloat16"),
    "F32": (32, "float32"),
    "F64": (64, "float64"),
    "C64": (64, "complex64"),
}


@dataclass(frozen=True)
class Stored:
    """A tensor as a file says that it is.

    shape. size: bytes. dtype: torch's name. fault: why it cannot be taken as a parameter, "" for one that can.
    offset: where in the file its values begin, one after another in the order of this machine; None where they are not.
    """

    shape: tuple[int, ...]
    size: int
    dtype: str
    fault: str = ""
    offset: int | None = None


@dataclass(frozen=True)
class Held:
    """A dict of tensors in a file: name -> tensor, in the order of the file, and what else is said of it."""

    tensors: dict[str, Stored]
    metadata: dict[str, object]


def listing(path: Path) -> Held:
    """What the header says. Raises CheckpointError: cut short, damaged, of an unknown type."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LIMIT:
            raise CheckpointError(f"{path} is said to have a safetensors header of {length} bytes: fetch it again")
        if size < 8 or length > size - 8:
            raise CheckpointError(f"{path} is cut short at {size} bytes: fetch it again")
        try:
            header = parse_json(file.read(length), f"{path}, safetensors header", CheckpointError)
        except CheckpointError as error:
            raise CheckpointError(f"{error}: it is broken, fetch it again") from error
    if not isinstance(header, dict):
        raise _broken(path, "is no object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _broken(path, "holds other than texts in __metadata__")
    found = {name: _entry(path, name, entry, 8 + length) for name, entry in header.items()}
    end = 0
    names = sorted(found, key=lambda name: found[name][0])
    for name in names:
        begin, stop = found[name][0]
        if begin != end:
            raise _broken(path, f"has {name!r} begin at {begin} and not at {end}, where the tensor before it ends")
        end = stop
    end += 8 + length
    if end != size:
        advice = "it is cut short, fetch it again" if size < end else "something else follows it, fetch it again"
        raise CheckpointError(f"{path} has {size} bytes and should have {end}: {advice}")
    return Held({name: found[name][1] for name in names}, metadata)


def _entry(path: Path, name: str, entry: object, start: int) -> tuple[tuple[int, int], Stored]:
    """One value of the header: begin and end of the tensor behind it, and what it says of it."""
    if not isinstance(entry, dict):
        raise _broken(path, f"has no object for {name!r}")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in TYPES:
        raise CheckpointError(
            f"{path}: {name!r} is of the type {dtype!r}; known are {', '.join(TYPES)}. It may be quantised or damaged"
        )
    if not _counts(shape):
        raise _broken(path, f"has the shape {shape!r} for {name!r}")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _broken(path, f"has the data_offsets {offsets!r} for {name!r}")
    bits, torch_name = TYPES[dtype]
    size = offsets[1] - offsets[0]
    if math.prod(shape) * bits != size * 8:
        raise _broken(path, f"gives {size} bytes to {name!r}, which is {dtype} {shape}")
    offset = start + offsets[0] if sys.byteorder == "little" else None
    return tuple(offsets), Stored(tuple(shape), size, torch_name, offset=offset)


def _counts(value: object) -> bool:
    """Whether it is a list of numbers from 0 up."""
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def _broken(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: its safetensors header {what}: it is broken, fetch it again")
