"""Normalisation and dropout in networks: any mesh as one rank, what is sent, evaluation, checkpoints, hard numbers."""

import numpy as np
import pytest

from dgraph.kernels.call import Call, Moment
from dgraph.kernels.numpy import KERNELS
from dgraph.ops import OPS
from dgraph.program import compile_config, plan_summary
from dgraph.rect import Rect
from dgraph.runtime.communicator import OneRank
from dgraph.runtime.thread import run_threads
from dgraph.train import Worker
from dgraph.verify import compare, one_rank, run_steps
from tests.networks import config_text, load, looked_at, program
from tests.problem import scratch_of

LAYERS = (
    "{{name: C1, conv: {{channels: 6, size: 3, padding: 1}}, norm: batch, nonlinearity: relu, split: {0}}}",
    "{{name: G, group_norm: {{groups: 3}}, split: {1}}}",
    "{{name: C2, conv: {{channels: 4, size: 3, padding: 1}}, norm: {{layer: {{epsilon: 1.0e-3}}}}, nonlinearity: tanh}}",
    "{{name: I, instance_norm: {{affine: false}}}}",
    "{{name: C3, conv: {{channels: 4, size: 3, padding: 1}}, norm: batch, split: {2}}}",
    "{{name: J, add: {{}}, inputs: [I, C3], nonlinearity: relu}}",
    "{{name: D, dropout: {{rate: 0.3}}}}",
    "{{name: P, global_average_pool: {{}}}}",
    "{{name: out, softmax: {{classes: 3, bias: true}}}}",
)
SPLITS = {
    "batch": ("{N: [y, x]}", "{N: [y, x]}", "{N: [y, x]}"),
    "spatial": ("{H: y, W: x}", "{H: y, W: x}", "{H: y, W: x}"),
    "filter": ("{O: [y, x]}", "{C: [y, x]}", "{O: [y, x]}"),
    "channel": ("{C: [y, x]}", "{C: x, H: y}", "{C: y, N: x}"),
    "mixed": ("{H: y, O: x}", "{G: x, W: y}", "{N: y, C: x}"),
}
MESHES = ("{y: 2, x: 1}", "{y: 1, x: 3}", "{y: 2, x: 2}", "{y: 2, x: 3}")


def text(split, mesh, dtype="float64"):
    return config_text(
        [line.format(*SPLITS[split]) for line in LAYERS], mesh, "[2, 9, 8]", batch=7, dtype=dtype, name="norms"
    )


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("split", SPLITS)
def test_any_mesh_gives_what_one_rank_gives(split, mesh):
    config = load(text(split, mesh))
    outcome = compare(run_steps(config, 3), run_steps(one_rank(config), 3))
    assert outcome["worst"] < 1e-11
    assert {"C1.running_mean", "C3.running_variance"} <= outcome["parameters"].keys()


@pytest.mark.parametrize("split", SPLITS)
def test_single_precision(split):
    config = load(text(split, "{y: 2, x: 2}", "float32"))
    assert compare(run_steps(config, 3), run_steps(one_rank(config), 3))["worst"] < 1e-4


def sent(shape, mesh, layer):
    """Bytes that each rank sends, by tensor, for a batch norm between convolutions, all cut over space."""
    layers = (
        "{name: C1, conv: {channels: 8, size: 1}, split: {H: y, W: x}}",
        layer,
        "{name: out, softmax: {classes: 3}, split: {H: y, W: x}, loss_split: {N: [y, x]}}",
    )
    made = program(config_text(layers, mesh, shape, batch=4, dtype="float32"))
    summary = plan_summary(made, range(made.ranks))
    return [{name: entry["sent_nbytes"] for name, entry in rank["tensors"].items()} for rank in summary["ranks"]]


@pytest.mark.parametrize("mesh", ["{y: 2, x: 2}", "{y: 4, x: 1}"])
def test_a_batch_norm_cut_over_space_sends_its_statistics_only(mesh):
    for shape in ("[2, 16, 16]", "[2, 64, 64]"):
        for rank in sent(shape, mesh, "{name: B, batch_norm: {}}"):
            own = {name: nbytes for name, nbytes in rank.items() if name.startswith("B.")}
            own |= {name: nbytes for name, nbytes in rank.items() if name.startswith("C1.convA.output")}
            assert set(own.values()) == {8 * 4}
            assert len(own) == 6  # mean, variance, their gradients, those of scale and shift


def batch(worker, name="train"):
    return worker.batches(name, shuffle=False).indices(0, 0)


def evaluated(communicator, made):
    """Loss of one batch after training and evaluating, and with other samples in the batch."""
    worker = Worker(made, communicator)
    for _ in range(4):
        worker.train_step(batch(worker))
    first, again = worker.evaluate("train").result(), worker.evaluate("train").result()
    worker.train_step(batch(worker))
    communicator.close()
    return first, again


