"""Checkpoints keyed by tensor name and global rect: any mesh loads what any other wrote, by intersection.

In: shards (name, dim, rect, array) of every rank. Out: a folder with one file a rank and an index; from it, any rect of
any tensor. Promise: a checkpoint is there whole or not at all, and a kill at any moment leaves the newest committed one
as it was; no byte that is read goes unchecked; nothing of the size of an array is allocated.

    step-000120/           committed: it got this name when all that is in it was on the disk
      index.json           {"crc32":"...","index":{...}}: meta and all shards, with the crc32 of each
      rank-00000.bin       its shards one after the other, little-endian, C order
    step-000120.1/         the same step written once more (a run that went back)
    step-000140.tmp/       being written, or left over from a kill: cleared by the next write
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from stat import S_ISREG
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np

from dgraph.block import blocks
from dgraph.durable import faults, sync_folder, synced
from dgraph.error import DataError
from dgraph.rect import Rect

Array = np.ndarray[Any, np.dtype[Any]]
Dim = tuple[int, ...]

FORMAT, VERSION = "dgraph checkpoint", 1
INDEX = "index.json"
COMMITTED = re.compile(r"step-(\d{6,})(?:\.(\d+))?")
RANK_FILE = re.compile(r"rank-\d{5,}\.bin")
DTYPES = ("float16", "float32", "float64", "int32", "int64", "uint8", "bool")
BITE = 1 << 20


@dataclass(frozen=True, eq=False)
class Shard:
    """A tensor's name and dim, and a rect of it with its values: an array of the rect's shape, any strides."""

    name: str
    dim: Dim
    rect: Rect
    array: Array


@dataclass(frozen=True)
class Stored:
    """Where the values of a rect of a tensor lie: `offset` and `nbytes` in bytes, in C order."""

    name: str
    dim: Dim
    dtype: str
    rect: Rect
    file: str
    offset: int
    nbytes: int
    crc: int

    def entry(self) -> list[Any]:
        """As the index holds it."""
        place = [self.file, self.offset, self.nbytes, self.crc]
        return [self.name, self.dim, self.dtype, self.rect.start, self.rect.size, *place]

    @staticmethod
    def of(entry: list[Any]) -> Stored:
        """What an entry says. Raises TypeError or ValueError for one that makes no sense."""
        name, dim, dtype, start, size, file, offset, nbytes, crc = entry
        numbers = [*dim, *start, *size, offset, nbytes, crc]
        if not all(type(n) is int and n >= 0 for n in numbers) or not all(type(s) is str for s in (name, dtype, file)):
            raise TypeError("entries of a wrong type")
        rect = Rect(tuple(start), tuple(size))
        if rect not in Rect.whole(dim) or dtype not in DTYPES or not RANK_FILE.fullmatch(file):
            raise ValueError("a rect, dtype or file that cannot be")
        if nbytes != rect.volume * np.dtype(dtype).itemsize:
            raise ValueError("a shard of the wrong length")
        return Stored(name, tuple(dim), dtype, rect, file, offset, nbytes, crc)


@dataclass(frozen=True)
class Tensor:
    """What a checkpoint holds of a tensor."""

    dim: Dim
    dtype: str


def write_checkpoint(
    folder: Path,
    step: int,
    shards: Sequence[Shard],
    meta: Mapping[str, Any],
    rank: int,
    size: int,
    gather: Callable[[bytes], Sequence[bytes] | None],
    barrier: Callable[[], None],
    keep: int = 2,
) -> Path:
    """Write a checkpoint of this step into `folder`; its path. *Collective* over `size` ranks.

    `shards` are this rank's; their arrays are streamed. A rect may be written by
    several ranks (the reader takes one), so give replicas to one of them. `meta` is anything that JSON holds; rank 0's
    counts. `gather` collects the ranks' bytes in rank order on rank 0 (None elsewhere). Once it is committed, checkpoints
    of later steps (of a run that went back) and all but the newest `keep` are removed.
    Raises DataError where the disk refuses; on one rank: it is the caller's to let the others know.
    """
    pending = folder / f"step-{step:06d}.tmp"
    if rank == 0:
        _prepare(folder, pending)
    barrier()
    target = _target(folder, step)
    written = _write_shards(pending / f"rank-{rank:05d}.bin", shards)
    parts = gather(json.dumps([shard.entry() for shard in written]).encode())
    if parts is not None:
        if len(parts) != size:
            raise ValueError(f"{len(parts)} ranks of {size} gave their shards")
        entries = [entry for part in parts for entry in json.loads(part)]
        index = {"format": FORMAT, "version": VERSION, "step": step, "meta": meta, "shards": entries}
        _commit(pending, target, _frame(json.dumps(index, separators=(",", ":")).encode()))
        _prune(folder, step, keep)
    barrier()
    return target


def _frame(body: bytes) -> bytes:
    """The index file: fixed but for crc and body, so that no flipped bit goes unseen."""
    return b'{"crc32":"%08x","index":%s}\n' % (crc32(body), body)


HEAD = _frame(b"").index(b"}")


def _prepare(folder: Path, pending: Path) -> None:
    with faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
        for path in folder.iterdir():
            if path.suffix == ".tmp" and COMMITTED.fullmatch(path.stem):
                shutil.rmtree(path)
        pending.mkdir()


def _write_shards(path: Path, shards: Iterable[Shard]) -> list[Stored]:
    written = []
    with faults(path), synced(path) as file:
        for shard in shards:
            name, dim, rect, array = shard.name, shard.dim, shard.rect, shard.array
            if array.shape != rect.size or rect not in Rect.whole(dim) or array.dtype.name not in DTYPES:
                raise ValueError(f"{name}: {rect} of {dim} does not fit an array of {array.shape} {array.dtype}")
            if rect:
                offset = file.tell()
                crc = _stream(file, array)
                written.append(Stored(name, dim, array.dtype.name, rect, path.name, offset, array.nbytes, crc))
    return written


def _stream(file: BinaryIO, array: Array) -> int:
    crc = 0
    for block in blocks(array.shape, BITE):
        bite = np.ascontiguousarray(array[block.slices()], array.dtype.newbyteorder("<")).data
        file.write(bite)
        crc = crc32(bite, crc)
    return crc


def _target(folder: Path, step: int) -> Path:
    """The name that a checkpoint of this step is going to have; the same on all ranks until one of them commits it."""
    with faults(folder):
        same = [again for (other, again), _ in _committed(folder) if other == step]
    return folder / (f"step-{step:06d}.{max(same) + 1}" if same else f"step-{step:06d}")


def _commit(pending: Path, target: Path, index: bytes) -> None:
    with faults(pending):
        with synced(pending / INDEX) as file:
            file.write(index)
        sync_folder(pending)
        pending.rename(target)
        sync_folder(target.parent)


def _committed(folder: Path) -> list[tuple[tuple[int, int], Path]]:
    """((step, times written before), path) of all committed checkpoints of a folder, the newest last."""
    found = ((COMMITTED.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted(((int(match[1]), int(match[2] or 0)), path) for match, path in found if match)


def _prune(folder: Path, step: int, keep: int) -> None:
    with faults(folder):
        paths = _committed(folder)
        later = [path for (other, _), path in paths if other > step]
        kept = [path for (other, _), path in paths if other <= step]
        # The newest go first: so that a kill in between leaves no later step in front of this one for longer than needed.
        for path in [*reversed(later), *kept[: -max(keep, 1)]]:
            # Renamed first, so that a kill never leaves half a checkpoint under a committed name.
            shutil.rmtree(path.rename(path.with_name(f"{path.name}.tmp")))


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

    def verify(self) -> None:
        """Test the checksums of all shards. Raises DataError for the first that is wrong."""
        for shards in self._shards.values():
            for shard in shards:
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
    folder = _find(path)
    index = folder / INDEX
    with faults(index):
        content = index.read_bytes()
    if _frame(content[HEAD:-2]) != content:
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


def _find(path: Path) -> Path:
    """The folder of the checkpoint that `path` means."""
    with faults(path):
        for folder in (path, path / "checkpoints"):
            if (folder / INDEX).exists():
                return folder
            if folder.is_dir() and (committed := _committed(folder)):
                return committed[-1][1]
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
