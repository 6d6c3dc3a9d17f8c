"""Chains of batch norm in as few passes over memory as there can be.

In: chains of statistics, normalisation, sum and relu, forward and gradient. Out: fusions. Promise: all results that somebody reads
are there; what a chain does not fuse (a batch that lacks samples, operands that lie otherwise) its kernels do one by one.

    mean + variance                                     one pass, two where alone
    normalize [+ add] [+ relu]                          one pass, two or three where alone
    relu.grad [+ add.grad] + normalize.grad             a pass for what goes through the relu and its sums, and one for the delta
      [+ variance.grad + mean.grad]                     of the input; six or seven where alone
    variance.grad + mean.grad                           one pass, two where alone
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dgraph.kernels.backend import Key
from dgraph.kernels.call import Action, Array, Call, Chain, Fusion, Kernel
from dgraph.kernels.numpy import KERNELS as OTHERS
from dgraph.kernels.numpy.block import in_sequence
from dgraph.kernels.numpy.chain import (
    Arrays,
    assigns,
    completed,
    home_of,
    linked,
    of_one_piece,
    one_by_one,
    passes_on,
    same_memory,
    workspace_of,
)
from dgraph.kernels.torch import norm, statistic
from dgraph.kernels.torch.channel import of_channels
from dgraph.kernels.torch.norm import Backward, Gate, normalizing
from dgraph.kernels.torch.statistic import by_channel

_KERNELS: Mapping[Key, Kernel] = MappingProxyType({**OTHERS, **statistic.KERNELS, **norm.KERNELS})


# --- forward


@dataclass(frozen=True)
class Forward:
    """[mean + variance +] normalize [+ add] [+ relu], the ops behind `statistics`."""

    statistics: bool
    behind: tuple[str, ...]

    def fits(self, chain: Chain) -> bool:
        """See `Fusion.fits`."""
        at = 2 if self.statistics else 0
        calls, normalize = chain.calls, chain.calls[at]
        if not by_channel(normalize) or not all(assigns(call, "output") for call in calls):
            return False
        if self.statistics and not _fits_statistics(chain, normalize):
            return False
        return all(self._follows(chain, k) for k in range(at + 1, len(calls)))

    def _follows(self, chain: Chain, k: int) -> bool:
        """Whether a call takes what the one before it has written, and nobody else does."""
        call, links = chain.calls[k], chain.links[k]
        if len(links) != 1 or next(iter(links.values())) != (k - 1, "output") or (k - 1, "output") not in chain.inner:
            return False
        if call.op != "add":
            return True
        rects = [rect for port, rect in call.rects.items() if port != "output"]
        return len(rects) == 2 and all(rect.size == call.rects["output"].size for rect in rects)

    def workspace(self, chain: Chain) -> int:
        """See `Fusion.workspace`."""
        return workspace_of(chain, _KERNELS)

    def bind(self, chain: Chain, arrays: Arrays, scratch: Array) -> Action:
        """See `Fusion.bind`."""
        at = 2 if self.statistics else 0
        last = arrays[-1]["output"]
        full = completed(chain, arrays, {(k, "output"): last for k in range(at, len(chain.calls))})
        steps = normalizing(chain.calls[at], full[at], last, self._added(chain, arrays), "relu" in self.behind)
        if steps is None:
            return one_by_one(chain, full, _KERNELS, scratch)
        return in_sequence([_statistics(chain, full, scratch), *steps] if self.statistics else steps)

    def _added(self, chain: Chain, arrays: Arrays) -> Array | None:
        """The other operand of the sum."""
        for call, own, links in zip(chain.calls, arrays, chain.links, strict=True):
            if call.op == "add":
                return next(own[port] for port in call.rects if port != "output" and port not in links)
        return None


class Statistics:
    """mean + variance."""

    def fits(self, chain: Chain) -> bool:
        """See `Fusion.fits`."""
        return _fits_statistics(chain)

    def workspace(self, chain: Chain) -> int:
        """See `Fusion.workspace`."""
        return workspace_of(chain, _KERNELS)

    def bind(self, chain: Chain, arrays: Arrays, scratch: Array) -> Action:
        """See `Fusion.bind`."""
        return _statistics(chain, completed(chain, arrays, {}), scratch)


def _fits_statistics(chain: Chain, *normalize: Call) -> bool:
    """Whether a chain begins with the mean and the variance of one piece around it [and the normalisation by them]."""
    mean, variance = chain.calls[:2]
    sound = by_channel(mean) and by_channel(variance) and assigns(mean, "output") and assigns(variance, "output")
    return (
        sound
        and of_one_piece((mean, variance, *normalize))
        and linked(chain, 1, mean=(0, "output"))
        and (not normalize or linked(chain, 2, mean=(0, "output"), variance=(1, "output")))
    )


def _statistics(chain: Chain, arrays: Arrays, scratch: Array) -> Action:
    """Mean and variance in one pass over the input; in an evaluation what the kernels give."""
    first, second = arrays[:2]

    def plain() -> Action:
        calls = zip(chain.calls, (first, second), strict=False)
        return in_sequence([_KERNELS[call.op, False].bind(call, own, scratch) for call, own in calls])

    train = statistic.both(chain.calls[0], first, second) if same_memory(first["input"], second["input"]) else None
    return plain() if train is None else statistic.unless_evaluated(chain.calls[0].moment, train, plain)


# --- gradient


@dataclass(frozen=True)
class Gradient:
    """[relu.grad + [add.grad +]] normalize.grad [+ variance.grad + mean.grad]."""

    before: tuple[str, ...]
    statistics: bool

    def fits(self, chain: Chain) -> bool:
        """See `Fusion.fits`."""
        at = len(self.before)
        normalize = chain.calls[at]
        if not by_channel(normalize) or not assigns(normalize, "input.delta"):
            return False
        if any(not passes_on(chain, k) for k in range(1, at + 1)):
            return False
        if self.before and not assigns(chain.calls[0], "input.delta"):
            return False
        return not self.statistics or _fits_line(chain, at)

    def workspace(self, chain: Chain) -> int:
        """See `Fusion.workspace`."""
        return workspace_of(chain, _KERNELS)

    def bind(self, chain: Chain, arrays: Arrays, scratch: Array) -> Action:
        """See `Fusion.bind`."""
        at = len(self.before)
        call, delta = chain.calls[at], arrays[at]["input.delta"]
        inner = {(k, port): delta for k in range(at) for port in chain.calls[k].rects if port.startswith("input")}
        full = completed(chain, arrays, inner)
        gate = None
        if self.before:
            home, others = home_of(chain, full, delta)
            gate = Gate(full[0]["output"], full[0]["output.delta"], home, tuple(others))
        found = Backward.of(call, full[at], gate)
        if found is None or (self.statistics and not same_memory(*(own["input"] for own in full[at : at + 2]))):
            return one_by_one(chain, full, _KERNELS, scratch)
        return found.with_statistics() if self.statistics else found.alone()

    def overwrites(self, chain: Chain) -> Collection[tuple[tuple[int, str], tuple[int, str]]]:
        """See `InPlace.overwrites`: what comes in is read for the last time when it passes the gate."""
        return [((len(self.before), "input.delta"), (0, "output.delta"))]


class Lines:
    """variance.grad + mean.grad."""

    def fits(self, chain: Chain) -> bool:
        """See `Fusion.fits`."""
        variance, mean = chain.calls
        return by_channel(variance) and by_channel(mean) and linked(chain, 1, input_delta=(0, "input.delta"))

    def workspace(self, chain: Chain) -> int:
        """See `Fusion.workspace`."""
        return workspace_of(chain, _KERNELS)

    def bind(self, chain: Chain, arrays: Arrays, scratch: Array) -> Action:
        """See `Fusion.bind`."""
        full = completed(chain, arrays, {})
        variance, mean = (of_channels(own["output.delta"]) for own in full)
        action = statistic.taken_back(chain.calls[0], full[0], variance, mean)
        return one_by_one(chain, full, _KERNELS, scratch) if action is None else action


def _fits_line(chain: Chain, at: int) -> bool:
    """Whether behind a normalisation its variance and mean are taken back, all of one piece, into the same delta."""
    calls = chain.calls[at:]
    one = of_one_piece(calls) and all(by_channel(call) for call in calls)
    return (
        one
        and assigns(calls[0], "mean.delta", "variance.delta")
        and linked(chain, at + 1, output_delta=(at, "variance.delta"), input_delta=(at, "input.delta"))
        and linked(chain, at + 2, output_delta=(at, "mean.delta"), input_delta=(at + 1, "input.delta"))
    )


def _keys(ops: str, gradient: bool) -> tuple[Key, ...]:
    return tuple((op, gradient) for op in ops.split())


_BEHIND = ("", "relu", "add", "add relu")
_LINES = "variance mean"
FUSIONS: Mapping[tuple[Key, ...], Fusion] = MappingProxyType(
    {
        _keys("mean variance", False): Statistics(),
        _keys(_LINES, True): Lines(),
        **{_keys(f"normalize {after}", False): Forward(False, tuple(after.split())) for after in _BEHIND if after},
        **{_keys(f"mean variance normalize {after}", False): Forward(True, tuple(after.split())) for after in _BEHIND},
        **{_keys(f"{ops} normalize", True): Gradient(tuple(ops.split()), False) for ops in ("relu", "relu add")},
        **{
            _keys(f"{ops} normalize {_LINES}", True): Gradient(tuple(ops.split()), True)
            for ops in ("", "relu", "relu add")
        },
    }
)
