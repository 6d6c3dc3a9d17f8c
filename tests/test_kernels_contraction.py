"""Linear, conv, conv_transpose and tiled against loops over their access maps: forward and gradients, whole and in pieces, in
any memory order, into NaN or onto what is there, and without allocations."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.graph.access import image
from dgraph.graph.node import Access
from dgraph.kernels.call import Call
from dgraph.kernels.numpy import contraction
from dgraph.kernels.numpy.contraction import KERNELS, gather
from dgraph.kernels.numpy.contraction import product as products
from dgraph.ops import OPS
from dgraph.rect import Rect, share

CASES = {
    "conv 1d": ("conv", (3, 2, 7), {"channels": 3, "size": 3, "stride": 2, "padding": 1}),
    "conv 2d": ("conv", (2, 3, 5, 4), {"channels": 4, "size": [3, 2], "padding": [[2, 0], [0, 1]]}),
    "conv 1x1": ("conv", (2, 3, 4, 3), {"channels": 4, "size": 1}),
    "conv gaps": ("conv", (2, 2, 7, 7), {"channels": 2, "size": 1, "stride": 3}),
    "conv dilated": (
        "conv",
        (2, 2, 8, 7),
        {"channels": 3, "size": 3, "dilation": [2, 1], "stride": [1, 2], "padding": 2},
    ),
    "conv far padding": ("conv", (1, 1, 2, 2), {"channels": 2, "size": 2, "padding": 3}),
    "conv grouped": ("conv", (2, 6, 4, 4), {"channels": 9, "size": 3, "padding": 1, "groups": 3}),
    "conv depthwise": ("conv", (2, 4, 5, 5), {"channels": 4, "size": 3, "stride": 2, "padding": 1, "groups": 4}),
    "conv 3d": ("conv", (2, 2, 4, 3, 4), {"channels": 2, "size": [3, 2, 3], "stride": [1, 1, 2], "padding": 1}),
    "transposed 1d": (
        "conv_transpose",
        (3, 2, 5),
        {"channels": 3, "size": 3, "stride": 2, "padding": [[1, 2]], "output_padding": 1},
    ),
    "transposed 2d": ("conv_transpose", (2, 3, 3, 4), {"channels": 2, "size": [4, 1], "stride": [1, 3]}),
    "transposed grouped": (
        "conv_transpose",
        (2, 4, 3, 3),
        {"channels": 6, "size": 2, "stride": 2, "dilation": 3, "groups": 2},
    ),
    "transposed 3d": ("conv_transpose", (1, 2, 2, 3, 2), {"channels": 2, "size": [2, 3, 2], "stride": 2, "padding": 1}),
    "tiled 1d": ("tiled", (3, 2, 9), {"channels": 2, "tile": 3, "size": 5, "stride": 2}),
    "tiled 2d": ("tiled", (2, 2, 6, 7), {"channels": 3, "tile": [2, 1], "size": [4, 3], "stride": [2, 1]}),
    "tiled 3d": ("tiled", (2, 1, 4, 3, 4), {"channels": 2, "tile": [1, 2, 2], "size": 2, "stride": [2, 1, 2]}),
    "linear": ("linear", (3, 2, 3, 4), {"features": 5}),
    "linear 1d": ("linear", (4, 3, 2), {"features": 3}),
}
cases = pytest.mark.parametrize("case", CASES)


def parameter(op: str) -> str:
    return "weights" if op == "linear" else "filters"


def access_of(op: str, dim: tuple[int, ...], values: Mapping[str, object]) -> Access:
    spatial = len(dim) - 2
    read = {
        key: attribute.read(values.get(key, attribute.default), spatial)
        for key, attribute in OPS[op].attributes.items()
    }
    return OPS[op].access(read, {"input": dim})


def call_of(
    case: str, gradient: bool = False, piece: Rect | None = None, accumulate=(), dtype="float64", without=()
) -> Call:
    op, dim, values = CASES[case]
    access = access_of(op, dim, values)
    piece = piece if piece is not None else access.space.whole
    name = parameter(op)
    ports = ["input", name, "output.delta", "input.delta", f"{name}.delta"] if gradient else ["input", name, "output"]
    rects = {
        port: image(access.maps[base], access.space, piece, access.dims[base])
        for port in ports
        if port not in without
        for base in [port.removesuffix(".delta")]
    }
    return Call(op, gradient, values, access, piece, rects, frozenset(accumulate), dtype)


def written(call: Call) -> tuple[str, ...]:
    wanted = ("input.delta", f"{parameter(call.op)}.delta") if call.gradient else ("output",)
    return tuple(port for port in wanted if port in call.rects)


def values_of(call: Call, seed: int = 0) -> dict[str, np.ndarray]:
    """The whole tensor of every port."""
    draw = np.random.default_rng(seed)
    return {port: draw.standard_normal(call.access.dims[port.removesuffix(".delta")]) for port in call.rects}


def ordered(array: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))


def aligned_bytes(count: int) -> np.ndarray:
    raw = np.full(count + 64, 255, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count]


def bound(call: Call, values: Mapping[str, np.ndarray], lay="own"):
    """(action, arrays): what is assigned starts as NaN, and so does the scratch."""
    kernel = KERNELS[call.op, call.gradient]
    arrays = {}
    for port, rect in call.rects.items():
        array = values[port][rect.slices()].astype(call.dtype)
        if port in written(call) and port not in call.accumulate:
            array.fill(np.nan)
        if lay == "own":
            array = ordered(array, kernel.order(call, port) or tuple(range(array.ndim)))
        if lay == "gapped":
            wide = np.full([2 * n + 1 for n in array.shape], np.nan, call.dtype)
            inner = wide[tuple(slice(1, None, 2) for _ in array.shape)]
            inner[...] = array
            array = inner
        arrays[port] = array
    return kernel.bind(call, arrays, aligned_bytes(kernel.workspace(call))), arrays


def done(call: Call, values: Mapping[str, np.ndarray], lay="own") -> dict[str, np.ndarray]:
    action, arrays = bound(call, values, lay)
    action()
    return {port: arrays[port] for port in written(call)}


def interpreted(call: Call, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Whole tensors of the sums that the piece adds: a loop over all points of it."""
    maps, labels, name = call.access.maps, call.space.labels, parameter(call.op)
    sums = {port: np.zeros(call.access.dims[port.removesuffix(".delta")]) for port in written(call)}
    for point in product(*(range(*bounds) for bounds in call.piece.bounds)):
        at = dict(zip(labels, point, strict=True))
        index = {
            port: tuple(sum(c * at[label] for label, c in e.terms) + e.offset for e in maps[port])
            for port in ("input", name, "output")
        }
        beside = (not 0 <= x < n for port in index for x, n in zip(index[port], call.access.dims[port], strict=True))
        if any(beside):
            continue
        triples = [
            ("output", name, "input"),
            ("input.delta", name, "output.delta"),
            (f"{name}.delta", "input", "output.delta"),
        ]
        for target, a, b in triples:
            if target in sums:
                sums[target][index[target.removesuffix(".delta")]] += (
                    values[a][index[a]] * values[b][index[b.removesuffix(".delta")]]
                )
    return sums


