"""From a process to a rank: load the right MPI, refuse ranks that do not know of each other, and guard what they do.

In: what the launcher says. Out: a communicator. Promise: a process that no launcher started never loads MPI.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path

from dgraph.runtime.cause import status_of, tell
from dgraph.runtime.communicator import Communicator, OneRank
from dgraph.runtime.environment import Launched, launched
from dgraph.runtime.failure import guard
from dgraph.runtime.launch import LaunchError, library_path

_OTHERS_WAIT_SECONDS = 0.5


def choose_library(environ: MutableMapping[str, str]) -> None:
    """Have mpi4py load the library of the MPI whose launcher started this process, unless it was told which."""
    if "OMPI_COMM_WORLD_SIZE" in environ:
        # Windows of shared memory do not need it, and Open MPI 5.0 reports on every rank that it is not there.
        environ.setdefault("OMPI_MCA_osc", "^ucx")
    if "MPI4PY_LIBMPI" in environ or "MPI4PY_MPIABI" in environ:
        return
    if "OMPI_COMM_WORLD_SIZE" in environ:
        library = library_path("openmpi", Path(environ.get("PMIX_PREFIX", sys.prefix)))
    elif "PMI_SIZE" in environ:
        library = library_path("mpich", Path(sys.prefix))
    else:
        library = None
    if library:
        environ["MPI4PY_LIBMPI"] = library


def _load() -> Communicator:
    choose_library(os.environ)
    with warnings.catch_warnings():
        # mpi4py warns on every rank where launcher and library differ; the refusal below says it once.
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            # Not at the top: this import initialises MPI, which one rank neither needs nor may have.
            from dgraph.runtime.mpi import MPICommunicator
        except (ImportError, RuntimeError) as error:
            text = str(error).strip().partition("\n")[0]
            raise LaunchError(f"MPI cannot be loaded: {text}", "pip install mpi4py mpich") from None
    return MPICommunicator()


def connect(task: Launched | None) -> Communicator:
    """The communicator of this process; MPI's if a launcher started it. Collective.

    Raises LaunchError where the launcher started another number of ranks than MPI knows of.
    """
    if task is None:
        return OneRank()
    communicator = _load()
    if communicator.size != task.size:
        raise LaunchError(
            f"{task.by} started {task.size} ranks, but {communicator.mpi} knows of {communicator.size}",
            "launcher and library belong to different MPIs: use the mpiexec of that library, or set MPI4PY_LIBMPI",
        )
    return communicator


def _connect_or_leave(task: Launched | None) -> Communicator:
    """Ranks that cannot connect cannot agree on who speaks: the launcher's rank 0 does, the others give it time."""
    try:
        return connect(task)
    except LaunchError as error:
        if task is None or task.rank == 0:
            tell(error)
        else:
            time.sleep(_OTHERS_WAIT_SECONDS)
        raise SystemExit(status_of(error)) from None


@contextmanager
def connected(where: Callable[[], str]) -> Iterator[Communicator]:
    """A guarded communicator, closed at the end. Collective.

    `where` says at any time what this rank is at (`step 12, node L1.filter`), for the report of a failure.
    """
    communicator = _connect_or_leave(launched())
    with guard(communicator, where):
        yield communicator
        communicator.close()
