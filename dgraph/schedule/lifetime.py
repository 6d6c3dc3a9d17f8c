"""From when to when memory is needed.

In: the steps of one rank, where its tensors lie. Out: `Life`, in places of steps. Promise: every step that touches a buffer lies
within its life; what a training step adds up over its batches, and what is looked at behind it, lives accordingly.

    step        0    1    2    3    4    5
    x           w----r---------r                 written first, read last
    scratch          |              |            for the time of one step
    loss                  w----------------->    looked at behind the run
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dgraph.schedule.touch import Touch


@dataclass(frozen=True)
class Life:
    """Memory of so many bytes, needed from one step to another, both included."""

    first: int
    last: int
    nbytes: int


def lives_of(touches: Sequence[Touch], nbytes: Mapping[int, int], kept: Collection[int],
             shown: Collection[int]) -> dict[int, Life]:  # fmt: skip
    """The lives of the buffers that are touched, of those in `nbytes`: `kept` ones last from batch to batch, `shown` ones until
    something else is run."""
    end = len(touches)
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for k, touch in enumerate(touches):
        for number in touch.all & nbytes.keys():
            first.setdefault(number, k)
            last[number] = k
    return {
        number: Life(
            0 if number in kept else first.get(number, 0),
            end if number in kept or number in shown else last.get(number, end),
            size,
        )
        for number, size in nbytes.items()
    }
