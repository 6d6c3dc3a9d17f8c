"""What stands around this process: the launcher that started it, the cores of its node, its parent.

In: environment variables and the operating system. Out: `Launched`, and the number of threads for numeric libraries.
Promise: imports nothing heavy, so that it runs before NumPy (which reads the number of threads when it loads).
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

RANKS = "DGRAPH_RANKS"
"""Set by `dgraph.runtime.launch` for the ranks that it starts: how many."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_OWN_THREADS = "DGRAPH_THREADS"
_PR_SET_PDEATHSIG = 1
# Steps that Slurm numbers so are the shells of sbatch and salloc: nobody asked srun for tasks.
_SLURM_SHELLS = ("4294967291", "4294967290")


@dataclass(frozen=True)
class Launched:
    """What a launcher says of this process. `local_size` is the number of ranks on this node, None if it does not say."""

    by: str
    rank: int
    size: int
    local_size: int | None


def _number(environ: Mapping[str, str], *names: str) -> int | None:
    """The first of these variables that holds a number."""
    return next((int(environ[n]) for n in names if environ.get(n, "").isdecimal()), None)


def _slurm_local_size(environ: Mapping[str, str]) -> int | None:
    """Tasks on this node from a list such as `4(x2),3`: four on each of two nodes, three on the next."""
    node = _number(environ, "SLURM_NODEID")
    text = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE", "")
    counts = [int(n) for n, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text) for _ in range(int(times or 1))]
    return counts[node] if node is not None and node < len(counts) else None


def _slurm(environ: Mapping[str, str]) -> Launched | None:
    """A task that srun started, among others. The variables alone say nothing: sbatch and salloc set many of them too."""
    step = environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID", ""))
    rank = _number(environ, "PMIX_RANK", "SLURM_PROCID")
    size = _number(environ, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    if not step or step in _SLURM_SHELLS or rank is None or size is None or size < 2:
        return None
    return Launched("srun", rank, size, _slurm_local_size(environ))


def launched(environ: Mapping[str, str] = os.environ) -> Launched | None:
    """What the launcher says of this process; None where there is none."""
    pairs = (
        ("Open MPI's mpirun", ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")),
        ("mpiexec", ("PMI_RANK", "PMI_SIZE")),
    )
    for by, (rank_name, size_name) in pairs:
        rank, size = _number(environ, rank_name), _number(environ, size_name)
        if rank is not None and size is not None:
            local = _number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "PMI_LOCAL_SIZE")
            return Launched(by, rank, size, local or _slurm_local_size(environ))
    task = _slurm(environ)
    if task is not None:
        return task
    size = _number(environ, RANKS)
    return None if size is None else Launched("dgraph", _number(environ, "PMIX_RANK") or 0, size, size)


def _cores_of_node(environ: Mapping[str, str]) -> int:
    """Cores that the ranks of this node share: Slurm says so; elsewhere the parent may use all that it may give away."""
    allocated = _number(environ, "SLURM_CPUS_ON_NODE")
    if allocated is not None:
        return allocated
    try:
        return len(os.sched_getaffinity(os.getppid()))
    except OSError:
        return len(os.sched_getaffinity(0))


def thread_share(environ: Mapping[str, str] = os.environ) -> int:
    """Threads for this rank: the cores that it may use, at most its share of the node; at least 1."""
    mine = len(os.sched_getaffinity(0))
    task = launched(environ)
    if task is None:
        return mine
    return max(1, min(mine, _cores_of_node(environ) // (task.local_size or task.size)))


def set_threads(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set the number of threads of numeric libraries to this rank's share, or to what the user has set for any of them.

    Takes effect only before NumPy is imported. What is set here is noted, so that ranks started from this process do not
    take it for the user's wish.
    """
    own = environ.get(_OWN_THREADS, "").split()
    mine = [name for name in THREAD_VARIABLES if name not in environ or name in own]
    wished = next((environ[name] for name in THREAD_VARIABLES if name not in mine), str(thread_share(environ)))
    environ.update(dict.fromkeys(mine, wished))
    environ[_OWN_THREADS] = " ".join(mine)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies (Linux; nothing elsewhere)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
