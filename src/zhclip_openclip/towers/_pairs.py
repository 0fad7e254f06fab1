"""What the two towers of one model have in common."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

#: What the towers of the model that is being built have made for each other; None where towers are built alone.
_made: contextvars.ContextVar[dict[str, object] | None] = contextvars.ContextVar("zhclip_pair", default=None)


@contextlib.contextmanager
def one_model() -> Iterator[None]:
    """Towers that are built within are those of one model."""
    token = _made.set({})
    try:
        yield
    finally:
        _made.reset(token)


def shared(name: str, build: Callable[[], T]) -> T:
    """What `build` makes: of two towers of one model, the second is given what was made for the first."""
    made = _made.get()
    if made is None:
        return build()
    if name not in made:
        made[name] = build()
    return made[name]  # type: ignore[return-value]
