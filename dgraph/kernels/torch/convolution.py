"""Convolutions and transposed ones, forward and both gradients, in 1, 2 or 3 dimensions.

In: calls of conv and conv_transpose in float32. Out: `Convolution`, the kernel. Promise: any piece of any layout, with the padding
that it has on each side; nothing is done for a delta that nobody wants.

A sum over places alone (size 1) is a matrix product straight into the result, by NumPy's BLAS; with a stride, the places that have
a window go through scratch. Windows of three places are done in tiles where that takes less time than the library's convolution
(`dgraph.kernels.torch.winograd`). What is padded otherwise than the library can is copied into scratch with its zeros around it.
What the library gives in an array of its own is copied, or added, to where it belongs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgraph.kernels.call import Action, Array, Call
from dgraph.kernels.numpy.block import Carver, Step, aligned, in_sequence
from dgraph.kernels.torch.geometry import Roles, Sizes, Windows, groups_of, parts_of, windows_of
from dgraph.kernels.torch.memory import channels_last, is_channels_last, rows_of, tensor
from dgraph.kernels.torch.winograd import Tiling, tiling_of
from dgraph.kernels.torch.winograd_sum import Tiles
from dgraph.rect import Rect

CONVOLVE: Any = torch.ops.aten.convolution.default
BACKWARD: Any = torch.ops.aten.convolution_backward.default
ONTO: Any = (
    torch.ops.mkldnn._convolution_pointwise_.binary if hasattr(torch.ops.mkldnn, "_convolution_pointwise_") else None
)
"""Adds a convolution to what is there, without a copy of its own; not in every build."""
ITEMSIZE = 4


@dataclass(frozen=True)
class Product:
    """One sum of a call: the role that is written, and the ports by role."""

    target: str
    ports: Mapping[str, str]

    @property
    def written(self) -> str:
        return self.ports[self.target]


@dataclass(frozen=True)
class Convolution:
    """The kernel of an op whose operands have these roles, or of its gradient."""

    roles: Roles

    def workspace(self, call: Call) -> int:
        """Bytes of scratch: big with its padding, where the library cannot pad by itself, or filters turned round."""
        return max((self._workspace(call, product) for product in self.products(call)), default=0)

    def temporary(self, call: Call) -> int:
        """Bytes that the library allocates: a result that it does not write in place, and filters in an order of its own: those
        that it reads once, a delta of them twice, as it sums it up and as it gives it (oneDNN 3.12)."""
        return max((self._temporary(call, product) for product in self.products(call)), default=0)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """The piece as one action; arrays as in the call's contract."""
        return self.ended(call, arrays, scratch, None)

    def ended(self, call: Call, arrays: Mapping[str, Array], scratch: Array, ending: Ending | None) -> Action:
        """The same, where the result of a forward call that `is_one` passes an ending on its way."""
        steps: list[Step] = []
        for product in self.products(call):
            adds = product.written in call.accumulate
            windows = self._windows(call, product)
            parts = [] if windows is None else list(parts_of(call, self.roles, product.ports, arrays))
            if len(parts) != 1 and not adds:
                steps.append(partial(arrays[product.written].fill, 0))
            tiling = self._tiling(call, product)
            for part in parts:
                assert windows is not None
                if tiling is not None:
                    steps += self._tiled(product, tiling, _three(part, self.roles), adds, scratch, ending)
                    continue
                operands = Operands(windows, *_three(part, self.roles), adds or len(parts) > 1, ending)
                steps += self._steps(product.target, operands, Carver(scratch))
        return in_sequence(steps)

    def is_one(self, call: Call) -> bool:
        """Whether a forward call is one convolution that is assigned."""
        (product,) = self.products(call)
        some = self._windows(call, product) is not None and "output" not in call.accumulate
        return some and len(groups_of(call, self.roles)[0]) == 1

    def order(self, call: Call, port: str) -> tuple[int, ...] | None:
        """Channels last, in filters as well."""
        return channels_last(len(call.access.dims[port.removesuffix(".delta")]))

    def way(self, call: Call) -> str:
        """Which results are done in tiles (see `dgraph.kernels.torch.winograd`)."""
        found = [product.written for product in self.products(call) if self._tiling(call, product) is not None]
        return f"{', '.join(found)} in tiles" if found else ""

    def products(self, call: Call) -> list[Product]:
        """What is wanted."""
        if not call.gradient:
            return [Product("output", {name: name for name in self.roles.all})]
        return [
            Product(target, {name: f"{name}.delta" if name in ("output", target) else name for name in self.roles.all})
            for target in (self.roles.filters, "input")
            if f"{target}.delta" in call.rects
        ]

    def _windows(self, call: Call, product: Product) -> Windows | None:
        """None where nothing is summed: an operand has no elements."""
        if not call.piece or not all(call.rects[port] for port in product.ports.values()):
            return None
        return windows_of(call, self.roles, product.ports[self.roles.big])

    def _tiling(self, call: Call, product: Product) -> Tiling | None:
        """The tiles that take less time than the library's convolution, if there are."""
        windows = self._windows(call, product)
        if windows is None or "g" in call.space.labels:
            return None
        small, big = (call.rects[product.ports[name]].size for name in (self.roles.small, self.roles.big))
        target = {self.roles.small: "small", self.roles.big: "big"}.get(product.target, "filters")
        return tiling_of(windows, target, small, big)

    def _tiled(self, product: Product, tiling: Tiling, three: tuple[Array, Array, Array], adds: bool, scratch: Array,
               ending: Ending | None) -> Sequence[Step]:  # fmt: skip
        small, big, filters = three
        tiles = Tiles(tiling, scratch, product.target == self.roles.filters)
        if product.target == self.roles.filters:
            return tiles.to_filters(big, small, filters, adds)
        to_big = product.target == self.roles.big
        source, result = (small, big) if to_big else (big, small)
        bias = None if ending is None else tensor(ending.bias)
        function = "" if ending is None else ending.function

        def passing(part: Tensor) -> Sequence[Step]:
            return [partial(FUNCTIONS[function], part, part)] if function else []

        return tiles.to_result(source, filters, result, adds, to_big, bias, passing)

    def _workspace(self, call: Call, product: Product) -> int:
        tiling = self._tiling(call, product)
        if tiling is not None:
            return tiling.workspace(product.target == self.roles.filters)
        windows = self._windows(call, product)
        if windows is None:
            return 0
        if windows.is_product:
            small, big = (call.rects[product.ports[name]] for name in (self.roles.small, self.roles.big))
            return _places_nbytes(small, big) if windows.leaves_gaps else 0
        filters, written = (call.rects[product.ports[name]].volume for name in (self.roles.filters, product.target))
        turned = filters * ITEMSIZE if _turns(windows, product.target == self.roles.big, filters, written) else 0
        rect = call.rects[product.ports[self.roles.big]]
        return aligned(turned) + (0 if windows.is_even else aligned(prod(padded(windows, rect.size)) * ITEMSIZE))

    def _temporary(self, call: Call, product: Product) -> int:
        windows = self._windows(call, product)
        if windows is None or windows.is_product or self._tiling(call, product) is not None:
            return 0
        rect = call.rects[product.written]
        filters = call.rects[product.ports[self.roles.filters]].volume
        ordered = filters * (2 if product.target == self.roles.filters else 1)
        if ONTO is not None and (
            product.target == self.roles.small
            or _turns(windows, product.target == self.roles.big, filters, rect.volume)
        ):
            return ITEMSIZE * ordered
        margins = product.target == self.roles.big and not windows.is_even
        return ITEMSIZE * (ordered + (prod(padded(windows, rect.size)) if margins else rect.volume))

    def _steps(self, target: str, operands: Operands, carver: Carver) -> Sequence[Step]:
        if target == self.roles.small:
            return operands.to_small(carver)
        return operands.to_big(carver) if target == self.roles.big else operands.to_filters(carver)


