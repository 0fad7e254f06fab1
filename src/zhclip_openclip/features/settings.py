"""How image features are made in this process: where they are kept, and who is told how far it is."""

from __future__ import annotations

import contextlib
import contextvars
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from zhclip_openclip._errors import ZhclipError

#: Names of the environment variables.
CACHE, SIZE, BLOCK = "ZHCLIP_FEATURE_CACHE", "ZHCLIP_FEATURE_CACHE_SIZE", "ZHCLIP_FEATURE_CACHE_BLOCK_SECONDS"
DEFAULT_LIMIT = "50 GB"
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@dataclass(frozen=True)
class Settings:
    """cache: folder of the feature cache, or None. limit: bytes that it may hold. block_seconds: work that a kill may
    cost. progress: called with (stage, done, total or None, how many of them came from the cache); stage is 'images',
    'texts' or 'prompts'. kept: where the model that was loaded last is kept, to be taken again. compile: torch.compile
    the image tower. download: whether clip_benchmark may fetch data sets, as it does by itself. quiet: no bars and no
    notes. spent: where the seconds of each stage are added up (`spent.py`), or None.
    """

    cache: Path | None = None
    limit: int = 50 * 10**9
    block_seconds: float = 20.0
    progress: Callable[[str, int, int | None, int], None] | None = None
    kept: dict | None = None
    compile: bool = False
    download: bool = True
    quiet: bool = False
    spent: dict[str, float] | None = None


_used: contextvars.ContextVar[Settings | None] = contextvars.ContextVar("zhclip_settings", default=None)


def current() -> Settings:
    """What `using` says, else the environment.

    Raises ZhclipError: a size or a number of seconds that is none.
    """
    return _used.get() or from_environment()


def from_environment() -> Settings:
    """The settings of the environment variables."""
    folder = os.environ.get(CACHE, "").strip()
    try:
        seconds = float(os.environ.get(BLOCK, "") or Settings.block_seconds)
    except ValueError:
        raise ZhclipError(f"{BLOCK}={os.environ[BLOCK]}: not a number of seconds; the default is 20") from None
    return Settings(
        cache=Path(folder).expanduser() if folder else None,
        limit=read_size(os.environ.get(SIZE) or DEFAULT_LIMIT, SIZE),
        block_seconds=seconds,
    )


def users_folder() -> Path:
    """Where commands that live on kept features keep them if nobody names a folder: the user's own cache folder."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "zhclip-openclip" / "features"


@contextlib.contextmanager
def using(**changes) -> Iterator[Settings]:
    """The settings of the environment with these changes, until the end of the block."""
    token = _used.set(replace(current(), **changes))
    try:
        yield current()
    finally:
        _used.reset(token)


def read_size(text: str, what: str = "size") -> int:
    """Bytes of '50 GB', '500M', '1.5t' or '123'; units are decimal.

    Raises ZhclipError: anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", text, re.IGNORECASE)
    if match is None:
        raise ZhclipError(f"{what}={text}: not a size; write it like 50GB or 500MB")
    return int(float(match[1]) * _UNITS[match[2].lower()])
