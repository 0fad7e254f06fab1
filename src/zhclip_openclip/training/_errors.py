"""What goes wrong before or while a model is trained."""

from zhclip_openclip._errors import ZhclipError


class TrainingError(ZhclipError):
    """Data or options that a model cannot be trained with."""
