"""Errors of a search or classification of a folder."""

from __future__ import annotations

from zhclip_openclip._errors import ZhclipError


class FolderError(ZhclipError):
    """A folder, query, label or picture that cannot be used."""
