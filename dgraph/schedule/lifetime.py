"""From when to when memory is needed.

In: the steps of one rank, where its tensors lie. Out: `Life`, in places of steps. Promise: every step that touches a buffer lies
within its life; what a training step adds up over its batches, and what is looked at behind it, lives accordingly.

    step        0    1    2    3    4    5
    x           w----r---------r                 written first, read last
    scratch          |              |            for the time of one step
    loss                  w----------------->    looked at behind the run
    w.grad      -----r              w-------     read by an update that was put off: it lives on into the next run
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dgraph.schedule.touch import Touch

EVER = 1 << 62
"""Behind all steps."""


@dataclass(frozen=True)
class Life:
    """Memory of so many bytes, needed from one step to another, both included; where `first` comes behind `last`, from there to the
    end, and again from the beginning."""

    first: int
    last: int
    nbytes: int

    @property
    def wraps(self) -> bool:
        """Whether it is needed in the next run, too."""
        return self.first > self.last

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """First and last step of each time in which it is needed."""
        return ((0, self.last), (self.first, EVER)) if self.wraps else ((self.first, self.last),)


def lives_of(touches: Sequence[Touch], nbytes: Mapping[int, int], kept: Collection[int], shown: Collection[int],
             late: Collection[int] = ()) -> dict[int, Life]:  # fmt: skip
    """The lives of the buffers that are touched, of those in `nbytes`: `kept` ones last from batch to batch, `shown` ones until
    something else is run. `late` are the places of steps that belong to the step before."""
    end = len(touches)
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    put_off: dict[int, int] = {}
    for k, touch in enumerate(touches):
        for number in touch.all & nbytes.keys():
            if k in late:
                put_off[number] = k
            else:
                first.setdefault(number, k)
                last[number] = k
    lives = {}
    for number, size in nbytes.items():
        start, stop = first.get(number, 0), last.get(number, end)
        if number in put_off:
            stop = put_off[number]
        whole = number in kept or (late and number in shown) or (number in put_off and start <= stop)
        lives[number] = Life(0, end, size) if whole else Life(start, end if number in shown else stop, size)
    return lives
