"""The end of a command: whatever went wrong is one line, and the traceback for those who ask for it."""

from __future__ import annotations

import sys
import traceback

from zhclip_openclip._errors import ZhclipError, printable
from zhclip_openclip._reading import debug


def last_line(error: Exception) -> str:
    """What a person is told of an error that nobody has caught.

    With `ZHCLIP_DEBUG=1` its traceback goes to the standard error before.
    """
    if debug():
        traceback.print_exception(error)
    if isinstance(error, ZhclipError):
        return str(error)
    if isinstance(error, MemoryError):
        return "this does not fit into memory; ZHCLIP_DEBUG=1 shows where"
    text = printable(" ".join(str(error).split())[:500])
    if isinstance(error, OSError) and error.strerror:
        return f"{text}; ZHCLIP_DEBUG=1 shows where"
    return f"{type(error).__name__}{': ' + text if text else ''}; this is a bug, ZHCLIP_DEBUG=1 shows where"


def spell_out() -> None:
    """From here on a character that the terminal or pipe does not have is written as `\\u4e2d`, and is no error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
