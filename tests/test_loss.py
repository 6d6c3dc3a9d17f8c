"""Losses against PyTorch, in pieces; labels that are not there; several losses at once on any mesh."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.config import parse_config
from dgraph.error import ConfigError
from dgraph.kernels.numpy import KERNELS
from dgraph.ops import OPS
from dgraph.runtime.communicator import OneRank
from dgraph.train import Worker
from dgraph.verify import compare as compare_outcomes
from dgraph.verify import one_rank, run_steps
from tests.networks import looked_at, program
from tests.peer import compare, dims, torch
from tests.problem import BUFFERS, Problem, bound, peak_of, placed

F = torch.nn.functional
WEIGHTS = st.floats(0.125, 4)


def sparse(random, dim):
    """Real targets, some of them missing."""
    return np.where(random.random(dim) < 0.2, np.nan, random.normal(size=dim))


def shares(random, dim):
    """Probabilities as targets, some of them missing, some 0 or 1."""
    values = np.clip(random.normal(0.5, 0.5, dim), 0, 1)
    return np.where(random.random(dim) < 0.2, -1, values)


def mean_where(there, losses):
    """The mean over everything of the losses that count."""
    return torch.where(there, losses, 0).sum() / losses.numel()


def of_targets(function):
    """A loss of `function(x, t)` element by element, where there is a target."""

    def loss(input, labels):
        there = ~labels.isnan()
        return mean_where(there, function(input, torch.where(there, labels, 0)))

    return loss


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("squared_error", lambda x, t: F.mse_loss(x, t, reduction="none")),
        ("half_squared_norm", lambda x, t: F.mse_loss(x, t, reduction="none") * x[0].numel() / 2),
        ("absolute_error", lambda x, t: F.l1_loss(x, t, reduction="none")),
    ],
)
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_errors_are_those_of_torch(name, function, data):
    dim, weight = data.draw(dims()), data.draw(WEIGHTS)
    loss = of_targets(function)
    compare(
        data, name, {"weight": weight}, {"input": dim, "labels": dim},
        lambda input, labels: weight * loss(input, labels), values={"labels": sparse},
    )  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_huber_is_that_of_torch(data):
    dim, weight, delta = data.draw(dims()), data.draw(WEIGHTS), data.draw(st.floats(0.1, 3))
    loss = of_targets(lambda x, t: F.huber_loss(x, t, reduction="none", delta=delta))
    compare(
        data, "huber", {"weight": weight, "delta": delta}, {"input": dim, "labels": dim},
        lambda input, labels: weight * loss(input, labels), values={"labels": sparse},
    )  # fmt: skip


@pytest.mark.parametrize("logits", [True, False])
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_binary_cross_entropy_is_that_of_torch(logits, data):
    dim, weight = data.draw(dims()), data.draw(WEIGHTS)
    function = F.binary_cross_entropy_with_logits if logits else F.binary_cross_entropy

    def loss(input, labels):
        there = labels >= 0
        return weight * mean_where(there, function(input, torch.where(there, labels, 0), reduction="none"))

    values = {"labels": shares} | ({} if logits else {"input": lambda random, dim: random.uniform(0.01, 0.99, dim)})
    dim = {"input": dim, "labels": dim}
    compare(data, "binary_cross_entropy", {"weight": weight, "logits": logits}, dim, loss, values=values)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_perceptron_criterion_is_that_of_torch(data):
    dim, weight = data.draw(dims()), data.draw(WEIGHTS)

    def loss(input, labels):
        there, target = labels >= 0, torch.where(labels >= 0, labels, 0)
        lack = torch.relu(input) - input * target
        return weight * torch.where(there, lack, 0).sum() / input.shape[0]

    compare(data, "perceptron", {"weight": weight}, {"input": dim, "labels": dim}, loss, values={"labels": shares})


def classes(draw):
    """Dims of scores and labels."""
    dim = draw(dims(least=2))
    return {"input": dim, "labels": (dim[0], 1, *dim[2:])}


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_softmax_is_that_of_torch(data):
    weight, smoothing = data.draw(WEIGHTS), data.draw(st.sampled_from([0.0, 1.0]) | st.floats(0, 1))

    def loss(input, labels):
        options = {"ignore_index": -1, "label_smoothing": smoothing, "reduction": "sum"}
        total = F.cross_entropy(input, labels[:, 0].long(), **options)
        return {"probability": input.softmax(1), "output": weight * total / labels.numel()}

    compare(data, "softmax", {"weight": weight, "smoothing": smoothing}, classes(data.draw), loss)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_negative_log_likelihood_is_that_of_torch(data):
    weight = data.draw(WEIGHTS)

    def loss(input, labels):
        total = F.nll_loss(input.log(), labels[:, 0].long(), ignore_index=-1, reduction="sum")
        return weight * total / labels.numel()

    values = {"input": lambda random, dim: random.uniform(0.01, 1, dim)}
    compare(data, "negative_log_likelihood", {"weight": weight}, classes(data.draw), loss, values=values)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_one_hot_is_that_of_torch(data):
    labels, count = classes(data.draw)["labels"], data.draw(st.integers(1, 6))

    def targets(labels):
        number = labels.long()
        hot = F.one_hot(number.clamp(min=0), count)[:, 0].movedim(-1, 1)
        return torch.where(number < 0, -1, hot)

    values = {"labels": lambda random, dim: random.integers(-1, count, dim)}
    compare(data, "one_hot", {"classes": count}, {"labels": labels}, targets, values=values)


ELEMENTS = {
    "squared_error": {},
    "half_squared_norm": {},
    "absolute_error": {},
    "huber": {},
    "binary_cross_entropy": {"logits": True},
    "perceptron": {},
    "evaluate_binary": {},
    "evaluate_error": {},
}
DIM = (8, 16, 64, 64)


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("name", [*ELEMENTS, "sum_targets", "negative_log_likelihood"])
def test_actions_allocate_nothing(name, accumulate):
    given = {"input": DIM, "labels": DIM, "targets": (2, 1, 1, 1)} if name in ELEMENTS else DIM
    problem = Problem((name, ELEMENTS.get(name, {}), given), "float32", values={"input": np.full(DIM, 0.25)})
    problem = problem.with_forward()
    for gradient in (False, True) if problem.op.gradient else (False,):
        call = problem.call(gradient, problem.access.space.whole, accumulate)
        empty = {port: np.zeros(rect.size, "float32") for port, rect in call.rects.items()}
        arrays = {port: placed((empty | problem.values)[port], (1, 2, 3, 0)) for port in call.rects}
        assert peak_of(bound(call, arrays)) < BUFFERS
        assert KERNELS[name, gradient].workspace(call) <= 1 << 20


# --- values at the edge


def loss_and_slope(name, dtype, x, t, **attributes):
    """The loss of one sample with these values, and its gradient."""
    values = {"input": np.reshape(x, (1, -1)), "labels": np.reshape(t, (1, -1))}
    case = (name, attributes, {port: value.shape for port, value in values.items()})
    problem = Problem(case, dtype, values=values).with_forward()
    return problem.values["output"].item(), problem.run(gradient=True)["input.delta"][0].tolist()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_probabilities_of_zero_and_one(dtype):
    x, t = [0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]
    loss, slope = loss_and_slope("binary_cross_entropy", dtype, x, t)
    tensor = torch.tensor(x, dtype=getattr(torch, dtype), requires_grad=True)
    expected = F.binary_cross_entropy(tensor, torch.tensor(t, dtype=getattr(torch, dtype)))
    expected.backward()
    assert loss == expected.item() == 50
    assert slope == pytest.approx(tensor.grad.tolist(), rel=1e-7)
    loss, slope = loss_and_slope("negative_log_likelihood", dtype, [0.0, 1.0], [0.0], weight=4.0)
    assert np.isfinite([loss, *slope]).all()
    assert loss > 300
    small = {"float64": 1e-290, "float32": 1e-36}[dtype]
    loss, slope = loss_and_slope("negative_log_likelihood", dtype, [small, 1.0], [0.0])
    assert [loss, *slope] == pytest.approx([-np.log(small), -1 / small, 0], rel=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_scores_of_any_size(dtype):
    loss, slope = loss_and_slope("binary_cross_entropy", dtype, [800.0, -800.0], [1.0, 1.0], logits=True)
    assert loss == 400
    assert slope == [0.0, -0.5]


@pytest.mark.parametrize("name", ["squared_error", "half_squared_norm", "absolute_error", "huber"])
def test_what_is_no_number_is_seen_only_where_it_counts(name):
    loss, slope = loss_and_slope(name, "float64", [np.nan, 1.0], [np.nan, 1.0])
    assert (loss, slope) == (0.0, [0.0, 0.0])
    assert np.isnan(loss_and_slope(name, "float64", [np.nan, 1.0], [0.0, 1.0])[0])


def test_many_terms_are_added_up_in_float64():
    count = 3_000_000
    problem = Problem(("squared_error", {}, {"input": (1, count), "labels": (1, count)}), "float32",
                      values={"input": np.full((1, count), 1.1), "labels": np.ones((1, count))})  # fmt: skip
    assert problem.run()["output"].item() == pytest.approx(np.float32(np.float32(1.1) - 1) ** 2, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "attribute", "value"),
    [
        ("huber", "delta", 0),
        ("softmax", "smoothing", 1.5),
        ("softmax", "weight", -1),
        ("squared_error", "weight", True),
    ],
)
def test_attributes_that_make_no_sense_are_refused(name, attribute, value):
    with pytest.raises(ValueError, match=r"^a number "):
        OPS[name].attributes[attribute].read(value, 0)


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"labels of dim \[2, 1\] do not fit an input of dim \[2, 3\]"):
        OPS["squared_error"].access({}, {"input": (2, 3), "labels": (2, 1)})


# --- several losses

HEADS = """
dtype: {dtype}
mesh: {mesh}
data: {{source: synthetic, shape: [3, 8, 9], classes: 4, batch: 6, samples: 32}}
layers:
  - {{name: a, conv: {{channels: 4, size: 3, padding: 1}}, nonlinearity: tanh, split: {first}}}
  - {{name: a_pool, global_average_pool: {{}}}}
  - {{name: a_head, softmax: {{classes: 4, bias: true, weight: 0.3, smoothing: 0.1}}}}
  - {{name: b, conv: {{channels: 6, size: 3, padding: 1}}, nonlinearity: relu, split: {second}, input: a}}
  - {{name: b_pool, global_average_pool: {{}}}}
  - {{name: b_scores, linear: {{features: 4}}, nonlinearity: softmax}}
  - {{name: b_head, negative_log_likelihood: {{weight: 0.2}}}}
  - {{name: c, conv: {{channels: 4, size: 3, stride: 2}}, input: b}}
  - {{name: c_pool, global_average_pool: {{}}}}
  - {{name: head, cross_entropy: {{}}, split: {last}}}
