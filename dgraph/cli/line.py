"""Plain lines: numbers with units, results as JSON, progress.

In: values and events. Out: text on stdout. Promise: nothing that only tables need is imported, for ranks come here too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

from dgraph.run import as_json


def as_bytes(nbytes: float) -> str:
    """A number of bytes with a unit: 14.0 GiB."""
    for unit in ("B", "KiB", "MiB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} GiB"


def result_line(result: Mapping[str, Any]) -> None:
    """The result as one JSON object on the last line of stdout, with null for numbers that are not finite."""
    print(json.dumps(as_json(result), allow_nan=False), flush=True)


def libraries_text(libraries: Mapping[str, Sequence[str]]) -> str:
    """Which library does which ops, in one line."""
    return "kernels: " + "; ".join(f"{library} does {', '.join(ops)}" for library, ops in libraries.items())


FIGURES: Mapping[str, str] = {"loss": ".4f", "accuracy": ".4f", "rmse": ".4g", "mae": ".4g", "r2": ".4f"}
"""The figures that lines show, in this order, and their formats."""
ALL_FIGURES: Mapping[str, str] = {**FIGURES, "top5": ".4f"}
"""Those of the end of a training, and of an evaluation."""
MOST_COLUMNS = 30
"""A confusion matrix of more classes is for programs alone."""


def shown(result: Mapping[str, Any], between: str = "  ", figures: Mapping[str, str] = FIGURES) -> str:
    """The figures of a result; those of several heads behind."""
    text = between.join(f"{name} {result[name]:{form}}" for name, form in figures.items() if name in result)
    heads = "; ".join(f"{name}: {shown(one, ' ', figures)}" for name, one in result.get("heads", {}).items())
    return f"{text}{between}[{heads}]" if heads else text


def measured_text(subset: str, result: Mapping[str, Any]) -> str:
    """All figures of a subset in one line."""
    return f"{subset}: {shown(result, figures=ALL_FIGURES)}  ({result['samples']} samples)"


def confusion_text(confusion: Sequence[Sequence[int]]) -> str:
    """A confusion matrix in lines: a row a label, a column a class that was found."""
    if len(confusion) > MOST_COLUMNS:
        return f"a confusion matrix of {len(confusion)} classes: --json gives it"
    width = max(len(str(count)) for row in confusion for count in (*row, len(confusion) - 1))
    lines = [("label \\ found", range(len(confusion))), *enumerate(confusion)]
    return "\n".join("  ".join([f"{label:>13}", *(f"{count:>{width}}" for count in row)]) for label, row in lines)


def as_time(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03, or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def as_speed(samples: float) -> str:
    """Samples a second, in digits: 12,345 or 0.0123."""
    return f"{samples:,.0f}" if samples >= 100 else f"{samples:.3g}"


_ANEW = "\r\x1b[K"
_CUT, _UNCUT = "\x1b[?7l", "\x1b[?7h"
"""A terminal cuts what is between these at its edge: of a line that went on in the next one, only the end could be written over."""
QUIET_SECONDS = 10.0
"""Seconds without a line after which a step gets one, where lines are not written over."""


class Progress:
    """Progress of a training: one line that is written over on a terminal, and one plain line now and then in a file."""

    def __init__(self, live: bool) -> None:
        self._live = live
        self._open = False
        self._last = monotonic()

    def __call__(self, entry: Mapping[str, Any]) -> None:
        """Shows a step or the end of an epoch."""
        if entry["kind"] == "step" and self._live:
            self._write(_ANEW + _CUT + self._step(entry) + _UNCUT)
            self._open = True
        elif entry["kind"] == "epoch" or monotonic() - self._last > QUIET_SECONDS:
            text = self._epoch(entry) if entry["kind"] == "epoch" else self._step(entry)
            self._write((_ANEW if self._open else "") + text + "\n")
            self._open = False

    @staticmethod
    def _step(entry: Mapping[str, Any]) -> str:
        return (
            f"step {entry['step']}/{entry['steps']}  epoch {entry['epoch']}  {shown({**entry, 'heads': {}})}  "
            f"{as_speed(entry['samples_per_second'])} samples/s  {as_time(entry['seconds_left'])} left  "
            f"communication {entry['communication']:.0%}"
        )

    @staticmethod
    def _epoch(entry: Mapping[str, Any]) -> str:
        text = f"epoch {entry['epoch']}  step {entry['step']}"
        for name in ("train", "validation"):
            if entry.get(name):
                text += f"  {name} {shown(entry[name], ' ')}"
        return text

    def _write(self, text: str) -> None:
        self._last = monotonic()
        sys.stdout.write(text)
        sys.stdout.flush()
