"""Runs that stop anywhere and go on: the same bits on the same ranks, the same numbers on others."""

import errno
import json
import os
import random
from dataclasses import replace

import numpy as np
import pytest

from dgraph.checkpoint import open_checkpoint
from dgraph.config import parse_config
from dgraph.config.schema import Choice, StopConfig, TrainConfig
from dgraph.error import DataError
from dgraph.program import compile_config
from dgraph.run import RunFolder
from dgraph.runtime.communicator import OneRank
from dgraph.runtime.stop import Wish
from dgraph.runtime.thread import run_threads
from dgraph.train import TrainOptions, Worker, train
from dgraph.train.memory import Best, Record
from tests.runs import saved

TEXT = """\
name: resumed
mesh: {p: auto}
data: {source: synthetic, shape: [2, 6, 6], classes: 3, batch: 8, samples: 60, shares: {train: 0.7, validation: 0.2, test: 0.1}}
layers:
  - {name: one, conv: {channels: 6, size: 3, padding: 1}, norm: batch, nonlinearity: relu, split: {H: p}}
  - {name: drop, dropout: {rate: 0.3}}
  - {name: two, linear: {features: 12}, nonlinearity: tanh, split: {H: p}}
  - {name: out, softmax: {classes: 3, bias: true}, split: {N: p}}
train:
  optimizer: {adam: {rate: 0.003}}
  epochs: 4
  shard: true
  log_every: 1
  checkpoint_steps: 5
  stop: {patience: 3, window: 2, metric: accuracy}
"""
STEPS = 24


def run(ranks, folder, stop_at=None, overrides=(), text=TEXT, chosen=0):
    """Trains in a folder, on threads, going on where there is a run; `chosen` is the rank that is asked to stop at a step. The
    result of rank 0."""
    made = compile_config(parse_config(text, overrides=overrides, ranks=ranks))
    resumed = folder.exists()
    written = RunFolder(folder, "resumed")

    def body(communicator):
        wish, first = Wish(), communicator.rank == 0
        worker = Worker(made, communicator)
        if resumed:
            worker.load(folder, states=True)

        def note(entry):
            if first:
                written.append_metrics(entry)
            if entry["step"] == stop_at and communicator.rank == chosen % ranks:
                wish.name = "SIGTERM"

        rewind = written.rewind_metrics if first else lambda step, again: None
        options = TrainOptions(folder, lambda entry: None, metrics=note, rewind=rewind, wish=wish)
        return train(worker, options)

    return body(OneRank()) if ranks == 1 else run_threads(ranks, body)[0]


def told(folder):
    """All that a run has written of its figures, without what tells the time."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clocks = ("seconds", "seconds_left", "samples_per_second", "communication", "hidden", "steps")
    return [{key: value for key, value in line.items() if key not in clocks} for line in lines]


def remembered(folder):
    """What the newest checkpoint remembers beside its tensors."""
    meta = dict(open_checkpoint(folder).meta)
    return meta | {"loop": meta["loop"] | {"seconds": 0}}


def same(ours, theirs):
    """Two runs have left the same bits."""
    mine, other = saved(ours), saved(theirs)
    assert any(":" in name for name in other)
    assert mine.keys() == other.keys()
    assert [name for name in other if mine[name].tobytes() != other[name].tobytes()] == []
    assert told(ours) == told(theirs)
    assert remembered(ours) == remembered(theirs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that were never stopped, by their number of ranks, made when they are asked for."""
    made = {}

    def get(ranks):
        if ranks not in made:
            made[ranks] = tmp_path_factory.mktemp("whole") / str(ranks)
            assert run(ranks, made[ranks])["steps"] == STEPS
        return made[ranks]

    return get


