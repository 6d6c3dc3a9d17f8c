"""Flatten and reshape against PyTorch, their labels, and what is refused."""

from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.error import ConfigError
from dgraph.ops import OPS
from dgraph.ops.reshape import reshaped
from tests.peer import compare, dims


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_flatten_is_that_of_onnx(data):
    dim = data.draw(dims(most=6, longest=4))
    axis = data.draw(st.integers(-len(dim), len(dim)))
    front = prod(dim[: axis + len(dim) if axis < 0 else axis])
    compare(data, "flatten", {"axis": axis}, {"input": dim}, lambda input: input.reshape(front, -1))


@st.composite
def shapes(draw, elements):
    """Factors of a number, with ones between them."""
    shape = []
    while elements > 1 or not shape or (len(shape) < 8 and draw(st.integers(0, 2)) == 2):
        factor = draw(st.sampled_from([n for n in range(elements, 0, -1) if elements % n == 0]))
        shape.append(factor)
        elements //= factor
    return shape


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_reshape_is_that_of_torch(data):
    dim = data.draw(dims(most=6, longest=6).filter(lambda dim: prod(dim) <= 300))
    result = data.draw(shapes(prod(dim)))
    shape = [0 if d < len(dim) and n == dim[d] and data.draw(st.booleans()) else n for d, n in enumerate(result)]
    if data.draw(st.booleans()):
        shape[data.draw(st.integers(0, len(shape) - 1))] = -1
    compare(data, "reshape", {"shape": shape}, {"input": dim}, lambda input: input.reshape(result))


@pytest.mark.parametrize(
    ("dim", "result", "source", "target"),
    [
        ((4, 6), (2, 2, 6), "n*2 + u0, c", "n, u0, c"),
        ((4, 6, 5), (4, 30), "n, c, u0", "n, c*5 + u0"),
        ((4, 6), (3, 8), "v0, v1", "v2, v3"),
        ((4, 6), (6, 4), "v0, v1", "v2, v3"),
        ((2, 3, 2), (4, 3), "v0, v1, v2", "v3, v4"),
        ((2, 4), (4, 2), "n, u0*2 + u1", "n*2 + u0, u1"),
        ((5, 3, 1, 1), (5, 3), "n, c, h, w", "n, c"),
        ((5, 3), (5, 3, 1, 1), "n, c", "n, c, u0, u1"),
        ((1, 3, 4), (1, 12), "n, c, u0", "n, c*4 + u0"),
        ((8, 1, 3, 4), (8, 12), "n, c, h, u0", "n, h*4 + u0"),
        ((12, 7), (4, 3, 7), "n*3 + u0, c", "n, u0, c"),
    ],
)
def test_labels_are_the_common_factors(dim, result, source, target):
    access = reshaped(dim, result)
    assert [", ".join(map(str, access.maps[port])) for port in ("input", "output")] == [source, target]


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ([2, 10], "20 elements are not 24"),
        ([5, -1], "24 is no multiple of 5"),
        ([2, 3, 4, 0], "0 keeps the extent of one of 3 dimensions"),
    ],
)
def test_shape_that_does_not_fit_is_refused(shape, hint):
    with pytest.raises(ConfigError) as caught:
        OPS["reshape"].access({"shape": tuple(shape)}, {"input": (2, 3, 4)})
    assert caught.value.what == f"shape {shape} does not fit an input of dim [2, 3, 4]"
    assert caught.value.hint == hint


@pytest.mark.parametrize("value", [[], [-1, -1], [2, -2], [2.0], [True], 6, "NC"])
def test_shape_of_another_kind_is_refused(value):
    with pytest.raises(ValueError, match=r"^a list of integers >= 1, 0 \(keep\) and at most one -1 \(what is left\)$"):
        OPS["reshape"].attributes["shape"].read(value, 2)
