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
    """Writes the report under a temporary name and renames it, so that a file of this name is always whole.

    Raises ZhclipError: no such format; a file that cannot be written.
    """
    output = Path(output)
    text = render(report, format)
    if output.is_dir():
        raise ZhclipError(f"{output}: a folder; give --output the name of a file in it")
    try:
        with whole_file(output) as part:
            part.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ZhclipError(f"{output}: cannot be written ({error.strerror}); give another --output") from None
    return output
