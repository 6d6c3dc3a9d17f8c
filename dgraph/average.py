"""How much of the weights of a step goes into their average.

In: the numbers of an average. Out: `Average`. Promise: pure functions of the step.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Average:
    """`average += share * (weights - average)` after some of the steps: every `every` steps, those first that begin at step `begin`
    (from 0) or later. The first time, all of the weights go in.

    `decay` is that of an exponential average; None: the plain mean of all (Polyak and Juditsky 1992; Izmailov et al. 2018).
    """

    begin: int = 0
    every: int = 1
    decay: float | None = None

    def taken(self, step: int) -> int:
        """How many times weights have gone in after so many steps."""
        return max(step // self.every - self.begin // self.every, 0)

    def share(self, step: int) -> float:
        """The share of the weights after a step (from 1); 0 where they do not go in."""
        taken = self.taken(step)
        if step % self.every or not taken:
            return 0.0
        return 1 / taken if self.decay is None or taken == 1 else 1 - self.decay