def test_an_evaluation_uses_running_statistics_and_keeps_all_values():
    results = [evaluated(OneRank(), compile_config(one_rank(load(text("batch", "{y: 1, x: 1}")))))]
    made = program(text("mixed", "{y: 2, x: 2}"))
    results += run_threads(4, lambda communicator: evaluated(communicator, made))
    for first, again in results:
        assert first == again
        assert first["loss"] == pytest.approx(results[0][0]["loss"], rel=1e-10)


def test_running_statistics_follow_those_of_batches():
    layers = ("{name: B, batch_norm: {momentum: 0.25}}", "{name: out, softmax: {classes: 3}}")
    worker = Worker(looked_at(program(config_text(layers, "{y: 1}", batch=5))), OneRank())
    mean, variance = np.zeros(2), np.ones(2)
    for _ in range(3):
        worker.train_step(batch(worker))
        x = worker.engine.value("data.raw_output")
        mean = 0.75 * mean + 0.25 * x.mean((0, 2, 3))
        variance = 0.75 * variance + 0.25 * x.var((0, 2, 3), ddof=1)
    np.testing.assert_allclose(worker.engine.value("B.running_mean").ravel(), mean, rtol=1e-12)
    np.testing.assert_allclose(worker.engine.value("B.running_variance").ravel(), variance, rtol=1e-12)


def test_checkpoints_hold_the_states(tmp_path):
    made = program(text("mixed", "{y: 2, x: 2}"))

    def save(communicator):
        worker = Worker(made, communicator)
        for _ in range(2):
            worker.train_step(batch(worker))
        worker.save(tmp_path, keep=1)
        communicator.close()

    run_threads(4, save)
    other = Worker(compile_config(one_rank(made.config)), OneRank())
    for _ in range(2):
        other.train_step(batch(other))
    loaded = Worker(compile_config(one_rank(made.config)), OneRank())
    loaded.load(tmp_path, states=True)
    for name in ("C1.running_mean", "C3.running_variance"):
        np.testing.assert_allclose(loaded.engine.value(name), other.engine.value(name), rtol=1e-10)
    loaded.train_step(batch(loaded))
    other.train_step(batch(other))
    np.testing.assert_allclose(loaded.engine.value("C1.W"), other.engine.value("C1.W"), rtol=1e-9)


def test_dropout_differs_by_step_and_by_node():
    layers = (
        "{name: D1, dropout: {rate: 0.4}}",
        "{name: D2, dropout: {rate: 0.4}}",
        "{name: out, softmax: {classes: 3}}",
    )
    worker = Worker(looked_at(program(config_text(layers, "{y: 1}", shape="[2, 30, 30]", batch=20))), OneRank())
    masks = []
    for _ in range(2):
        worker.train_step(batch(worker))
        masks += [worker.engine.store.writing(f"{name}.dropout.mask")[1].copy() for name in ("D1", "D2")]
    for k, mask in enumerate(masks):
        assert abs((mask == 0).mean() - 0.4) < 0.01
        assert all((mask != other).mean() > 0.4 for other in masks[:k])


def statistic(op, x, **operands):
    """A statistic of a channel [1, 1, n], in single precision."""
    record = OPS[op]
    attributes = {name: attribute.read(attribute.default, 1) for name, attribute in record.attributes.items()}
    access = record.access(attributes, {"input": x.shape} | {port: array.shape for port, array in operands.items()})
    arrays = {"input": x, **operands, "output": np.zeros((1, 1, 1), "float32")}
    rects = {port: Rect.whole(array.shape) for port, array in arrays.items()}
    call = Call(op, False, attributes, access, access.space.whole, rects, frozenset(), "float32", moment=Moment())
    kernel = KERNELS[op, False]
    kernel.bind(call, arrays, scratch_of(kernel.workspace(call)))()
    return arrays["output"]


@pytest.mark.parametrize("count", [10**6, pytest.param(10**8, marks=pytest.mark.heavy)])
def test_statistics_of_many_elements_far_from_zero_are_sound(count):
    """Single precision; a naive sum of squares would lose the variance altogether."""
    x = np.empty((1, 1, count), "float32")
    for start in range(0, count, 10**6):
        x[0, 0, start : start + 10**6] = np.random.default_rng(start).normal(1000, 1, 10**6)
    mean = statistic("mean", x)
    variance = statistic("variance", x, mean=mean)
    exact = x.mean(dtype="float64")
    spread = sum(((part - exact) ** 2).sum() for part in np.array_split(x[0, 0].astype("float64"), 100)) / count
    assert abs(float(mean[0, 0, 0]) - exact) <= 1e-7 * exact
    assert abs(float(variance[0, 0, 0]) - spread) <= 1e-6 * spread
