"""Batches read ahead: the same bits with and without, faults where their batch is wanted, no thread left."""

import threading
import time

import numpy as np
import pytest

from dgraph.data import Batch, Feeder
from dgraph.error import DataError
from dgraph.predict import predict
from dgraph.rect import Rect
from dgraph.train import train
from tests.networks import SPATIAL, config_text, program
from tests.runs import apart, saved
from tests.workers import run, silent

FLIP = "augment: [{flip: {axis: W}}], samples: 40"


def text(prefetch, mesh, train="{optimizer: {sgd: {rate: 0.1, momentum: 0.5}}, epochs: 3}"):
    made = config_text(SPATIAL, mesh, train=train)
    return made.replace("samples: 24", f"{FLIP}, prefetch: {prefetch}")


@pytest.mark.parametrize("mesh", ["{y: 1, x: 1}", "{y: 2, x: 2}"])
def test_the_same_bits_with_and_without(mesh, tmp_path):
    results, entries = [], []
    for prefetch in ("true", "false"):
        folder, lines = tmp_path / prefetch, []
        results.append(
            run(
                program(text(prefetch, mesh)),
                lambda worker, f=folder, m=lines: train(worker, silent(f, metrics=m.append)),
            )
        )
        entries.append([(line["kind"], line["step"], line.get("loss"), str(line.get("validation"))) for line in lines])
    assert apart(saved(tmp_path / "true"), saved(tmp_path / "false")) == 0.0
    assert sorted(map(str, entries[0])) == sorted(map(str, entries[1]))
    assert results[0][0]["test"] == results[1][0]["test"]
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_predictions_and_going_on_are_the_same(tmp_path):
    mesh = "{y: 2, x: 1}"
    found = [run(program(text(one, mesh)), lambda worker: predict(worker, "train"))[0] for one in ("true", "false")]
    for name, values in found[0].items():
        np.testing.assert_array_equal(values, found[1][name])
    part = "{optimizer: {sgd: {rate: 0.1, momentum: 0.5}}, steps: 7}"
    run(program(text("true", mesh, part)), lambda worker: train(worker, silent(tmp_path / "a")))
    run(program(text("false", mesh)), lambda worker: train(worker, silent(tmp_path / "b")))

    def go_on(worker):
        worker.load(tmp_path / "a", states=True)
        return train(worker, silent(tmp_path / "a"))

    run(program(text("true", mesh)), go_on)
    assert apart(saved(tmp_path / "a"), saved(tmp_path / "b")) == 0.0


def test_the_plan_counts_what_is_read_ahead():
    with_it, without = (program(text(one, "{y: 2, x: 1}")) for one in ("true", "false"))
    for rank in (0, 1):
        ours, theirs = (made.schedule(made.plan(rank)) for made in (with_it, without))
        (fed,) = [step for step in ours.steps if type(step).__name__ == "Feed"]
        batch = sum(rect.volume for _, rect in fed.ports.values()) * 8
        assert batch > 0
        assert ours.peak_nbytes - theirs.peak_nbytes == 2 * batch


class Reader:
    """Reads a batch as its indices, and says when it did; raises for what it is told to."""

    def __init__(self, bad=()):
        self.bad, self.read, self.threads, self.together = bad, [], [], 0

    def __call__(self, batch, places):
        self.together += 1
        assert self.together == 1
        time.sleep(0.002)
        self.together -= 1
        self.read.append((batch.indices[0].item(), batch.epoch))
        self.threads.append(threading.current_thread().name)
        if batch.indices[0] in self.bad:
            raise DataError(f"sample {batch.indices[0]} is damaged")
        for array, _ in places.values():
            array[...] = batch.indices


def feeder(reader, ahead=True, training=True):
    places = {"raw_data": (np.zeros(2), Rect.whole((2,)))}
    return Feeder({"data": places}, reader, training, ahead), places


def batch(n, epoch=0):
    return Batch(np.array([n, n + 1]), epoch)


def test_what_is_announced_is_read_ahead_and_once():
    reader = Reader()
    feed, places = feeder(reader)
    order = [batch(0), batch(2), batch(4), batch(0, 1)]
    for one, following in zip(order, [*order[1:], None], strict=True):
        feed.announce(one, following)
        feed.feed("data", places)
        np.testing.assert_array_equal(places["raw_data"][0], one.indices)
    assert reader.read == [(0, 0), (2, 0), (4, 0), (0, 1)]
    assert reader.threads[1:] == ["prefetch"] * 3


def test_an_evaluation_in_between_loses_nothing():
    reader = Reader()
    feed, places = feeder(reader)
    for one, following in [
        (batch(0), batch(2)),
        (batch(8, None), batch(6, None)),
        (batch(6, None), None),
        (batch(2), None),
    ]:
        feed.announce(one, following)
        feed.feed("data", places)
        np.testing.assert_array_equal(places["raw_data"][0], one.indices)
    assert sorted(reader.read, key=str) == sorted([(0, 0), (2, 0), (8, None), (6, None)], key=str)


def test_another_batch_than_announced_is_read():
    reader = Reader()
    feed, places = feeder(reader)
    for one, following in [(batch(0), batch(2)), (batch(4), None)]:
        feed.announce(one, following)
        feed.feed("data", places)
        np.testing.assert_array_equal(places["raw_data"][0], one.indices)


def test_a_fault_is_raised_where_its_batch_is_wanted():
    feed, places = feeder(Reader(bad=(2,)))
    feed.announce(batch(0), batch(2))
    feed.feed("data", places)
    feed.announce(batch(2), batch(4))
    with pytest.raises(DataError, match="sample 2 is damaged"):
        feed.feed("data", places)
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_arrays_are_allocated_once():
    feed, places = feeder(Reader())
    held = [id(array) for slot in feed._slots.values() for array, _ in slot._places.values()]
    assert len(held) == 2
    for n in range(4):
        feed.announce(batch(n), batch(n + 1))
        feed.feed("data", places)
    feed.announce(batch(4), None)
    feed.feed("data", places)
    assert held == [id(array) for slot in feed._slots.values() for array, _ in slot._places.values()]
