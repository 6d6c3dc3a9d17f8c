"""Networks whose labels are not one class number an image: any layout gives the one-rank result, partial batches included."""

import numpy as np
import pytest

from dgraph.error import RunError
from dgraph.runtime.communicator import OneRank
from dgraph.runtime.thread import run_threads
from dgraph.train import Worker
from dgraph.verify import compare, one_rank, run_steps
from tests.networks import load, program

SEGMENTATION = """
dtype: float64
mesh: {{y: 2, x: 2}}
data: {{source: synthetic, shape: {shape}, label_shape: {labels}, classes: 3, batch: 6, samples: 20, read: {read}}}
nodes:
  - name: data
    op: data
    attributes: {{batch: 6, shape: {shape}, label_shape: {labels}, read: {read}}}
  - {{name: a, op: conv, attributes: {{channels: 4, size: 3, padding: {padding}}}, split: {split},
     inputs: {{input: data.raw_output, filters: A}}}}
  - {{name: b, op: conv, attributes: {{channels: 3, size: 3, padding: {padding}}}, inputs: {{input: a.output, filters: B}}}}
  - {{name: loss, op: softmax, inputs: {{input: b.output, labels: data.labels_output}}}}
  - {{name: metrics, op: evaluate, inputs: {{labels: data.labels_output, probability: loss.probability, loss: loss.output}}}}
  - {{name: metrics.all, op: accuracy, inputs: {{input: metrics.output}}}}
parameters: {{A: {{init: xavier}}, B: {{init: xavier}}}}
train: {{optimizer: {{adam: {{rate: 0.05}}}}, epochs: 20}}
"""
VECTORS = """
dtype: float64
mesh: {y: 2, x: 3}
data: {source: synthetic, shape: [11], classes: 5, batch: 7, samples: 40}
layers:
  - {name: h, linear: {features: 8}, nonlinearity: {leaky_relu: {slope: 0.1}}, split: SPLIT}
  - {name: g, affine: {scale: true, bias: all}}
  - {name: o, softmax: {classes: 5, bias: true}, split: {C: [x, y]}, loss_split: {N: [y, x]}}
train: {optimizer: {sgd: {rate: 0.1}}, steps: 1}
"""


def segmentation(shape="[2, 9, 8]", labels="[1, 9, 8]", padding=1, read="rect", split="{H: y, W: x}"):
    return SEGMENTATION.format(shape=shape, labels=labels, padding=padding, read=read, split=split)


def assert_equal(text, steps):
    config = load(text)
    assert compare(run_steps(config, steps), run_steps(one_rank(config), steps))["worst"] < 1e-9


@pytest.mark.parametrize("text", [
    segmentation(),
    segmentation(read="same"),
    segmentation(split="{N: y, O: x}"),
    segmentation(labels="[1, 5, 4]", padding=0),
    segmentation("[2, 9]", "[1, 9]", split="{W: [y, x]}"),
    segmentation("[1, 5, 4, 6]", "[1, 5, 4, 6]", split="{D: y, W: x}"),
])  # fmt: skip
def test_class_numbers_of_places_train_alike_on_any_layout(text):
    assert_equal(text, 3)


@pytest.mark.parametrize("split", ["{N: y, K: x}", "{C: x}", "{N: [x, y]}", "{K: {axes: x, sizes: [7, 0, 1]}}"])
def test_vectors_train_alike_on_any_layout(split):
    assert_equal(VECTORS.replace("SPLIT", split), 5)


def test_class_numbers_of_places_are_learned():
    worker = Worker(program(segmentation(), ["mesh={y: 1, x: 1}"]), OneRank())
    batches = worker.batches("train", shuffle=True)
    losses = [float(worker.train_step(batches.indices(*divmod(n, batches.steps)))[0]) for n in range(80)]
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


def test_a_rank_gets_the_labels_of_its_rect_alone():
    made = program(segmentation(), ["data.samples=10", "data.shares={train: 1}"])
    whole = Worker(
        program(segmentation(), ["mesh={y: 1, x: 1}", "data.samples=10", "data.shares={train: 1}"]), OneRank()
    )

    def labels(communicator):
        worker = Worker(made, communicator)
        worker.forward(np.array([3, 9, -1, 0, 7, -1]))
        rect = made.layout.read_rect("data.labels_output", communicator.rank)
        return rect, worker.engine.value("data.labels_output").copy()

    whole.forward(np.array([3, 9, -1, 0, 7, -1]))
    everything = whole.engine.value("data.labels_output")
    assert (everything[[2, 5]] == -1).all()
    for rect, found in run_threads(4, labels):
        assert rect.size[2:] in ((5, 4), (4, 4))
        assert np.array_equal(found, everything[rect.slices()])


TARGETS = """
dtype: float64
mesh: {p: 2}
data: {source: synthetic, shape: [3], label_shape: [2], batch: 4, samples: 6, shares: {train: 1}}
layers:
  - {name: l, linear: {features: 2}, split: {N: p}}
  - {name: loss, squared_error: {}}
train: {optimizer: {sgd: {rate: 1}}, steps: 1}
"""


def test_real_targets_train_alike_in_a_partial_batch():
    assert_equal(TARGETS, 4)


def test_scores_without_channels_train_alike():
    assert_equal(TARGETS.replace("[2]", "[1]").replace("features: 2", "features: 1").replace(
        "  - {name: loss", "  - {name: r, reshape: {shape: [4]}}\n  - {name: loss"), 4)  # fmt: skip


def test_a_sample_that_is_not_there_is_not_blamed():
    def first(communicator):
        worker = Worker(program(TARGETS), communicator)
        worker.engine.store.writing("l.W")[1][...] = np.inf
        worker.train_step(np.array([0, 1, -1, -1]))

    with pytest.raises(RunError, match=r"infinity is l\.linear"):
        run_threads(2, first)
