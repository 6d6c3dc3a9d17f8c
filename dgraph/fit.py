"""The numbers of the steps that prepare samples: fitted by all ranks together, kept in checkpoints, loaded from them.

In: a source, steps, the samples for training, a communicator; or a checkpoint. Out: `Preparation`: what this rank needs of them,
and what it writes. Promise: every sample is read by one rank, or each of its features is; no more than a batch of samples is held,
by all ranks together; every number is written by one rank.

    rank 0   rows 0 .. 2  all features          features 0 .. 3  rows 0 .. 5         the ranks read rows, and fit features:
    rank 1   rows 3 .. 5  all features    ->    features 4 .. 7  rows 0 .. 5         a sample is decoded once
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from dgraph.checkpoint import Checkpoint, Shard
from dgraph.data import DataSpec, Source
from dgraph.data.fitting import fitter_of
from dgraph.data.prepare import Fitted, Part, Pca, Prepared, Step, steps_of
from dgraph.error import DataError
from dgraph.kernels.call import Array
from dgraph.random import permutation
from dgraph.rect import Rect, share
from dgraph.runtime.communicator import Communicator, Exchange, Message

ROOM = 1 << 27
"""Elements of a batch that is held while steps are fitted; more samples than fit are never held."""
BITE = 1 << 21
"""Elements that are read and exchanged at a time. Samples of more are not read whole."""
TAG = 1
Rects = Sequence[Rect]


@dataclass(frozen=True)
class Need:
    """What a rank wants: a rect of samples behind the last step, in the precision of the network."""

    rect: Rect
    dtype: str

    def cast(self, fitted: Fitted) -> Fitted:
        """Components as samples are projected onto them: they are large."""
        return {
            name: Part(part.rect, part.array.astype(self.dtype)) if name == "components" else part
            for name, part in fitted.items()
        }


@dataclass(frozen=True, eq=False)
class Preparation:
    """The fitted steps of one rank: what its rect of samples needs, and what it writes into checkpoints."""

    said: Sequence[Mapping[str, Mapping[str, object]]]
    steps: tuple[Step, ...]
    needed: tuple[Fitted, ...]
    owned: tuple[Fitted, ...]

    def prepared(self, source: Source) -> Source:
        """A source behind the steps."""
        return Prepared(source, self.steps, self.needed) if self.steps else source

    def shards(self) -> list[Shard]:
        """What this rank writes."""
        return [
            Shard(_key(place, name), step.dims()[name], part.rect, part.array)
            for place, (step, owned) in enumerate(zip(self.steps, self.owned, strict=True))
            for name, part in owned.items()
            if part.rect
        ]

    def meta(self) -> list[dict[str, dict[str, object]]]:
        """What the config says of the steps, as a checkpoint keeps it."""
        return _plain(self.said)


def _plain(said: Sequence[Mapping[str, Mapping[str, object]]]) -> list[dict[str, dict[str, object]]]:
    return [{kind: dict(given) for kind, given in step.items()} for step in said]


def _key(place: int, name: str) -> str:
    return f"data.prepare.{place}.{name}"


def shape_of(spec: DataSpec, source: Source) -> tuple[int, ...]:
    """The shape of samples behind the steps of a spec."""
    steps = steps_of(spec.prepare, source.shape)
    return steps[-1].result_shape if steps else source.shape


def cut(shape: Sequence[int], parts: int, index: int) -> Rect:
    """A share of a sample: the longest dimension is cut."""
    longest = shape.index(max(shape))
    return Rect.of(share(n, parts, index) if d == longest else (0, n) for d, n in enumerate(shape))


# --- loading


def load(
    checkpoint: Checkpoint, spec: DataSpec, shape: tuple[int, ...], need: Need, rank: int, size: int
) -> Preparation:
    """What a checkpoint holds of the steps of a spec; `shape` is that of samples before them.

    Local. Raises DataError where it was written with other steps, or is damaged.
    """
    found = checkpoint.meta.get("prepare", [])
    if found != (wanted := _plain(spec.prepare)):
        what = f"{checkpoint.path}: written with the preparation {_text(found)}, not {_text(wanted)}"
        raise DataError(what, "data.prepare must be as it was in training")
    steps = steps_of(spec.prepare, shape)
    owned = [_read(checkpoint, place, step, _owned(step, rank, size)) for place, step in enumerate(steps)]
    places = enumerate(_needed(steps, need.rect))
    needed = [need.cast(_read(checkpoint, place, steps[place], rects)) for place, rects in places]
    return Preparation(spec.prepare, steps, tuple(needed), tuple(owned))


def _text(steps: object) -> str:
    return json.dumps(steps).replace('"', "")


def _read(checkpoint: Checkpoint, place: int, step: Step, rects: Mapping[str, Rect]) -> Fitted:
    parts = {}
    for name, rect in rects.items():
        if checkpoint.dim(_key(place, name)) != step.dims()[name]:
            what = f"{checkpoint.path}: {_key(place, name)} has dim {list(checkpoint.dim(_key(place, name)))}"
            raise DataError(f"{what}, not {list(step.dims()[name])}", "the data is not of the shape that was prepared")
        parts[name] = Part(rect, np.empty(rect.size))
        checkpoint.read(_key(place, name), rect, parts[name].array)
    return parts


def _owned(step: Step, rank: int, size: int) -> dict[str, Rect]:
    """What a rank writes: its share, rank 0 what is not cut."""
    own = cut(step.shape, size, rank)
    return {name: _own(step, name, dim, own, rank) for name, dim in step.dims().items()}


def _own(step: Step, name: str, dim: Sequence[int], own: Rect, rank: int) -> Rect:
    rect = step.cut(name, own)
    return rect if rect is not None else Rect.whole(dim) if rank == 0 else Rect.empty(len(dim))


def _needed(steps: Sequence[Step], rect: Rect) -> list[Mapping[str, Rect]]:
    """What each step needs for a rect of samples behind the last."""
    result: list[Mapping[str, Rect]] = []
    for step in reversed(steps):
        result.insert(0, step.reads(rect))
        rect = step.needs(rect)
    return result


# --- fitting


def fit(source: Source, spec: DataSpec, indices: Array, need: Need, communicator: Communicator) -> Preparation:
    """Fits the steps of a spec, each on what those before it make of the samples `indices` (int64, for training).

    Collective. Raises DataError where they cannot be read.
    """
    steps = steps_of(spec.prepare, source.shape)
    if not steps:
        return Preparation((), (), (), ())
    team = Together(communicator)
    reader = Rows(source, communicator)
    chosen = np.take(indices, permutation(spec.seed, "fit order", 0, len(indices)))
    done: list[Fitted] = []
    for place, step in enumerate(steps):
        batch = min(spec.fit_batch, len(indices))
        if not isinstance(step, Pca):
            batch = max(1, min(batch, ROOM // prod(step.shape)))
        fitter = fitter_of(step, cut(step.shape, communicator.size, communicator.rank), batch)
        for first in range(0, len(chosen), batch):
            samples = np.sort(chosen[first : first + batch])
            for start, block in reader.blocks(samples):
                fitter.room[start : start + len(block)] = _through(steps[:place], done, block, team)
            fitter.add(len(samples), team)
        done.append(fitter.finish(team))
    reader.close()
    needed = [
        need.cast(_spread(step, fitted, rects, communicator))
        for step, fitted, rects in zip(steps, done, _needed(steps, need.rect), strict=True)
    ]
    owned = [_mine(step, fitted, communicator) for step, fitted in zip(steps, done, strict=True)]
    return Preparation(spec.prepare, steps, tuple(needed), tuple(owned))


def _mine(step: Step, fitted: Fitted, communicator: Communicator) -> Fitted:
    """What this rank writes of what it has."""
    rects = _owned(step, communicator.rank, communicator.size)
    return {name: Part(rects[name], part.of(rects[name])) for name, part in fitted.items()}


def _through(steps: Sequence[Step], done: Sequence[Fitted], block: Array, team: Together) -> Array:
    """What fitted steps make of this rank's share of some samples: its share of the result. Collective."""
    for step, fitted in zip(steps, done, strict=True):
        if isinstance(step, Pca):
            projected = step.project(
                block, fitted["mean"].array, fitted["components"].array.reshape(step.components, -1)
            )
            team.total(projected)
            whole = Rect.whole(step.result_shape)
            own = cut(step.result_shape, team.size, team.rank)
            block = step.finish(projected, fitted, whole)[:, *own.slices()]
        else:
            block = step.apply(block, fitted, cut(step.shape, team.size, team.rank))
    return block