train: {{optimizer: {{sgd: {{rate: 0.1, momentum: 0.5}}}}, steps: 3}}
"""
REGRESSION = """
dtype: float64
mesh: {mesh}
data: {{source: synthetic, shape: [3, 8, 9], label_shape: [5], batch: 6, samples: 32}}
layers:
  - {{name: a, conv: {{channels: 4, size: 3, padding: 1}}, nonlinearity: tanh, split: {first}}}
  - {{name: a_scores, linear: {{features: 5}}}}
  - {{name: a_head, huber: {{delta: 0.3, weight: 0.5}}, split: {wide}}}
  - {{name: b, linear: {{features: 7}}, nonlinearity: relu, input: a}}
  - {{name: b_scores, linear: {{features: 5}}, nonlinearity: logistic}}
  - {{name: b_head, absolute_error: {{weight: 0.2}}, input: b_scores, split: {last}}}
  - {{name: c_scores, linear: {{features: 5}}, input: b}}
  - {{name: head, half_squared_norm: {{}}}}
train: {{optimizer: {{sgd: {{rate: 0.01}}}}, steps: 3}}
"""
MESHES = {
    "{y: 1, x: 1}": ("{H: y, W: x}", "{H: y, W: x}", "{N: [y, x]}", "{N: y, C: x}"),
    "{y: 2, x: 1}": ("{H: y}", "{O: y}", "{N: y}", "{C: y}"),
    "{y: 1, x: 3}": ("{W: x}", "{N: x}", "{N: x}", "{C: x}"),
    "{y: 2, x: 2}": ("{H: y, W: x}", "{N: y, O: x}", "{N: [y, x]}", "{N: y, C: x}"),
    "{y: 2, x: 3}": ("{H: y, W: x}", "{C: y, O: x}", "{N: {axes: [y, x], sizes: [2, 0, 1, 1, 2, 0]}}", "{C: x}"),
}  # fmt: skip


def text_of(template, mesh, dtype="float64"):
    first, second, last, wide = MESHES[mesh]
    return template.format(mesh=mesh, dtype=dtype, first=first, second=second, last=last, wide=wide)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("template", [HEADS, REGRESSION])
def test_several_heads_train_alike_on_any_mesh(template, mesh):
    config = parse_config(text_of(template, mesh), "net.yaml")
    ours, theirs = run_steps(config, 3), run_steps(one_rank(config), 3)
    assert compare_outcomes(ours, theirs)["worst"] < 1e-9
    for a, b in zip(ours.metrics, theirs.metrics, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_several_heads_train_alike_in_float32():
    config = parse_config(text_of(HEADS, "{y: 2, x: 2}", "float32"), "net.yaml")
    assert compare_outcomes(run_steps(config, 3), run_steps(one_rank(config), 3))["worst"] < 1e-4


BINARY = """
dtype: float64
mesh: {{y: 2, x: 2}}
data: {{source: synthetic, shape: [2, 6, 5], {labels}, batch: 6, samples: 32}}
layers:
  - {{name: a, conv: {{channels: 4, size: 3, padding: 1}}, nonlinearity: tanh, split: {{H: y, W: x}}}}
  - {{name: b, {last}}}
  - {{name: out, binary_cross_entropy: {{logits: {logits}, weight: 2}}}}
