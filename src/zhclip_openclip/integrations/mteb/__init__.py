"""Everything that we add to mteb: one entry in its registry for each published set of weights of ours. Nothing of its
own is replaced.

This page is the whole of the contact; what stands in the entries is in `registry.py`, what they load in `encoder.py`.
"""

from __future__ import annotations

import importlib
import sys

from zhclip_openclip.integrations import _one_line
from zhclip_openclip.integrations._patching import Patch, apply
from zhclip_openclip.integrations.mteb import registry

_REGISTRY = "mteb.models.model_implementations"

REGISTRY = [
    Patch(
        _REGISTRY,
        "MODEL_REGISTRY",
        registry.with_ours,
        "our models beside its own, each under the name of its repository",
    )
]


def hook_registry(module) -> None:
    _one_line.tell_errors_where(_is_its_command())
    apply(REGISTRY, "mteb")


def register() -> None:
    """Hook mteb, and load it if it is not loaded. Twice is once."""
    from zhclip_openclip import autoload

    autoload.apply(_REGISTRY, importlib.import_module(_REGISTRY))


def _is_its_command() -> bool:
    """Whether this process is `mteb` or `python -m mteb`: both bind mteb's `main` in `__main__`."""
    main = getattr(sys.modules.get("__main__"), "main", None)
    return str(getattr(main, "__module__", "")).startswith("mteb.cli")
