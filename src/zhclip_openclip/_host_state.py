"""What a host package looked like before a hook, so that a hook that fails leaves it whole."""

from __future__ import annotations

import sys
import types

#: By which `integrations/_patching.py` marks what stands in the place of a host's own.
_ORIGINAL = "__zhclip_original__"
_PATCHING = "zhclip_openclip.integrations._patching"


class HostState:
    """The namespaces of all loaded modules of the package that `module` belongs to, with what their tables hold, the
    words of the command line, and the list of what has been replaced."""

    def __init__(self, name: str, module: types.ModuleType):
        self._host = name.partition(".")[0]
        self._module = module
        self._argv = list(sys.argv) if hasattr(sys, "argv") else None
        self._before = {id(part): (part, dict(vars(part))) for part in self._modules()}
        self._tables = [
            (value, value.copy())
            for _, namespace in self._before.values()
            for value in namespace.values()
            if type(value) in (dict, list, set)
        ]
        self._applied = len(self._replaced())

    def restore(self) -> None:
        """Make it so again. Modules that were loaded meanwhile stay, with their own in the place of ours."""
        for part in self._modules():
            namespace = vars(part)
            _, before = self._before.get(id(part), (part, None))
            for name, value in list(namespace.items()):
                if before is None:
                    if _ORIGINAL in getattr(value, "__dict__", {}):
                        namespace[name] = vars(value)[_ORIGINAL]
                elif name not in before and not isinstance(value, types.ModuleType):
                    del namespace[name]
            namespace.update(before or {})
        for table, content in self._tables:
            if _parts(table) != _parts(content):
                table.clear()
                table.extend(content) if isinstance(table, list) else table.update(content)
        if self._argv is not None:
            sys.argv[:] = self._argv
        del self._replaced()[self._applied :]

    def _modules(self) -> list[types.ModuleType]:
        loaded = [
            part
            for name, part in list(sys.modules.items())
            if (name == self._host or name.startswith(self._host + ".")) and isinstance(part, types.ModuleType)
        ]
        return loaded if self._module in loaded else [*loaded, self._module]

    @staticmethod
    def _replaced() -> list:
        return getattr(sys.modules.get(_PATCHING), "APPLIED", [])


def _parts(table: dict | list | set) -> list[int]:
    """Which objects a table holds; whether they are equal to others only they could tell."""
    if isinstance(table, dict):
        return [id(part) for item in table.items() for part in item]
    return [id(part) for part in table]
