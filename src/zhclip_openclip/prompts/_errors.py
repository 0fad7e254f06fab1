"""What can be wrong with class names, templates and languages."""

from __future__ import annotations

from zhclip_openclip._errors import ZhclipError


class PromptError(ZhclipError):
    """Class names, templates or a language that cannot be used with a data set."""
