"""Events of a run: what each node did, when, and for how long.

In: spans from the loop. Out: one file a rank with one JSON object a line, and one timeline of all ranks that opens in Perfetto
and chrome://tracing. Promise: nothing is written inside a step; times are seconds since the recorder was made.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from time import perf_counter
from typing import Any


class Recorder:
    """The spans of one rank, in memory until `events` are asked for."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.step = 0
        self._origin = perf_counter()
        self._spans: list[tuple[int, str, str, float, float, int, float | None]] = []

    def span(
        self, node: str, verb: str, start: float, seconds: float, nbytes: int, hidden: float | None = None
    ) -> None:
        """Notes that `node` did `verb` from `start` (of time.perf_counter) for `seconds` and sent `nbytes`; of the wait for a
        transfer also for how many seconds that was under way before, `hidden` behind other work."""
        self._spans.append((self.step, node, verb, start - self._origin, seconds, nbytes, hidden))

    def events(self) -> list[dict[str, Any]]:
        """One dict a span: rank, step, node, verb, start, seconds, bytes, of waits also hidden; with the keys of the Trace Event
        Format beside."""
        return [
            {
                "name": node,
                "cat": verb,
                "ph": "X",
                "ts": round(start * 1e6, 3),
                "dur": round(seconds * 1e6, 3),
                "pid": self.rank,
                "tid": 0,
                "rank": self.rank,
                "step": step,
                "node": node,
                "verb": verb,
                "start": start,
                "seconds": seconds,
                "bytes": nbytes,
            }
            | ({} if hidden is None else {"hidden": hidden, "args": {"hidden_seconds": hidden}})
            for step, node, verb, start, seconds, nbytes, hidden in self._spans
        ]


def events_text(events: Iterable[dict[str, Any]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(event) + "\n" for event in events)


def timeline_text(ranks: Iterable[str]) -> str:
    """The Trace Event Format (JSON object form) of the `events_text` of all ranks: one process a rank."""
    lines = [line for text in ranks for line in text.splitlines()]
    return '{"displayTimeUnit": "ms", "traceEvents": [\n' + ",\n".join(lines) + "\n]}\n"
