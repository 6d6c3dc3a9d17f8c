"""How fast a loop goes: samples a second, the time that is left, the share of communication.

In: the ends of steps. Out: figures for the line that is shown. Promise: two readings of a clock a step, and nothing allocated.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from dgraph.runtime.engine import Engine


class Pace:
    """The clock of a loop, from its making on; `before` are seconds that the run had taken by then."""

    def __init__(self, engine: Engine, before: float, done: int) -> None:
        self._engine, self._before, self._first = engine, before, done
        self._start = perf_counter()
        self._began = self._communicated = 0.0
        self._samples = 0
        self._seconds = self._communication = 0.0

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken, all parts together."""
        return self._before + perf_counter() - self._start

    def begin(self) -> None:
        """A step begins."""
        self._began, self._communicated = perf_counter(), self._engine.communication

    def end(self, samples: int) -> None:
        """The step that began has ended, with so many samples."""
        self._seconds += perf_counter() - self._began
        self._communication += self._engine.communication - self._communicated
        self._samples += samples

    def figures(self, step: int, steps: int) -> dict[str, Any]:
        """Since the last call: `samples_per_second` and `communication`, its share of the time of the steps; `seconds` of the run
        so far, and `seconds_left` if all goes on as since the loop began."""
        seconds = max(self._seconds, 1e-9)
        figures = {
            "seconds": self.seconds,
            "seconds_left": (perf_counter() - self._start) / max(step - self._first, 1) * (steps - step),
            "samples_per_second": self._samples / seconds,
            "communication": self._communication / seconds,
        }
        self._samples, self._seconds, self._communication = 0, 0.0, 0.0
        return figures
