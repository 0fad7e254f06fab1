"""Where what clip_benchmark prints goes while a cell runs: into its log."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


class _Stream(io.TextIOBase):
    """Stands in for stdout or stderr: writes to the log of the cell, and to the original between cells.

    Handlers of logging keep the stream that they were made with, so one object serves for all logs.
    """

    def __init__(self, original: TextIO):
        self._original = original
        self.log: TextIO | None = None

    @property
    def encoding(self) -> str:
        return "utf-8"

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return (self.log or self._original).fileno()

    def write(self, text: str) -> int:
        return (self.log or self._original).write(text)

    def flush(self) -> None:
        (self.log or self._original).flush()


class Streams:
    """Stand-ins for both streams, also in the handlers of logging that exist already."""

    def __init__(self) -> None:
        self._originals = sys.stdout, sys.stderr
        self._ours = tuple(map(_Stream, self._originals))
        self._handlers: list[tuple[logging.StreamHandler, TextIO]] = []

    def __enter__(self) -> Streams:
        loggers = [logging.root, *logging.root.manager.loggerDict.values()]
        for handler in [one for logger in loggers for one in getattr(logger, "handlers", ())]:
            # One whose stream is a property, as logging.lastResort, asks for sys.stderr anew each time.
            follows = isinstance(getattr(type(handler), "stream", None), property)
            if isinstance(handler, logging.StreamHandler) and not follows and handler.stream in self._originals:
                self._handlers.append((handler, handler.stream))
                handler.setStream(self._ours[self._originals.index(handler.stream)])
        sys.stdout, sys.stderr = self._ours
        return self

    def __exit__(self, *error) -> None:
        sys.stdout, sys.stderr = self._originals
        for handler, stream in self._handlers:
            handler.setStream(stream)

    @contextlib.contextmanager
    def to(self, path: Path, mode: str = "w") -> Iterator[None]:
        """Into this log, until the end of the block. Raises OSError: it cannot be written."""
        if path.is_symlink():
            path.unlink()  # what it leads to is not ours to write
        # By lines: a reader process that is forked must not inherit half-written ones.
        with open(path, mode, encoding="utf-8", errors="backslashreplace", buffering=1) as log:
            for stream in self._ours:
                stream.log = log
            try:
                yield
            finally:
                for stream in self._ours:
                    stream.log = None
