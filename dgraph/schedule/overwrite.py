"""Proof that nothing is overwritten while it is needed.

In: a schedule, a backend. Out: findings. Promise: lifetimes are not asked: the steps are gone through in the orders in which they
are run, with for every buffer whether it still holds what was written there. What a step reads must; what it writes is not under
way, and spoils all that lies in the same memory, which is nothing else that the step touches, unless its kernel may write it over
that, place for place.

    batch of a step     first and last   |   first, in between, last   |   an evaluation

Where updates are put off into the next step, both of the former once more, behind a step, and with what is put off at their end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dgraph.graph.node import Graph
from dgraph.kernels.backend import Backend
from dgraph.plan.check import Finding
from dgraph.schedule.inplace import permitted
from dgraph.schedule.step import Schedule, Start, Step, Wait
from dgraph.schedule.touch import EMPTY, Touch, touch
from dgraph.schedule.turn import Turn


def check_memory(schedule: Schedule, graph: Graph, backend: Backend, batches: int = 1) -> list[Finding]:
    """The first step, if any, that finds something else than was written where it reads, in a training step of so many batches or
    an evaluation."""
    memory = _Memory.of(schedule)
    touches = [touch(step, graph, schedule.placement) for step in schedule.steps]
    for step, now in zip(schedule.steps, touches, strict=True):
        finding = _written_over(schedule, memory, step, now, backend)
        if finding is not None:
            return [finding]
    for order in _orders(schedule, batches):
        finding = _gone_through(schedule, memory, touches, order)
        if finding is not None:
            return [finding]
    return []


def _orders(schedule: Schedule, batches: int) -> Iterator[list[int]]:
    """The steps of whole training steps, and of an evaluation."""
    late = _batch(schedule, {Turn.NEXT})
    for count in (1,) if batches == 1 else (1, 3):
        step = _training_step(schedule, count, False)
        yield step
        if late:
            yield [*step, *_training_step(schedule, count, True), *late]
    evaluated = [k for k in range(schedule.forward) if schedule.turns[k] is not Turn.NEXT]
    started = {schedule.steps[k].node for k in evaluated if isinstance(schedule.steps[k], Start)}
    waited = {schedule.steps[k].node for k in evaluated if isinstance(schedule.steps[k], Wait)}
    rest = [k for k, step in enumerate(schedule.steps) if isinstance(step, Wait) and step.node in started - waited]
    yield [*evaluated, *rest]


def _training_step(schedule: Schedule, batches: int, behind: bool) -> list[int]:
    """The steps of so many batches, the first of them `behind` a training step or not."""
    order = []
    for k in range(batches):
        turns = {Turn.FIRST: k == 0, Turn.LAST: k == batches - 1, Turn.NEXT: behind and k == 0}
        order += _batch(schedule, {Turn.EVERY, *(turn for turn, now in turns.items() if now)})
    return order


def _batch(schedule: Schedule, wanted: set[Turn]) -> list[int]:
    return [k for k, turn in enumerate(schedule.turns) if turn in wanted]


@dataclass(frozen=True)
class _Memory:
    """What lies in the same memory as each buffer of the arena, and as the scratch of each step."""

    beside: Mapping[int, frozenset[int]]
    scratch: Sequence[frozenset[int]]

    @staticmethod
    def of(schedule: Schedule) -> _Memory:
        placement = schedule.placement
        numbers = np.array([*placement.offsets], dtype=np.int64)
        starts = np.array([*placement.offsets.values()], dtype=np.int64)
        stops = starts + np.array([placement.buffers[number].nbytes for number in placement.offsets], dtype=np.int64)

        def within(start: int, nbytes: int) -> frozenset[int]:
            return frozenset(numbers[(starts < start + nbytes) & (stops > start)].tolist())

        beside = {
            number: within(offset, placement.buffers[number].nbytes) - {number}
            for number, offset in placement.offsets.items()
        }
        return _Memory(beside, [within(*scratch) if scratch[1] else frozenset() for scratch in schedule.scratch])


def _written_over(schedule: Schedule, memory: _Memory, step: Step, now: Touch, backend: Backend) -> Finding | None:
    """The first result of a step, if any, that lies where something else is that the step touches, and must not."""
    placement = schedule.placement
    pairs = [(number, other) for number in sorted(now.writes) for other in memory.beside.get(number, EMPTY) & now.all]
    allowed = permitted(step, backend, placement) if pairs else frozenset()
    for number, other in pairs:
        in_place = placement.offsets[number] == placement.offsets[other]
        if not in_place or not allowed.intersection([(number, other), (other, number)]):
            buffer = placement.buffers[number]
            text = f"it is written over {placement.buffers[other].tensor}, which this node needs beside it"
            return Finding("memory", step.node, buffer.rect, (schedule.rank,), f"{buffer.tensor}: {text}")
    return None


def _gone_through(
    schedule: Schedule, memory: _Memory, touches: Sequence[Touch], order: Sequence[int]
) -> Finding | None:
    """The first fault in this order of steps; None if there is none."""
    spoilt: set[int] = set()
    flying: set[int] = set()
    for k in order:
        step, now = schedule.steps[k], touches[k]
        if isinstance(step, Wait):
            flying -= now.all
        lost = (now.reads & spoilt) | (memory.scratch[k] & now.all)
        text = "its memory serves for something else before this node has read it"
        if not lost:
            lost, text = now.writes & flying, "this node writes it while it is under way"
        if lost:
            buffer = schedule.placement.buffers[min(lost)]
            return Finding("memory", step.node, buffer.rect, (schedule.rank,), f"{buffer.tensor}: {text}")
        if isinstance(step, Start):
            flying |= now.all
        for number in now.writes:
            spoilt.discard(number)
            spoilt |= memory.beside.get(number, frozenset())
        spoilt |= memory.scratch[k]
    shown = schedule.placement.numbers(schedule.placement.lasting)
    written = frozenset(number for k in order for number in touches[k].writes)
    for number in sorted(shown & written & spoilt):
        buffer = schedule.placement.buffers[number]
        text = "its memory serves for something else before the run ends"
        return Finding("memory", buffer.tensor, buffer.rect, (schedule.rank,), f"{buffer.tensor}: {text}")
    return None