def close(
    result: Mapping[str, np.ndarray], call: Call, wanted: Mapping[str, np.ndarray], tolerance: float = 1e-10
) -> None:
    for port, array in result.items():
        np.testing.assert_allclose(array, wanted[port][call.rects[port].slices()], tolerance, tolerance, err_msg=port)


@cases
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("lay", ["own", "plain", "gapped"])
def test_whole(case, gradient, lay):
    call = call_of(case, gradient)
    values = values_of(call)
    close(done(call, values, lay), call, interpreted(call, values))


@cases
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("budget", [256, 2048])
def test_small_scratch_gives_the_same(case, gradient, budget, monkeypatch):
    monkeypatch.setattr(contraction, "BUDGET", budget)
    test_whole(case, gradient, "own")
    test_whole(case, gradient, "plain")


@cases
@pytest.mark.parametrize("added", [0, 1e9], ids=["scattered", "gathered"])
def test_blocks_of_every_product_give_the_same(case, added, monkeypatch):
    """Blocks cut in all groups of labels, and windows taken the other way than their shapes would have it."""
    monkeypatch.setattr(gather, "ADDED", added)
    for run, cache, lay in ((1, 1, "gapped"), (2, 24, "own")):
        for name, value in {"RUN": run, "CACHE": cache, "SMALL": 0, "LONG": 3 * run}.items():
            monkeypatch.setattr(products, name, value)
        for gradient in (False, True):
            test_whole(case, gradient, lay)


