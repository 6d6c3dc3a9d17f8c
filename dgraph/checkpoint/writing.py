"""Writing: shards of all ranks to a folder that gets its name when it is whole.

In: shards (name, dim, rect, array) of every rank. Out: a committed checkpoint. Promise: a kill at any moment leaves what was
committed before as it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np

from dgraph.block import blocks
from dgraph.checkpoint.form import (
    BITE,
    COMMITTED,
    DTYPES,
    FORMAT,
    INDEX,
    VERSION,
    Array,
    Shard,
    Stored,
    best_step,
    committed,
    frame,
)
from dgraph.checkpoint.reading import open_checkpoint
from dgraph.durable import faults, sync_folder, synced
from dgraph.error import DataError
from dgraph.rect import Rect


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
    of later steps (of a run that went back) are removed, and all but the newest `keep` and those that these name as the best.
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
        _commit(pending, target, frame(json.dumps(index, separators=(",", ":")).encode()))
        _prune(folder, step, keep)
    barrier()
    return target


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
        same = [again for (other, again), _ in committed(folder) if other == step]
    return folder / (f"step-{step:06d}.{max(same) + 1}" if same else f"step-{step:06d}")


def _commit(pending: Path, target: Path, index: bytes) -> None:
    with faults(pending):
        with synced(pending / INDEX) as file:
            file.write(index)
        sync_folder(pending)
        pending.rename(target)
        sync_folder(target.parent)


def _prune(folder: Path, step: int, keep: int) -> None:
    with faults(folder):
        paths = committed(folder)
        later = [path for (other, _), path in paths if other > step]
        mine = [(other, path) for (other, _), path in paths if other <= step]
        kept = {path for _, path in mine[-max(keep, 1) :]}
        best = {_best_step(path) for path in kept}
        newest_of_step = dict(mine)
        kept |= {path for other, path in newest_of_step.items() if other in best}
        # The newest go first: so that a kill in between leaves no later step in front of this one for longer than needed.
        for path in [*reversed(later), *(path for _, path in mine if path not in kept)]:
            # Renamed first, so that a kill never leaves half a checkpoint under a committed name.
            shutil.rmtree(path.rename(path.with_name(f"{path.name}.tmp")))


def _best_step(path: Path) -> int | None:
    """The best that a checkpoint names; none where damage hides it."""
    try:
        return best_step(open_checkpoint(path).meta)
    except DataError:
        return None
