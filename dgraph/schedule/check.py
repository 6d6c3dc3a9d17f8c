"""Proof that the steps of all ranks end: no cycle of waits, with no buffering assumed.

In: the schedules of all ranks. Out: findings. Promise: since no receive is a wildcard, one abstract run decides for all runs:
a rank goes on until it waits for a convoy that a partner has not started; if nobody can go on, the ranks wait in a circle. Tensors
that travel together on one rank must do so on its partners: a convoy goes by the names of all of them. Where updates are put off
into the next step, the run is one of two steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dgraph.plan.check import Finding
from dgraph.schedule.step import Schedule, Start, Wait
from dgraph.schedule.turn import Turn

Started = tuple[int, str, int]
"""A start: rank, tensor, and for the how manieth time."""


@dataclass(frozen=True)
class Posting:
    """A convoy's start or wait on one rank: which tensors, with whom; for the how manieth time (from 0)."""

    waits: bool
    tensor: str
    partners: frozenset[int]
    use: int = 0


def postings(schedule: Schedule, late: bool = False) -> list[Posting]:
    """The starts and waits of one rank, in order; all that matters for progress. `late`: where any rank puts off updates."""
    travelling = [(step, turn) for step, turn in zip(schedule.steps, schedule.turns, strict=True)
                  if isinstance(step, (Start, Wait))]  # fmt: skip
    end = [step for step, turn in travelling if turn is Turn.NEXT]
    first = [step for step, turn in travelling if turn is not Turn.NEXT]
    again = [*(step for step, _ in travelling), *end] if late else []
    seen: Counter[tuple[bool, str]] = Counter()
    result = []
    for step in (*first, *again):
        waits, name = isinstance(step, Wait), step.convoy.name
        result.append(Posting(waits, name, step.convoy.partners, seen[waits, name]))
        seen[waits, name] += 1
    return result


def check_progress(ranks: Sequence[Sequence[Posting]]) -> list[Finding]:
    """Runs all ranks abstractly under rendezvous semantics: a wait ends once every partner has started the transfer."""
    at = [0] * len(ranks)
    started: set[Started] = set()
    asleep: dict[Started, list[int]] = {}
    ready = list(range(len(ranks)))
    while ready:
        rank = ready.pop()
        while at[rank] < len(ranks[rank]):
            posting = ranks[rank][at[rank]]
            if posting.waits:
                missing = _missing(rank, posting, started)
                if missing is not None:
                    asleep.setdefault(missing, []).append(rank)
                    break
            else:
                started.add((rank, posting.tensor, posting.use))
                ready += asleep.pop((rank, posting.tensor, posting.use), ())
            at[rank] += 1
    stuck = {rank: ranks[rank][at[rank]] for rank in range(len(ranks)) if at[rank] < len(ranks[rank])}
    return [_circle(stuck, started)] if stuck else []


def _missing(rank: int, posting: Posting, started: set[Started]) -> Started | None:
    """A start that this wait lacks: its own, or a partner's."""
    for other in (rank, *sorted(posting.partners)):
        if (other, posting.tensor, posting.use) not in started:
            return other, posting.tensor, posting.use
    return None


def _circle(stuck: dict[int, Posting], started: set[Started]) -> Finding:
    """Follows who waits for whom until a rank comes again, or has ended without the start that is waited for."""
    rank = min(stuck)
    path: list[int] = []
    while rank in stuck and rank not in path:
        path.append(rank)
        missing = _missing(rank, stuck[rank], started)
        if missing is None:
            break
        rank = missing[0]
    circle = path[path.index(rank) :] if rank in path else path
    waits = ", ".join(f"rank {r} waits for {stuck[r].tensor}" for r in circle)
    ending = "in a circle" if rank in path else f"but rank {rank} never starts it"
    return Finding("progress", stuck[circle[0]].tensor, None, tuple(circle), f"{waits}, {ending}")
