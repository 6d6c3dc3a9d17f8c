"""PyTorch's convolutions against loops over their access maps: exactly, on small whole numbers, whole and in pieces, in any memory
order, into NaN or onto what is there."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgraph.rect import Rect, share
from tests import test_kernels_contraction as plain
from tests.chain import Chained
from tests.test_kernels_contraction import CASES, call_of, done, interpreted, written

pytest.importorskip("torch")
from dgraph.kernels.torch import BACKENDS, winograd

CONVOLUTIONS = [name for name, case in CASES.items() if case[0] != "tiled"]
WIDE = {
    "wide": ("conv", (2, 33, 4, 3), {"channels": 34, "size": 3, "padding": 1}),
    "wide one sided": ("conv", (2, 33, 4, 3), {"channels": 34, "size": 3, "padding": [[0, 1], [2, 0]]}),
    "wide strided": ("conv", (1, 32, 5, 4), {"channels": 32, "size": [2, 3], "stride": [2, 1], "padding": 1}),
    "wide 3d": ("conv", (1, 32, 2, 3, 2), {"channels": 32, "size": 3, "padding": 1}),
    "wide 1d": ("conv", (2, 32, 5), {"channels": 32, "size": 3, "padding": 1}),
    "wide grouped": ("conv", (2, 64, 3, 3), {"channels": 64, "size": 3, "padding": 1, "groups": 2}),
    "wide product": ("conv", (2, 32, 3, 3), {"channels": 35, "size": 1}),
    "wide transposed": ("conv_transpose", (2, 32, 3, 2), {"channels": 33, "size": 3, "padding": 1}),
    "wide doubled": ("conv_transpose", (2, 33, 3, 2), {"channels": 32, "size": 2, "stride": 2}),
}


@pytest.fixture(autouse=True, scope="module")
def kernels():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "KERNELS", BACKENDS["float32"].kernels)
        patch.setattr(plain, "CASES", CASES | WIDE)
        yield


def whole_numbers(call, seed=0):
    draw = np.random.default_rng(seed)
    dims = {port: call.access.dims[port.removesuffix(".delta")] for port in call.rects}
    return {port: draw.integers(-3, 4, dim).astype(float) for port, dim in dims.items()}


def exact(call, lay="own"):
    """Assigned and added: the very sums, up to what the order of few products can do."""
    values = whole_numbers(call)
    wanted = interpreted(call, values) if not np.prod(call.piece.size) > 30000 else quick(call, values)
    for accumulate in ((), written(call)):
        result = done(replace(call, accumulate=frozenset(accumulate)), values, lay)
        for port, array in result.items():
            there = call.rects[port].slices()
            np.testing.assert_array_equal(array, wanted[port][there] + (values[port][there] if accumulate else 0), port)


def quick(call, values):
    """The same sums by NumPy's kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "KERNELS", plain.contraction.KERNELS)
        found = done(replace(call, accumulate=frozenset(), dtype="float64"), values)
    sums = {port: np.zeros(values[port].shape) for port in found}
    for port, array in found.items():
        sums[port][call.rects[port].slices()] = array
    return sums


@pytest.mark.parametrize("lay", ["own", "plain", "gapped"])
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("case", [*CONVOLUTIONS, *WIDE])
def test_whole(case, gradient, lay):
    exact(call_of(case, gradient, dtype="float32"), lay)


@pytest.mark.parametrize("left_out", ["input.delta", "filters.delta"])
@pytest.mark.parametrize("case", ["conv 2d", "conv grouped", "transposed 2d", "wide"])
def test_only_one_gradient(case, left_out):
    call = call_of(case, True, dtype="float32", without=(left_out,))
    assert left_out not in written(call)
    exact(call)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_pieces(data):
    """A piece of any place, whose windows lie partly, or wholly, in the padding."""
    pieces_of(data, [*CONVOLUTIONS, *WIDE])


def pieces_of(data, cases):
    case, gradient = data.draw(st.sampled_from(cases)), data.draw(st.booleans())
    whole = call_of(case, gradient, dtype="float32")
    bounds = []
    for extent in whole.space.extents:
        first, last = sorted(data.draw(st.tuples(st.integers(0, extent - 1), st.integers(0, extent - 1))))
        bounds.append((first, last + 1) if data.draw(st.booleans()) else (0, extent))
    lay = data.draw(st.sampled_from(["own", "plain", "gapped"]))
    exact(call_of(case, gradient, Rect.of(bounds), dtype="float32"), lay)


def test_pieces_add_up_to_the_whole():
    for case, gradient in product(["conv 2d", "transposed grouped", "wide strided"], [False, True]):
        whole = call_of(case, gradient, dtype="float32")
        values, cuts = (
            whole_numbers(whole),
            [[share(extent, 2, k) for k in range(min(2, extent))] for extent in whole.space.extents],
        )
        total = {port: np.zeros(values[port].shape) for port in written(whole)}
        for bounds in product(*cuts):
            call = call_of(case, gradient, Rect.of(bounds), dtype="float32")
            for port, array in done(call, values).items():
                total[port][call.rects[port].slices()] += array
        wanted = quick(whole, values)
        for port in total:
            np.testing.assert_array_equal(total[port], wanted[port], port)


