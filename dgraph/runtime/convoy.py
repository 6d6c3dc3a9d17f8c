"""A convoy at work: what is done when it starts, as it goes on, and until it has ended.

In: actions and exchanges, bound before the first step. Out: `BoundConvoy`: `start`, `test`, `wait`. Promise: it decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, eq=False)
class Use:
    """What is packed before a convoy, and the stages that it goes through."""

    packs: Sequence[Action]
    stages: Sequence[Stage]


class BoundConvoy:
    """Some tensors' transfers on one rank: made once, used many times, one use after the other. `uses` take turns."""

    def __init__(self, uses: Sequence[Use], sent_nbytes: int) -> None:
        self._uses = uses
        self._turn = -1
        self._stages: Sequence[Stage] = ()
        self._at = 0
        self.sent_nbytes = sent_nbytes

    def start(self) -> None:
        """Pack what this rank wrote, say that it is there, post all messages."""
        self._turn = (self._turn + 1) % len(self._uses)
        use = self._uses[self._turn]
        for pack in use.packs:
            pack()
        self._stages, self._at = use.stages, 0
        self._stages[0].exchange.start()

    def test(self) -> bool:
        """Make progress. True once the read rects are up to date and others have what they need of this rank."""
        while self._at < len(self._stages):
            if not self._stages[self._at].exchange.test():
                return False
            self._end_stage()
        return True

    def wait(self) -> None:
        """Bring the read rects up to date; return when others have what they need of this rank."""
        while self._at < len(self._stages):
            self._stages[self._at].exchange.wait()
            self._end_stage()

    def _end_stage(self) -> None:
        stages = self._stages
        for action in stages[self._at].actions:
            action()
        self._at += 1
        if self._at < len(stages):
            stages[self._at].exchange.start()
