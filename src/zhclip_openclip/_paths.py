"""Where the data files of the package are, in a wheel and in an editable install."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
DATA = PACKAGE / "data"


def model_configs() -> Path:
    """The folder of open_clip model configs: inside the wheel, or at the top level of the repository."""
    inside = PACKAGE / "model_configs"
    return inside if inside.is_dir() else PACKAGE.parent.parent / "model_configs"
