"""A training that is asked to stop: on all ranks after the same step, saved, with status 75, and as good as never stopped."""

import os
import signal
import sys
import time

import pytest

from dgraph.checkpoint import open_checkpoint
from dgraph.runtime.launch import DGRAPH
from tests.mpi.launcher import FAMILIES, descendants, finish, launcher, start, start_front, start_python
from tests.mpi.test_job_failure_mpi import wait_for
from tests.mpi.test_job_mpi import VOLUME, good
from tests.runs import CONFIGS, entries, saved, settings

pytestmark = pytest.mark.mpi

CONFIG = CONFIGS / "volume.yaml"
SCRIPT = """
import sys
from pathlib import Path
from dgraph.runtime.launch import launch
sys.exit(launch(3, sys.argv[2:], Path(sys.argv[1]), stoppable=True))
"""


def begin(by, ranks, run):
    """A training without end, started by a launcher, or by dgraph with the launcher of an MPI."""
    more = settings(train__steps=10**6, train__log_every=1, mesh=VOLUME[ranks])
    words = ("train", CONFIG, "--run", run, *more)
    if by.startswith("dgraph"):
        script = ("-c", SCRIPT, launcher(by.removeprefix("dgraph on ")))
        return start_front(*words, program=(sys.executable, *script) if ranks > 1 else DGRAPH)
    return start_python(by, ranks, *DGRAPH[1:], *map(str, words))


def ranks_of(job):
    """The processes of the ranks: those below that have none below them."""
    below = [pid for pid in descendants(job.pid) if not descendants(pid)]
    return below or [job.pid]


def ask(job, number, whom):
    """Sends a signal to what was started, to one rank, or to all of them."""
    pids = {"front": [job.pid], "one rank": ranks_of(job)[-1:], "all ranks": ranks_of(job)}[whom]
    for pid in pids:
        os.kill(pid, number)


@pytest.mark.parametrize(("by", "ranks", "number", "whom"), [
    ("dgraph on mpich", 1, signal.SIGTERM, "front"),
    ("dgraph on mpich", 3, signal.SIGTERM, "front"),
    ("dgraph on mpich", 3, signal.SIGUSR1, "one rank"),
    ("dgraph on openmpi", 3, signal.SIGTERM, "front"),
    ("dgraph on openmpi", 3, signal.SIGUSR1, "front"),
    ("mpich", 3, signal.SIGTERM, "front"),
    ("mpich", 3, signal.SIGTERM, "all ranks"),
    ("openmpi", 3, signal.SIGUSR1, "front"),
    ("openmpi", 3, signal.SIGTERM, "one rank"),
])  # fmt: skip
def test_who_is_asked_to_stop_saves_and_leaves(by, ranks, number, whom, tmp_path):
    job = begin(by, ranks, tmp_path)
    wait_for(tmp_path / "metrics.jsonl")
    ask(job, number, whom)
    done = finish(job)
    assert done.status == 75, done.error
    assert done.error == "" or by == "openmpi"
    assert f"stopped as asked; --resume {tmp_path} goes on" in done.out
    assert "\x1b" not in done.out, "a pipe is no terminal"
    steps = [entry["step"] for entry in entries(tmp_path, "step")]
    assert steps == list(range(1, len(steps) + 1))
    assert open_checkpoint(tmp_path).step == steps[-1]


def test_who_was_stopped_goes_on_with_the_same_bits(tmp_path):
    job = begin("mpich", 3, tmp_path / "stopped")
    wait_for(tmp_path / "stopped" / "metrics.jsonl")
    ask(job, signal.SIGUSR1, "front")
    assert finish(job).status == 75
    more = settings(train__steps=open_checkpoint(tmp_path / "stopped").step + 3, train__log_every=1, mesh=VOLUME[3])
    good(finish(start_front("train", CONFIG, "--resume", tmp_path / "stopped", *more)))
    good(finish(start_front("train", CONFIG, "--run", tmp_path / "whole", *more)))
    ours, theirs = (saved(tmp_path / name) for name in ("stopped", "whole"))
    assert [name for name in theirs if ours[name].tobytes() != theirs[name].tobytes()] == []
    told = [[(e["step"], e["loss"]) for e in entries(tmp_path / name, "step")] for name in ("stopped", "whole")]
    assert told[0] == told[1]
    lines = [[{**e, "seconds": 0} for e in entries(tmp_path / name, "epoch")] for name in ("stopped", "whole")]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("mpi", FAMILIES)
def test_a_second_sigterm_ends_a_rank_that_waits_for_ever(mpi):
    job = start(mpi, 2, "wait.py")
    pids = dict(reversed([int(word) for word in job.stdout.readline().split()]) for _ in range(2))
    os.kill(pids[0], signal.SIGTERM)
    time.sleep(1.5)
    assert job.poll() is None
    os.kill(pids[0], signal.SIGTERM)
    done = finish(job, 10)
    assert done.status != 0
    assert "Traceback" not in done.error