@cases
def test_float32(case):
    for gradient in (False, True):
        call = call_of(case, gradient, dtype="float32")
        values = values_of(call)
        result = done(call, values)
        assert all(array.dtype == np.float32 for array in result.values())
        close(result, call, interpreted(call, values), 1e-4)


@cases
@pytest.mark.parametrize("left_out", ["input.delta", "parameter"])
def test_only_one_gradient(case, left_out):
    left_out = f"{parameter(CASES[case][0])}.delta" if left_out == "parameter" else left_out
    call = call_of(case, True, without=(left_out,))
    values = values_of(call)
    assert left_out not in done(call, values)
    close(done(call, values), call, interpreted(call, values))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pieces_make_the_whole(data):
    """Every label is cut at random; the pieces, added up, are the whole."""
    case, gradient = data.draw(st.sampled_from(sorted(CASES))), data.draw(st.booleans())
    lay = data.draw(st.sampled_from(["own", "plain", "gapped"]))
    whole = call_of(case, gradient)
    values = values_of(whole)
    cuts = []
    for extent in whole.space.extents:
        parts = data.draw(st.integers(1, min(2, extent)))
        cuts.append([share(extent, parts, index) for index in range(parts)])
    total = {port: np.zeros(values[port].shape) for port in written(whole)}
    for bounds in list(product(*cuts))[:128]:
        call = call_of(case, gradient, Rect.of(bounds))
        wanted = interpreted(call, values)
        result = done(call, values, lay)
        close(result, call, wanted)
        added = call_of(case, gradient, Rect.of(bounds), accumulate=written(call))
        onto = done(added, values, lay)
        for port, array in result.items():
            there = call.rects[port].slices()
            np.testing.assert_allclose(onto[port] - values[port][there], array, 1e-9, 1e-9)
            total[port][there] += array
    if np.prod([len(cut) for cut in cuts]) <= 128:
        close(total, whole, interpreted(whole, values))


def test_operand_in_the_padding_only():
    op, dim, values = "conv", (2, 2, 4), {"channels": 2, "size": 3, "padding": 3}
    access = access_of(op, dim, values)
    piece = Rect.of(
        (0, 1) if label == "w" else (0, n) for label, n in zip(access.space.labels, access.space.extents, strict=True)
    )
    rects = {
        port: image(access.maps[port], access.space, piece, access.dims[port])
        for port in ("input", "filters", "output")
    }
    assert not rects["input"]
    call = Call(op, False, values, access, piece, rects, frozenset(), "float64")
    assert not done(call, values_of(call))["output"].any()
    rects |= {f"{port}.delta": rect for port, rect in rects.items()}
    call = Call(op, True, values, access, piece, rects, frozenset(), "float64")
    result = done(call, values_of(call))
    assert not result["filters.delta"].any()
    assert result["input.delta"].size == 0


@pytest.mark.parametrize("case", ["conv 2d", "tiled 2d", "linear"])
def test_gradients_against_differences(case):
    """Of sum(output * output.delta), which is linear in each operand, so that the step may be large."""
    call, forward = call_of(case, True), call_of(case)
    values = values_of(call)
    gradients = done(call, values)
    for port in (parameter(call.op), "input"):
        for flat in range(0, values[port].size, 7):
            at = np.unravel_index(flat, values[port].shape)
            sums = []
            for step in (0.5, -0.5):
                moved = values[port].copy()
                moved[at] += step
                output = done(forward, {**values, "output": values["output.delta"], port: moved})["output"]
                sums.append(float((output * values["output.delta"]).sum()))
            np.testing.assert_allclose(gradients[f"{port}.delta"][at], sums[0] - sums[1], rtol=1e-6, atol=1e-9)


