"""Where the files of one set of weights lie together: a folder, or a repository of the hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zhclip_openclip.checkpoints import _files


@dataclass(frozen=True)
class Folder:
    """A folder on this machine; None where nothing lies beside the weights (a file of the package)."""

    path: Path | None

    def __str__(self) -> str:
        return str(self.path)

    def get(self, name: str) -> Path | None:
        """The file of that name, if it is there; `../name` is in the folder above."""
        path = self.path / name if self.path else None
        return path if path and path.is_file() else None


@dataclass(frozen=True)
class Repository:
    """A repository of the hub, or its copy in `$ZHCLIP_MODELS_DIR`. Each file is asked for once."""

    repo: str
    cache_dir: str | None = None
    _got: dict[str, Path | None] = field(default_factory=dict, repr=False, compare=False)

    def __str__(self) -> str:
        return self.repo

    def get(self, name: str, also: Sequence[str] = ()) -> Path | None:
        """The file of that name, downloaded where it is not on this machine; None where the repository has none.

        also: other files that will be needed from there, to be named in an error.

        Raises DownloadError: the repository cannot be asked.
        """
        if name not in self._got:
            self._got[name] = _files.fetch(self.repo, [name], self.cache_dir, optional=True, also=also)
        return self._got[name]


Place = Folder | Repository
