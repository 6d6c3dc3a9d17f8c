"""Chains of the numpy backend: to the last bit what their kernels give one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.kernels.call import Moment
from dgraph.kernels.numpy import FUSIONS
from tests.chain import Chained

DIMS = [(4, 3, 5, 2), (3, 16, 8, 8), (5, 7), (2, 4, 3, 2, 4), (1, 1, 6), (2, 3, 130, 70)]

LINES = (("variance", True), ("mean", True))


def channels_last(array):
    axes = [0, *range(2, array.ndim), 1]
    return np.array(array.transpose(axes), order="C").transpose(np.argsort(axes))


def with_rim(array):
    """A halo around it, so that no block is a run of memory."""
    memory = np.full([n + 2 for n in array.shape], np.nan, array.dtype)
    view = memory[(slice(1, -1),) * array.ndim]
    view[...] = array
    return view


PLACES = {"plain": np.array, "channels last": channels_last, "with a rim": with_rim}


def small(dim):
    return (1, dim[1], *(1,) * (len(dim) - 2))


def dims_of(dim):
    per_channel = dict.fromkeys(("m", "v", "s", "gm", "gv", "gs", "gt", "gb"), small(dim))
    return per_channel | dict.fromkeys(("x", "z", "o", "gx", "gy", "gz", "go", "gr"), dim)


def backward(ops):
    """Nodes of a gradient chain, go -> gz [-> gy, gr] -> gx, and its inner results."""
    if ops == ["variance", "mean"]:
        return [
            ("variance", True, {"output.delta": "gv", "input": "x", "mean": "m", "input.delta": "gx"}, {}),
            ("mean", True, {"output.delta": "gm", "input.delta": "gx"}, {}),
        ], []
    reads = ("input", "z") if ops[0] in ("leaky_relu", "elu", "silu", "gelu") else ("output", "o")
    nodes = [(ops[0], True, {"output.delta": "go", reads[0]: reads[1], "input.delta": "gz"}, {})]
    delta = "gz"
    if "add" in ops:
        nodes.append(("add", True, {"output.delta": "gz", "input0.delta": "gr", "input1.delta": "gy"}, {}))
        delta = "gy"
    if ops[-1] == "affine":
        nodes.append(("affine", True, {"output.delta": delta, "b.delta": "gb", "input.delta": "gx"}, {}))
    else:
        ports = {"output.delta": delta, "input": "x", "mean": "m", "variance": "v", "scale": "s"}
        deltas = {"scale.delta": "gs", "shift.delta": "gt", "mean.delta": "gm", "variance.delta": "gv"}
        nodes.append(("normalize", True, ports | deltas | {"input.delta": "gx"}, {}))
    return nodes, ["gz", "gy"] if "add" in ops else ["gz"]


def chained(key, dim, dtype, kept=(), **more):
    ops = [op for op, _ in key]
    nodes, inner = backward(ops)
    made = Chained(nodes, dims_of(dim), dtype, inner=[name for name in inner if name not in kept], **more)
    made.values["v"] = np.abs(made.values["v"]) + 0.1
    return made


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(FUSIONS)), st.sampled_from(DIMS), st.sampled_from(sorted(PLACES)), st.data())
def test_chains_have_the_bits_of_their_kernels(key, dim, place, data):
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    kept = data.draw(st.sets(st.sampled_from(["y", "z", "gz", "gy"])))
    samples = data.draw(st.sampled_from([dim[0], max(1, dim[0] - 1)]))
    moment = Moment(batch=dim[0], samples=samples, total=samples)
    lines = key == LINES
    more = {"added": ("gx",), "start": {"gx": 2.0}} if lines else {"added": ("gr",), "start": {"gr": 1.5}}
    if "affine" in [op for op, _ in key]:
        kept = kept - {"gz"}
    made = chained(key, dim, dtype, kept, moment=moment, **(more if data.draw(st.booleans()) or lines else {}))
    wanted, found = made.one_by_one(), made.fused(FUSIONS[key], PLACES[place])
    for name in found.keys() & made.results:
        if place == "plain":
            np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
        else:
            bound = 1e-5 if dtype == "float32" else 1e-12
            np.testing.assert_allclose(found[name], wanted[name], rtol=bound, atol=bound * 50, err_msg=name)


@pytest.mark.parametrize("place", sorted(PLACES))
@pytest.mark.parametrize("key", sorted(FUSIONS.keys() - {LINES}))
def test_results_may_lie_where_an_operand_does(key, place):
    """The last result over the first operand or the other one of a sum; a delta over the one that comes in, where the kernel of the
    nonlinearity allows it."""
    made, ops = chained(key, (2, 3, 40, 30), "float32"), [op for op, _ in key]
    allowed = made.in_place(FUSIONS[key], PLACES[place])
    assert allowed or (key[0][1] and ops[0] not in ("relu", "tanh"))


def test_what_is_something_else_does_not_fit():
    relu = (("relu", True), ("normalize", True))
    assert FUSIONS[relu].fits(chained(relu, (3, 4, 5), "float64").chain)
    assert not FUSIONS[relu].fits(chained(relu, (3, 4, 5), "float64", added=("gx",)).chain)
    assert not FUSIONS[LINES].fits(chained(LINES, (3, 4, 5), "float64").chain)
