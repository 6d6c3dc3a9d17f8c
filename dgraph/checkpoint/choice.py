"""Which checkpoint of a run to go by: the newest that is sound, or the best.

In: a path, and how the ranks talk. Out: an open checkpoint whose every byte has been checked, and what was passed over.
Promise: all ranks take the same one, before any of them loads; one that was named itself is taken or refused, never replaced.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from dgraph.checkpoint.form import best_step, committed
from dgraph.checkpoint.reading import Checkpoint, candidates, open_checkpoint
from dgraph.error import DataError

Gather = Callable[[bytes], Sequence[bytes] | None]
Broadcast = Callable[[bytes | None], bytes]


def choose_checkpoint(path: Path, best: bool, rank: int, size: int, gather: Gather,
                      broadcast: Broadcast) -> tuple[Checkpoint, list[str]]:  # fmt: skip
    """The checkpoint that `path` means, its checksums tested, and a line for each damaged one before it. *Collective*.

    `path` is a checkpoint's own folder, or a folder of them, or a run: then it is the newest that is sound, or with `best` the one
    that the newest names as the best. Every rank tests a share of the shards. `gather` collects the ranks' bytes on rank 0 (None
    elsewhere), `broadcast` gives rank 0's to all.

    Raises DataError where none is sound: on all ranks, but on rank 0 alone where there is none at all.
    """
    names: list[str] = json.loads(broadcast(_listed(path, best) if rank == 0 else None))
    passed: list[tuple[str, str]] = []
    for name in names:
        found, fault = _tested(Path(name), rank, size)
        parts = gather(json.dumps(fault).encode())
        faults_of_all = [] if parts is None else [one for one in map(json.loads, parts) if one]
        worst = json.loads(broadcast(json.dumps(faults_of_all[:1]).encode() if parts is not None else None))
        if found is not None and not worst:
            return found, [f"{what} ({why}); going by {found.path.name}" for what, why in passed]
        passed += map(tuple, worst)
    what, why = passed[0]
    raise DataError(what, why if len(passed) == 1 else f"{why}; none of the {len(passed)} checkpoints is sound")


def sound_checkpoint(path: Path, best: bool = False) -> tuple[Checkpoint, list[str]]:
    """As `choose_checkpoint`, for one process alone."""
    return choose_checkpoint(path, best, 0, 1, lambda part: [part], lambda value: value or b"")


def _listed(path: Path, best: bool) -> bytes:
    """The checkpoints to try, in order."""
    found = candidates(path)
    return json.dumps([str(one) for one in ([_best(found)] if best else found)]).encode()


def _tested(path: Path, rank: int, size: int) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint in a folder, or what is wrong with it, as far as this rank's share goes."""
    try:
        checkpoint = open_checkpoint(path)
        checkpoint.verify(rank, size)
    except DataError as error:
        return None, [error.what, error.hint or "incomplete"]
    return checkpoint, []


def _best(newest: Sequence[Path]) -> Path:
    """The best, as the newest of these that can be read knows it."""
    for path in newest:
        try:
            step = best_step(open_checkpoint(path).meta)
        except DataError:
            continue
        same = [one for (other, _), one in committed(path.parent) if other == step]
        if not same:
            raise DataError(f"{path}: it names no best checkpoint", "the best is told by validations; see train.best")
        return same[-1]
    return newest[0]
