"""Random values by global index: the same numbers on any mesh.

In: a seed, a purpose, a step, the dim of a tensor and a rect of it. Out: the values of that rect. Promise: a value is a
function of (seed, purpose, step, global linear index) alone. Uniform values are exact on every machine; normal ones are
as exact as the machine's log, sin and cos. Nothing is kept between calls, and scratch stays below 16 MB.

The generator is Philox 4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"). One
counter gives four words, for the four elements whose global C-order index divided by 4 is that counter:

    counter = (block, low word; block, high word; step; seed, high word)      element 4 * block + lane
    key     = (seed, low word; crc32 of the purpose)                          gets word `lane`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any
from zlib import crc32

import numpy as np

from dgraph.block import blocks, strides
from dgraph.error import ConfigError
from dgraph.rect import Rect

Array = np.ndarray[Any, np.dtype[Any]]
Draw = Callable[[Array], Array]
"""From words, uint64 [4, counter], to values, float64 [counter, 4]."""

ROUNDS = 10
MASK = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
FACTORS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL = 0x9E3779B9, 0xBB67AE85
UNIT = 2.0**-32
BLOCK = 1 << 16


@dataclass(frozen=True)
class Stream:
    """One sequence of values: what Philox gets besides the block.

    Raises ValueError for a seed outside 0 .. 2**64 - 1 or a step outside 0 .. 2**32 - 1.
    """

    seed: int
    purpose: str
    step: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.seed < 1 << 64 and 0 <= self.step < 1 << 32):
            raise ValueError(f"seed {self.seed} or step {self.step} is out of range")

    def words(self, block: Array) -> Array:
        """The words of these blocks (int64 [counter]), as uint64 [4, counter]."""
        words = np.empty((4, block.size), np.uint64)
        np.bitwise_and(block.view(np.uint64), MASK, out=words[0])
        np.right_shift(block.view(np.uint64), HALF, out=words[1])
        words[2], words[3] = self.step, self.seed >> 32
        philox(words, (self.seed & 0xFFFFFFFF, crc32(self.purpose.encode())))
        return words


def philox(words: Array, key: tuple[int, int]) -> None:
    """Philox 4x32-10, in place, on counters uint64 [4, counter] that hold 32-bit words."""
    a, b, c, d = words
    low, high = np.empty_like(a), np.empty_like(a)
    for turn in range(ROUNDS):
        np.multiply(a, FACTORS[0], out=low)
        np.multiply(c, FACTORS[1], out=high)
        for product, target, other, word in ((high, a, b, 0), (low, c, d, 1)):
            np.right_shift(product, HALF, out=target)
            np.bitwise_xor(target, other, out=target)
            np.bitwise_xor(target, np.uint64((key[word] + turn * WEYL[word]) & 0xFFFFFFFF), out=target)
        np.bitwise_and(high, MASK, out=b)
        np.bitwise_and(low, MASK, out=d)


def _uniform(low: float, high: float) -> Draw:
    scale = (high - low) * UNIT
    shift = low + scale / 2

    def draw(words: Array) -> Array:
        values = np.empty((words.shape[1], 4))
        for lane in range(4):
            values[:, lane] = words[lane].view(np.int64)
        values *= scale
        values += shift
        return values

    return draw


def _normal(mean: float, deviation: float) -> Draw:
    """Box and Muller 1958: elements 2i and 2i + 1 are the two of one pair of uniform words."""

    def draw(words: Array) -> Array:
        values = np.empty((words.shape[1], 4))
        for lane in (0, 2):
            # Half a unit up keeps the logarithm finite.
            radius, angle = (words[lane : lane + 2].view(np.int64) + 0.5) * UNIT
            np.log(radius, out=radius)
            radius *= -2
            np.sqrt(radius, out=radius)
            radius *= deviation
            angle *= 2 * np.pi
            np.multiply(radius, np.cos(angle), out=values[:, lane])
            np.multiply(radius, np.sin(angle), out=values[:, lane + 1])
        values += mean
        return values

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
    first = np.full(1, sum(a * s for a, s in zip(box.start[inner:], step[inner:], strict=True)), np.int64)
    for d in range(inner):
        index = np.arange(*box.bounds[d]) if d or picks is None else picks
        first = (first[:, None] + index * step[d]).ravel()
    return first, prod(box.size[inner:])


def _values(stream: Stream, draw: Draw, first: Array, run: int) -> Array:
    """The values of runs of equal length, float64 [run, element]."""
    lane = first & 3
    count = (int(lane.max()) + run + 3) // 4
    block = ((first >> 2)[:, None] + np.arange(count)).ravel()
    drawn = draw(stream.words(block)).reshape(first.size, 4 * count)
    if (lane == lane[0]).all():
        return drawn[:, lane[0] : lane[0] + run]
    values = np.empty((first.size, run))
    for offset in np.unique(lane):
        chosen = lane == offset
        values[chosen] = drawn[chosen, offset : offset + run]
    return values


def _fill(out: Array, stream: Stream, draw: Draw, dim: Sequence[int], rect: Rect, picks: Array | None) -> None:
    size = rect.size if picks is None else (len(picks), *rect.size[1:])
    if out.shape != size or rect not in Rect.whole(dim):
        raise ValueError(f"{rect} of {tuple(dim)} does not fit an array of {out.shape}")
    for block in blocks(size, BLOCK):
        chosen = None if picks is None else picks[block.slices()[0]]
        first, run = _runs(dim, block.shift(rect.start), chosen)
        out[block.slices()] = _values(stream, draw, first, run).reshape(block.size)


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
) -> None:
    """Write uniform values of `rect` of a tensor of this `dim` into `out`, of the rect's shape and any strides.

    `picks` (int64 [n]) are global indices along dimension 0, any and in any order, instead of the rect's own; `out` is
    then [n, *rect.size[1:]]. Values lie between low and high, 2**32 levels; those of a narrower float are the same ones
    rounded. Runs along the last dimension cost least when they are longer than a few elements: four share a counter.
    Raises ValueError for a rect that leaves the dim or another shape of `out`.
    """
    _fill(out, Stream(seed, purpose, step), _uniform(low, high), dim, rect, picks)


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


def permutation(seed: int, purpose: str, epoch: int, n: int) -> Array:
    """A permutation of 0 .. n - 1, int64 [n]: the order of n random 64-bit keys."""
    words = Stream(seed, purpose, epoch).words(np.arange((n + 1) // 2))
    keys = np.empty((words.shape[1], 2), np.uint64)
    for half in (0, 1):
        keys[:, half] = words[2 * half] << HALF | words[2 * half + 1]
    return np.argsort(keys.ravel()[:n], kind="stable")


INITIAL: Mapping[str, Mapping[str, float | None]] = {
    "zero": {},
    "constant": {"value": None},
    "normal": {"mean": 0.0, "deviation": 0.01},
    "uniform": {"low": None, "high": None},
    "xavier": {"gain": 1.0},
    "he": {"gain": 1.0},
    "lecun": {"gain": 1.0},
}
"""The kinds of initial values, their arguments and the defaults (None: must be given)."""


def initial(
    init: Mapping[str, Mapping[str, float]],
    seed: int,
    name: str,
    dim: Sequence[int],
    rect: Rect,
    fan_in: int,
    fan_out: int,
    out: Array,
) -> None:
    """Write the initial values of `rect` of the parameter `name` into `out` (the rect's shape, any strides).

    `init` is {kind: arguments} as in `INITIAL`. xavier: uniform within gain * sqrt(6 / (fan_in + fan_out)) (Glorot and
    Bengio 2010, eq. 16); he: normal of deviation gain * sqrt(2 / fan_in) (He et al. 2015, eq. 10); lecun: normal of
    deviation gain * sqrt(1 / fan_in) (LeCun et al. 1998, eq. 16). Fans count elements.
    Raises ConfigError for an unknown kind or other arguments than its own.
    """
    kind, given = _kind(init, name)
    where = (seed, f"initial {name}", 0, dim, rect)
    match kind:
        case "zero":
            out[...] = 0
        case "constant":
            out[...] = given["value"]
        case "uniform":
            fill_uniform(out, *where, given["low"], given["high"])
        case "normal":
            fill_normal(out, *where, given["mean"], given["deviation"])
        case "xavier":
            bound = given["gain"] * sqrt(6 / (fan_in + fan_out))
            fill_uniform(out, *where, -bound, bound)
        case _:
            fill_normal(out, *where, 0.0, given["gain"] * sqrt((2 if kind == "he" else 1) / fan_in))


def _kind(init: Mapping[str, Mapping[str, float]], name: str) -> tuple[str, dict[str, float]]:
    if len(init) != 1:
        raise ConfigError(f"parameter {name} needs one kind of initial values, not {len(init)}", ", ".join(INITIAL))
    ((kind, arguments),) = init.items()
    if kind not in INITIAL:
        raise ConfigError(f"parameter {name} has unknown initial values {kind}", ", ".join(INITIAL))
    known = INITIAL[kind]
    wrong = [key for key in arguments if key not in known]
    missing = [key for key, value in known.items() if value is None and key not in arguments]
    if wrong or missing:
        fault = f"no {missing[0]}" if missing else f"an unknown {wrong[0]}"
        raise ConfigError(f"initial values {kind} of {name} have {fault}", f"it takes: {', '.join(known) or 'nothing'}")
    return kind, {key: value for key, value in {**known, **arguments}.items() if value is not None}
