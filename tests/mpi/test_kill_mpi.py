"""Kills at any moment: no committed checkpoint is lost, and who goes on ends with the bits of a run that was never killed."""

import random
import time

import pytest

from dgraph.checkpoint import open_checkpoint
from tests.mpi.launcher import HERE, finish, start_front, start_python
from tests.mpi.test_job_checkpoint_mpi import kill_all, wait_for_growth
from tests.mpi.test_job_mpi import VOLUME, good
from tests.runs import CONFIGS, entries, saved, settings

pytestmark = pytest.mark.mpi

CONFIG = CONFIGS / "volume.yaml"
RANKS = 2


def committed(run):
    return {path.name for path in run.glob("checkpoints/step-*") if not path.name.endswith(".tmp")}


def half_written(run):
    try:
        return [*run.glob("checkpoints/*.tmp/rank*")]
    except FileNotFoundError:  # It was committed, and has its name, while we looked.
        return []


def wait_until(job, reached, seconds=30):
    until = time.monotonic() + seconds
    while not reached():
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < until, "nothing was written"
        time.sleep(0.002)


def go_on(run, writing, dice):
    """A training that goes on until it is killed, while it writes a checkpoint or at any moment."""
    endless = settings(train__steps=10**6, train__log_every=1, train__checkpoint_steps=3, mesh=VOLUME[RANKS])
    job = start_python("mpich", RANKS, HERE / "slow_disk.py", "train", CONFIG, "--resume", run, *map(str, endless))
    begin = committed(run)
    wait_for_growth(job, run / "metrics.jsonl")
    if dice.random() < 0.7:
        wait_until(job, lambda: committed(run) - begin)
    if writing:
        wait_until(job, lambda: half_written(run))
    time.sleep(dice.uniform(0, 0.06 if writing else 0.3))
    if writing:
        wait_until(job, lambda: half_written(run))
    before = committed(run)
    kill_all(job)
    return before


@pytest.mark.parametrize("kills", [4, pytest.param(60, marks=pytest.mark.heavy)])
def test_no_kill_loses_a_checkpoint_or_a_bit(kills, tmp_path):
    run, dice, torn = tmp_path / "killed", random.Random(kills), 0
    more = settings(train__log_every=1, train__checkpoint_steps=3, mesh=VOLUME[RANKS])
    good(finish(start_front("train", CONFIG, "--run", run, *more, *settings(train__steps=1))))
    step = 1
    for kill in range(kills):
        before = go_on(run, kill % 4 > 0, dice)
        torn += bool(list(run.glob("checkpoints/*.tmp")))
        checkpoint = open_checkpoint(run)
        checkpoint.verify()
        assert checkpoint.step >= max(step, *(int(name[5:11]) for name in before))
        step = checkpoint.step
    assert torn >= kills // 2
    last = settings(train__steps=step + 2)
    good(finish(start_front("train", CONFIG, "--resume", run, *more, *last)))
    good(finish(start_front("train", CONFIG, "--run", tmp_path / "whole", *more, *last), 300))
    ours, theirs = saved(run), saved(tmp_path / "whole")
    assert [name for name in theirs if ours[name].tobytes() != theirs[name].tobytes()] == []
    told = [[(e["step"], e["loss"]) for e in entries(one, "step")] for one in (run, tmp_path / "whole")]
    assert told[0] == told[1]
    print(f"{kills} kills, {torn} of them within a checkpoint; {step + 2} steps")
