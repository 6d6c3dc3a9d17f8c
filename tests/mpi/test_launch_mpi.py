"""Ranks started by dgraph itself: status, signals, the cause last whatever the launcher has to say."""

import signal
import subprocess
import sys
import time

import pytest

from tests.mpi.launcher import FAMILIES, HERE, clean_environment, launcher
from tests.mpi.test_failure_mpi import alive

pytestmark = pytest.mark.mpi

FRONT = """
import sys
from pathlib import Path
from dgraph.runtime.launch import launch
sys.exit(launch(3, sys.argv[3:], Path(sys.argv[1]), (sys.executable, sys.argv[2])))
"""


def front(mpi, *arguments):
    """A process that starts ranks as the command line does."""
    mpiexec = launcher(mpi)
    command = [sys.executable, "-c", FRONT, mpiexec, HERE / "fail.py", *arguments]
    return subprocess.Popen(command, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("mpi", FAMILIES)
@pytest.mark.parametrize(("how", "status"), [("nothing", 0), ("data", 4)])
def test_the_status_of_the_job(mpi, how, status):
    job = front(mpi, how, "0,1,2")
    error = job.communicate(timeout=30)[1]
    assert job.returncode == status
    assert error == ("error: no file digits.npz\n" if status else "")


@pytest.mark.parametrize("mpi", FAMILIES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_end_the_job(mpi, number):
    job = front(mpi, "hang", "0,1,2")
    pids = [int(job.stdout.readline()) for _ in range(3)]
    job.send_signal(number)
    error = job.communicate(timeout=5)[1]
    assert job.returncode != 0
    assert "Traceback" not in error
    until = time.monotonic() + 5
    while any(map(alive, pids)):
        assert time.monotonic() < until, "ranks are still there"
        time.sleep(0.05)
