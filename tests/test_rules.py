"""The first learning rules: the perceptron, one class against all others, threshold units."""

import numpy as np
import pytest

from dgraph.config import parse_config
from dgraph.error import ConfigError
from dgraph.predict import predict
from dgraph.program import compile_config
from dgraph.runtime.communicator import OneRank
from dgraph.train import TrainOptions, Worker, train
from dgraph.verify import compare, one_rank, run_steps
from tests.networks import looked_at, program

UNIT = """
dtype: float64
data: {{source: table, rows: {rows}, labels: {labels}, batch: 1, shares: {{train: 1}}, shuffle: false}}
layers:
  - {{name: unit, linear: {{features: 1}}, init: zero}}
  - {{name: loss, perceptron: {{}}}}
train: {{optimizer: {{sgd: {{rate: {rate}}}}}, epochs: {epochs}, validate_every: 0, checkpoint_every: 0}}
"""
OPTIONS = TrainOptions(folder=None, report=lambda entry: None)


def separable(seed, count=40, margin=0.05):
    """Points of the plane on two sides of a line through the middle of them, none nearer to it than the margin."""
    random = np.random.default_rng(seed)
    normal = random.normal(size=3)
    normal /= np.linalg.norm(normal[:2])
    normal[2] *= 0.3
    points = random.uniform(-1, 1, (20 * count, 2))
    apart = points @ normal[:2] + normal[2]
    chosen = np.flatnonzero(np.abs(apart) > margin)[:count]
    return points[chosen], (apart[chosen] > 0).astype(int), normal


def rosenblatt(rows, labels, rate, epochs):
    """Weights, bias and the number of mistakes after the rule of 1958, one sample after the other."""
    weights, bias, mistakes = np.zeros(2), 0.0, 0
    for _ in range(epochs):
        for row, label in zip(rows, labels, strict=True):
            error = label - float(row @ weights + bias > 0)
            weights, bias, mistakes = weights + rate * error * row, bias + rate * error, mistakes + bool(error)
    return weights, bias, mistakes


def unit(rows, labels, rate=1.0, epochs=1):
    return looked_at(program(UNIT.format(rows=rows.tolist(), labels=labels.tolist(), rate=rate, epochs=epochs)))


@pytest.mark.parametrize("seed", range(5))
def test_one_sample_at_a_time_it_is_the_rule_of_rosenblatt(seed):
    rows, labels, _ = separable(seed)
    worker = Worker(unit(rows, labels, 0.5, epochs=3), OneRank())
    order = worker.training_batches(False)
    taken = np.concatenate([order.indices(0, step) for step in range(order.steps)])
    train(worker, OPTIONS)
    weights, bias, _ = rosenblatt(rows[taken], labels[taken], 0.5, 3)
    np.testing.assert_allclose(worker.engine.value("unit.W").ravel(), weights, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(worker.engine.value("unit.b").item(), bias, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_mistakes_are_no_more_than_novikoff_allows(seed):
    """(R / margin)^2 mistakes at most (Novikoff 1962), the bias being one more input of 1; then none at all."""
    rows, labels, normal = separable(seed)
    inputs = np.column_stack([rows, np.ones(len(rows))])
    margin = np.abs(inputs @ normal).min() / np.linalg.norm(normal)
    most = (np.linalg.norm(inputs, axis=1).max() / margin) ** 2
    worker = Worker(unit(rows, labels), OneRank())
    batches, mistakes, clean = worker.training_batches(False), 0, False
    while not clean:
        clean = True
        for step in range(batches.steps):
            worker.train_step(batches.indices(0, step))
            wrong = bool(np.any(worker.engine.value("unit.W.grad")))
            mistakes, clean = mistakes + wrong, clean and not wrong
        assert mistakes <= most
    assert worker.evaluate("train").result()["accuracy"] == 1.0


ONE_VS_ALL = """
dtype: float64
mesh: {mesh}
data: {{source: synthetic, shape: [3, 6, 5], classes: 4, {labels} batch: 7, samples: 40}}
layers:
  - {{name: a, conv: {{channels: 4, size: 3, padding: 1}}, nonlinearity: tanh, split: {split}}}
  - {{name: units, one_vs_all: {{classes: 5, rule: {rule}, weight: 0.5}}, split: {{N: y, O: x}}, loss_split: {{N: x}}}}
train: {{optimizer: {{sgd: {{rate: 0.1}}}}, epochs: 1}}
"""


@pytest.mark.parametrize("rule", ["logistic", "perceptron"])
def test_one_against_all_trains_alike_on_any_layout(rule):
    for mesh, split in (("{y: 2, x: 2}", "{H: y, W: x}"), ("{y: 1, x: 3}", "{O: x}")):
        config = parse_config(ONE_VS_ALL.format(mesh=mesh, split=split, rule=rule, labels=""), "net.yaml")
        ours, theirs = run_steps(config, 3), run_steps(one_rank(config), 3)
        assert compare(ours, theirs)["worst"] < 1e-9
        np.testing.assert_allclose(ours.metrics, theirs.metrics, rtol=1e-9)


def blobs(per_class=30):
    """Three groups of points, each on the far side of a line of its own from the others."""
    random = np.random.default_rng(0)
    middles = np.array([[0, 2], [2, -1], [-2, -1]])
    labels = np.arange(3 * per_class) % 3
    return (middles[labels] + random.uniform(-0.6, 0.6, (len(labels), 2))), labels


@pytest.mark.parametrize(("rule", "said"), [("logistic", "probability"), ("perceptron", "score")])
def test_one_against_all_learns_and_the_highest_score_decides(rule, said):
    rows, labels = blobs()
    head = f"  - {{name: units, one_vs_all: {{classes: 3, rule: {rule}}}}}\ntrain:"
    text = UNIT.format(rows=rows.tolist(), labels=labels.tolist(), rate=0.5, epochs=5)
    before, after = text[: text.index("  - {name: unit")], text[text.index("train: {opt") :]
    worker = Worker(compile_config(parse_config(before + head + after.removeprefix("train:"), "net.yaml")), OneRank())
    result = train(worker, OPTIONS)
    assert result["train"]["samples"] == 90
    measured = worker.evaluate("train", confusion=True).result()
    assert measured["accuracy"] == 1.0
    assert measured["confusion"] == [[30, 0, 0], [0, 30, 0], [0, 0, 30]]
    found = predict(worker, "train")
    assert found.keys() == {"index", "class", said}
    assert found[said].shape == (90, 3)
    assert (found["class"] == labels[found["index"]]).all()
    assert (found[said].argmax(1) == found["class"]).all()


def test_what_a_threshold_unit_says():
    rows, labels, _ = separable(3)
    worker = Worker(unit(rows, labels, epochs=200), OneRank())
    train(worker, OPTIONS)
    found = predict(worker, "train")
    assert ((found["score"][:, 0] > 0) == found["class"]).all()
    assert (found["class"] == labels[found["index"]]).all()


def test_classes_need_units():
    with pytest.raises(ConfigError, match=r"units.targets: 3 classes are fewer than the data's 4"):
        program(
            ONE_VS_ALL.format(mesh="{y: 1, x: 1}", split="{}", rule="perceptron", labels="").replace("es: 5", "es: 3")
        )
