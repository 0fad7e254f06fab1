"""How far a pass is: a bar on a terminal, a line now and then in a log, or whoever asked to be told (`settings.py`). Of
several processes rank 0 tells, for all."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from zhclip_openclip.features import ranks
from zhclip_openclip.features.settings import current

_UNITS = {"images": "img", "texts": "text", "prompts": "prompt", "probes": "probe"}
#: Seconds between two lines where there is no terminal.
EVERY = 30.0


def note(text: str) -> None:
    """Print a line for people, unless they want quiet; of several processes rank 0 does."""
    if ranks.rank() == 0 and not current().quiet:
        print(text)


class Progress:
    """A context. stage: 'images', 'texts', 'prompts' or 'probes'. what: name of the data set, for people. total: of all
    processes, None where that is unknown.

    told: whether somebody else shows it.
    """

    def __init__(self, stage: str, what: str, total: int | None):
        self._stage, self._total = stage, total
        self._done = self._reused = self._shown = 0
        told = current().progress
        self.told = told is not None
        self._tell_them = told if ranks.rank() == 0 else None
        text = f"{'Training' if stage == 'probes' else 'Encoding'} {stage}{' of ' + what if what else ''}"
        quiet = self.told or ranks.rank() > 0 or current().quiet
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self._bar = tqdm(total=total, desc=text, unit=_UNITS[stage], disable=quiet or not terminal)
        self._lines = None if quiet or terminal else _Lines(text, total, _UNITS[stage])
        ranks.tell_done(0, new_pass=True)

    def __enter__(self) -> Progress:
        self.refresh()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if kind is None and self._total:
            self._show(self._total)  # what the others have told is a second old
        self._bar.close()
        if self._lines is not None and kind is None:
            self._lines.end(self._shown)

    def add(self, count: int, reused: bool = False) -> None:
        """So many more are done here. reused: they came from the cache."""
        self._done += count
        self._reused += count if reused else 0
        ranks.tell_done(self._done)
        self.refresh()

    def refresh(self) -> None:
        """Show what this process and the others have done."""
        self._show(self._done + ranks.done_by_others())

    def wait(self) -> None:
        """Until the other processes are here too."""
        ranks.meet(self.refresh)

    def _show(self, done: int) -> None:
        self._bar.update(max(0, done - self._shown))
        self._shown = max(self._shown, done)
        if self._lines is not None:
            self._lines.show(self._shown)
        if self._tell_them is not None:
            self._tell_them(self._stage, self._shown, self._total, self._reused)


class _Lines:
    """Where a bar would fill a file with its pictures: one line in half a minute, and one at the end."""

    def __init__(self, text: str, total: int | None, unit: str):
        self._text, self._total, self._unit = text, total, unit
        self._begun = self._told = time.monotonic()

    def show(self, done: int) -> None:
        if time.monotonic() - self._told >= EVERY:
            self._say(done)

    def end(self, done: int) -> None:
        self._say(done)

    def _say(self, done: int) -> None:
        if sys.stderr is None:
            return
        self._told = time.monotonic()
        passed = max(self._told - self._begun, 1e-3)
        count = f"{done}/{self._total}" if self._total else f"{done}"
        print(f"{self._text}: {count}, {done / passed:,.0f} {self._unit}/s", file=sys.stderr, flush=True)