def check_stopped(ranks, step, whole, folder):
    """Stopped at a step, or soon after, and gone on with."""
    result = run(ranks, folder, step, chosen=step)
    assert result["stopped"] == "asked"
    assert step <= result["steps"] <= step + 1
    assert run(ranks, folder)["steps"] == STEPS
    same(folder, whole(ranks))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_after_any_step_it_goes_on_with_the_same_bits(ranks, whole, tmp_path):
    """Within an epoch, at its end, where a checkpoint is, and at the end of the run."""
    for step in random.Random(ranks).sample([1, 5, 6, 11, 12, 17, 18, 22, 23], 3):
        check_stopped(ranks, step, whole, tmp_path / str(step))


@pytest.mark.heavy
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_after_20_random_steps_it_goes_on_with_the_same_bits(ranks, whole, tmp_path):
    for step in random.Random(100 + ranks).sample(range(1, STEPS), 20):
        check_stopped(ranks, step, whole, tmp_path / str(step))


def check_pair(before, after, step, whole, folder):
    """Stopped on some ranks, gone on with on others: the curves of both."""
    run(before, folder, step)
    run(after, folder)
    for kind, key in (("step", "loss"), ("epoch", "validation")):
        ours, theirs = ([line for line in told(f) if line["kind"] == kind] for f in (folder, whole(after)))
        figures = [[line[key] if kind == "step" else line[key]["loss"] for line in lines] for lines in (ours, theirs)]
        np.testing.assert_allclose(*figures, rtol=1e-5)


def pairs():
    return [(a, b) for a in (1, 2, 3, 4, 6) for b in (1, 2, 3, 4, 6) if a != b]


@pytest.mark.parametrize(("before", "after"), [(1, 3), (2, 1), (3, 4), (4, 2)])
def test_on_other_ranks_the_curves_agree(before, after, whole, tmp_path):
    check_pair(before, after, 10, whole, tmp_path / "run")


@pytest.mark.heavy
@pytest.mark.parametrize(("before", "after"), pairs())
def test_on_any_other_ranks_the_curves_agree(before, after, whole, tmp_path):
    check_pair(before, after, random.Random(10 * before + after).randrange(1, STEPS), whole, tmp_path / "run")


def test_a_shorter_run_can_be_made_longer(whole, tmp_path):
    """What was measured at its end, within an epoch, does not count."""
    short = run(2, tmp_path / "run", overrides=["train.steps=9", "train.epochs=null"])
    assert (short["steps"], short["best"]["step"]) == (9, told(tmp_path / "run")[-1]["best"]["step"])
    run(2, tmp_path / "run")
    same(tmp_path / "run", whole(2))


EARLY = [
    "train.epochs=30",
    "train.stop={patience: 2, window: 2}",
    "train.optimizer={adam: {rate: 0.03}}",
    "train.keep=1",
]


