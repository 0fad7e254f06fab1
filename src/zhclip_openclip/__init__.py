"""Chinese CLIP models as ordinary open_clip models, and their evaluation with CLIP_benchmark.

Installing the package is enough: PyTorch calls :mod:`zhclip_openclip.autoload` at the end of ``import torch``. Where
that is switched off (``TORCH_DEVICE_BACKEND_AUTOLOAD=0``), ``import zhclip_openclip`` does the same. Importing this
module loads the standard library only.
"""

from __future__ import annotations

from zhclip_openclip import autoload as _autoload

__version__ = "0.1.0"
__all__ = ["list_models", "register"]


def register() -> None:
    """Hook into the hosts (`integrations/`): now where they are loaded, else when they will be. Twice is once."""
    _autoload.autoload()


def list_models() -> list[str]:
    """Names of all models of all families, aliases included, in open_clip's spelling."""
    from zhclip_openclip.families import all_names

    return all_names()


register()
