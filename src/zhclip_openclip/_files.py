"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

#: Bytes of a name that are kept in the temporary one, which is 13 longer: file systems take 255.
_NAME_BYTES = 200
#: Seconds after which a temporary file that nobody writes to any more is what a kill has left.
_ABANDONED = 86_400


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The name of an empty file to write, in the folder of `path`, which is made if it is not there.

    At the end of the block the file takes the name `path`, at once and with its content on the disk, so that nobody
    ever reads half of it, whether another process looks meanwhile or the power fails. If the block fails, it is taken
    away, and what was at `path` stays as it was. A link at `path` is replaced, not written through. What a killed
    process has left of the same name a day ago or earlier is taken away.

    Raises OSError: the folder cannot be written to, the disk is full, `path` is a folder or a device.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # as root one could replace /dev/null
        raise OSError(errno.EISDIR if path.is_dir() else errno.EINVAL, "Not a regular file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = _cut(path.name)
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(0o666 & ~umask())  # mkstemp makes it private
        _to_the_disk(part)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _tidy(path.parent, prefix)


def umask() -> int:
    """The permissions that new files of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _cut(name: str) -> str:
    while len(os.fsencode(name)) > _NAME_BYTES:
        name = name[:-1]
    return name


def _to_the_disk(part: Path) -> None:
    """A rename can reach the disk before the content does, and a power cut then leaves an empty file of that name."""
    with part.open("rb+") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):  # some network file systems
                raise


def _tidy(folder: Path, prefix: str) -> None:
    """Takes away what killed processes have left of a file of this name."""
    temporary = re.compile(re.escape(prefix) + r"[a-z0-9_]{8}\.part")
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if temporary.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > _ABANDONED:
                os.unlink(entry.path)
