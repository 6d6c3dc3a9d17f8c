"""How a job ends when a rank cannot go on.

In: whatever a rank raises. Out: the cause, last on stderr, and the end of all ranks. Promise: no hang and no chorus.
An error that all ranks have alike is told once, by rank 0. A rank cannot ask the others whether they failed too (those
that did not are inside a wait), so each waits a moment that grows with its number before it speaks: the lowest speaks first
and ends the job, and with it those who would have said the same.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from dgraph.runtime.cause import status_of, tell
from dgraph.runtime.communicator import Communicator
from dgraph.runtime.environment import die_with_parent


def patience(rank: int) -> float:
    """Seconds that a failed rank leaves to lower ones: none for rank 0, at most 1.7."""
    return 0.0 if rank == 0 else 0.2 + 0.15 * min(rank, 10)


def _place(communicator: Communicator, where: Callable[[], str]) -> str:
    """Rank, host and what the rank was at; a `where` that fails must not hide the cause."""
    try:
        at = where()
    except Exception as error:
        at = f"(place unknown: {error})"
    return ", ".join(filter(None, (f"rank {communicator.rank} on {communicator.host}", at)))


def end(communicator: Communicator, where: Callable[[], str], error: BaseException) -> NoReturn:
    """Tell the cause and end all ranks."""
    place = _place(communicator, where)
    time.sleep(patience(communicator.rank))
    tell(error, place)
    communicator.abort(status_of(error))


def _end_from_thread(communicator: Communicator, where: Callable[[], str], error: BaseException) -> NoReturn:
    """As `end`; where that only raises, it would end this thread alone."""
    try:
        end(communicator, where, error)
    except SystemExit as leaving:
        os._exit(status_of(leaving))


@contextmanager
def guard(communicator: Communicator, where: Callable[[], str]) -> Iterator[None]:
    """Around all that a rank does: an error ends the whole job, its cause last on stderr.

    `where` says at any time what this rank is at. Errors of other threads count too. SIGTERM keeps its default, which ends
    this rank even inside a blocked MPI call, and with it the job.
    """
    if not faulthandler.is_enabled():
        faulthandler.enable(file=2)
    if communicator.size > 1:
        die_with_parent()

    def end_of_thread(failed: threading.ExceptHookArgs) -> None:
        error = failed.exc_value or failed.exc_type()
        if not isinstance(error, SystemExit):
            _end_from_thread(communicator, where, error)

    before, threading.excepthook = threading.excepthook, end_of_thread
    try:
        yield
    except BaseException as error:
        if isinstance(error, GeneratorExit) or (isinstance(error, SystemExit) and not status_of(error)):
            raise
        end(communicator, where, error)
    finally:
        threading.excepthook = before