def _three(part: Mapping[str, Array], roles: Roles) -> tuple[Array, Array, Array]:
    """small, big and filters."""
    return part[roles.small], part[roles.big], part[roles.filters]


def padded(windows: Windows, size: Sizes) -> Sizes:
    """The size [n, b, spatial...] of big with its padding around it."""
    margins = [a + b for a, b in zip(windows.before, windows.after, strict=True)]
    spatial = (1,) * (len(margins) - len(size) + 2) + tuple(size[2:])
    return (*size[:2], *(n + more for n, more in zip(spatial, margins, strict=True)))


def _places_nbytes(small: Rect, big: Rect) -> int:
    """Bytes of the places of big that have a window."""
    return aligned(small.volume // small.size[1] * big.size[1] * ITEMSIZE)


def _turns(windows: Windows, to_big: bool, filters: int, written: int) -> bool:
    """Whether a sum for big is done as one for small, with filters turned round: of stride 1 it can be, and is as fast if filters
    are not the larger part of the work."""
    plain = {*windows.stride} == {1} and windows.groups == 1 and windows.is_even
    return to_big and plain and filters <= written


@dataclass(frozen=True)
class Ending:
    """What the result of a convolution passes on its way: the `bias` [channels] is added, then it goes through a function, if there
    is one."""

    bias: Array
    function: str = ""

    def store(self, target: Tensor, biased: bool) -> Callable[[Tensor], object]:
        """What takes a result to where it belongs; `biased`: the bias is in it."""
        passed, bias = FUNCTIONS[self.function], tensor(self.bias).view(1, -1, *(1,) * (target.ndim - 2))
        if biased:
            return lambda result: passed(result, target)
        add = torch.ops.aten.add.out
        if not self.function:
            return lambda result: add(result, bias, out=target)
        return lambda result: passed(add(result, bias, out=target), target)


def _positive(x: Tensor, out: Tensor) -> object:
    return torch.ops.aten.clamp_min.out(x, 0, out=out)


FUNCTIONS: Mapping[str, Callable[[Tensor, Tensor], object]] = MappingProxyType(
    {
        "": lambda x, out: out.copy_(x),
        "relu": _positive,
        "tanh": lambda x, out: np.tanh(x.numpy(), out=out.numpy()),
        "logistic": lambda x, out: torch.ops.aten.sigmoid.out(x, out=out),
    }
)
"""The functions that a result can pass: of it, and into which tensor. NumPy's hyperbolic tangent is six times as fast."""


@dataclass(frozen=True)
class Operands:
    """The arrays of one convolution, of which one is written, or with `adds` added to; what is assigned may pass an `ending`."""

    windows: Windows
    small: Array
    big: Array
    filters: Array
    adds: bool
    ending: Ending | None = None

    def to_small(self, carver: Carver) -> Sequence[Step]:
        """small (+)= the sum of big over windows, times filters."""
        found = self._matrices(carver)
        if found is not None:
            small, big, filters, room = found
            return [*self._gathered(room), _multiply(small, big, filters.T, self.adds), *self._ended(self.small)]
        source, steps = self._source(carver)
        return [*steps, *self._convolve(self.small, source, self.filters, self.windows.padding)]

    def to_big(self, carver: Carver) -> Sequence[Step]:
        """big (+)= small, times filters, at the places of its windows."""
        found = self._matrices(carver)
        if found is not None:
            small, big, filters, room = found
            multiply = _multiply(big, small, filters, self.adds and room is None)
            return [multiply, *self._scattered(room), *self._ended(self.big)]
        w = self.windows
        if _turns(w, True, self.filters.size, self.big.size) and _takes(self.big):
            turned = self.filters[(slice(None), slice(None), *(slice(None, None, -1),) * len(w.size))].swapaxes(0, 1)
            there = carver.take_ordered(turned.shape, channels_last(turned.ndim), turned.dtype)
            rest = tuple(n - 1 - p for n, p in zip(w.reach, w.padding, strict=True))
            return [partial(np.copyto, there, turned), *self._convolve(self.big, self.small, there, rest)]
        shape = self.big if w.is_even else self._room(carver)
        operands = [tensor(array) for array in (self.small, shape, self.filters)]
        call = partial(BACKWARD, *operands, None, *self._numbers, [True, False, False])
        return [_taken(call, 0, self._store(self.big, biased=False), self._inside(shape))]

    def to_filters(self, carver: Carver) -> Sequence[Step]:
        """filters (+)= the sum of small times big over all places."""
        found = self._matrices(carver)
        if found is not None:
            small, big, filters, room = found
            return [*self._gathered(room), _multiply(filters, small.T, big, self.adds)]
        source, steps = self._source(carver)
        operands = [tensor(array) for array in (self.small, source, self.filters)]
        call = partial(BACKWARD, *operands, None, *self._numbers, [False, True, False])
        return [*steps, _taken(call, 1, self._store(self.filters, biased=False), ())]

    def _convolve(self, target: Array, source: Array, filters: Array, padding: Sizes) -> Sequence[Step]:
        """target (+)= the convolution of source."""
        windows, out, x, w = self.windows, *(tensor(array) for array in (target, source, filters))
        stride, dilation = list(windows.stride), list(windows.dilation)
        bias = None if self.ending is None else tensor(self.ending.bias)
        if not _takes(target) or (self.ending is not None and self.ending.function not in ("", "relu")):
            call = partial(
                CONVOLVE, x, w, bias, stride, list(padding), dilation, False, [0] * len(padding), windows.groups
            )
            return [_taken(call, None, self._store(target, biased=True), ())]
        function = self.ending.function if self.ending is not None and self.ending.function else None
        numbers = list(padding), stride, dilation, windows.groups
        onto = partial(ONTO, out, x, w, bias, *numbers, "add", None, function, [], None)
        return [onto] if self.adds else [out.zero_, onto]

    def _store(self, target: Array, biased: bool) -> Callable[[Tensor], object]:
        """What takes a result to where it belongs."""
        there = tensor(target)
        if self.ending is not None:
            return self.ending.store(there, biased)
        return there.add_ if self.adds else there.copy_

    def _ended(self, target: Array) -> Sequence[Step]:
        """What a result that is where it belongs still has to pass."""
        if self.ending is None:
            return []
        return [partial(self.ending.store(tensor(target), biased=False), tensor(target))]

    @property
    def _numbers(self) -> tuple[list[int], list[int], list[int], bool, list[int], int]:
        w = self.windows
        return list(w.stride), list(w.padding), list(w.dilation), False, [0] * len(w.size), w.groups

    def _matrices(self, carver: Carver) -> tuple[Array, Array, Array, Array | None] | None:
        """small and big [places, channels] and filters [a, b], where the sum is a product of such and BLAS can read them; and
        scratch for the places of big that have a window, if not all have one: then its matrix is of that."""
        if not self.windows.is_product:
            return None
        room = None
        if self.windows.leaves_gaps:
            size = (*self.small.shape[:1], self.big.shape[1], *self.small.shape[2:])
            room = carver.take_ordered(size, channels_last(len(size)), self.big.dtype)
        small, filters = rows_of(self.small), rows_of(self.filters)
        big = rows_of(self.big if room is None else room)
        return None if small is None or big is None or filters is None else (small, big, filters, room)

    @property
    def _places(self) -> Array:
        """Those of big that have a window."""
        apart = tuple(slice(None, None, step) for step in self.windows.stride)
        return self.big[(slice(None), slice(None), *apart)]

    def _gathered(self, room: Array | None) -> list[Step]:
        """Takes places of big into scratch."""
        return [] if room is None else [partial(np.copyto, room, self._places)]

    def _scattered(self, room: Array | None) -> list[Step]:
        """Takes, or adds, what is in scratch to its places in big."""
        if room is None:
            return []
        places = self._places
        if self.adds:
            return [partial(np.add, places, room, out=places)]
        return [partial(self.big.fill, 0), partial(np.copyto, places, room)]

    def _room(self, carver: Carver) -> Array:
        """Scratch for big with its padding."""
        size = padded(self.windows, self.big.shape)
        return carver.take_ordered(size, channels_last(len(size)), self.big.dtype)

    def _inside(self, room: Array) -> tuple[slice, ...]:
        """Where big lies in an array of this shape."""
        if room is self.big:
            return ()
        pairs = zip(self.windows.before, self.big.shape[2:], strict=True)
        return (slice(None), slice(None), *(slice(before, before + n) for before, n in pairs))

    def _source(self, carver: Carver) -> tuple[Array, list[Step]]:
        """big with the padding that the library cannot do, and the steps that put it there."""
        if self.windows.is_even:
            return self.big, []
        room = self._room(carver)
        inside = self._inside(room)
        margins = []
        for d, (before, n) in enumerate(zip(self.windows.before, self.big.shape[2:], strict=True), start=2):
            margins += [room[(*inside[:d], side)] for side in (slice(before), slice(before + n, None))]
        fills: list[Step] = [partial(margin.fill, 0) for margin in margins if margin.size]
        return room, [*fills, partial(np.copyto, room[inside], self.big)]


def _takes(target: Array) -> bool:
    """Whether a convolution can be added to this array where it lies."""
    return ONTO is not None and is_channels_last(target)


def _taken(call: Callable[[], Any], which: int | None, store: Callable[[Any], object],
           inside: tuple[slice, ...]) -> Step:  # fmt: skip
    """The step that takes a result, or one of several, or a part of it, to where it belongs."""

    def step() -> None:
        result = call()
        found = result if which is None else result[which]
        store(found[inside] if inside else found)

    return step


def _multiply(target: Array, left: Array, right: Array, adds: bool) -> Step:
    """target (+)= left @ right."""
    if not adds:
        return partial(np.matmul, left, right, out=target)
    return partial(torch.ops.aten.addmm.out, tensor(target), tensor(left), tensor(right), out=tensor(target))
