"""Random values of rects: uniform, normal, truncated normal.

In: a stream's seed, purpose and step, the dim of a tensor and a rect of it. Out: the values of that rect. Promise: a value depends
on its global linear index, never on the rect it is asked for with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import erfc, prod, sqrt

import numpy as np
from numpy.typing import DTypeLike

from dgraph.block import blocks, strides
from dgraph.random.quantile import normal_quantile
from dgraph.random.stream import Array, Stream
from dgraph.rect import Rect
from dgraph.spare import empty, lent

Draw = Callable[[Array, Array, Array], None]
"""From words, uint64 [4, counter], to values, float64 [counter, 4]; float64 [3, counter] is room to work in."""

UNIT = 2.0**-32
BLOCK = 1 << 15
_COUNT = np.arange(BLOCK + 1)


def _uniform(low: float, high: float) -> Draw:
    scale = (high - low) * UNIT
    shift = low + scale / 2

    def draw(words: Array, values: Array, room: Array) -> None:
        for lane in range(4):
            values[:, lane] = words[lane].view(np.int64)
        values *= scale
        values += shift

    return draw


def _normal(mean: float, deviation: float) -> Draw:
    """Box and Muller 1958: elements 2i and 2i + 1 are the two of one pair of uniform words."""

    def draw(words: Array, values: Array, room: Array) -> None:
        pair, turned = room[:2], room[2]
        for lane in (0, 2):
            # Half a unit up keeps the logarithm finite.
            np.add(words[lane : lane + 2].view(np.int64), 0.5, out=pair)
            pair *= UNIT
            radius, angle = pair
            np.log(radius, out=radius)
            radius *= -2
            np.sqrt(radius, out=radius)
            radius *= deviation
            angle *= 2 * np.pi
            np.multiply(radius, np.cos(angle, out=turned), out=values[:, lane])
            np.multiply(radius, np.sin(angle, out=turned), out=values[:, lane + 1])
        values += mean

    return draw


def _truncated_normal(mean: float, deviation: float, low: float, high: float) -> Draw:
    """The normal quantile of a uniform value between the probabilities of low and high; on the side where these are small, so that
    they are exact."""
    side = -1.0 if low + high > 0 else 1.0
    first, last = sorted((side * low, side * high))
    below, above = (erfc(-bound / sqrt(2)) / 2 for bound in (first, last))

    def draw(words: Array, values: Array, room: Array) -> None:
        for lane in range(4):
            probability = below + (words[lane].view(np.int64) + 0.5) * UNIT * (above - below)
            values[:, lane] = np.clip(normal_quantile(probability), first, last)
        values *= side * deviation
        values += mean

    return draw


def _runs(dim: Sequence[int], box: Rect, picks: Array | None) -> tuple[Array, int]:
    """Where the runs of a box start (global linear index, int64 [run]), and how long each is.

    Dimensions at the end that the box covers whole lengthen the run; `picks` replaces the indices of dimension 0.
    """
    inner = max(box.ndim - 1, 0)
    lowest = 0 if picks is None else 1
    while inner > lowest and box.size[inner] == dim[inner]:
        inner -= 1
    inner = max(inner, lowest)
    step = strides(dim)
    size = box.size[:inner] if picks is None else (len(picks), *box.size[1:inner])
    first = _room(size, np.int64)
    chosen = range(lowest, box.ndim)
    first.fill(sum(box.start[d] * step[d] for d in chosen))
    for d in range(inner):
        along = _room((size[d],), np.int64)
        np.multiply(picks if picks is not None and not d else _COUNT[: size[d]], step[d], out=along)
        first += along.reshape(-1, *(1,) * (inner - 1 - d))
    return first.reshape(-1), prod(box.size[inner:])


def _room(shape: Sequence[int], dtype: DTypeLike) -> Array:
    """An uninitialised array that is lent, in memory for one of any block: what is lent is then the same every time, and what is
    not needed of it is not touched."""
    times = -(-prod(shape) // BLOCK)
    return empty((max(1, times) * BLOCK,), dtype)[: prod(shape)].reshape(shape)


def _values(stream: Stream, draw: Draw, first: Array, run: int) -> Array:
    """The values of runs of equal length, float64 [run, element]."""
    lane = np.bitwise_and(first, 3, out=_room(first.shape, np.int64))
    least, most = int(lane.min()), int(lane.max())
    count = (most + run + 3) // 4
    block = _room((first.size, count), np.int64)
    first >>= 2
    np.add(first[:, None], _COUNT[:count], out=block)
    words, products = (_room((n, block.size), np.uint64) for n in (4, 2))
    stream.fill(block.reshape(-1), words, products)
    drawn, room = _room((block.size, 4), np.float64), _room((3, block.size), np.float64)
    values, chosen = _room((first.size, run), np.float64), _room(first.shape, np.bool_)
    draw(words, drawn, room)
    drawn = drawn.reshape(first.size, 4 * count)
    if least == most:
        return drawn[:, least : least + run]
    for offset in range(least, most + 1):
        np.equal(lane, offset, out=chosen)
        np.copyto(values, drawn[:, offset : offset + run], where=chosen[:, None])
    return values


def _fill(out: Array, stream: Stream, draw: Draw, dim: Sequence[int], rect: Rect, picks: Array | None,
          adds: bool = False) -> None:  # fmt: skip
    size = rect.size if picks is None else (len(picks), *rect.size[1:])
    if out.shape != size or rect not in Rect.whole(dim):
        raise ValueError(f"{rect} of {tuple(dim)} does not fit an array of {out.shape}")
    for block in blocks(size, BLOCK):
        chosen = None if picks is None else picks[block.slices()[0]]
        with lent():
            first, run = _runs(dim, block.shift(rect.start), chosen)
            values = _values(stream, draw, first, run).reshape(block.size)
            if adds:
                rounded = _room(block.size, out.dtype)
                np.copyto(rounded, values, casting="same_kind")
                out[block.slices()] += rounded
            else:
                out[block.slices()] = values


def fill_uniform(
    out: Array,
    seed: int,
    purpose: str,
    step: int,
    dim: Sequence[int],
    rect: Rect,
    low: float = 0.0,
    high: float = 1.0,
    picks: Array | None = None,
    adds: bool = False,
) -> None:
    """Write uniform values of `rect` of a tensor of this `dim` into `out`, of the rect's shape and any strides.

    `picks` (int64 [n]) are global indices along dimension 0, any and in any order, instead of the rect's own; `out` is
    then [n, *rect.size[1:]]. With `adds` they are added to what is there. Values lie between low and high, 2**32 levels; those
    of a narrower float are the same ones rounded. Runs along the last dimension cost least when they are longer than a few
    elements: four share a counter.
    Raises ValueError for a rect that leaves the dim or another shape of `out`.
    """
    _fill(out, Stream(seed, purpose, step), _uniform(low, high), dim, rect, picks, adds)


def fill_normal(
    out: Array,
    seed: int,
    purpose: str,
    step: int,
    dim: Sequence[int],
    rect: Rect,
    mean: float = 0.0,
    deviation: float = 1.0,
    picks: Array | None = None,
) -> None:
    """Write normal values of `rect`; all else as `fill_uniform`. No value is farther than 6.8 deviations from the mean."""
    _fill(out, Stream(seed, purpose, step), _normal(mean, deviation), dim, rect, picks)


def fill_truncated_normal(
    out: Array,
    seed: int,
    purpose: str,
    step: int,
    dim: Sequence[int],
    rect: Rect,
    mean: float = 0.0,
    deviation: float = 1.0,
    low: float = -2.0,
    high: float = 2.0,
    picks: Array | None = None,
) -> None:
    """Write normal values of `rect` of which none is below mean + low * deviation or above mean + high * deviation; all else as
    `fill_uniform`. `deviation` is that of the whole normal distribution; low < 8 and high > -8."""
    _fill(out, Stream(seed, purpose, step), _truncated_normal(mean, deviation, low, high), dim, rect, picks)


def uniform(
    seed: int,
    purpose: str,
    step: int,
    dim: Sequence[int],
    rect: Rect,
    low: float = 0.0,
    high: float = 1.0,
    dtype: str = "float32",
) -> Array:
    """The uniform values of `rect`, as a new array of its shape: that slice of the whole tensor's, bit for bit."""
    out = np.empty(rect.size, dtype)
    fill_uniform(out, seed, purpose, step, dim, rect, low, high)
    return out


def normal(
    seed: int,
    purpose: str,
    step: int,
    dim: Sequence[int],
    rect: Rect,
    mean: float = 0.0,
    deviation: float = 1.0,
    dtype: str = "float32",
) -> Array:
    """The normal values of `rect`, as a new array of its shape: that slice of the whole tensor's, bit for bit."""
    out = np.empty(rect.size, dtype)
    fill_normal(out, seed, purpose, step, dim, rect, mean, deviation)
    return out
