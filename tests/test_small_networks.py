"""The small networks of `configs/`: what each can learn, on one rank and on several, and what it cannot."""

import numpy as np
import pytest

from dgraph.config import load_config
from dgraph.data import subset
from dgraph.program import compile_config
from dgraph.rect import Rect
from dgraph.runtime.communicator import OneRank
from dgraph.runtime.thread import run_threads
from dgraph.train import TrainOptions, Worker, gather_tensor, train
from dgraph.verify import compare, one_rank, run_steps
from tests.networks import looked_at
from tests.runs import CONFIGS

UNIT = "unit.linearA.output"
NAMES = (
    "and",
    "or",
    "not",
    "perceptron_xor",
    "mlp_xor",
    "ring_2",
    "ring_3",
    "faces_regression",
    "faces_classification",
)


def found(name, ranks, tensor, subset, overrides=()):
    """What a tensor holds for every sample of a subset, and their labels, after training on so many ranks."""
    program = looked_at(compile_config(load_config(CONFIGS / f"{name}.yaml", overrides, ranks)))

    def body(communicator):
        worker = Worker(program, communicator)
        training = worker.batches("train", shuffle=True)
        for step in range(program.config.train.epochs * training.steps):
            worker.train_step(training.indices(*divmod(step, training.steps)))
        batches = worker.batches(subset, shuffle=False)
        rows, labels = [], []
        for indices, following in batches.pairs():
            worker.forward(indices, following)
            whole, there = gather_tensor(worker.program, worker.engine, tensor), indices >= 0
            if whole is not None:
                rows.append(whole[there])
                labels.append(worker.source.labels(indices[there], Rect.whole(worker.source.label_shape)))
        return np.concatenate(rows or [[]]), np.concatenate(labels or [[]])

    return body(OneRank()) if ranks == 1 else run_threads(ranks, body)[0]


def correct(name, ranks, subset, overrides=()):
    """The share of samples on whose side of zero the unit is."""
    scores, labels = found(name, ranks, UNIT, subset, overrides)
    return ((scores > 0) == labels).mean()


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("name", ["and", "or", "not", "mlp_xor"])
def test_a_logical_function_is_learned(name, ranks):
    assert correct(name, ranks, "train") == 1


@pytest.mark.parametrize("seed", range(5))
def test_xor_is_learned_from_any_start(seed):
    assert correct("mlp_xor", 1, "train", [f"seed={seed}"]) == 1


def test_one_unit_cannot_learn_xor():
    assert correct("perceptron_xor", 1, "train") <= 0.75


def test_a_table_may_fill_a_larger_batch():
    assert correct("or", 1, "train", ["data.repeat=20", "data.batch=7"]) == 1


@pytest.mark.parametrize("ranks", [1, 3])
def test_three_hidden_units_tell_a_disc_from_its_ring(ranks):
    assert correct("ring_3", ranks, "test") >= 0.99


def test_two_hidden_units_cannot_tell_a_disc_from_its_ring():
    assert 0.7 < correct("ring_2", 1, "test") < 0.95


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(20))
def test_hidden_units_of_a_ring_whatever_the_seed(seed):
    assert correct("ring_3", 1, "test", [f"seed={seed}"]) >= 0.99
    assert correct("ring_2", 1, "test", [f"seed={seed}"]) < 0.95


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_linear_regression_is_as_good_as_the_exact_one(ranks):
    """Within 3% of ridge regression on the same samples, its penalty the best of many for the samples it is judged by."""
    pytest.importorskip("sklearn")
    found_, targets = found("diabetes", ranks, "progress.linearA.output", "test")
    worker = Worker(compile_config(load_config(CONFIGS / "diabetes.yaml")), OneRank())
    rows, labels = (read(np.arange(442), Rect.whole(shape)) for read, shape in (
        (worker.source.read, (10,)), (worker.source.labels, (1,))))  # fmt: skip
    taken, judged = (subset(worker.spec, worker.program.data, name) for name in ("train", "test"))
    rows = rows.astype(float) - rows[taken].mean(0)
    mean = labels[taken].mean()
    best = min(
        np.sqrt(
            np.mean((rows[judged] @ ridge(rows[taken], labels[taken] - mean, penalty) + mean - labels[judged]) ** 2)
        )
        for penalty in (0, *np.logspace(-4, 1, 20))
    )
    assert np.sqrt(np.mean((found_ - targets) ** 2)) < 1.03 * best


def ridge(rows, targets, penalty):
    """The weights of least squares with a penalty on their squares (Hoerl and Kennard 1970)."""
    return np.linalg.solve(rows.T @ rows + penalty * np.eye(rows.shape[1]), rows.T @ targets)


@pytest.mark.heavy
def test_lenet_reads_digits():
    pytest.importorskip("sklearn")
    shares = []
    for seed in range(5):
        worker = Worker(compile_config(load_config(CONFIGS / "lenet5_digits.yaml", [f"seed={seed}"])), OneRank())
        shares.append(train(worker, TrainOptions(None, lambda entry: None))["test"]["accuracy"])
    assert np.mean(shares) >= 0.985


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_number_is_learned_from_128_features(ranks):
    ages, targets = found("faces_regression", ranks, "age.linearA.output", "test")
    assert np.sqrt(np.mean((ages - targets) ** 2)) < 0.3 * targets.std()


@pytest.mark.parametrize("ranks", [1, 2])
def test_five_groups_are_learned_from_128_features(ranks):
    scores, labels = found("faces_classification", ranks, "group.linear1A.output", "test")
    assert (scores.argmax(1, keepdims=True) == labels).mean() > 0.9


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ranks", [2, 3])
def test_several_ranks_train_as_one_does(name, ranks):
    config = load_config(CONFIGS / f"{name}.yaml", ["dtype=float64"], ranks)
    assert compare(run_steps(config, 3), run_steps(one_rank(config), 3))["worst"] < 1e-9


@pytest.mark.parametrize(("name", "tensor"), [
    ("faces_regression", "age.linearA.output"),
    ("faces_classification", "group.linear1A.output"),
])  # fmt: skip
def test_features_may_come_from_a_file(name, tensor, tmp_path):
    draw = np.random.default_rng(0)
    x = draw.standard_normal((150, 128)).astype(np.float32)
    y = draw.integers(1, 90, 150) if name == "faces_regression" else draw.integers(0, 5, 150)
    np.savez(tmp_path / "faces.npz", x=x, y=y)
    overrides = ["data.source=npz", f"data.path={tmp_path}/faces.npz", "data.batch=40", "train.epochs=2"]
    values, labels = found(name, 1, tensor, "test", overrides)
    assert len(values) == len(labels) == 15
    assert np.isfinite(values).all()
