"""Launchers of real ranks for tests: which there are, and how a script is run by one."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from dgraph.error import DgraphError
from dgraph.runtime.launch import DGRAPH, family, find_mpiexec, rank_environment

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FAMILIES = ("mpich", "openmpi")


def launcher(mpi):
    """The launcher of this MPI; the test is skipped where there is none.

    The environment variable DGRAPH_TEST_MPIEXEC may name more of them, separated by colons.
    """
    named = [Path(p) for p in os.environ.get("DGRAPH_TEST_MPIEXEC", "").split(":") if p]
    on_path = [Path(p) for p in map(shutil.which, ("mpiexec", "mpiexec.mpich", "mpiexec.openmpi")) if p]
    try:
        candidates = [find_mpiexec(), *on_path, *named]
    except DgraphError:
        candidates = [*on_path, *named]
    for path in candidates:
        if family(path) == mpi:
            return path
    pytest.skip(f"no launcher of {mpi} here")


@dataclass
class Done:
    """How a job ended."""

    status: int
    out: str
    error: str
    seconds: float

    @property
    def last(self):
        """The last line on stderr that a rank or dgraph wrote; Open MPI's launcher adds boxes of its own."""
        lines, inside = [], False
        for line in self.error.splitlines():
            if line.startswith("-" * 70):
                inside = not inside
            elif not inside and line.strip("\0 "):
                lines.append(line)
        return lines[-1] if lines else ""


def clean_environment():
    """Ours, without what a launcher or dgraph has put there."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI", "PRTE", "MPI4PY", "DGRAPH"))}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**clean, **threads, "PYTHONPATH": str(ROOT), "DGRAPH_PICTURES": "0"}


def start_python(mpi, ranks, *arguments, **changes):
    """Start Python with these arguments on so many ranks. `changes` to the environment come last."""
    mpiexec = launcher(mpi)
    command = [mpiexec, "-n", str(ranks), sys.executable, *arguments]
    env = {**rank_environment(mpi, mpiexec, ranks, clean_environment()), **changes}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start(mpi, ranks, script, *arguments, **changes):
    """Start a script of this folder on so many ranks."""
    return start_python(mpi, ranks, HERE / script, *arguments, **changes)


def start_front(*arguments, program=DGRAPH, **changes):
    """Start a command of dgraph as a user does; ranks, if there are to be some, are started by it."""
    command = [*map(str, program), *map(str, arguments)]
    env = {**clean_environment(), **changes}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(job, seconds=60):
    """Wait for a job, at most so long."""
    begin = time.monotonic()
    try:
        out, error = job.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        job.kill()
        out, error = job.communicate()
        pytest.fail(f"still running after {seconds} s\n{out}\n{error}")
    return Done(job.returncode, out, error, time.monotonic() - begin)


def run(mpi, ranks, script, *arguments, **changes):
    return finish(start(mpi, ranks, script, *arguments, **changes))


def dgraph(mpi, ranks, *arguments, **changes):
    """Run a command of dgraph whose ranks are started by a launcher."""
    return finish(start_python(mpi, ranks, "-m", "dgraph", *map(str, arguments), **changes))


def descendants(pid):
    """The processes below this one, by what the kernel says at the moment (Linux)."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found += [child, *descendants(child)]
    return found
