"""Softmax cross-entropy of many samples of class numbers, and its gradient.

In: scores [n, k, h, w] with the classes innermost, class numbers [n, 1, h, w] as floats. Out: kernels. Promise: as those of
`dgraph.kernels.numpy.loss`, which do few samples, smoothed targets, sums into results, and what lies otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
import torch

from dgraph.kernels.backend import Key
from dgraph.kernels.call import Action, Array, Call, Kernel, Moment
from dgraph.kernels.numpy import loss
from dgraph.kernels.numpy.block import Carver, Step, aligned, in_sequence, memory_order
from dgraph.kernels.numpy.blockwise import Indifferent, alike, is_dense
from dgraph.kernels.numpy.classes import K
from dgraph.kernels.numpy.tally import Tally, deliver_sum

_LOG_SOFTMAX = torch.ops.aten._log_softmax.out
MANY = 4096
"""Fewer samples are not worth the calls of the library."""
LIMIT = 1 << 16
"""Elements of a block."""


def _rows(call: Call, arrays: Mapping[str, Array], *ports: str) -> list[Array] | None:
    """Operands as matrices [samples, classes], labels as a vector [samples], in the same order; None where that takes a copy, or
    where NumPy's kernel is to be used."""
    first = arrays[ports[0]]
    samples = first.size // max(1, first.shape[K])
    if samples < MANY or call.attributes["smoothing"] or call.accumulate - {"output"}:
        return None
    order = [axis for axis in memory_order(first) if axis != K]
    views = []
    for array in [arrays[port] for port in ports] + [alike(arrays["labels"], first)]:
        view = array.transpose([*order, K]).reshape(samples, array.shape[K])
        if not is_dense(array) or not np.shares_memory(view, array):
            return None
        views.append(view)
    return [*views[:-1], views[-1][:, 0]]


def _block(classes: int) -> int:
    """Samples of a block."""
    return max(1, LIMIT // classes)


@dataclass(frozen=True)
class _Room:
    """Scratch for a block: logarithms [samples, classes], class numbers, values [samples], and whether a sample does not count."""

    logarithms: Array
    numbers: Array
    values: Array
    void: Array

    @staticmethod
    def nbytes(classes: int, dtype: str) -> int:
        """Bytes of it."""
        count, size = _block(classes), np.dtype(dtype).itemsize
        return aligned(count * classes * size) + aligned(count * 8) + aligned(count * size) + aligned(count)

    @staticmethod
    def of(classes: int, dtype: str, scratch: Array) -> _Room:
        count, carver = _block(classes), Carver(scratch)
        wide = carver.take((count, classes), dtype)
        return _Room(wide, carver.take([count], "int64"), carver.take([count], dtype), carver.take([count], "bool"))

    def part(self, samples: int) -> _Room:
        """Its first samples."""
        return _Room(*(one[:samples] for one in (self.logarithms, self.numbers, self.values, self.void)))

    def number(self, labels: Array) -> torch.Tensor:
        """The class numbers [samples, 1], 0 where a sample does not count; marks these."""
        np.less(labels, 0, out=self.void)
        np.fmax(labels, 0, out=self.values)
        np.copyto(self.numbers, self.values, casting="unsafe")
        return torch.from_numpy(self.numbers)[:, None]


class Softmax(Indifferent):
    """`probability = exp(input) / sum of it over k`; `output = scale * sum of -log probability[label]`."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        own = _Room.nbytes(call.rects["input"].size[K], call.dtype)
        return max(own, loss.KERNELS["softmax", False].workspace(call))

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        ports = [port for port in ("input", "probability") if port in call.rects]
        rows = _rows(call, arrays, *ports)
        if rows is None:
            return loss.KERNELS["softmax", False].bind(call, arrays, scratch)
        x, *wanted, labels = rows
        room, tally = _Room.of(x.shape[1], call.dtype, scratch), Tally()
        steps: list[Step] = [tally.clear]
        for first in range(0, len(x), len(room.numbers)):
            some = slice(first, first + len(room.numbers))
            target = torch.from_numpy(wanted[0][some]) if wanted else None
            steps.append(
                partial(_softmax, torch.from_numpy(x[some]), target, labels[some], tally, room.part(len(x[some])))
            )
        if "output" in call.rects:
            added = "output" in call.accumulate
            steps.append(partial(deliver_sum, tally, -loss.scale(call), call.moment, arrays["output"], added))
        return in_sequence(steps)


def _softmax(x: torch.Tensor, probability: torch.Tensor | None, labels: Array, tally: Tally, room: _Room) -> None:
    """One block: the probabilities, and the logarithms of those at the labels, which are added up."""
    logarithms = torch.from_numpy(room.logarithms)
    _LOG_SOFTMAX(x, 1, False, out=logarithms)
    if probability is not None:
        torch.exp(logarithms, out=probability)
    torch.gather(logarithms, 1, room.number(labels), out=torch.from_numpy(room.values)[:, None])
    np.copyto(room.values, 0, where=room.void)
    tally.sums[0] += float(np.add.reduce(room.values, dtype=np.float64))


class SoftmaxGradient(Indifferent):
    """`input.delta = scale * (probability - target)`, 0 for samples that do not count."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        own = _Room.nbytes(call.rects["probability"].size[K], call.dtype)
        return max(own, loss.KERNELS["softmax", True].workspace(call))

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        rows = _rows(call, arrays, "probability", "input.delta")
        if rows is None:
            return loss.KERNELS["softmax", True].bind(call, arrays, scratch)
        p, delta, labels = rows
        room, steps = _Room.of(p.shape[1], call.dtype, scratch), list[Step]()
        for first in range(0, len(p), len(room.numbers)):
            some = slice(first, first + len(room.numbers))
            views = (torch.from_numpy(p[some]), torch.from_numpy(delta[some]), labels[some], room.part(len(p[some])))
            steps.append(partial(_gradient, loss.scale(call), call.moment, *views))
        return in_sequence(steps)


def _gradient(scale: float, moment: Moment, p: torch.Tensor, delta: torch.Tensor, labels: Array, room: _Room) -> None:
    """One block."""
    numbers = room.number(labels)
    room.values.fill(scale * moment.weight)
    np.copyto(room.values, 0, where=room.void)
    weights = torch.from_numpy(room.values)[:, None]
    torch.mul(p, weights, out=delta)
    np.negative(room.values, out=room.values)
    delta.scatter_add_(1, numbers, weights)


KERNELS: Mapping[Key, Kernel] = MappingProxyType({("softmax", False): Softmax(), ("softmax", True): SoftmaxGradient()})
