"""The next batch, read while this one is computed.

In: the arrays that a rank's data nodes fill, a function that reads. Out: `Feeder`. Promise: the same bits with and without; one
read at a time; what a read raises is raised where its batch is wanted; a thread ends with its read, so none is left when no batch
is announced. Arrays to read into are allocated once: those of one batch in training, and of one in evaluations.

    step k       feed | compute ...................... | feed k+1: copied      the thread of batch k+1 starts when batch k
    thread            | read k+1 ............ |                                stands where it belongs
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import numpy as np

from dgraph.data.batch import Batch
from dgraph.data.spec import Array
from dgraph.rect import Rect
from dgraph.spare import Pool, lent

Places = Mapping[str, tuple[Array, Rect]]
"""Port of a data node -> the array that it fills, and its rect of the batch."""
Read = Callable[[Batch, Places], None]


class Feeder:
    """Fills the arrays of a rank's data nodes.

    Parameters
    ----------
    fed : the arrays of every data node.
    read : fills them with a rank's part of a batch.
    training : whether batches of evaluations are not the only ones.
    ahead : whether a batch that is announced is read before it is wanted.
    """

    def __init__(self, fed: Mapping[str, Places], read: Read, training: bool, ahead: bool) -> None:
        self._batch = Batch(np.empty(0, np.int64), None)
        self._following: Batch | None = None
        self._alone = threading.Lock()
        self._read = read
        phases = (True, False) if training else (False,)
        slots = [(node, phase) for node in fed for phase in phases] if ahead else []
        self._slots = {(node, phase): _Slot(fed[node], self._read_alone) for node, phase in slots}

    def announce(self, batch: Batch, following: Batch | None) -> None:
        """What is fed next, and what after it (None: nothing is known)."""
        self._batch, self._following = batch, following

    def feed(self, node: str, places: Places) -> None:
        """Fills the arrays of a data node. Raises what reading them raised."""
        slot = self._slots.get((node, self._batch.training))
        if slot is None or not slot.give(self._batch, places):
            self._read_alone(self._batch, places)
        if self._following is not None and (ahead := self._slots.get((node, self._following.training))):
            ahead.start(self._following)

    def _read_alone(self, batch: Batch, places: Places) -> None:
        """Sources need not stand two reads at a time."""
        with self._alone:
            self._read(batch, places)


class _Slot:
    """Arrays like those of a data node, which hold a batch ahead of its time."""

    def __init__(self, places: Places, read: Read) -> None:
        self._places = {port: (np.empty_like(array), rect) for port, (array, rect) in places.items()}
        self._read = read
        self._batch: Batch | None = None
        self._pool = Pool()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def start(self, batch: Batch) -> None:
        """Reads a batch in a thread, once what was read before is read."""
        self._join()
        self._batch, self._error = batch, None
        # A daemon: a read that does not come back does not hold the process.
        self._thread = threading.Thread(target=self._run, args=(batch,), name="prefetch", daemon=True)
        self._thread.start()

    def give(self, batch: Batch, places: Places) -> bool:
        """Copies a batch to where it belongs; False if it is not the one that was read."""
        self._join()
        held, self._batch = self._batch, None
        if held is None or not held.same(batch):
            return False
        if self._error is not None:
            raise self._error
        for port, (array, _) in places.items():
            array[...] = self._places[port][0]
        return True

    def _run(self, batch: Batch) -> None:
        try:
            # As in a step: what is not finite is for the loss to report.
            with np.errstate(all="ignore"), lent(self._pool):
                self._read(batch, self._places)
        except Exception as error:
            self._error = error

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
