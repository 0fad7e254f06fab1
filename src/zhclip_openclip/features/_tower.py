"""The image tower by content: weights, buffers, and the structure that gives them their meaning.

What only its code tells (an edited class, a function that reads a global) is beyond this; `trial.py` tries it out.
"""

from __future__ import annotations

import functools
import hashlib
import types
from typing import Any

import torch

from zhclip_openclip.features._digests import content, digest, raw

_PRIMITIVE = (bool, int, float, str, type(None))
#: How deep into the values of attributes: a closure in a hook in a list.
_DEPTH = 6
#: Of `torch.nn.Module`: functions that change what a module computes.
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def image_tower(model: torch.nn.Module) -> torch.nn.Module:
    """What `encode_image` runs: `model.visual` where the method is open_clip's own, otherwise the whole model."""
    method = getattr(type(model), "encode_image", None)
    visual = getattr(model, "visual", None)
    own = getattr(method, "__module__", None) == "open_clip.model" and "encode_image" not in vars(model)
    return visual if own and isinstance(visual, torch.nn.Module) else model


def part_in_training(model: torch.nn.Module) -> str:
    """Name of a part of the image tower that is in training mode, "" if there is none: what it computes is random, or
    depends on the batch."""
    tower = image_tower(model)
    return next((name or type(part).__name__ for name, part in tower.named_modules() if part.training), "")


def tower(model: torch.nn.Module) -> str:
    """Of the image tower: every parameter and buffer, kept in files or not, and the structure (classes, numbers of
    heads, activations, epsilons, hooks).

    Raises RuntimeError, TypeError, NotImplementedError: a weight whose bytes cannot be had.
    """
    found = image_tower(model)
    result = hashlib.sha256(digest(_structure(found)).encode())
    for name, tensor in _tensors(found):
        tensor = tensor.detach().cpu().contiguous()
        result.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        result.update(raw(tensor))
    return result.hexdigest()


def _tensors(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """In the order of their names. `torch.compile` puts a name of its own between, and changes nothing."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return sorted(((name.replace("_orig_mod.", ""), tensor) for name, tensor in named), key=lambda entry: entry[0])


def _structure(module: torch.nn.Module) -> list:
    known = {id(part): name for name, part in module.named_modules()}
    return [
        [
            name.replace("_orig_mod.", "").removesuffix("_orig_mod"),
            f"{type(part).__module__}.{type(part).__qualname__}",
            part.extra_repr(),
            {key: _Described(known).of(value) for key, value in sorted(vars(part).items()) if _counts(key, value)},
        ]
        for name, part in module.named_modules()
        if type(part).__name__ != "OptimizedModule"
    ]


def _counts(key: str, value: Any) -> bool:
    """Whether an attribute of a module is part of what it computes."""
    if key in _HOOKS:
        return bool(value)
    return key != "training" and (not key.startswith("_") or isinstance(value, torch.Tensor))


def described(value: Any) -> Any:
    """As JSON: of a function its name, what it has captured, and its code if others have its name; of an object its
    attributes."""
    return _Described({}).of(value)


class _Described:
    """The description of one value as JSON. known: id -> name of the modules of the tower, which count on their own.

    Texts inside of dictionaries and objects do not count: they are names, paths and versions.
    """

    def __init__(self, known: dict[int, str]):
        self._known, self._seen = known, set()

    def of(self, value: Any, depth: int = _DEPTH, named: bool = True) -> Any:
        if isinstance(value, str) and not named:
            return "a text"
        if isinstance(value, _PRIMITIVE):
            return value
        if isinstance(value, (torch.dtype, torch.Size, torch.layout, complex)):
            return str(value)
        if isinstance(value, torch.Tensor) or (hasattr(value, "dtype") and hasattr(value, "tobytes")):
            return ["tensor", content(value)]
        if id(value) in self._known:
            return ["module", self._known[id(value)]]
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if depth == 0 or id(value) in self._seen or isinstance(value, (torch.device, types.ModuleType)):
            return kind
        self._seen.add(id(value))
        depth -= 1
        if isinstance(value, (list, tuple)):
            return [self.of(entry, depth, named) for entry in value]
        if isinstance(value, (set, frozenset)):
            return sorted(digest(self.of(entry, depth, named)) for entry in value)
        if isinstance(value, dict):
            # Keys of hooks are numbers that count up in the process.
            return [[key if isinstance(key, str) else "", self.of(entry, depth, False)] for key, entry in value.items()]
        if isinstance(value, functools.partial):
            return [self.of(part, depth) for part in (value.func, value.args, sorted(value.keywords.items()))]
        if isinstance(value, types.MethodType):
            return [self.of(value.__func__, depth), self.of(value.__self__, depth)]
        if isinstance(value, types.FunctionType):
            return self._function(value, depth)
        if isinstance(value, torch.nn.Module):
            return [_structure(value), [[name, content(tensor)] for name, tensor in _tensors(value)]]
        if isinstance(value, type) or not hasattr(value, "__dict__"):
            return getattr(value, "__qualname__", kind)
        return [kind, [[key, self.of(entry, depth, False)] for key, entry in sorted(vars(value).items())]]

    def _function(self, value: types.FunctionType, depth: int) -> list:
        """By name; one that was made inside of another one by its code as well, as others have its name."""
        cells = [_cell(cell) for cell in value.__closure__ or ()]
        # functools.wraps tells of the function inside, which is in a cell as well.
        captured = [self.of(part, depth) for part in (cells, value.__defaults__, value.__kwdefaults__)]
        local = "<" in value.__qualname__
        return [value.__module__, value.__qualname__, captured, _code(value.__code__) if local else None]


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return None


def _code(code: types.CodeType) -> list:
    constants = [_code(entry) if isinstance(entry, types.CodeType) else repr(entry) for entry in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), constants]
