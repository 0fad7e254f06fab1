"""Image features: one pass over the images, kept by content, cut into blocks that survive a kill."""

from zhclip_openclip.features.settings import Settings, current, using

__all__ = ["Settings", "current", "using"]
