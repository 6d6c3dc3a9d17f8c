"""Metrics against scikit-learn: by pieces, over batches, on any mesh; exact counts; predictions."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.cli.line import Progress, shown
from dgraph.metric import Metrics, Spread, heads_of, named
from dgraph.network import Network
from dgraph.ops import OPS
from dgraph.ops.metric import EXACT, METRICS
from dgraph.predict import predict
from dgraph.program import compile_config
from dgraph.runtime.communicator import OneRank
from dgraph.runtime.thread import run_threads
from dgraph.train import TrainOptions, Worker, train
from dgraph.verify import one_rank
from tests.networks import load, program
from tests.peer import cuts, dims, summed
from tests.problem import Problem

measures = pytest.importorskip("sklearn.metrics")


# --- sums, in pieces


def rows_of(data, name, dims, values=None, **attributes):
    """The metrics by name, from pieces cut at random, and the problem."""
    dtype = data.draw(st.sampled_from(["float64", "float32"]))
    problem = Problem((name, attributes, dims), dtype, data.draw(st.integers(0, 99)), values)
    rows = summed(problem, False, data.draw(cuts(problem.op, problem.access)))["output"]
    return named(name, rows.reshape(-1).tolist()), problem


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_errors_in_pieces(data):
    dim, ones = data.draw(dims(least=2)), lambda n: (n, *(1,) * (len(dim) - 1))
    mean = data.draw(st.sampled_from([0.0, 3.0, 1e4]))

    def targets(random, dim):
        return np.where(random.random(dim) < 0.2, np.nan, mean + random.normal(size=dim))

    total, problem = rows_of(data, "sum_targets", {"labels": dim}, {"labels": targets})
    labels, there = problem.values["labels"], ~np.isnan(problem.values["labels"])
    assert total["samples"] == there.sum()
    assert total["targets"] == pytest.approx(labels[there].sum(), rel=1e-6, abs=1e-6)
    values = {"labels": labels, "targets": np.reshape([total["targets"], total["samples"]], ones(2)), "loss": 0.25}
    values["loss"] = np.full(ones(1), 0.25)
    given_dims = {"input": dim, "labels": dim, "targets": ones(2)}
    found, problem = rows_of(data, "evaluate_error", given_dims, values)
    x, t = problem.values["input"].astype(float)[there], problem.values["labels"].astype(float)[there]
    assert (found["loss"], found["samples"]) == (0.25, t.size)
    near = {"rel": 1e-5, "abs": 1e-5}
    assert found["absolute"] == pytest.approx(np.abs(x - t).sum(), **near)
    assert found["squared"] == pytest.approx(np.square(x - t).sum(), **near)
    if t.size:
        spread = found["squared_deviation"] - found["deviation"] ** 2 / t.size
        assert spread == pytest.approx(np.square(t - t.mean()).sum(), rel=1e-4, abs=1e-5)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_binary_accuracy_in_pieces(data):
    dim, logits = data.draw(dims(least=2)), data.draw(st.booleans())
    values = {
        "labels": lambda random, dim: random.integers(-1, 2, dim),
        "loss": np.full((1,) * len(dim), 0.25),
    }
    found, problem = rows_of(data, "evaluate_binary", {"input": dim, "labels": dim}, values, logits=logits)
    there = problem.values["labels"] >= 0
    t, x = problem.values["labels"][there], problem.values["input"][there] > (0 if logits else 0.5)
    right = measures.accuracy_score(t, x, normalize=False) if t.size else 0
    assert found == {"loss": 0.25, "correct": right, "samples": t.size}


def test_classes_are_counted_as_by_scikit_learn():
    random = np.random.default_rng(0)
    p, labels = random.random((500, 7)), random.integers(0, 7, (500, 1))
    values = {"probability": p, "labels": labels, "loss": [[0.5]]}
    found = named("evaluate", Problem(("evaluate", {}, (500, 7)), values=values).run()["output"].ravel().tolist())
    assert found["correct"] == measures.accuracy_score(labels[:, 0], p.argmax(axis=1), normalize=False)
    assert found["correct_in_top_5"] == measures.top_k_accuracy_score(labels[:, 0], p, k=5, normalize=False)


@pytest.mark.parametrize("name", ["evaluate", "evaluate_binary", "evaluate_error", "sum_targets"])
def test_counts_of_very_many_labels_are_two_numbers(name):
    few, many = (1, 1, EXACT), (1, 1, EXACT + 1)
    one = {"loss": (1, 1, 1), "targets": (2, 1, 1)}
    rows = [
        OPS[name].access({"logits": False}, {"input": dim, "probability": dim, "labels": dim, **one}).dims["output"][0]
        for dim in (few, many)
    ]
    assert rows[1] - rows[0] == len(METRICS[name][1])


def test_counts_are_exact_in_float32():
    count = EXACT + 5
    values = {"labels": np.zeros((1, 1, count)), "probability": np.ones((1, 1, count)), "loss": np.ones((1, 1, 1))}
    output = Problem(("evaluate", {}, (1, 1, count)), "float32", values=values).run()["output"]
    assert output.dtype == np.float32
    found = named("evaluate", output.ravel().tolist())
    assert found["samples"] == found["correct"] == count


@given(st.lists(st.lists(st.floats(-1e3, 1e3), max_size=5), max_size=6))
def test_spreads_of_parts_are_that_of_the_whole(parts):
    spread, whole = Spread(), np.array([value for part in parts for value in part])
    for part in parts:
        spread.add(len(part), np.mean(part) if part else 0.0, np.var(part) * len(part) if part else 0.0)
    assert spread.count == whole.size
    if whole.size:
        assert spread.mean == pytest.approx(whole.mean(), abs=1e-9)
        assert spread.squares == pytest.approx(whole.var() * whole.size, abs=1e-6)


# --- whole runs

HEAD = """
dtype: {dtype}
mesh: {mesh}
data: {{source: {source}, batch: 7, shares: {{train: 0.5, test: 0.5}}, shuffle: false}}
"""
REGRESSION = """
layers:
  - {name: c, conv: {channels: 4, size: 3}, nonlinearity: tanh, split: {H: y, W: x}}
  - {name: l, linear: {features: 3}}
  - {name: out, squared_error: {}, split: {N: [y, x]}}
