"""Batch norm on the torch backend: kernels against NumPy's, and chains against their kernels one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.kernels.call import Moment
from tests.chain import Chained

pytest.importorskip("torch")
from dgraph.kernels.torch.norm_chain import FUSIONS

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
    return {name: dim for name in ("x", "y", "z", "o", "r", "gx", "gy", "gz", "go", "gr", "gs")} | names


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
            ports = {"input0.delta": "gy", "input1.delta": "gr"} if second else {"input0.delta": "gr", "input1.delta": "gy"}
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


DIMS = [(4, 3, 5, 2), (3, 16, 8, 8), (5, 7), (2, 4, 3, 2, 4), (1, 1, 6)]


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(sorted(FUSIONS)), st.sampled_from(DIMS), st.sampled_from(sorted(PLACES)), st.data())
def test_chains_equal_their_kernels(key, dim, place, data):
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    samples = data.draw(st.sampled_from([dim[0], max(1, dim[0] - 1)]))
    moment = Moment(batch=dim[0], samples=samples, total=samples)
    made = chained(key, dim, dtype, moment=moment)
    compare(made, key, place)
