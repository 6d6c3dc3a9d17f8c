"""Trainings that go on from a checkpoint: the same bits on the same ranks, the same numbers on others, after any kill."""

import os
import random
import signal
import time

import numpy as np
import pytest

from dgraph.checkpoint import open_checkpoint
from tests.mpi.launcher import descendants, dgraph, finish, start_front
from tests.mpi.test_failure_mpi import alive
from tests.mpi.test_job_mpi import UNEVEN, VOLUME, good
from tests.runs import CONFIGS, losses, result, saved, settings

pytestmark = pytest.mark.mpi

CONFIG = CONFIGS / "volume.yaml"


def train(ranks, run, *options, config=CONFIG):
    return good(finish(start_front("train", config, "-n", ranks, "--run", run, *options)))


def resumed(run, other):
    """Options that go on with a run in another folder."""
    return ("--resume", run, "--run", other)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run of 4 ranks of which 2 steps are done."""
    run = tmp_path_factory.mktemp("stopped")
    train(4, run, *settings(train__steps=2))
    return run


@pytest.mark.parametrize(("net", "options"), [("volume", []), ("mixed", UNEVEN)])  # momentum; Adam, cut over the ranks
def test_on_the_same_ranks_not_a_bit_differs(net, options, tmp_path):
    config = CONFIGS / f"{net}.yaml"
    train(4, tmp_path / "whole", *options, config=config)
    train(4, tmp_path / "half", *options, *settings(train__steps=2), config=config)
    good(finish(start_front("train", config, "-n", 4, "--resume", tmp_path / "half", *options)))
    ours, theirs = saved(tmp_path / "half"), saved(tmp_path / "whole")
    assert any(":" in name for name in theirs)
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if ours[name].tobytes() != theirs[name].tobytes()] == []


def test_on_other_ranks_the_curve_goes_on(stopped, tmp_path):
    options = settings(train__log_every=1)
    train(4, tmp_path / "4", *options)
    whole = losses(tmp_path / "4")
    for ranks in (1, 2, 3):
        mesh = settings(mesh=VOLUME[ranks])
        good(finish(start_front("train", CONFIG, *resumed(stopped, tmp_path / str(ranks)), *options, *mesh)))
        np.testing.assert_allclose(losses(tmp_path / str(ranks)), whole[2:], rtol=1e-5)


def test_on_other_ranks_it_predicts_the_same(stopped, tmp_path):
    measures, predictions = [], []
    for ranks in (1, 2, 3, 4):
        options = ("--checkpoint", stopped, "--json", *settings(mesh=VOLUME[ranks]))
        measures.append(result(good(finish(start_front("evaluate", CONFIG, *options))).out))
        output = tmp_path / f"{ranks}.npz"
        good(finish(start_front("predict", CONFIG, *options, "-o", output)))
        with np.load(output, allow_pickle=False) as file:
            predictions.append(dict(file))
    for measured, predicted in zip(measures, predictions, strict=True):
        assert all(
            measured[key] == pytest.approx(measures[-1][key], rel=1e-5) for key in ("loss", "accuracy", "samples")
        )
        assert (predicted["index"] == predictions[-1]["index"]).all()
        assert (predicted["class"] == predictions[-1]["class"]).all()
        np.testing.assert_allclose(predicted["probability"], predictions[-1]["probability"], rtol=1e-4, atol=1e-6)


def test_a_launcher_s_ranks_resume_too(stopped, tmp_path):
    done = good(
        dgraph("mpich", 2, "train", CONFIG, *resumed(stopped, tmp_path), "--json", "--set", "mesh={z: 2, y: 1}")
    )
    assert result(done.out)["steps"] == 5


def test_whenever_it_is_killed_it_resumes(tmp_path):
    """8 kills at random moments, on another number of ranks each time."""
    train(4, tmp_path, *settings(train__steps=1))
    chance, step = random.Random(0), 1
    for kill in range(8):
        endless = settings(train__epochs=10**6, train__steps="null", mesh=VOLUME[1 + kill % 4])
        job = start_front("train", CONFIG, "--resume", tmp_path, *endless)
        wait_for_growth(job, tmp_path / "metrics.jsonl")
        time.sleep(chance.uniform(0, 0.3))
        kill_all(job)
        checkpoint = open_checkpoint(tmp_path)
        checkpoint.verify()
        assert checkpoint.step >= step
        step = checkpoint.step
    assert step > 8
    done = train(4, tmp_path, "--resume", tmp_path, "--json", *settings(train__steps=step + 1))
    assert result(done.out)["steps"] == step + 1


def wait_for_growth(job, path, seconds=30):
    """Until the job has written to a file that was there before."""
    size, until = path.stat().st_size, time.monotonic() + seconds
    while path.stat().st_size == size:
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < until, "nothing was written"
        time.sleep(0.005)


def kill_all(job):
    """SIGKILL for a job and all below it, which are then gone."""
    pids = [*descendants(job.pid), job.pid]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    job.communicate(timeout=10)
    until = time.monotonic() + 10
    while any(map(alive, pids)):
        assert time.monotonic() < until, "ranks are still there"
        time.sleep(0.005)
