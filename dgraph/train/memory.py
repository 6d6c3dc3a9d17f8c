"""What a loop must remember to go on as if it had never stopped.

In: figures of validations; the entry `loop` of a checkpoint. Out: `Record`, the validations so far, folded; `Memory`, with the
epoch under way. Promise: plain values, whose JSON gives back the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import inf, isfinite
from typing import Any

from dgraph.config.schema import LARGEST, StopConfig, TrainConfig
from dgraph.metric import Metrics


@dataclass(frozen=True)
class Best:
    """The validation that was the best so far."""

    step: int
    epoch: int
    metric: str
    value: float


@dataclass(frozen=True)
class Record:
    """The validations so far: the `best`; for early stopping the last values in the window (`recent`), the best mean over it
    (`least`, of values whose sign makes less better), for how many validations no mean was better (`waited`), and of which `metric`
    all of these are. A run that goes on by another figure begins anew with it."""

    best: Best | None = None
    recent: tuple[float, ...] = ()
    least: float | None = None
    waited: int = 0
    metric: str | None = None

    def after(self, step: int, epoch: int, figures: Mapping[str, Any], config: TrainConfig) -> Record:
        """The record with one validation more."""
        best = self.best if self.best is not None and self.best.metric == config.best else None
        if config.best in figures:
            value = _less(config.best, figures[config.best])
            if value < (inf if best is None else _less(best.metric, best.value)):
                best = Best(step, epoch, config.best, figures[config.best])
        return replace(self._waiting(figures, config.stop), best=best)

    def _waiting(self, figures: Mapping[str, Any], stop: StopConfig | None) -> Record:
        if stop is None or stop.metric not in figures:
            return self
        if self.metric != stop.metric:
            return Record(metric=stop.metric)._waiting(figures, stop)
        recent = (*self.recent, _less(stop.metric, figures[stop.metric]))[-stop.window :]
        if len(recent) < stop.window:
            return replace(self, recent=recent)
        mean = sum(recent) / len(recent)
        if mean < (inf if self.least is None else self.least - stop.least):
            return replace(self, recent=recent, least=mean, waited=0)
        return replace(self, recent=recent, waited=self.waited + 1)

    def stops(self, stop: StopConfig | None) -> bool:
        """Whether there is nothing more to wait for."""
        return stop is not None and self.metric == stop.metric and self.waited >= stop.patience

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @staticmethod
    def of(values: Mapping[str, Any]) -> Record:
        """From what `plain` gave."""
        best = values["best"]
        return Record(**{**values, "best": Best(**best) if best else None, "recent": tuple(values["recent"])})


def _less(metric: str, value: float) -> float:
    """The value with the sign that makes less better; what is not finite is worse than all that is."""
    return inf if not isfinite(value) else -value if metric in LARGEST else value


@dataclass
class Memory:
    """A loop between two steps.

    `metrics` are those of the epoch under way; `record` the validations so far; `ended`: the last step ended an epoch, or the run
    within one, and its validation is still to come; `before`: the record without the validation at a run's end within an epoch,
    which does not count should the run go on; `seconds` are those of training.
    """

    metrics: Metrics
    record: Record = Record()
    before: Record | None = None
    ended: bool = False
    seconds: float = 0.0

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "metrics": self.metrics.plain(),
            "record": self.record.plain(),
            "before": self.before.plain() if self.before is not None else None,
            "ended": self.ended,
            "seconds": self.seconds,
        }

    @staticmethod
    def of(values: Mapping[str, Any], metrics: Metrics) -> Memory:
        """From what `plain` gave (with no entries: of a run at its beginning) and empty metrics."""
        if not values:
            return Memory(metrics)
        metrics.restore(values["metrics"])
        before = Record.of(values["before"]) if values["before"] else None
        return Memory(metrics, Record.of(values["record"]), before, values["ended"], values["seconds"])
