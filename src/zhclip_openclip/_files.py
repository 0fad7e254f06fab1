"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The name of an empty file to write, in the folder of `path`, which is made if it is not there.

    At the end of the block the file takes the name `path`, at once, so that nobody ever reads half of it. If the block
    fails, it is taken away, and what was at `path` stays as it was.

    Raises OSError: the folder cannot be written to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=path.name, suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(0o666 & ~umask())  # mkstemp makes it private
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def umask() -> int:
    """The permissions that new files of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