train: {{optimizer: {{sgd: {{rate: 0.1}}}}, steps: 3}}
"""
PLACES = "label_shape: [1, 6, 5], classes: 2"


@pytest.mark.parametrize(
    ("labels", "logits", "last"),
    [
        (PLACES, "true", "conv: {channels: 1, size: 1}"),
        (PLACES, "false", "conv: {channels: 1, size: 1}, nonlinearity: logistic, split: {C: x, H: y}"),
        ("classes: 2", "true", "linear: {features: 1}, split: {N: [y, x]}"),
    ],
)
def test_binary_cross_entropy_trains_alike_on_any_layout(labels, logits, last):
    config = parse_config(BINARY.format(labels=labels, logits=logits, last=last), "net.yaml")
    ours, theirs = run_steps(config, 3), run_steps(one_rank(config), 3)
    assert compare_outcomes(ours, theirs)["worst"] < 1e-9
    np.testing.assert_allclose(ours.metrics, theirs.metrics, rtol=1e-9)


def test_losses_add_up_and_gradients_too():
    """The gradient of all heads is the sum of the gradients of each, the weights of the others being 0."""

    def gradient(*silent):
        overrides = [f"layers.{name}.{kind}.weight=0" for name, kind in silent]
        worker = Worker(looked_at(program(text_of(HEADS, "{y: 1, x: 1}"), overrides)), OneRank())
        values = worker.train_step(np.arange(6))
        return float(values[0]), worker.engine.value("a.W.grad").copy()

    kinds = {"a_head": "softmax", "b_head": "negative_log_likelihood", "head": "cross_entropy"}
    alone = [gradient(*(pair for pair in kinds.items() if pair[0] != name)) for name in kinds]
    loss, whole = gradient()
    assert loss == pytest.approx(sum(value for value, _ in alone), rel=1e-12)
    np.testing.assert_allclose(whole, sum(part for _, part in alone), rtol=1e-9, atol=1e-15)
