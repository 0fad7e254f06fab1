"""The templates of pages: whatever is put into one is text, never markup, and can be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zhclip_openclip._errors import printable
from zhclip_openclip._paths import DATA

if TYPE_CHECKING:
    import jinja2


def pages() -> jinja2.Environment:
    """The environment that makes pages of the templates in `data/`."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(DATA),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_seen,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _seen(value: Any) -> Any:
    """Text without control characters but the ends of lines; what is markup already stays."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "\n".join(map(printable, value.split("\n")))
