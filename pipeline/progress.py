"""One clean line a stage, fed by whatever process does the work."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import ray
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text


@ray.remote(num_cpus=0)
class Board:
    """Where stages write how far they are, and the driver reads it."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}

    def update(self, label: str, **row: Any) -> None:
        self.rows.setdefault(label, {}).update(row)

    def read(self) -> dict[str, dict[str, Any]]:
        return self.rows


class Reporter:
    """A stage's pen on the board; updates more often than five a second are dropped."""

    def __init__(self, board: Any, label: str):
        self.board, self.label, self._last = board, label, 0.0

    def __call__(self, done: float, total: float, text: str = "") -> None:
        now = time.monotonic()
        if done >= total or now - self._last > 0.2:
            self._last = now
            self.board.update.remote(self.label, done=done, total=total, text=text)


class _Elapsed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(duration(task.fields.get("seconds") or task.elapsed or 0.0).rjust(8))


def duration(seconds: float) -> str:
    """Seconds in a person's words: ``8 s``, ``2 m 05 s``, ``3 h 10 m``."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} m {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} m"


class Display:
    """The lines of a pipeline on a terminal; plain lines, one a finished stage, elsewhere."""

    def __init__(self, labels: list[str], console: Console):
        self.console, self._width = console, max(len(label) for label in labels)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(24, complete_style="cyan", finished_style="cyan"),
            _Elapsed(),
            TextColumn("[dim]{task.fields[text]}", markup=True),
            console=console,
            refresh_per_second=4,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, Any] = {}
        self._finished: set[str] = set()

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def update(self, rows: dict[str, dict[str, Any]]) -> None:
        """Show the board's rows; stages that have not begun, or have ended, are not shown."""
        for label, row in rows.items():
            if label in self._finished:
                continue
            if label not in self._tasks:
                name = label.ljust(self._width)
                self._tasks[label] = self._bars.add_task(name, total=None, text="", seconds=None)
            total, done = row.get("total"), row.get("done", 0)
            self._bars.update(self._tasks[label], total=total, completed=done, text=row.get("text", ""))

    def finished(self, label: str, seconds: float | None, text: str) -> None:
        """The last word on a stage; ``seconds`` None where it failed."""
        self._finished.add(label)
        if label in self._tasks:
            self._bars.remove_task(self._tasks.pop(label))
        self.line(label, "failed" if seconds is None else duration(seconds), text)

    def line(self, label: str, when: str, text: str) -> None:
        text = f"{label.ljust(self._width)}  {when:>8}  {text}"
        self.console.print(text, highlight=False, soft_wrap=True)