train: {optimizer: {sgd: {rate: 0.01}}, steps: 2}
"""
CLASSES = """
layers:
  - {name: c, conv: {channels: 4, size: 3}, nonlinearity: tanh, split: {H: y, W: x}}
  - {name: out, softmax: {classes: 6}, split: {C: x}, loss_split: {N: [y, x]}}
train: {optimizer: {sgd: {rate: 0.01}}, steps: 2}
"""
BINARY = """
layers:
  - {name: c, conv: {channels: 4, size: 3}, nonlinearity: tanh, split: {H: y, W: x}}
  - {name: l, linear: {features: 1}}
  - {name: out, binary_cross_entropy: {logits: true}}
train: {optimizer: {sgd: {rate: 0.01}}, steps: 2}
"""
MESHES = ["{y: 1, x: 1}", "{y: 2, x: 2}", "{y: 1, x: 3}"]


def archive(folder, labels, classes=None):
    """The `data` section of an archive with these labels."""
    x = np.random.default_rng(1).normal(size=(len(labels), 2, 6, 6)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=labels)
    known = f", classes: {classes}" if classes else ""
    return f"npz, path: {folder / 'data.npz'}{known}"


def run(made, body):
    """What `body(worker)` gives on each rank of a program."""
    if made.ranks == 1:
        return [body(Worker(made, OneRank()))]
    return run_threads(made.ranks, lambda communicator: body(Worker(made, communicator)))


def measured(text, labels, confusion=None):
    """(figures on every rank, predictions, labels) of the test subset."""

    def body(worker):
        return worker.evaluate("test", confusion).result(), predict(worker, "test")

    found = run(program(text), body)
    figures = [one for one, _ in found]
    assert all(one == figures[0] for one in figures)
    predictions = found[0][1]
    return figures[0], predictions, labels[predictions["index"]]


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize(("dtype", "mean"), [("float64", 0.0), ("float32", 5e3)])
def test_figures_of_a_regression(mesh, dtype, mean, tmp_path):
    labels = (mean + np.random.default_rng(2).normal(size=(45, 3))).astype(np.float32)
    text = HEAD.format(dtype=dtype, mesh=mesh, source=archive(tmp_path, labels)) + REGRESSION
    figures, found, t = measured(text, labels)
    x = found["prediction"].astype(float)
    assert x.shape == t.shape
    expected = {
        "loss": measures.mean_squared_error(t, x),
        "rmse": measures.root_mean_squared_error(t.ravel(), x.ravel()),
        "mae": measures.mean_absolute_error(t, x),
        "r2": measures.r2_score(t.ravel(), x.ravel()),
        "samples": len(t),
    }
    assert figures == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mesh", MESHES)
def test_figures_of_a_classifier(mesh, tmp_path):
    labels = np.random.default_rng(2).integers(0, 6, 45)
    text = HEAD.format(dtype="float64", mesh=mesh, source=archive(tmp_path, labels, 6)) + CLASSES
    figures, found, t = measured(text, labels)
    p = found["probability"]
    assert p.shape == (len(t), 6)
    assert (found["class"] == p.argmax(axis=1)).all()
    assert figures["confusion"] == measures.confusion_matrix(t, found["class"], labels=range(6)).tolist()
    expected = {
        "loss": measures.log_loss(t, p, labels=range(6)),
        "accuracy": measures.accuracy_score(t, found["class"]),
        "top5": measures.top_k_accuracy_score(t, p, k=5, labels=range(6)),
        "samples": len(t),
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("mesh", MESHES)
def test_figures_of_one_probability(mesh, tmp_path):
    labels = np.random.default_rng(2).integers(0, 2, 45)
    text = HEAD.format(dtype="float64", mesh=mesh, source=archive(tmp_path, labels, 2)) + BINARY
    figures, found, t = measured(text, labels)
    p = found["probability"]
    assert (p.shape, found["class"].shape) == ((len(t), 1), t.shape)
    assert figures["confusion"] == measures.confusion_matrix(t, found["class"]).tolist()
    expected = {"loss": measures.log_loss(t, p[:, 0]), "accuracy": measures.accuracy_score(t, found["class"])}
    assert {name: figures[name] for name in expected} == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("split", ["{H: y, W: x}", "{N: x, O: y}"])
def test_figures_of_places(split):
    text = f"""
