"""Reading: an open checkpoint, and any rect of any tensor in it.

In: a folder. Out: `Checkpoint`. Promise: no byte that is read goes unchecked; nothing of the size of an array is allocated.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from stat import S_ISREG
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np

from dgraph.checkpoint.form import BITE, COMMITTED, FORMAT, HEAD, INDEX, VERSION, Array, Dim, Stored, committed, frame
from dgraph.durable import faults
from dgraph.error import DataError
from dgraph.rect import Rect


@dataclass(frozen=True)
class Tensor:
    """What a checkpoint holds of a tensor."""

    dim: Dim
    dtype: str


class Checkpoint:
    """An open checkpoint: `path`, `step`, `meta`, and `tensors` by name. It reads what it is asked for, no more."""

    def __init__(self, path: Path, step: int, meta: Mapping[str, Any], shards: Sequence[Stored]) -> None:
        self.path, self.step, self.meta = path, step, meta
        self.tensors: dict[str, Tensor] = {}
        self._shards: dict[str, list[Stored]] = {}
        self._sound: set[Stored] = set()
        for shard in shards:
            tensor = self.tensors.setdefault(shard.name, Tensor(shard.dim, shard.dtype))
            if tensor != Tensor(shard.dim, shard.dtype):
                raise DataError(f"{path / INDEX}: shards of {shard.name} differ in dim or dtype")
            self._shards.setdefault(shard.name, []).append(shard)

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that it holds."""
        return tuple(self.tensors)

    def dim(self, name: str) -> Dim:
        """The dim of a tensor. Raises DataError for one that is not there."""
        if name not in self.tensors:
            raise DataError(f"{self.path}: no tensor {name}", "the network is not the one that was saved")
        return self.tensors[name].dim

    def checksums(self) -> dict[str, list[tuple[Rect, int]]]:
        """Rects and checksums of all tensors, by name, as the index has them: equal where all bits are equal and cut alike."""
        return {name: sorted(((s.rect, s.crc) for s in shards), key=str) for name, shards in self._shards.items()}

    def read(self, name: str, rect: Rect, out: Array) -> None:
        """Copy a rect of a tensor into `out`, of its shape, any strides, a float as wide or not.

        Raises DataError for a tensor that is not there or does not cover the rect, and for damage (a shard's checksum
        is tested when it is first touched); ValueError for a rect that leaves the tensor or another shape of `out`.
        """
        dim = self.dim(name)
        if rect not in Rect.whole(dim) or out.shape != rect.size:
            raise ValueError(f"{name}: {rect} does not fit {dim} or an array of {out.shape}")
        missing = [rect] if rect else []
        for shard in self._shards[name]:
            for part in (rest.intersect(shard.rect) for rest in missing):
                if part:
                    out[part.slices(rect.start)] = self._values(shard)[part.slices(shard.rect.start)]
            missing = [part for rest in missing for part in rest.subtract(shard.rect)]
            if not missing:
                return
        raise DataError(f"{self.path}: nothing covers {missing[0]} of {name}", "the checkpoint is incomplete")

    def verify(self, share: int = 0, shares: int = 1) -> None:
        """Test the checksums of all shards, or of a share of them. Raises DataError for the first that is wrong."""
        for shard in [shard for shards in self._shards.values() for shard in shards][share::shares]:
            self._check(shard)

    def _values(self, shard: Stored) -> Array:
        self._check(shard)
        with faults(self.path / shard.file):
            dtype = np.dtype(shard.dtype).newbyteorder("<")
            flat = np.memmap(self.path / shard.file, dtype, "r", shard.offset, (shard.rect.volume,))
            return flat.reshape(shard.rect.size)

    def _check(self, shard: Stored) -> None:
        if shard in self._sound:
            return
        path = self.path / shard.file
        with faults(path), path.open("rb") as file:
            file.seek(shard.offset)
            if _checksum(file, shard.nbytes) != shard.crc:
                raise DataError(f"{path}: {shard.name} is damaged", "its checksum is wrong")
        self._sound.add(shard)


def used(checkpoint: Checkpoint, parameter: str) -> str:
    """The tensor with the values of a parameter that are to be used: the average of training where it keeps one, else its own."""
    average = f"{parameter}:average"
    return average if checkpoint.meta.get("averages") and average in checkpoint.tensors else parameter


def _checksum(file: BinaryIO, nbytes: int) -> int:
    crc = 0
    while nbytes and (bite := file.read(min(BITE, nbytes))):
        crc = crc32(bite, crc)
        nbytes -= len(bite)
    return crc


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at `path`: its own folder, or the newest committed one of a folder of them or of a run.

    Sizes of all files are tested, values not yet. Raises DataError, naming the file, for whatever is wrong.
    """
    folder = candidates(path)[0]
    index = folder / INDEX
    with faults(index):
        content = index.read_bytes()
    if frame(content[HEAD:-2]) != content:
        raise DataError(f"{index}: damaged", "its checksum is wrong")
    step, meta, shards = _parse(index, content[HEAD:-2])
    _check_files(folder, shards)
    return Checkpoint(folder, step, meta, shards)


def _parse(index: Path, body: bytes) -> tuple[int, dict[str, Any], list[Stored]]:
    try:
        tree = json.loads(body)
        kind = f"{tree['format']} {tree['version']}"
        if kind != f"{FORMAT} {VERSION}":
            raise DataError(f"{index}: a {kind}", f"this version of dgraph reads {FORMAT} {VERSION}")
        return int(tree["step"]), dict(tree["meta"]), [*map(Stored.of, tree["shards"])]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(f"{index}: not the index of a checkpoint", str(error)) from error


def candidates(path: Path) -> list[Path]:
    """The folders of the checkpoints that `path` can mean, the likeliest first: itself, or those of a folder of them or of a run,
    the newest first. Raises DataError where there is none."""
    with faults(path):
        if (path / INDEX).exists() or (path.is_dir() and COMMITTED.fullmatch(path.name)):
            return [path]
        for folder in (path, path / "checkpoints"):
            if folder.is_dir() and (found := committed(folder)):
                return [one for _, one in reversed(found)]
        if path.exists():
            raise DataError(f"{path}: no checkpoint in it", "name a checkpoint, or a run that has committed one")
    raise DataError(f"{path}: no such checkpoint")


def _check_files(folder: Path, shards: Iterable[Stored]) -> None:
    """Whether the shards fill their files, plain ones, without gap, overlap or rest."""

    def place(shard: Stored) -> tuple[str, int]:
        return shard.file, shard.offset

    for name, group in groupby(sorted(shards, key=place), key=lambda shard: shard.file):
        end = _end(folder / name, group)
        with faults(folder / name):
            facts = (folder / name).lstat()
        if not S_ISREG(facts.st_mode):
            raise DataError(f"{folder / name}: not a plain file")
        if facts.st_size != end:
            raise DataError(f"{folder / name}: {facts.st_size} bytes instead of {end}", "the file is damaged")


def _end(path: Path, shards: Iterator[Stored]) -> int:
    end = 0
    for shard in shards:
        if shard.offset != end:
            raise DataError(f"{path}: shards overlap or leave a gap", "the index is wrong")
        end += shard.nbytes
    return end