TILED = {
    "tiles": ("conv", (3, 2, 7, 6), {"channels": 3, "size": 3, "padding": 1}),
    "tiles one sided": ("conv", (2, 2, 4, 5), {"channels": 2, "size": 3, "padding": [[0, 2], [2, 0]]}),
    "tiles of padding": ("conv", (1, 2, 3, 2), {"channels": 2, "size": 3, "padding": 4}),
    "tiles of rows": ("conv", (2, 3, 5, 4), {"channels": 2, "size": [1, 3], "padding": [[0, 1], [1, 1]]}),
    "tiles 1d": ("conv", (2, 3, 9), {"channels": 2, "size": 3, "padding": 1}),
    "tiles 3d": ("conv", (2, 2, 5, 4, 3), {"channels": 3, "size": 3, "padding": 1}),
    "tiles of planes": ("conv", (1, 2, 2, 5, 4), {"channels": 3, "size": [3, 1, 3], "padding": [1, 0, 1]}),
    "tiles transposed": ("conv_transpose", (2, 3, 5, 4), {"channels": 2, "size": 3, "padding": 1}),
}


@pytest.fixture(params=["one block", "many blocks"])
def tiles(request, monkeypatch):
    """Every sum that can be done in tiles is, in blocks of two tiles and of one row of filters, or all at once."""
    monkeypatch.setattr(winograd, "GAIN", np.inf)
    monkeypatch.setattr(plain, "CASES", CASES | TILED)
    if request.param == "many blocks":
        for name, value in {"BUDGET": 0, "LEAST": 2, "FILTERS": 0}.items():
            monkeypatch.setattr(winograd, name, value)


def tilings(call):
    kernel = BACKENDS["float32"].kernels[call.op, call.gradient]
    return [kernel._tiling(call, product) for product in kernel.products(call)]


@pytest.mark.parametrize("lay", ["own", "plain", "gapped"])
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("case", TILED)
def test_tiles(case, gradient, lay, tiles):
    call = call_of(case, gradient, dtype="float32")
    assert BACKENDS["float32"].way(call) == f" ({'filters.delta, input.delta' if gradient else 'output'} in tiles)"
    exact(call, lay)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_tiles_of_pieces(tiles, data):
    pieces_of(data, [*TILED])


def test_only_what_tiles_can_do():
    """Strides, gaps, groups and other sizes are the library's, and so are few channels and few places, where tiles do not pay (few
    places do for filters, which the library takes long to sort)."""
    shapes = {"wide": (128, 24, 24), "few channels": (8, 24, 24), "few places": (512, 4, 4)}
    three = {"size": 3, "padding": 1}
    kinds = {
        "three": {},
        "strided": {"stride": 2},
        "gaps": {"dilation": 2},
        "grouped": {"groups": 2},
        "five": {"size": 5},
    }
    chosen = {}
    with pytest.MonkeyPatch.context() as patch:
        for (shape, (c, *sizes)), (kind, more) in product(shapes.items(), kinds.items()):
            patch.setattr(plain, "CASES", {"it": ("conv", (8, c, *sizes), {"channels": c, **three, **more})})
            found = [
                tiling for gradient in (False, True) for tiling in tilings(call_of("it", gradient, dtype="float32"))
            ]
            chosen[shape, kind] = [tiling is not None for tiling in found]
    wanted = {("wide", "three"): [True, True, True], ("few places", "three"): [False, True, False]}
    assert {case: found for case, found in chosen.items() if any(found)} == wanted


ENDED = {
    "narrow": ("conv", {"channels": 5, "size": 3, "padding": 1}, (2, 3, 5, 4), (2, 5, 5, 4)),
    "wide": ("conv", {"channels": 33, "size": 3, "stride": 2, "padding": [[0, 1], 1]}, (2, 4, 5, 4), (2, 33, 2, 2)),
    "product": ("conv", {"channels": 34, "size": 1}, (2, 3, 3, 2), (2, 34, 3, 2)),
    "transposed": ("conv_transpose", {"channels": 4, "size": 2, "stride": 2}, (2, 3, 2, 3), (2, 4, 4, 6)),
    "turned": ("conv_transpose", {"channels": 33, "size": 3, "padding": 1}, (2, 3, 4, 3), (2, 33, 4, 3)),
}


@pytest.mark.parametrize("gain", [0, np.inf], ids=["library", "tiles"])
@pytest.mark.parametrize("function", ["", "relu", "tanh", "logistic"])
@pytest.mark.parametrize("case", ENDED)
def test_a_bias_and_a_nonlinearity_in_one_go(case, function, gain, monkeypatch):
    monkeypatch.setattr(winograd, "GAIN", gain)
    op, attributes, dim, result = ENDED[case]
    filters = (result[1], dim[1]) if op == "conv" else (dim[1], result[1])
    size = (attributes["size"],) * (len(dim) - 2)
    dims = {"x": dim, "w": (*filters, *size), "s": result, "b": (1, result[1], 1, 1), "t": result, "y": result}
    last = [] if not function else [(function, False, {"input": "t", "output": "y"}, {})]
    nodes = [
        (op, False, {"input": "x", "filters": "w", "output": "s"}, attributes),
        ("affine", False, {"input": "s", "b": "b", "output": "t"}, {"bias": "C"}),
        *last,
    ]
    inner = {"s", "t"} if function else {"s"}
    chained = Chained(nodes, dims, "float32", inner=inner)
    fusion = BACKENDS["float32"].fusions[chained.chain.ops]
    assert fusion.fits(chained.chain)
    wanted, name = chained.one_by_one(), "y" if function else "t"
    for place in (np.array, lambda array: plain.ordered(array, (0, 2, 3, 1))):
        np.testing.assert_allclose(chained.fused(fusion, place, 2)[name], wanted[name], rtol=1e-4, atol=1e-5)
