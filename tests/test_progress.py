"""Transfers under way: who is looked at when, whose seconds count as what, and that a step alone looks at nothing."""

import json
import threading

import pytest

from dgraph.runtime import progress as room
from dgraph.runtime.progress import Flight, Progress
from dgraph.runtime.pulse import Pulse
from dgraph.runtime.thread import run_threads
from dgraph.trace import Recorder
from dgraph.train import Worker
from tests.networks import SPATIAL, config_text, program
from tests.workers import run


class Clock:
    """A clock that goes on by hand."""

    now = 100.0

    def __call__(self):
        return self.now


class Ship:
    """A transfer that has arrived at `arrives`; starting, asking and unpacking it take 1, 0.25 and 2 seconds."""

    def __init__(self, clock, arrives):
        self.clock, self.arrives, self.asked = clock, arrives, 0

    def start(self):
        self.clock.now += 1

    def test(self):
        self.asked += 1
        self.clock.now += 0.25
        return self.clock.now >= self.arrives

    def wait(self):
        self.clock.now = max(self.clock.now, self.arrives) + 2


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(room, "perf_counter", made)
    return made


def test_what_the_rank_does_meanwhile_is_hidden(clock):
    progress = Progress()
    flight = Flight(Ship(clock, 108.0), progress)
    flight.start()
    clock.now += 4  # at 105
    progress.look()
    clock.now += 4.75  # at 110
    progress.look()
    assert (progress.hidden, progress.exposed) == (8.75, 1.5)
    clock.now += 10
    flight.wait()
    assert (flight.hidden, flight.exposed) == (9.0, 2.0)
    assert (progress.hidden, progress.exposed) == (8.75, 3.5)


def test_what_it_waits_for_is_not(clock):
    progress = Progress()
    flight = Flight(Ship(clock, 111.0), progress)
    flight.start()
    clock.now += 3  # at 104
    flight.wait()
    assert (clock.now, flight.hidden, flight.exposed) == (113.0, 3.0, 9.0)
    clock.now += 5
    flight.start()
    flight.wait()
    assert (flight.hidden, flight.exposed) == (0.0, 2.0)
    assert (progress.hidden, progress.exposed) == (3.0, 13.0)


def test_two_at_once_hide_the_same_time_once(clock):
    progress = Progress()
    ships = Ship(clock, 104.0), Ship(clock, 109.0)
    first, second = (Flight(ship, progress) for ship in ships)
    first.start()
    second.start()  # at 102
    clock.now += 1
    progress.look()
    assert [ship.asked for ship in ships] == [1, 1]
    clock.now += 1
    progress.look()
    assert [ship.asked for ship in ships] == [2, 2]
    assert progress.hidden == 2.0
    second.wait()
    first.wait()
    progress.look()
    assert [ship.asked for ship in ships] == [2, 2]
    assert first.hidden == 104.5 - 101.0


@pytest.mark.parametrize("mesh", ["{y: 1, x: 1}", "{y: 2, x: 2}"])
def test_a_step_looks_only_while_something_is_under_way(mesh):
    made = program(config_text(SPATIAL, mesh))

    def verbs(worker):
        runs = worker.engine.actions_of_batch(), worker.engine._forward
        return [[entry.verb for entry in run.steps] for run in runs]

    for found in run(made, verbs):
        for listed in found:
            under_way = 0
            for verb, after in zip(listed, [*listed[1:], "end"], strict=True):
                under_way += {"start": 1, "wait": -1}.get(verb, 0)
                if verb not in ("start", "wait", "look"):
                    assert (after == "look") == (under_way > 0)
            assert under_way == 0
        assert ("look" in found[0]) == (made.ranks > 1)


class Steps:
    """A pulse that notes what it is told."""

    def __init__(self):
        self.told = []

    def go(self):
        self.told.append("go")

    def rest(self):
        self.told.append("rest")


def test_a_pulse_goes_while_the_rank_does_something_else_and_something_is_under_way(clock):
    pulse = Steps()
    progress = Progress(lambda beat: pulse)
    flights = [Flight(Ship(clock, 105.0), progress) for _ in range(2)]
    flights[0].start()
    assert pulse.told == ["go"]
    flights[1].start()
    assert pulse.told == ["go", "rest", "go"]
    flights[0].wait()
    assert pulse.told == ["go", "rest", "go", "rest", "go"]
    flights[1].wait()
    assert pulse.told[5:] == ["rest"]
    progress.look()
    assert pulse.told[6:] == []


def test_a_beat_advances_all_and_is_nobodys_time(clock):
    pulse = Steps()
    progress = Progress(lambda beat: pulse)
    ships = Ship(clock, 104.0), Ship(clock, 103.0)
    first, second = (Flight(ship, progress) for ship in ships)
    first.start()
    second.start()  # at 102
    clock.now += 1
    progress.beat()
    assert [ship.asked for ship in ships] == [1, 1]
    clock.now += 1
    progress.beat()
    assert [ship.asked for ship in ships] == [2, 1]
    assert pulse.told[-1] == "rest"
    first.wait()
    second.wait()
    assert (progress.hidden, progress.exposed) == (0.0, 6.0)


def test_a_pulse_is_a_thread_that_sleeps_until_it_is_told():
    beats, came = [], threading.Event()

    def advance():
        beats.append(threading.current_thread())
        came.set()

    pulse = Pulse(advance)
    assert beats == []
    pulse.go()
    assert came.wait(30)
    pulse.end()
    assert set(beats) == {pulse}
    assert not pulse.is_alive()


def test_spans_of_waits_say_what_was_hidden():
    made = program(config_text(SPATIAL, "{y: 2, x: 1}"))

    def body(communicator):
        worker, recorder = Worker(made, communicator), Recorder(communicator.rank)
        worker.train_step(worker.batches("train", shuffle=True).indices(0, 0), recorder)
        return recorder.events()

    for events in run_threads(2, body):
        waits = [event for event in events if event["verb"] == "wait"]
        assert waits
        assert all(event["hidden"] >= 0 and event["args"] == {"hidden_seconds": event["hidden"]} for event in waits)
        assert not any("hidden" in event for event in events if event["verb"] != "wait")
        json.dumps(events)
