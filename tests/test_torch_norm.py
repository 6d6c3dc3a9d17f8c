"""Batch norm on the torch backend: kernels against NumPy's, and chains against their kernels one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.kernels.call import InPlace, Moment
from dgraph.rect import Rect
from tests.chain import Chained
from tests.problem import Problem

pytest.importorskip("torch")
from dgraph.kernels.torch import KERNELS
from dgraph.kernels.torch.channel import ColumnSums, matrices
from dgraph.kernels.torch.norm_chain import FUSIONS
from dgraph.kernels.torch.statistic import Moments

TOLERANCE = {"float32": 3e-5, "float64": 1e-12}


def channels_last(array):
    axes = [0, *range(2, array.ndim), 1]
    return np.array(array.transpose(axes), order="C").transpose(np.argsort(axes))


def with_rim(array):
    """Channels innermost, but a halo around the rows."""
    axes = [0, *range(2, array.ndim), 1]
    memory = np.full([array.shape[d] + 2 * (d > 1) for d in axes], np.nan, array.dtype)
    view = memory[tuple(slice(1, -1) if d > 1 else slice(None) for d in axes)].transpose(np.argsort(axes))
    view[...] = array
    return view


PLACES = {"plain": np.array, "channels last": channels_last, "with a rim": with_rim}


def dims_of(dim):
    small = (1, dim[1], *(1,) * (len(dim) - 2))
    names = {"m": small, "v": small, "gm": small, "gv": small, "s": small, "t": small, "gs": small, "gt": small}
    return dict.fromkeys(("x", "y", "z", "o", "r", "gx", "gy", "gz", "go", "gr", "gs"), dim) | names


def forward(ops):
    """Nodes of a chain of these ops, and its inner results."""
    nodes, before, inner = [], "x", []
    for op in ops:
        if op == "mean":
            nodes.append(("mean", False, {"input": "x", "output": "m"}, {}))
        elif op == "variance":
            nodes.append(("variance", False, {"input": "x", "mean": "m", "output": "v"}, {}))
        elif op == "normalize":
            ports = {"input": "x", "mean": "m", "variance": "v", "scale": "s", "shift": "t", "output": "y"}
            nodes.append(("normalize", False, ports, {}))
            before = "y"
        else:
            ports = {"input0": "r", "input1": before} if op == "add" else {"input": before}
            after = {"add": "z", "relu": "o"}[op]
            nodes.append((op, False, ports | {"output": after}, {}))
            inner.append(before)
            before = after
    return nodes, inner


def backward(ops, second=False):
    nodes, delta, inner = [], "go", []
    for op in ops:
        if op == "relu":
            nodes.append(("relu", True, {"output.delta": "go", "output": "o", "input.delta": "gz"}, {}))
            inner.append("gz")
            delta = "gz"
        elif op == "add":
            ports = (
                {"input0.delta": "gy", "input1.delta": "gr"} if second else {"input0.delta": "gr", "input1.delta": "gy"}
            )
            nodes.append(("add", True, {"output.delta": "gz"} | ports, {}))
            inner.append("gy")
            delta = "gy"
        elif op == "normalize":
            ports = {"output.delta": delta, "input": "x", "mean": "m", "variance": "v", "scale": "s"}
            deltas = {"scale.delta": "gs", "shift.delta": "gt", "mean.delta": "gm", "variance.delta": "gv"}
            nodes.append(("normalize", True, ports | deltas | {"input.delta": "gx"}, {}))
        elif op == "variance":
            ports = {"output.delta": "gv", "input": "x", "mean": "m", "input.delta": "gx"}
            nodes.append(("variance", True, ports, {}))
            inner.append("gv")
        else:
            nodes.append(("mean", True, {"output.delta": "gm", "input.delta": "gx"}, {}))
            inner.append("gm")
    return nodes, inner if "normalize" in ops else []


def chained(key, dim, dtype, **more):
    ops = [op for op, _ in key]
    nodes, inner = (backward if key[0][1] else forward)(ops, **{k: more.pop(k) for k in ("second",) if k in more})
    made = Chained(nodes, dims_of(dim), dtype, inner=inner, **more)
    made.values["v"] = np.abs(made.values["v"]) + 0.1
    made.values["o"] = np.maximum(made.values["o"], 0)
    return made


def compare(made, key, place, times=2):
    wanted, found = made.one_by_one(), made.fused(FUSIONS[key], PLACES[place], times)
    for name in found.keys() & made.results:
        bound = TOLERANCE[made.dtype] * max(1.0, np.abs(wanted[name]).max())
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=bound, err_msg=name)
    if isinstance(FUSIONS[key], InPlace):
        assert made.in_place(FUSIONS[key], PLACES[place])


DIMS = [(4, 3, 5, 2), (3, 16, 8, 8), (5, 7), (2, 4, 3, 2, 4), (1, 1, 6)]


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(sorted(FUSIONS)), st.sampled_from(DIMS), st.sampled_from(sorted(PLACES)), st.data())
def test_chains_equal_their_kernels(key, dim, place, data):
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    samples = data.draw(st.sampled_from([dim[0], max(1, dim[0] - 1)]))
    training = data.draw(st.booleans()) or key[0][1]
    moment = Moment(batch=dim[0], samples=samples, total=samples, training=training)
    compare(chained(key, dim, dtype, moment=moment), key, place)


@pytest.mark.parametrize("place", sorted(PLACES))
@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("added", [("gr",), ("gs", "gt"), ()])
def test_deltas_of_a_sum_and_of_parameters_add_up(place, second, added):
    key = next(key for key in FUSIONS if [op for op, _ in key][:3] == ["relu", "add", "normalize"] and len(key) == 5)
    made = chained(key, (3, 4, 5, 2), "float64", second=second, added=added, start=dict.fromkeys(added, 2.0))
    compare(made, key, place, times=1)


def test_chains_that_are_something_else_do_not_fit():
    """Statistics by sample, a mean of another piece, a delta that is added into."""
    key = next(key for key in FUSIONS if [op for op, _ in key] == ["mean", "variance", "normalize", "relu"])
    fits = FUSIONS[key].fits
    assert fits(chained(key, (4, 3, 5, 2), "float32").chain)
    assert fits(chained(key, (4, 3, 5, 2), "float32", piece={"c": (1, 3)}).chain)
    assert not fits(chained(key, (4, 3, 5, 2), "float32", piece={"n": (0, 2)}).chain)
    assert not fits(chained(key, (4, 3, 5, 2), "float32", added=("m",)).chain)
    back = next(key for key in FUSIONS if [op for op, _ in key] == ["relu", "normalize", "variance", "mean"])
    assert not FUSIONS[back].fits(chained(back, (4, 3, 5, 2), "float32", added=("gx",)).chain)
    assert not FUSIONS[back].fits(chained(back, (4, 3, 5, 2), "float32", added=("gv",)).chain)


# --- kernels


def problem_of(op, dim, dtype, moment=None, seed=0):
    small = (1, dim[1], *(1,) * (len(dim) - 2))
    dims = {"mean": {"input": dim, "running": small}, "variance": {"input": dim, "mean": small, "running": small}}
    dims["normalize"] = {"input": dim, "mean": small, "variance": small}
    values = {"variance": lambda random, own: random.uniform(0.1, 2, own)}
    return Problem((op, {}, dims[op]), dtype, seed, values, moment=moment).with_forward()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["mean", "variance", "normalize"]), st.booleans(), st.sampled_from(DIMS), st.data())
def test_kernels_equal_numpys(op, gradient, dim, data):
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    samples = data.draw(st.sampled_from([dim[0], max(1, dim[0] - 1)]))
    moment = Moment(batch=dim[0], samples=samples, total=samples, training=data.draw(st.booleans()) or gradient)
    problem = problem_of(op, dim, dtype, moment)
    how = {"accumulate": data.draw(st.booleans()), "start": 2.0}
    axis = data.draw(st.integers(0, len(dim) - 1))
    bounds = [(0, k) for k in problem.access.space.extents]
    cut = data.draw(st.integers(0, bounds[axis][1]))
    pieces = [
        Rect.of([*bounds[:axis], (a, b), *bounds[axis + 1 :]]) for a, b in ((0, cut), (cut, bounds[axis][1])) if a < b
    ]
    if len(pieces) > 1:
        how |= {"accumulate": True, "pieces": pieces}
    wanted = problem.run(gradient, **how)
    order, step = data.draw(
        st.sampled_from([(None, 2), ((0, 2, 3, 4, 1), 0), ((0, 2, 3, 4, 1), 1), ((1, 0, 2, 3, 4), 2)])
    )
    found = problem.run(gradient, **how, order=order, step=step, kernels=KERNELS)
    for port, value in found.items():
        bound = TOLERANCE[dtype] * max(1.0, np.abs(wanted[port]).max())
        np.testing.assert_allclose(value, wanted[port], rtol=0, atol=bound)


def test_sums_of_many_elements_are_sound():
    """A mean that is large beside its deviation, and more elements than naive float32 sums of ones can count."""
    x = np.ones((18, 1, 1000, 1000), "float32")
    x[::2] += np.float32(1e-3)
    moments = Moments(matrices(x))
    means, variances = moments.find()
    mean = moments.mean(means)
    exact = x.astype("float64")
    assert mean.item() == pytest.approx(exact.mean(), rel=1e-6)
    assert moments.variance(means, variances, mean).item() == pytest.approx(exact.var(), rel=1e-3)
    sums = ColumnSums(matrices(x))
    for step in sums.steps:
        step()
    assert sums.total().item() == pytest.approx(exact.sum(), rel=1e-6)


def test_groups_and_layers_are_numpys():
    """What is not one number a channel has the same kernel as before, on the same memory."""
    for attributes in ({"over": "sample"}, {"over": "space"}, {"over": "sample", "groups": 2}):
        problem = Problem(("mean", attributes, (3, 4, 5, 2)), "float64", without=("running",))
        wanted = problem.run()["output"]
        found = problem.run(order=(0, 2, 3, 1), step=0, kernels=KERNELS)["output"]
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
