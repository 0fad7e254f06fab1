"""The error of everything that is wrong with a dataset."""

from __future__ import annotations

from zhclip_openclip._errors import ZhclipError


class DatasetError(ZhclipError, ValueError):
    """Bad or missing data: one line that names the file, the line where there is one, and the way out."""


class Incomplete(DatasetError):
    """One layout of a dataset is there in part: another one that is complete, there or elsewhere, is taken instead."""


class OtherSet(Incomplete):
    """A folder holds another set than the one that was asked for; where several folders are looked into, the next may
    hold it."""