mesh: {{y: 2, x: 2}}
data: {{source: synthetic, shape: [2, 5, 6], label_shape: [1, 5, 6], classes: 3, batch: 7, samples: 20}}
layers:
  - {{name: c, conv: {{channels: 3, size: 3, padding: 1}}, split: {split}}}
  - {{name: out, cross_entropy: {{smoothing: 0.1}}}}
train: {{optimizer: {{sgd: {{rate: 0.1}}}}, steps: 1}}
"""

    def body(worker):
        return worker.evaluate("test", True).result(), predict(worker, "test")

    config = load(text, ["data.shares={train: 0.5, test: 0.5}"])
    (figures, found), *_ = run(compile_config(config), body)
    (alone, expected), *_ = run(compile_config(one_rank(config)), body)
    assert figures["samples"] == np.sum(figures["confusion"]) == 300
    assert figures["confusion"] == alone["confusion"]
    assert figures["accuracy"] == alone["accuracy"] == np.trace(figures["confusion"]) / 300
    assert figures["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert found["class"].shape == (10, 5, 6)
    np.testing.assert_allclose(found["probability"], expected["probability"], rtol=1e-5)


def test_a_confusion_matrix_of_many_classes_is_made_on_demand():
    text = CLASSES.replace("6}", "101}")
    source = "synthetic, classes: 101, shape: [2, 6, 6], samples: 20"
    text = HEAD.format(dtype="float64", mesh="{y: 1, x: 1}", source=source) + text
    worker = Worker(program(text), OneRank())
    assert "confusion" not in worker.evaluate("test", None).result()
    assert np.sum(worker.evaluate("test", True).result()["confusion"]) == 10
    assert "confusion" not in worker.evaluate("test").result()
    assert "confusion" not in train(worker, TrainOptions(None, lambda entry: None, confusion=False))["test"]


def test_figures_of_several_heads():
    text = """
data: {source: synthetic, shape: [4], classes: 3, batch: 5, samples: 20, shares: {train: 0.5, test: 0.5}}
layers:
  - {name: h, linear: {features: 5}, nonlinearity: tanh}
  - {name: side, softmax: {classes: 3, weight: 0.5}}
  - {name: out, softmax: {classes: 3}, input: h}
train: {optimizer: {sgd: {rate: 0.1}}, steps: 2, log_every: 1}
"""
    entries = []
    result = train(Worker(program(text), OneRank()), TrainOptions(None, entries.append))
    test = result["test"]
    assert test["heads"].keys() == {"side", "out"}
    assert test["loss"] == pytest.approx(test["heads"]["side"]["loss"] + test["heads"]["out"]["loss"])
    assert {name: test[name] for name in ("accuracy", "top5", "samples")} == {
        name: test["heads"]["out"][name] for name in ("accuracy", "top5", "samples")
    }
    assert entries[0]["heads"].keys() == {"side", "out"}
    assert "side: loss" in shown(test)
    json.dumps(result)


def test_what_a_regression_shows(capsys):
    text = HEAD.format(
        dtype="float64", mesh="{y: 1, x: 1}", source="synthetic, shape: [2, 6, 6], label_shape: [3], samples: 30"
    )
    network = Network(load(text + REGRESSION))
    entries = []
    train(Worker(network.program, OneRank()), TrainOptions(None, entries.append))
    for entry in entries:
        Progress(True)(entry)
    out = capsys.readouterr().out
    assert "rmse" in out
    assert "accuracy" not in out


def test_a_network_without_metrics_has_none():
    assert heads_of(network_without_metrics().forward) == ()
    assert Metrics(()).samples == 0
    result = train(Worker(network_without_metrics(), OneRank()), TrainOptions(None, lambda entry: None))
    assert (result["train"], result["test"]) == (None, None)


def network_without_metrics():
    return program("""
data: {source: synthetic, shape: [4], label_shape: [2], batch: 5, samples: 20}
nodes:
  - {name: data, op: data, attributes: {batch: 5, shape: [4], label_shape: [2]}}
  - {name: l, op: linear, attributes: {features: 2}, inputs: {input: data.raw_output, weights: W}}
  - {name: loss, op: squared_error, inputs: {input: l.output, labels: data.labels_output}}
train: {optimizer: {sgd: {rate: 0.1}}, steps: 1}
""")