def test_worked_example():
    """A 4 x 4 image with padding 1 and three filters of 3 x 3, worked by hand."""
    case = ("conv", (1, 1, 4, 4), {"channels": 3, "size": 3, "padding": 1})
    access = access_of(*case)
    rects = {port: Rect.whole(access.dims[port]) for port in ("input", "filters", "output")}
    call = Call("conv", False, case[2], access, access.space.whole, rects, frozenset(), "float32")
    filters = [
        [[0, 1, 2], [1, 0, 1], [2, 1, 0]],
        [[1, 0, 1], [0, 1, 0], [1, 0, 1]],
        [[1, 2, 0], [2, 0, 2], [0, 2, 1]],
    ]
    values = {
        "input": np.array([[2, 1, 3, 3], [1, 6, 2, 5], [1, 4, 5, 2], [6, 6, 5, 3]], "f4")[None, None],
        "filters": np.array(filters, "f4")[:, None],
        "output": np.zeros(access.dims["output"]),
    }
    wanted = [
        [[2, 13, 18, 12], [11, 16, 33, 17], [23, 34, 35, 23], [15, 25, 18, 7]],
        [[8, 4, 14, 5], [6, 17, 12, 13], [13, 18, 25, 9], [10, 12, 11, 8]],
        [[10, 24, 17, 16], [22, 23, 41, 17], [28, 42, 35, 28], [14, 31, 32, 19]],
    ]
    np.testing.assert_array_equal(done(call, values)["output"][0], np.array(wanted))


@pytest.mark.parametrize("lay", ["own", "plain"])
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize(
    "case",
    [
        ("conv", (32, 16, 24, 24), {"channels": 16, "size": 3, "padding": 1}),
        ("conv", (32, 16, 24, 24), {"channels": 16, "size": 3, "stride": 2, "groups": 4}),
        ("conv_transpose", (32, 16, 12, 12), {"channels": 16, "size": 3, "stride": 2, "padding": 1}),
        ("tiled", (32, 4, 36, 36), {"channels": 4, "tile": 4, "size": 10, "stride": 2}),
        ("linear", (64, 16, 16, 16), {"features": 200}),
    ],
)
def test_actions_do_not_allocate(case, accumulate, lay, monkeypatch):
    monkeypatch.setitem(CASES, "large", case)
    for gradient in (False, True):
        call = call_of("large", gradient, dtype="float32")
        call = call_of("large", gradient, dtype="float32", accumulate=written(call) if accumulate else ())
        assert KERNELS[call.op, gradient].workspace(call) <= contraction.BUDGET
        action, _ = bound(call, values_of(call), lay)
        action()
        tracemalloc.start()
        action()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 << 10


def test_orders():
    """Activations with n fastest; filters of tiles by position; never by piece."""
    whole, part = call_of("tiled 2d"), call_of("tiled 2d", piece=Rect((0,) * 9, (1,) * 9))
    kernel = KERNELS["tiled", False]
    assert kernel.order(whole, "input") == (1, 2, 3, 0)
    assert kernel.order(whole, "filters") == (6, 7, 0, 1, 2, 3, 4, 5) == kernel.order(part, "filters")
    assert KERNELS["conv", True].order(call_of("conv grouped", True), "filters.delta") == (0, 1, 2, 3)


@pytest.mark.parametrize("case", ["conv", "conv_transpose"])
def test_what_actions_keep_does_not_grow_with_the_number_of_blocks(case, monkeypatch):
    kept = []
    for rows in (48, 480):
        attributes = {"channels": 8, "size": 3, "stride": 2, "padding": 1}
        monkeypatch.setitem(CASES, "long", (case, (1, 64, rows, 48), attributes))
        kept.append(0)
        for gradient in (False, True):
            call = call_of("long", gradient, dtype="float32")
            kernel, (_, arrays) = KERNELS[call.op, gradient], bound(call, values_of(call))
            scratch = aligned_bytes(kernel.workspace(call))
            tracemalloc.start()
            action = kernel.bind(call, arrays, scratch)
            kept[-1] += tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            assert callable(action)
    assert kept[1] < 2 * kept[0]
