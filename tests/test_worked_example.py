"""Examples worked by hand, from YAML on: a convolution and its pooling, exact; a gradient, to 1e-12; on one rank and on several."""

import numpy as np
import pytest

from dgraph.program import compile_config
from dgraph.runtime.communicator import OneRank
from dgraph.runtime.thread import run_threads
from dgraph.train import Worker
from tests.networks import load, looked_at

IMAGE = [[2, 1, 3, 3], [1, 6, 2, 5], [1, 4, 5, 2], [6, 6, 5, 3]]
FILTERS = [
    [[0, 1, 2], [1, 0, 1], [2, 1, 0]],
    [[1, 0, 1], [0, 1, 0], [1, 0, 1]],
    [[1, 2, 0], [2, 0, 2], [0, 2, 1]],
]
CONVOLVED = [
    [[2, 13, 18, 12], [11, 16, 33, 17], [23, 34, 35, 23], [15, 25, 18, 7]],
    [[8, 4, 14, 5], [6, 17, 12, 13], [13, 18, 25, 9], [10, 12, 11, 8]],
    [[10, 24, 17, 16], [22, 23, 41, 17], [28, 42, 35, 28], [14, 31, 32, 19]],
]
POOLED = [[[16, 33], [34, 35]], [[17, 14], [18, 25]], [[24, 41], [42, 35]]]

HEAD = """
dtype: {dtype}
mesh: {mesh}
data: {{source: table, shape: [1, 4, 4], batch: 1, {labels}, rows: [{rows}]}}
train: {{optimizer: {{sgd: {{rate: 0.1}}}}, steps: 1}}
"""
LAYERS = """
layers:
  - {{name: C, conv: {{channels: 3, size: 3, padding: 1}}, affine: none, split: {split}}}
  - {{name: P, max_pool: {{size: 2}}, split: {split}}}
  - {{name: out, softmax: {{classes: 2}}}}
"""
NODES = """
nodes:
  - name: C.conv
    op: conv
    attributes: {{channels: 3, size: 3, padding: 1}}
    inputs: {{input: data.raw_output, filters: C.W}}
    split: {split}
  - {{name: P.pool, op: max_pool, attributes: {{size: 2}}, inputs: {{input: C.conv.output}}, split: {split}}}
  - {{name: L, op: linear, attributes: {{features: 2}}, inputs: {{input: P.pool.output, weights: L.W}}}}
  - {{name: S, op: softmax, inputs: {{input: L.output, labels: data.labels_output}}}}
"""
CUTS = [
    ("{y: 1, x: 1}", "{}"),
    ("{y: 2, x: 1}", "{H: y}"),
    ("{y: 1, x: 3}", "{W: x}"),
    ("{y: 2, x: 2}", "{H: y, W: x}"),
    ("{y: 1, x: 4}", "{W: x}"),
    ("{y: 3, x: 2}", "{C: y, W: x}"),
]


def head(mesh, rows, labels, dtype="float32"):
    return HEAD.format(dtype=dtype, mesh=mesh, labels=labels, rows=[float(value) for value in np.ravel(rows)])


def after_a_step(text, given):
    """Every tensor, whole, after one step from these parameters; ranks are threads."""
    program = looked_at(compile_config(load(text)))

    def run(communicator):
        worker = Worker(program, communicator)
        for name, value in given.items():
            if (reading := worker.engine.store.reading(name)) is not None:
                rect, array = reading
                array[...] = np.asarray(value)[rect.slices()]
        worker.train_step(worker.batches("train", shuffle=False).indices(0, 0))
        found = {}
        for name in program.graph.tensors:
            value = worker.engine.value(name)
            if value is not None:
                found[name] = program.layout.read_rect(name, communicator.rank), value.copy()
        communicator.close()
        return found

    ranks = [run(OneRank())] if program.ranks == 1 else run_threads(program.ranks, run, 60.0)
    whole = {name: np.full(tensor.dim, np.nan) for name, tensor in program.graph.tensors.items()}
    for found in ranks:
        for name, (rect, value) in found.items():
            whole[name][rect.slices()] = value
    return whole


@pytest.mark.parametrize(("mesh", "split"), CUTS)
@pytest.mark.parametrize("network", [LAYERS, NODES])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_convolution_and_pooling(network, mesh, split, dtype):
    text = head(mesh, IMAGE, "labels: [0], classes: 2", dtype) + network.format(split=split)
    found = after_a_step(text, {"C.W": np.reshape(FILTERS, (3, 1, 3, 3))})
    np.testing.assert_array_equal(found["C.conv.output"][0], CONVOLVED)
    np.testing.assert_array_equal(found["P.pool.output"][0], POOLED)


GRADIENT = """
layers:
  - {{name: C, conv: {{channels: 1, size: 2, stride: 2}}, affine: none, nonlinearity: {function}, split: {split}}}
  - {{name: V, linear: {{features: 1}}, affine: none}}
  - {{name: loss, half_squared_norm: {{}}}}
"""
FUNCTIONS = {
    "logistic": (lambda c: 1 / (1 + np.exp(-c)), lambda y: y * (1 - y)),
    "tanh": (np.tanh, lambda y: 1 - y**2),
    "identity": (lambda c: c, np.ones_like),
}


@pytest.mark.parametrize(("mesh", "split"), CUTS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradient(function, mesh, split):
    """`output = sum of v * g(c)`, c the convolution of a 4 x 4 image with one filter w of 2 x 2 in steps of 2, the loss
    `(output - t)^2 / 2`; derivatives by v and w as worked by hand."""
    random = np.random.default_rng(3)
    x, w, v, t = random.normal(size=(4, 4)), random.normal(size=(2, 2)), random.normal(size=(2, 2)), 0.625
    text = head(mesh, x, f"labels: [{t}]", "float64") + GRADIENT.format(split=split, function=function)
    found = after_a_step(text, {"C.W": w[None, None], "V.W": v[None, None]})

    g, slope = FUNCTIONS[function]
    y = g(sum(w[a, b] * x[a::2, b::2] for a in range(2) for b in range(2)))
    rest = (v * y).sum() - t
    by_w = [[(rest * v * slope(y) * x[a::2, b::2]).sum() for b in range(2)] for a in range(2)]
    np.testing.assert_allclose(found["V.W.grad"][0, 0], rest * y, rtol=1e-12)
    np.testing.assert_allclose(found["C.W.grad"][0, 0], by_w, rtol=1e-12)
    np.testing.assert_allclose(found["loss.half_squared_norm.output"].item(), rest**2 / 2, rtol=1e-12)
