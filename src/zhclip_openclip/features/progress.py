"""How far a pass is: a bar, or whoever asked to be told (`settings.py`). Of several processes rank 0 tells, for all."""

from __future__ import annotations

from tqdm import tqdm

from zhclip_openclip.features import ranks
from zhclip_openclip.features.settings import current

_UNITS = {"images": "img", "texts": "text", "prompts": "prompt"}


class Progress:
    """A context. stage: 'images', 'texts' or 'prompts'. what: name of the data set, for people. total: of all
    processes, None where that is unknown.

    told: whether somebody else shows it.
    """

    def __init__(self, stage: str, what: str, total: int | None):
        self._stage, self._total = stage, total
        self._done = self._reused = self._shown = 0
        told = current().progress
        self.told = told is not None
        self._tell_them = told if ranks.rank() == 0 else None
        text = f"Encoding {stage}{' of ' + what if what else ''}"
        quiet = self.told or ranks.rank() > 0
        self._bar = tqdm(total=total, desc=text, unit=_UNITS[stage], disable=quiet)
        ranks.tell_done(0, new_pass=True)

    def __enter__(self) -> Progress:
        self.refresh()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if kind is None and self._total:
            self._show(self._total)  # what the others have told is a second old
        self._bar.close()

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
        if self._tell_them is not None:
            self._tell_them(self._stage, self._shown, self._total, self._reused)
