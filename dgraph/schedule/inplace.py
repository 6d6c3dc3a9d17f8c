"""Results that are written over operands.

In: the steps of one rank, a backend, lives. Out: which buffers may lie, and which do lie, in one place. Promise: a kernel says what
it may write over what; the result then has the rect and the memory order of the operand, which is touched neither by another port
of the step nor by any step behind it.

    step      0    1    2    3
    x         w---->r                    relu, the last to read x, writes y in its place
    y              w---->r
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from dgraph.kernels.backend import Backend
from dgraph.kernels.call import InPlace
from dgraph.schedule.buffer import Placement
from dgraph.schedule.lifetime import Life
from dgraph.schedule.step import NOWHERE, Compute, Fused, Step

Pair = tuple[int, int]
"""The buffer of a result, and that of an operand."""


def permitted(step: Step, backend: Backend, placement: Placement) -> frozenset[Pair]:
    """What the kernel of a step may write over what."""
    return frozenset(
        (result, operand) for result, operand in _named(step, backend) if _alike(placement, result, operand)
    )


def _named(step: Step, backend: Backend) -> Iterator[Pair]:
    """What a kernel says of its ports, in buffers: those whose operand has no other port."""
    match step:
        case Compute(call=call, ports=ports):
            kernel = backend.kernels[call.op, call.gradient]
            uses = Counter(number for number, _ in ports.values())
            for result, operand in kernel.overwrites(call) if isinstance(kernel, InPlace) else ():
                if result in ports and operand in ports and result not in call.accumulate:
                    (written, there), (read, here) = ports[result], ports[operand]
                    if there == here and uses[written] == uses[read] == 1 and NOWHERE not in (written, read):
                        yield written, read
        case Fused(parts=parts, chain=chain):
            fusion = backend.fusions[chain.ops]
            uses = Counter(number for part in parts for number, _ in part.ports.values())
            for (k, result), (j, operand) in fusion.overwrites(chain) if isinstance(fusion, InPlace) else ():
                if result in parts[k].ports and operand in parts[j].ports:
                    (written, there), (read, here) = parts[k].ports[result], parts[j].ports[operand]
                    if there == here and uses[read] == 1 and NOWHERE not in (written, read):
                        yield written, read
        case _:
            return


def _alike(placement: Placement, result: int, operand: int) -> bool:
    """Whether two buffers, placed at one offset, have each element at the same place."""
    one, other = placement.buffers[result], placement.buffers[operand]
    return one.rect == other.rect and one.order == other.order


def chosen(permits: Sequence[frozenset[Pair]], lives: Mapping[int, Life]) -> dict[int, int]:
    """Result -> operand in whose place it lies: where the operand is needed no longer than the step, and the result no earlier."""
    found: dict[int, int] = {}
    taken: set[int] = set()
    for k, pairs in enumerate(permits):
        for result, operand in sorted(pairs):
            there = result in lives and operand in lives and result not in found and operand not in taken
            if there and lives[operand].last == k == lives[result].first and not lives[result].wraps:
                found[result] = operand
                taken.add(operand)
    return found


def joined(lives: Mapping[int, Life], over: Mapping[int, int]) -> tuple[dict[int, Life], dict[int, int]]:
    """The lives of places, by the first buffer that lies there, and that buffer of each."""
    firsts: dict[int, int] = {}

    def first(number: int) -> int:
        passed = []
        while number in over and number not in firsts:
            passed.append(number)
            number = over[number]
        home = firsts.get(number, number)
        firsts.update(dict.fromkeys(passed, home))
        return home

    found: dict[int, Life] = {}
    for number, life in lives.items():
        home = first(number)
        before = found.get(home, life)
        found[home] = Life(min(before.first, life.first), max(before.last, life.last), life.nbytes)
    return found, {number: first(number) for number in lives}
