"""The errors that a user gets to see: one line that names the thing, the place and the way out."""

from __future__ import annotations


class ZhclipError(RuntimeError):
    """Base of all errors that this package raises for a user; open_clip raises RuntimeError in the same places."""


class CheckpointError(ZhclipError):
    """A checkpoint that cannot be found, read, recognised or fitted to the model."""


class DownloadError(CheckpointError):
    """Files that are neither on this machine nor to be had from the hub."""


def shorten(names, limit: int = 4) -> str:
    """`a, b, c, d and 12 more` for an error message."""
    names = list(names)
    text = ", ".join(str(name) for name in names[:limit])
    return text if len(names) <= limit else f"{text} and {len(names) - limit} more"
