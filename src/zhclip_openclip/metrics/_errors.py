"""What cannot be scored."""

from __future__ import annotations

from zhclip_openclip._errors import ZhclipError


class MetricError(ZhclipError, ValueError):
    """Features, labels or relations that do not fit together; a ValueError for programs that call the metrics."""
