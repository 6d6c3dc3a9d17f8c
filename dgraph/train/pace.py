"""How fast a loop goes: samples a second, the time that is left, the share of communication and what of it was hidden.

In: the ends of steps. Out: figures for the line that is shown, and for the result. Promise: a few readings of numbers a step, and
nothing that grows.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from dgraph.runtime.engine import Engine


class Pace:
    """The clock of a loop, from its making on; `before` are seconds that the run had taken by then. `steps`, `exposed` and `hidden`
    (as `dgraph.runtime.progress` has them) are seconds of all steps since."""

    def __init__(self, engine: Engine, before: float, done: int) -> None:
        self._progress, self._before, self._first = engine.progress, before, done
        self._start = perf_counter()
        self.steps = self.exposed = self.hidden = 0.0
        self._samples = 0
        self._began = self._shown = (0.0, 0.0, 0.0)

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken, all parts together."""
        return self._before + perf_counter() - self._start

    def begin(self) -> None:
        """A step begins."""
        self._began = self._now()

    def end(self, samples: int) -> None:
        """The step that began has ended, with so many samples."""
        seconds, exposed, hidden = (now - began for now, began in zip(self._now(), self._began, strict=True))
        self.steps += seconds
        self.exposed += exposed
        self.hidden += hidden
        self._samples += samples

    def _now(self) -> tuple[float, float, float]:
        return perf_counter(), self._progress.exposed, self._progress.hidden

    def figures(self, step: int, steps: int) -> dict[str, Any]:
        """Since the last call: `samples_per_second`, `communication`, the share of the steps' time that this rank spent on it, and
        `hidden`, the share in which some was under way behind other work; `seconds` of the run so far, and `seconds_left` if all
        goes on as since the loop began."""
        total = (self.steps, self.exposed, self.hidden)
        seconds, exposed, hidden = (now - shown for now, shown in zip(total, self._shown, strict=True))
        seconds = max(seconds, 1e-9)
        figures = {
            "seconds": self.seconds,
            "seconds_left": (perf_counter() - self._start) / max(step - self._first, 1) * (steps - step),
            "samples_per_second": self._samples / seconds,
            "communication": exposed / seconds,
            "hidden": hidden / seconds,
        }
        self._samples, self._shown = 0, total
        return figures

    def communication(self) -> dict[str, float]:
        """Of all steps since the clock was made, on this rank: their seconds, those `exposed` and those `hidden`."""
        return {"step_seconds": self.steps, "exposed_seconds": self.exposed, "hidden_seconds": self.hidden}
