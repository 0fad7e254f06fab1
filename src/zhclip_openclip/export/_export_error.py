"""Errors of writing models for other programs."""

from __future__ import annotations

from zhclip_openclip._errors import ZhclipError


class ExportError(ZhclipError):
    """A model that cannot be written in a format: it has no exact home there, a package is missing, the folder is
    taken, or what was written is not the same model."""
