"""Folders that are whole or not there."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from zhclip_openclip._errors import shorten
from zhclip_openclip._files import umask
from zhclip_openclip.export._export_error import ExportError


def refuse_taken(output: Path, force: bool = False) -> None:
    """Raises ExportError: `output` is something else than a folder, or holds files and `force` is not given."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise ExportError(f"{output} exists and is not a folder: name another one")
    if output.exists() and any(output.iterdir()) and not force:
        raise ExportError(f"{output} exists and is not an empty folder: name another one, or give --force")


@contextlib.contextmanager
def new_folder(output: Path, force: bool = False) -> Iterator[Path]:
    """An empty folder to fill, beside `output`, whose name it takes at the end of the block.

    If the block fails it is taken away, and what was at `output` stays as it was. force: replace a folder that is
    there, if it holds nothing that the new one does not have under the same name: no other work is thrown away.

    Raises ExportError: see :func:`refuse_taken`.
    """
    output = Path(output)
    refuse_taken(output, force)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~umask())  # mkdtemp makes it private
        _take_name(temporary, output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _take_name(temporary: Path, output: Path) -> None:
    if not output.exists():
        temporary.rename(output)
        return
    written = {path.name for path in temporary.iterdir()}
    others = sorted(path.name for path in output.iterdir() if path.name not in written)
    if others:
        raise ExportError(f"{output} also holds {shorten(others)}, which is not written here: move it away first")
    old = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    output.rename(old / "old")
    try:
        temporary.rename(output)
    except BaseException:
        (old / "old").rename(output)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
