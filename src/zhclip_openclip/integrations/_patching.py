"""Replacing functions of a host package, all of them or none."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Patch:
    """One replaced name of a host module, or one table of it that is added to.

    make: takes the original and returns what stands in its place; of a table, which others hold too, the same table.
    why: one line, shown by `zhclip doctor`.
    """

    module: str
    name: str
    make: Callable
    why: str


#: What has been replaced in this process, in order.
APPLIED: list[Patch] = []
_MARK = "__zhclip_original__"


def apply(patches: list[Patch], host: str, namespace: types.ModuleType | None = None) -> None:
    """Put `patches` in place, also where the host has bound the same object under its name elsewhere.

    namespace: where to patch instead of the module of that name (a command line that runs as `__main__`).

    If one fails, those before it are taken back and the error goes on. What is in place already stays as it is.
    """
    undo: list[tuple[types.ModuleType, str, object]] = []
    applied: list[Patch] = []
    try:
        for patch in patches:
            module = namespace or sys.modules[patch.module]
            original = getattr(module, patch.name)
            if hasattr(original, _MARK):
                continue
            replacement = patch.make(original)
            if replacement is original:  # added to; what is put into it is taken back by `_host_state.py`
                applied.append(patch)
                continue
            if isinstance(original, types.FunctionType):
                replacement = functools.wraps(original)(replacement)
            setattr(replacement, _MARK, original)
            for place in [module, *_modules_of(host)]:
                if vars(place).get(patch.name) is original:
                    undo.append((place, patch.name, original))
                    setattr(place, patch.name, replacement)
            applied.append(patch)
    except Exception:
        for place, name, original in reversed(undo):
            setattr(place, name, original)
        raise
    APPLIED.extend(applied)


def _modules_of(host: str) -> list[types.ModuleType]:
    return [
        module
        for name, module in list(sys.modules.items())
        if (name == host or name.startswith(host + ".")) and isinstance(module, types.ModuleType)
    ]
