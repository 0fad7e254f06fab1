from zhclip_openclip._errors import ZhclipError


class ProbeError(ZhclipError):
    """Data that no probe can be trained or scored on, or a saved probe that cannot be used."""
