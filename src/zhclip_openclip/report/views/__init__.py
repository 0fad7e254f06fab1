"""The views of a report: each a module with `render(report) -> str`. They show a `Report` and compute nothing."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip._files import whole_file
from zhclip_openclip.report._model import Report

FORMATS = ("terminal", "markdown", "csv", "latex", "html")


def render(report: Report, format: str) -> str:
    """The report as text, in one of `FORMATS`.

    Raises ZhclipError: no such format.
    """
    if format not in FORMATS:
        raise ZhclipError(f"there is no format {format!r}; there are {', '.join(FORMATS)}")
    return importlib.import_module(f"{__name__}.{format}").render(report)


def write(report: Report, format: str, output: str | os.PathLike[str]) -> Path:
    """Writes the report under a temporary name of its own and renames it: a file of this name is always whole, however
    many processes write it. One that holds the same already is left as it is, also where nothing can be written.

    Raises ZhclipError: no such format; a file that cannot be written.
    """
    output = Path(output)
    content = render(report, format).encode()
    try:
        if output.is_dir():
            raise ZhclipError(f"{output}: a folder; give --output the name of a file in it")
        if not _holds(output, content):
            with whole_file(output) as part:
                part.write_bytes(content)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ZhclipError(f"{output}: cannot be written ({reason}); give another --output") from None
    return output


def _holds(path: Path, content: bytes) -> bool:
    try:
        return not path.is_symlink() and path.stat().st_size == len(content) and path.read_bytes() == content
    except OSError:
        return False
