"""How jobs of real ranks end: soon, with a status, the cause last on stderr."""

import os
import re
import signal
import time

import pytest

from tests.mpi.launcher import FAMILIES, finish, launcher, run, start

pytestmark = pytest.mark.mpi

DEFECT = r"rank 2 on \S+, step 12, node L1.filter: ValueError: not what it should be$"
LOSS = r"error: the loss is not finite \(node loss, step 12\)$"
SECONDS = 5


@pytest.mark.parametrize("mpi", FAMILIES)
@pytest.mark.parametrize(
    ("how", "ranks", "status", "last"),
    [("defect", "2", 1, DEFECT), ("defect", "2,3", 1, DEFECT), ("thread", "2", 1, DEFECT), ("loss", "1,3", 3, LOSS)],
)
def test_a_cause_is_last(mpi, how, ranks, status, last):
    done = run(mpi, 4, "fail.py", how, ranks)
    assert done.status == status
    assert done.seconds < SECONDS
    assert re.match(last, done.last), done.error
    assert done.error.count(done.last) == 1


@pytest.mark.parametrize("mpi", FAMILIES)
def test_an_error_of_all_is_told_once(mpi):
    done = run(mpi, 4, "fail.py", "data", "0,1,2,3")
    assert done.status == 4
    assert done.last == "error: no file digits.npz", done.error
    assert done.error.count("digits") == 1
    assert done.seconds < SECONDS


@pytest.mark.parametrize("mpi", FAMILIES)
@pytest.mark.parametrize("how", ["killed", "terminated", "interrupt", "leave"])
def test_a_rank_that_ends_ends_all(mpi, how):
    done = run(mpi, 3, "fail.py", how, "1")
    assert done.status != 0
    assert done.seconds < SECONDS
    assert "Traceback" not in done.error


@pytest.mark.parametrize("mpi", FAMILIES)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_ranks_do_not_outlive_their_launcher(mpi, number):
    job = start(mpi, 2, "fail.py", "hang", "0,1")
    pids = [int(job.stdout.readline()) for _ in range(2)]
    job.send_signal(number)
    finish(job, SECONDS)
    until = time.monotonic() + SECONDS
    while any(map(alive, pids)):
        assert time.monotonic() < until, "ranks are still there"
        time.sleep(0.05)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("mpi", FAMILIES)
def test_singletons_are_refused(mpi):
    """The launcher of one MPI with the library of the other: every rank is alone."""
    other = {"mpich": "openmpi", "openmpi": "mpich"}[mpi]
    library = launcher(other).parent.parent / "lib" / {"openmpi": "libmpi.so.40", "mpich": "libmpi.so.12"}[other]
    done = run(mpi, 2, "fail.py", "data", "0", MPI4PY_LIBMPI=str(library))
    assert done.status != 0
    assert done.seconds < SECONDS
    if mpi == "mpich":  # MPICH under Open MPI's launcher ends by itself before anybody is asked
        assert done.status == 2
        assert done.last.startswith("error: mpiexec started 2 ranks, but Open MPI v")
        assert "knows of 1 (" in done.last


def test_a_library_that_is_not_there_is_told_once():
    done = run("mpich", 3, "fail.py", "nothing", "0,1,2", MPI4PY_LIBMPI="/nowhere/libmpi.so")
    assert done.status == 2
    assert done.error == "error: MPI cannot be loaded: cannot load MPI library (pip install mpi4py mpich)\n"
