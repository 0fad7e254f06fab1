"""Whether all processes of an evaluation are still there: meeting them, and hearing of it when one of them is lost.

Work is shared in contiguous parts, so one process can wait for hours for a slower one, and nothing is wrong; another
one can be dead, and waiting is in vain. A time limit cannot tell these two apart. So each process says every second
that it is alive, in the key-value store that PyTorch's processes meet at, and one that fails says so there. The store
itself can stop to answer, with the process that holds it: see `_deadline.py`.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import threading
import time
from collections.abc import Callable

from zhclip_openclip.features._deadline import Deadline, end_process

#: Seconds between two signs of life.
INTERVAL = 1.0
#: Seconds that the main thread has to end after it was interrupted; it may be inside a transfer that never ends.
_GRACE = 15.0
_GONE = "bye"


class Elsewhere(Exception):
    """The rest of this evaluation is done by rank 0; this process goes on to the next one."""


class Lost(Exception):
    """Another process has failed, or is not heard of any more. Nothing of ours goes wrong here: see `ranks.joined`."""


class RollCall:
    """store: of `torch.distributed`. patience: seconds of silence after which a process counts as dead, and so does the
    store. deadline: runs already. stall: seconds of a meeting in which all that are alive do nothing.

    lost: why this evaluation cannot go on, once it is known. done, at_pass: what this process has done in which pass.
    """

    def __init__(self, store, rank: int, size: int, patience: float, deadline: Deadline, stall: float):
        self._store, self.rank, self.size, self._patience = store, rank, size, patience
        self._deadline, self._stall = deadline, stall
        self._cell, self._meeting, self._over = 0, 0, 0
        self.lost: str | None = None
        self.done = self.at_pass = 0
        self._signs: list[bytes] = []
        self._stopped, self._known, self._left = threading.Event(), threading.Event(), threading.Event()
        self._interrupts = True
        self._thread = threading.Thread(target=self._watch, name="zhclip-roll-call", daemon=True)
        self._names = [f"alive/{other}" for other in range(size)]
        store.set(self._names[rank], "0 0 0")
        if rank == 0:
            store.set("over", "0")
            store.set("failed", "-")

    def start(self) -> None:
        """After all processes have made theirs."""
        self._deadline.allow(self._patience, lambda: self._end(_NO_ANSWER, store_is_silent=True))
        self._thread.start()

    # -------------------------------------------------------- meeting

    def meet(self, tick: Callable[[], None] | None = None) -> None:
        """Wait until all processes are here, however long that takes while they live and do something. tick: called
        now and then.

        Raises Elsewhere: rank 0 has ended this evaluation already. Lost: nobody does anything.
        """
        self._meeting += 1
        key = f"met/{self._cell}/{self._meeting}"
        here, pause, idle, last = self._ask("add", key, 1), 0.001, 0.0, None
        while here < self.size:
            if self.rank and self._over >= self._cell:
                raise Elsewhere
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
            if tick:
                tick()
            here = self._ask("add", key, 0)
            state = here, [sign.split()[1:] for sign in self._signs]
            idle = idle + pause if state == last else 0.0
            last = state
            if idle >= self._stall:
                reason = f"{self.size - here} of {self.size} processes have not come on for {idle / 3600:.1f} h"
                self._post(self.rank, reason)
                raise Lost(reason)

    def next_cell(self) -> None:
        """Begin another evaluation. Meetings of different ones are never confused."""
        self._cell, self._meeting = self._cell + 1, 0

    def end_cell(self) -> None:
        """Of rank 0: whoever waits in this evaluation for a meeting need not any more."""
        self._ask("set", "over", str(self._cell))

    def done_by_others(self) -> int:
        """What the other processes had done in the same pass a second ago."""
        told = [sign.decode().split() for other, sign in enumerate(self._signs) if other != self.rank]
        return sum(int(sign[2]) for sign in told if len(sign) == 3 and int(sign[1]) == self.at_pass)

    # -------------------------------------------------------- the end

    def why(self, wait: float = 0.0) -> str | None:
        """Why the evaluation cannot go on, if another process is the reason. wait: seconds to give the news to come.

        From here on the main thread is not interrupted any more.
        """
        self._interrupts = False
        self._known.wait(wait)
        return self.lost

    def fail(self, message: str) -> bool:
        """Tell the others that this process ends the evaluation, and why. False if another one has told the same."""
        self._post(self.rank, message)
        with contextlib.suppress(Exception):
            for _ in range(20):  # who was first may be about to write
                told = self._store.get("failed").decode()
                if told != "-":
                    rank, _, first = told.partition(" ")
                    return int(rank) == self.rank or first != message
                time.sleep(0.05)
        return True

    def leave(self) -> None:
        """End without being missed; the process that holds the store ends last."""
        self.stop()
        self._deadline.allow(_GRACE)
        with contextlib.suppress(Exception):
            self._store.set(self._names[self.rank], _GONE)
            if self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
                limit = time.monotonic() + 5 * INTERVAL
                while time.monotonic() < limit and {*self._store.multi_get(self._names)} != {_GONE.encode()}:
                    time.sleep(0.02)
        self._left.set()
        self._deadline.stop()

    def stop(self) -> None:
        """No more signs of life."""
        self._stopped.set()

    def _post(self, rank: int, message: str) -> None:
        with contextlib.suppress(Exception):  # there may be nobody left to tell
            if self._store.add("failing", 1) == 1:
                self._store.set("failed", f"{rank} {message}")

    # -------------------------------------------------------- the thread

    def _watch(self) -> None:
        last, silent, beat = [b""] * self.size, [0.0] * self.size, 0
        while not self._stopped.wait(INTERVAL):
            beat += 1
            try:
                self._store.set(self._names[self.rank], f"{beat} {self.at_pass} {self.done}")
                signs = self._store.multi_get(self._names)
                failed, over = (value.decode() for value in self._store.multi_get(["failed", "over"]))
            except Exception:  # of the store; they have no base of their own
                self._end(_NO_STORE)
                return
            self._deadline.heard()
            self._over = int(over)
            self._signs = signs
            if failed != "-":
                other, _, message = failed.partition(" ")
                self._end(f"rank {other} has failed" + ("" if self.rank else f": {message}"))
                return
            # Counted in intervals of our own, so that a machine that was asleep does not take the others for dead.
            for other, sign in enumerate(signs):
                same = sign == last[other] and sign != _GONE.encode()
                silent[other] = silent[other] + INTERVAL if same else 0.0
                if silent[other] >= self._patience:
                    self._post(other, f"nothing was heard of it for {silent[other]:.0f} s")
                    self._end(f"nothing was heard of rank {other} for {silent[other]:.0f} s")
                    return
            last = signs

    def _end(self, reason: str, store_is_silent: bool = False) -> None:
        """Tell the main thread to end, and end the process if it does not. It can be inside of a call that never comes
        back; where the store is silent, also on its way out."""
        leaving = self._stopped.is_set()
        if leaving and not store_is_silent:
            return
        self.lost = self.lost or reason
        self._known.set()
        if self._interrupts:
            _thread.interrupt_main()
        elif not store_is_silent:
            return
        if not self._left.wait(0.0 if leaving else _GRACE):
            end_process(f"zhclip eval: error: rank {self.rank} of {self.size}: {self.lost}")

    def _ask(self, what: str, *arguments):
        try:
            return getattr(self._store, what)(*arguments)
        except Exception:  # of the store
            raise Lost(self.lost or _NO_STORE) from None


_NO_ANSWER = "the store that holds the processes together does not answer: rank 0, or its machine, has stopped"
_NO_STORE = "the store that holds the processes together is gone: rank 0, or its launcher, has ended"
