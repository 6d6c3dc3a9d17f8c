"""A convoy at work: what is done when it starts, as it goes on, and until it has ended.

In: actions and exchanges, bound before the first step. Out: `BoundConvoy`: `start`, `test`, `wait`. Promise: it decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from dgraph.kernels.call import Action, Array
from dgraph.plan.transfer import Transfer
from dgraph.runtime.communicator import Exchange


@dataclass(frozen=True, eq=False)
class Part:
    """One tensor of a convoy on this rank: views of its write and read rect, None where empty."""

    transfer: Transfer
    write: Array | None
    read: Array | None


@dataclass(frozen=True, eq=False)
class Stage:
    """An exchange, and what is done when it has ended."""

    exchange: Exchange
    actions: Sequence[Action]


class Use:
    """What is packed before a convoy, and the stages that it goes through; as lists of bare actions, for small convoys are many."""

    def __init__(self, packs: Sequence[Action], stages: Sequence[Stage]) -> None:
        self.stages = stages
        self.opening = [*packs, stages[0].exchange.start]
        self.closings: list[list[Action]] = [[] for _ in range(len(stages) + 1)]
        """All that is left to do at each stage, and behind the last: nothing."""
        for at in reversed(range(len(stages))):
            self.closings[at] = [stages[at].exchange.wait, *self.behind(at), *self.closings[at + 1]]

    def behind(self, at: int) -> list[Action]:
        """What is done when the exchange of a stage has ended."""
        following = [stage.exchange.start for stage in self.stages[at + 1 : at + 2]]
        return [*self.stages[at].actions, *following]


class BoundConvoy:
    """Some tensors' transfers on one rank: made once, used many times, one use after the other. `uses` take turns."""

    def __init__(self, uses: Sequence[Use], sent_nbytes: int) -> None:
        self.sent_nbytes = sent_nbytes
        self.exchanges: list[Exchange] = list(dict.fromkeys(stage.exchange for use in uses for stage in use.stages))
        self._uses = cycle(uses)
        self._use = uses[0]
        self._at = len(uses[0].stages)

    def start(self) -> None:
        """Pack what this rank wrote, say that it is there, post all messages."""
        self._use = use = next(self._uses)
        self._at = 0
        for action in use.opening:
            action()

    def test(self) -> bool:
        """Make progress. True once the read rects are up to date and others have what they need of this rank."""
        use = self._use
        while self._at < len(use.stages):
            if not use.stages[self._at].exchange.test():
                return False
            for action in use.behind(self._at):
                action()
            self._at += 1
        return True

    def wait(self) -> None:
        """Bring the read rects up to date; return when others have what they need of this rank."""
        for action in self._use.closings[self._at]:
            action()
        self._at = len(self._use.stages)
