"""Training in one process, its ranks as threads where there are several: memory, agreement, going on, faults."""

import gc
import tracemalloc

import numpy as np
import pytest

from dgraph.error import DataError, RunError
from dgraph.network import Network
from dgraph.predict import predict
from dgraph.runtime.communicator import OneRank
from dgraph.runtime.thread import run_threads
from dgraph.schedule.step import Start
from dgraph.train import Worker, train
from tests.networks import SPATIAL, config_text, load, program
from tests.runs import apart, saved
from tests.workers import run, silent

CONV = (
    "{name: C1, conv: {channels: 16, size: 5, padding: 2}, nonlinearity: tanh, split: {H: y, W: x}}",
    "{name: P1, max_pool: {size: 3, stride: 1, padding: 1}, split: {H: y, W: x}}",
    "{name: C2, conv: {channels: 16, size: 3, padding: 1}, nonlinearity: relu, split: {N: y, O: x}}",
    "{name: out, softmax: {classes: 3, bias: true}, split: {C: x, H: y}, loss_split: {N: [y, x]}}",
)
MOMENTUM = "{optimizer: {sgd: {rate: 0.1, momentum: 0.5}}, steps: 7}"
ADAM = "{optimizer: {adam: {rate: 0.01}}, steps: 7}"
LAMB = (
    "{optimizer: {lamb: {rate: 0.01}}, clip: 1, penalty: {l1: 0.1, l2: 0.1}, average: mean, schedule: cosine, steps: 7}"
)
# Bytes for all ranks: NumPy's own buffers, and sums that threads stage. On each rank, every activation has more: 786 KB.
LIMIT = {1: 64 << 10, 4: 512 << 10}


def test_a_search_for_what_is_not_finite_gives_back_its_exchanges():
    made = program(config_text(SPATIAL, "{y: 2, x: 1}"), ["messages.window=false"])

    def body(worker):
        communicator, given = worker.communicator, []
        worker.train_step(worker.training_batches(shuffle=False).indices(0, 0))
        communicator.release = given.append
        evaluation = made.evaluation(made.plan(communicator.rank))
        assert worker.engine.first_non_finite(evaluation) is None
        return len(given), sum(isinstance(step, Start) for step in evaluation.steps)

    for given, convoys in run(made, body):
        assert given >= convoys > 0


def peak_of_a_step(worker):
    """Bytes that all ranks together had allocated at most in a step, above what they had before."""
    communicator = worker.communicator
    batch = worker.batches("train", shuffle=True).indices(0, 0)
    for _ in range(2):
        worker.train_step(batch)
    worker.engine._feed = lambda node, places: (
        None
    )  # the batch stays: what a source needs to make one is its own affair
    communicator.barrier()
    if communicator.rank == 0:
        gc.collect()
        tracemalloc.start()
    communicator.barrier()
    before = tracemalloc.get_traced_memory()[0]
    worker.train_step(batch)
    communicator.barrier()
    peak = tracemalloc.get_traced_memory()[1] - before
    communicator.barrier()
    if communicator.rank == 0:
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("mesh", ["{y: 1, x: 1}", "{y: 2, x: 2}"])
@pytest.mark.parametrize("rule", [MOMENTUM, ADAM, LAMB])
def test_a_step_allocates_nothing(mesh, rule):
    made = program(config_text(CONV, mesh, shape="[2, 32, 32]", batch=48, dtype="float32", train=rule))
    assert max(run(made, peak_of_a_step)) < LIMIT[made.ranks]


@pytest.mark.parametrize("mesh", ["{y: 1, x: 1}", "{y: 2, x: 2}"])
@pytest.mark.parametrize("rule", [MOMENTUM, ADAM])
def test_going_on_gives_the_same_bits(mesh, rule, tmp_path):
    text = config_text(SPATIAL, mesh, train=rule)
    run(program(text), lambda worker: train(worker, silent(tmp_path / "whole")))
    run(program(text, ["train.steps=3"]), lambda worker: train(worker, silent(tmp_path / "part")))

    def go_on(worker):
        worker.load(tmp_path / "part", states=True)
        return train(worker, silent(tmp_path / "part"))

    assert run(program(text), go_on)[0]["steps"] == 7
    ours, theirs = saved(tmp_path / "part"), saved(tmp_path / "whole")
    assert any(":" in name for name in theirs)
    assert apart(ours, theirs) == 0.0