def test_it_stops_early_and_keeps_the_best(tmp_path):
    result = run(1, tmp_path / "run", overrides=EARLY)
    epochs = [line for line in told(tmp_path / "run") if line["kind"] == "epoch"]
    losses = [line["validation"]["loss"] for line in epochs]
    means = [sum(losses[k : k + 2]) / 2 for k in range(len(losses) - 1)]
    assert result["stopped"] == "early"
    assert result["steps"] == 6 * len(epochs) < 180
    assert min(means[:-2]) < min(means[-2:])
    assert min(means[:-3]) >= means[-3]
    best = int(np.argmin(losses))
    assert result["best"] == {"step": 6 * (best + 1), "epoch": best + 1, "metric": "loss", "value": losses[best]}
    steps = {int(path.name[5:11]) for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert steps == {result["best"]["step"], result["steps"]}
    worker = Worker(compile_config(parse_config(TEXT, overrides=EARLY, ranks=1)), OneRank())
    worker.load(tmp_path / "run", states=False, best=True)
    assert worker.step == result["best"]["step"]
    assert worker.evaluate("validation").result()["loss"] == losses[best]
    again = run(1, tmp_path / "run", overrides=EARLY)
    assert (again["stopped"], again["steps"], again["train"]) == ("early", result["steps"], None)


def test_validations_that_are_not_finite_are_no_best():
    stop = StopConfig(patience=3)
    config = TrainConfig(Choice("sgd"), Choice("constant"), epochs=9, stop=stop)
    record, waited = Record(), []
    for epoch, loss in enumerate([np.nan, np.inf, 2.0, np.nan, 3.0, 1.0], start=1):
        record = record.after(epoch, epoch, {"loss": loss}, config)
        waited.append(record.waited)
    assert waited == [1, 2, 0, 1, 2, 0]
    assert record.best == Best(6, 6, "loss", 1.0)
    assert Record.of(json.loads(json.dumps(record.plain()))) == record


def test_a_run_that_goes_on_by_another_figure_begins_anew_with_it():
    def config(metric):
        return TrainConfig(Choice("sgd"), Choice("constant"), epochs=9, best=metric, stop=StopConfig(9, metric=metric))

    record = Record()
    for epoch, (metric, loss) in enumerate(
        [("accuracy", 0.5), ("accuracy", 0.4), ("loss", 0.3), ("loss", 0.2)], start=1
    ):
        record = record.after(epoch, epoch, {"loss": loss, "accuracy": 0.9}, config(metric))
        expected = (1, "accuracy") if metric == "accuracy" else (epoch, "loss")
        assert (record.best.step, record.best.metric) == expected
        assert record.waited == (epoch == 2)
    assert record.least == 0.2
    assert not replace(record, waited=9).stops(StopConfig(9, metric="accuracy"))


@pytest.mark.parametrize("several", [False, True])
def test_files_may_move_when_a_run_goes_on(several, tmp_path):
    """Samples, and labels in files of their own, one or several."""
    for name in ("a", "b"):
        np.save(tmp_path / f"x-{name}.npy", np.arange(12.0).reshape(6, 2))
        np.save(tmp_path / f"y-{name}.npy", np.arange(6) % 3)
        (tmp_path / f"moved-{name}.npy").symlink_to(tmp_path / f"y-{name}.npy")

    def text(labels):
        paths = {key: f"[{key}-a.npy, {key}-b.npy]" if several else f"{key}-a.npy" for key in ("x", labels)}
        return (
            f"data: {{source: npy, path: {paths['x']}, labels: {paths[labels]}, batch: 4, shares: {{train: 1}}}}\n"
            "layers: [{name: out, softmax: {classes: 3}}]\ntrain: {optimizer: {sgd: {rate: 0.1}}, epochs: 2}\n"
        )

    def worker(labels):
        return Worker(compile_config(parse_config(text(labels), str(tmp_path / "net.yaml"))), OneRank())

    train(worker("y"), TrainOptions(tmp_path / "run", report=lambda entry: None))
    moved = worker("moved")
    moved.load(tmp_path / "run", states=True)
    assert moved.step == (6 if several else 4)


def test_a_stop_within_a_validation_loses_nothing(tmp_path, whole):
    """The step is saved, and the validation is done when the run goes on."""
    made = compile_config(parse_config(TEXT, ranks=1))
    wish, worker = Wish(), Worker(made, OneRank())
    forward, folder = worker.forward, tmp_path / "run"
    written = RunFolder(folder, "resumed")

    def counted(*arguments):
        if worker.step == 12:
            wish.name = "SIGUSR1"
        forward(*arguments)

    worker.forward = counted
    options = TrainOptions(folder, lambda entry: None, metrics=written.append_metrics, wish=wish)
    result = train(worker, options)
    assert (result["stopped"], result["steps"]) == ("asked", 12)
    assert [line["step"] for line in told(folder) if line["kind"] == "epoch"] == [6]
    run(1, folder)
    same(folder, whole(1))


def test_a_stop_on_a_full_disk_loses_nothing_committed(tmp_path, monkeypatch, whole):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = tmp_path / "run"
    run(2, folder, 9)
    before = {path.name for path in (folder / "checkpoints").iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(DataError, match="No space left on device"):
            run(2, folder, 13)
    assert before <= {path.name for path in (folder / "checkpoints").iterdir()}
    run(2, folder)
    same(folder, whole(2))
