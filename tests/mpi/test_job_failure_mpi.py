"""How a training ends that cannot go on: within seconds, with a status, and with one line that says where and why."""

import os
import re
import signal
import time

import pytest

from tests.mpi.launcher import FAMILIES, descendants, dgraph, finish, launcher, run, start_front
from tests.mpi.test_failure_mpi import SECONDS, alive
from tests.runs import CONFIGS, settings

pytestmark = pytest.mark.mpi

VOLUME = CONFIGS / "volume.yaml"
DIVERGED = (
    r"error: the loss is not finite at step 2: the first node with a NaN or infinity is second\.conv "
    r"\(tensor second\.conv\.output, rank 0; try a smaller rate\)\n"
)


@pytest.mark.parametrize("mpi", FAMILIES)
@pytest.mark.parametrize("node", ["second.conv", "second.conv.grad"])
def test_an_exception_inside_a_step(mpi, node):
    done = run(mpi, 4, "step.py", VOLUME, "defect", node)
    assert done.status == 1
    assert time.time() - float(done.out.split()[0]) < SECONDS
    assert re.fullmatch(rf"rank 2 on \S+, step 3, node {node}: ValueError: not what it should be", done.last), (
        done.error
    )
    assert done.error.count("Traceback") == 1


@pytest.mark.parametrize("mpi", FAMILIES)
def test_a_rank_killed_inside_a_step(mpi):
    done = run(mpi, 4, "step.py", VOLUME, "killed", "second.conv")
    assert done.status != 0
    assert time.time() - float(done.out.split()[0]) < SECONDS
    assert "Traceback" not in done.error


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("by", ["dgraph", *FAMILIES])
def test_a_loss_that_is_not_finite(by, ranks, tmp_path):
    options = settings(mesh=f"{{z: {ranks}, y: 1}}", train__optimizer="{sgd: {rate: 1e30}}")
    arguments = ("train", VOLUME, "--run", tmp_path, *options)
    done = finish(start_front(*arguments, "-n", ranks)) if by == "dgraph" else dgraph(by, ranks, *arguments)
    assert done.status == 3
    lines = done.error if by != "openmpi" else done.last + "\n"
    assert re.fullmatch(DIVERGED, lines), done.error


@pytest.mark.parametrize("victim", ["rank", "launcher", "dgraph"])
def test_a_kill_from_outside_ends_the_job(victim, tmp_path):
    job = start_front("train", VOLUME, "-n", 4, "--run", tmp_path, *settings(train__steps=10**6, train__log_every=1))
    wait_for(tmp_path / "metrics.jsonl")
    below = descendants(job.pid)
    os.kill({"rank": below[-1], "launcher": below[0], "dgraph": job.pid}[victim], signal.SIGKILL)
    done = finish(job, SECONDS)
    assert done.status != 0
    assert "Traceback" not in done.error
    until = time.monotonic() + SECONDS
    while any(map(alive, below)):
        assert time.monotonic() < until, "ranks are still there"
        time.sleep(0.05)


def wait_for(path, seconds=30):
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"no {path}"
        time.sleep(0.02)


def test_ranks_that_nobody_introduced_are_refused(tmp_path):
    """Each of them takes itself for the only one, though it was told that there are two."""
    done = finish(start_front("train", VOLUME, "--run", tmp_path / "run", DGRAPH_RANKS="2"))
    assert done.status == 2
    assert re.fullmatch(r"error: dgraph started 2 ranks, but .* knows of 1 \(.*\)\n", done.error)
    assert not (tmp_path / "run").exists()


def test_ranks_with_the_library_of_another_mpi_are_refused(tmp_path):
    library = launcher("openmpi").parent.parent / "lib" / "libmpi.so.40"
    done = dgraph("mpich", 3, "train", VOLUME, "--run", tmp_path / "run", MPI4PY_LIBMPI=str(library))
    assert done.status == 2
    assert re.fullmatch(r"error: mpiexec started 3 ranks, but Open MPI .* knows of 1 \(.*\)", done.last)
    assert done.error.count(done.last) == 1
    assert not (tmp_path / "run").exists()
