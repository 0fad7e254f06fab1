"""An end to waiting that needs nothing of what is waited for.

A call into the store that holds the processes together blocks for ever when the process that has it is stopped, or its
machine has lost its power: no connection breaks, and no time limit of PyTorch's counts. So a thread of its own counts
how long nothing has come back, and ends the process.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

#: Seconds between two looks.
INTERVAL = 1.0


class Deadline:
    """limit: seconds without `heard` after which `expired` is called, in the thread of this deadline.

    Counted in intervals of its own, so that a machine that was asleep, or a process that was stopped and goes on, has
    its time from then on.
    """

    def __init__(self, limit: float, expired: Callable[[], None]):
        self._limit, self._expired = limit, expired
        self._beat = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._count, name="zhclip-deadline", daemon=True)
        self._thread.start()

    def heard(self) -> None:
        """Something has come back: the time begins anew."""
        self._beat += 1

    def allow(self, limit: float, expired: Callable[[], None] | None = None) -> None:
        """Another limit, and what is done then, from now on."""
        self._limit, self._expired = limit, expired or self._expired
        self.heard()

    def stop(self) -> None:
        """Nothing is waited for any more."""
        self._stopped.set()

    def _count(self) -> None:
        silent, last = 0.0, self._beat
        while not self._stopped.wait(INTERVAL):
            silent = silent + INTERVAL if self._beat == last else 0.0
            last = self._beat
            if silent >= self._limit:
                self._expired()
                return


def end_process(message: str) -> None:
    """Exit code 1, whatever other threads are in; the message, if it can be written."""
    # Who reads it may be stopped as well.
    writer = threading.Thread(target=lambda: print(message, file=sys.stderr, flush=True), daemon=True)
    writer.start()
    writer.join(2.0)
    os._exit(1)
