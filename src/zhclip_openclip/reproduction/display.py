"""What is shown while cells run: lines for logs and pipes, bars on a terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from zhclip_openclip._errors import printable
from zhclip_openclip.reproduction._words import duration, result_line

if TYPE_CHECKING:
    from rich.console import Console

    from zhclip_openclip.reproduction.plan import Cell, Plan


class Plain:
    """One line a cell, and one now and then inside a long one: for logs and pipes."""

    every = 30.0  # seconds between two lines inside a cell

    def __init__(self, plan: Plan, console: Console):
        self._plan, self._console = plan, console
        self._total, self._number = len(plan.of("run")), 0
        self._begun = self._told = 0.0
        self._new, self._first_new = 0, 0.0
        self._ahead = plan.seconds
        self._spent = self._planned = 0.0

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        pass

    def start(self, cell: Cell) -> None:
        self._number += 1
        self._cell = cell
        self._begun = self._told = time.monotonic()
        self._new, self._first_new = 0, 0.0
        self._say(f"[{self._number}/{self._total}] {cell.title}: loading")

    def progress(self, stage: str, done: int, total: int | None, reused: int) -> None:
        now = time.monotonic()
        if stage == "images":
            if not self._first_new and done > reused:
                self._first_new = now
            self._new = done - reused
        if now - self._told >= self.every:
            self._told = now
            of = f" of {total:,}" if total else ""
            self._say(f"[{self._number}/{self._total}] {stage}: {done:,}{of}{self._rate()}; {self._left(done, total)}")

    def end(self, cell: Cell, failure: str | None, note: str) -> None:
        self._spent += time.monotonic() - self._begun
        self._planned += cell.seconds
        self._ahead -= cell.seconds
        self._say(f"[{self._number}/{self._total}] {self._line(cell, failure, note)}")

    def elsewhere(self, cell: Cell, finished: bool) -> None:
        self._ahead -= cell.seconds
        if finished:
            self._number += 1
            what = f"{result_line(self._plan, cell)} (another run has finished it)"
        else:
            what = "another run is at it; looked at again at the end"
        self._say(f"[{self._number if finished else '-'}/{self._total}] {cell.title}: {what}")

    def _line(self, cell: Cell, failure: str | None, note: str) -> str:
        if failure:
            log = printable(str(self._plan.output / "logs" / f"{cell.name}.log"))
            return f"{cell.title}: FAILED: {failure} (log: {log})"
        took = duration(time.monotonic() - self._begun)
        return f"{cell.title}: {result_line(self._plan, cell)} ({took}{self._rate()}){'; ' + note if note else ''}"

    def _rate(self) -> str:
        passed = time.monotonic() - self._first_new
        return f", {self._new / passed:,.0f} images/s" if self._first_new and passed > 0.5 else ""

    def _left(self, done: int, total: int | None) -> str:
        share = done / total if total else 0.0
        seconds = self._ahead - share * self._cell.seconds
        slower = self._spent / self._planned if self._planned else 1.0  # than was planned
        return f"about {duration(max(0.0, seconds * slower))} left"

    def _say(self, line: str) -> None:
        self._console.print(printable(line), markup=False, soft_wrap=True)


class Live(Plain):
    """Bars for the cells and for the images of the current one; finished cells scroll by above them."""

    def __init__(self, plan: Plan, console: Console):
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        super().__init__(plan, console)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(),
            console=console,
            redirect_stdout=False,
            redirect_stderr=False,
            speed_estimate_period=600,
        )
        # The bar of all cells goes by estimated seconds, so that a big cell counts as more than a small one.
        self._all = self._bars.add_task("cells", total=sum(map(self._weight, plan.of("run"))), count="")
        self._one = self._bars.add_task("", total=None, count="", visible=False)
        self._before = 0.0

    @staticmethod
    def _weight(cell: Cell) -> float:
        return cell.seconds + 1.0

    def __enter__(self):
        self._bars.start()
        return self

    def __exit__(self, *error) -> None:
        self._bars.stop()

    def start(self, cell: Cell) -> None:
        super().start(cell)
        self._bars.update(self._all, count=f"{self._number}/{self._total}")
        self._bars.reset(self._one, total=None, description=printable(f"{cell.title}: loading"), count="", visible=True)

    def progress(self, stage: str, done: int, total: int | None, reused: int) -> None:
        super().progress(stage, done, total, reused)
        of = f"/{total:,}" if total else ""
        count = f"{done:,}{of} {stage}{self._rate() if stage == 'images' else ''}"
        self._bars.update(self._one, description=printable(self._cell.title), completed=done, total=total, count=count)
        if stage == "images" and total:
            self._bars.update(self._all, completed=self._before + self._weight(self._cell) * 0.95 * done / total)

    def end(self, cell: Cell, failure: str | None, note: str) -> None:
        super().end(cell, failure, note)
        self._before += self._weight(cell)
        self._bars.update(self._all, completed=self._before)
        self._bars.update(self._one, visible=False)

    def elsewhere(self, cell: Cell, finished: bool) -> None:
        super().elsewhere(cell, finished)
        if finished:
            self._before += self._weight(cell)
            self._bars.update(self._all, completed=self._before, count=f"{self._number}/{self._total}")

    def _say(self, line: str) -> None:
        if not line.endswith(": loading") and " left" not in line:  # the bars say that
            self._bars.console.print(printable(line), markup=False, soft_wrap=True)