def test_nothing_is_left_to_train(tmp_path):
    network = Network(load(config_text(SPATIAL, "{y: 1, x: 1}")))
    done = network.train(folder=tmp_path)
    again = network.train(resume=tmp_path)
    assert again["steps"] == done["steps"] == 5
    assert again["train"] is None
    assert again["test"] == done["test"]


def test_what_is_reported():
    made = program(
        config_text(SPATIAL, "{y: 2, x: 1}", train="{optimizer: {sgd: {rate: 0.1}}, epochs: 2, log_every: 2}")
    )
    entries = []

    def body(worker):
        metrics = entries.append if worker.communicator.rank == 0 else lambda entry: None
        return train(worker, silent(metrics=metrics))

    results = run(made, body)
    assert results[0]["test"] == results[1]["test"]
    epochs = [entry for entry in entries if entry["kind"] == "epoch"]
    steps = [entry["step"] for entry in entries if entry["kind"] == "step"]
    assert [entry["epoch"] for entry in epochs] == [1, 2]
    assert steps == list(range(2, results[0]["steps"] + 1, 2))
    assert epochs[-1]["train"] == results[0]["train"]
    assert epochs[-1]["validation"] == results[0]["validation"]


def test_predictions_are_probabilities_of_the_whole_subset(tmp_path):
    text = config_text(SPATIAL)
    found = run(program(text), lambda worker: predict(worker, "train"))
    assert found[1:] == [None] * 3
    assert found[0]["index"].tolist() == sorted(set(found[0]["index"].tolist()))
    np.testing.assert_allclose(found[0]["probability"].sum(axis=1), 1.0)
    alone = run(program(text, ["mesh={y: 1, x: 1}"]), lambda worker: predict(worker, "train"))[0]
    np.testing.assert_allclose(found[0]["probability"], alone["probability"], rtol=1e-10)


@pytest.mark.parametrize("mesh", ["{y: 1, x: 1}", "{y: 2, x: 2}"])
def test_a_loss_that_is_not_finite_names_the_first_node(mesh):
    rule = "{optimizer: {sgd: {rate: 1e30}}, steps: 5}"
    with pytest.raises(RunError, match=r"not finite at step 2: the first node .* is out\.linear1 ") as raised:
        run(program(config_text(SPATIAL, mesh, dtype="float32", train=rule)), lambda worker: train(worker, silent()))
    assert "out.linear1.output, rank 0" in raised.value.hint


def test_a_loss_of_what_are_no_probabilities_says_so():
    binary = (
        "{name: l, linear: {features: 1}, split: {N: [y, x]}}",
        "{name: out, binary_cross_entropy: {}}",
    )
    text = config_text(binary, "{y: 1, x: 1}", classes=2)
    with pytest.raises(RunError, match=r"the first node .* is out\.binary_cross_entropy ") as raised:
        run(program(text), lambda worker: train(worker, silent()))
    assert "its input must hold probabilities, unless logits: true" in raised.value.hint


def test_ranks_with_other_plans_do_not_start():
    made = [program(config_text(SPATIAL), [f"seed={seed}"]) for seed in (0, 0, 1, 0)]
    with pytest.raises(RunError, match=r"ranks \[2\] planned something else than rank 0"):
        run_threads(4, lambda communicator: Worker(made[communicator.rank], communicator))


def test_a_mesh_of_another_size_does_not_start():
    with pytest.raises(RunError, match="the mesh has 4 ranks, but 1 run"):
        Worker(program(config_text(SPATIAL)), OneRank())


def test_the_state_of_another_optimizer_is_refused(tmp_path):
    network = Network(load(config_text(SPATIAL, "{y: 1, x: 1}", train=MOMENTUM)))
    network.train(folder=tmp_path)
    other = Network(load(config_text(SPATIAL, "{y: 1, x: 1}", train=ADAM)))
    with pytest.raises(DataError, match="written with the optimizer sgd, not adam"):
        other.train(resume=tmp_path)