class Together:
    """All ranks of a communicator, as fitters need them."""

    def __init__(self, communicator: Communicator) -> None:
        self.rank, self.size = communicator.rank, communicator.size
        self._communicator = communicator

    def total(self, array: Array) -> None:
        """The sum over ranks, in place of a contiguous array."""
        summed = self._communicator.all_reduce(tuple(range(self.size)), array, TAG)
        summed.start()
        summed.wait()

    def everyone(self, array: Array) -> Array:
        """The arrays of all ranks, one after the other."""
        parts = self._communicator.gather(array.tobytes())
        content = self._communicator.broadcast(None if parts is None else b"".join(parts))
        return np.frombuffer(content, array.dtype).reshape(self.size, *array.shape)

    def first(self, make: Callable[[], Array]) -> Array:
        """What rank 0 makes, for all; float64 of one dimension."""
        content = make().tobytes() if self.rank == 0 else None
        return np.frombuffer(self._communicator.broadcast(content), np.float64)


class Rows:
    """Samples read by rows and given by features: a rank reads some rows whole, and gets its features of all of them."""

    def __init__(self, source: Source, communicator: Communicator) -> None:
        self._source, self._communicator = source, communicator
        size, self._rank = communicator.size, communicator.rank
        self._rects = [cut(source.shape, size, rank) for rank in range(size)]
        self._most = max(1, BITE // prod(source.shape))
        self._alone = size == 1 or prod(source.shape) > BITE
        self._sent: dict[int, Array] = {}
        self._received: dict[int, Array] = {}
        self._exchange: Exchange | None = None
        if not self._alone:
            self._prepare()

    def blocks(self, samples: Array) -> Iterator[tuple[int, Array]]:
        """This rank's features of all samples, float64 [n, *size of its rect], some at a time, and where they start. Collective."""
        for start in range(0, len(samples), self._most):
            yield start, self._block(samples[start : start + self._most])

    def close(self) -> None:
        """Gives the buffers back. Collective."""
        if self._exchange is not None:
            self._communicator.release(self._exchange)

    def _prepare(self) -> None:
        """The messages of the largest block; smaller ones leave the last rows as they are."""
        own = self._rects[self._rank]
        for other, rect in enumerate(self._rects):
            if other != self._rank:
                self._sent[other] = np.zeros((self._count(self._most, self._rank), *rect.size))
                self._received[other] = np.zeros((self._count(self._most, other), *own.size))
        sends, receives = (
            [Message(other, TAG, buffer) for other, buffer in buffers.items() if buffer.size]
            for buffers in (self._sent, self._received)
        )
        self._exchange = self._communicator.exchange(sends, receives)

    def _count(self, rows: int, rank: int) -> int:
        first, last = share(rows, self._communicator.size, rank)
        return last - first

    def _block(self, samples: Array) -> Array:
        own = self._rects[self._rank]
        if self._exchange is None:
            return self._source.read(samples, own).astype(np.float64, copy=False)
        out: Array = np.empty((len(samples), *own.size))
        first, last = share(len(samples), self._communicator.size, self._rank)
        if first < last:
            whole = self._source.read(samples[first:last], Rect.whole(self._source.shape))
            for other, buffer in self._sent.items():
                buffer[: last - first] = whole[:, *self._rects[other].slices()]
            out[first:last] = whole[:, *own.slices()]
        self._exchange.start()
        self._exchange.wait()
        for other, buffer in self._received.items():
            first, last = share(len(samples), self._communicator.size, other)
            out[first:last] = buffer[: last - first]
        return out


# --- from those who have it to those who need it


def _spread(step: Step, fitted: Fitted, rects: Mapping[str, Rect], communicator: Communicator) -> Fitted:
    """What this rank needs of what all ranks fitted. Collective."""
    result = {}
    for name, part in fitted.items():
        if step.cut(name, part.rect) is None:
            result[name] = Part(rects[name], part.of(rects[name]).copy())
            continue
        have = [_owned(step, rank, communicator.size)[name] for rank in range(communicator.size)]
        need = _everyones(rects[name], communicator)
        result[name] = Part(rects[name], _moved(part, have, need, communicator))
    return result


def _everyones(rect: Rect, communicator: Communicator) -> list[Rect]:
    """The rects of all ranks. Collective."""
    parts = communicator.gather(json.dumps([rect.start, rect.size]).encode())
    content = None if parts is None else json.dumps([json.loads(part) for part in parts]).encode()
    return [Rect(tuple(start), tuple(size)) for start, size in json.loads(communicator.broadcast(content))]


def _moved(part: Part, have: Rects, need: Rects, communicator: Communicator) -> Array:
    """The values of this rank's rect of `need`, from the ranks that have them. Collective."""
    rank = communicator.rank
    out: Array = np.empty(need[rank].size)
    sends = [
        Message(other, TAG, np.ascontiguousarray(part.of(common)))
        for other, rect in enumerate(need)
        if other != rank and (common := rect.intersect(have[rank]))
    ]
    places = {
        other: common for other, rect in enumerate(have) if other != rank and (common := rect.intersect(need[rank]))
    }
    receives = [Message(other, TAG, np.empty(common.size)) for other, common in places.items()]
    exchange = communicator.exchange(sends, receives)
    exchange.start()
    exchange.wait()
    for message in receives:
        common = places[message.peer]
        out[common.slices(need[rank].start)] = message.buffer
    if common := have[rank].intersect(need[rank]):
        out[common.slices(need[rank].start)] = part.of(common)
    communicator.release(exchange)
    return out
