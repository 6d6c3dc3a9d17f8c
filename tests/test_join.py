"""Sum, product and concatenation against PyTorch, and what is refused."""

from functools import reduce

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.error import ConfigError
from dgraph.ops import OPS
from dgraph.ops.letter import letters_of
from tests.peer import compare, dims, torch


@st.composite
def broadcastable(draw):
    """Dims of 1 to 4 operands that fit each other: some start later, some have extents of 1."""
    result = draw(dims(most=6, longest=4))
    family = {}
    for k in range(draw(st.integers(1, 4))):
        own = result[draw(st.integers(0, len(result) - 1)) if k else 0 :]
        family[f"input{k}"] = tuple(1 if draw(st.integers(0, 3)) == 0 else n for n in own)
    return family


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_add_is_that_of_torch(data):
    compare(data, "add", {}, data.draw(broadcastable()), lambda **inputs: sum(inputs.values()))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_multiply_is_that_of_torch(data):
    family = data.draw(broadcastable())
    compare(data, "multiply", {}, family, lambda **inputs: reduce(torch.mul, inputs.values()))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_concat_is_that_of_torch(data):
    dim = data.draw(dims(most=6, longest=4))
    axis = data.draw(st.integers(-len(dim), len(dim) - 1))
    named = letters_of(len(dim))[axis] if data.draw(st.booleans()) else axis
    lengths = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    family = {
        f"input{k}": tuple(length if d == axis % len(dim) else n for d, n in enumerate(dim))
        for k, length in enumerate(lengths)
    }
    compare(data, "concat", {"axis": named}, family, lambda **inputs: torch.cat([*inputs.values()], axis))


@pytest.mark.parametrize(
    ("op", "attributes", "one", "other", "words"),
    [
        ("add", {}, (2, 3, 4), (2, 5, 4), "input1 of dim [2, 5, 4] does not fit input0 of dim [2, 3, 4]"),
        ("multiply", {}, (2, 3, 4), (2, 3), "input1 of dim [2, 3] does not fit input0 of dim [2, 3, 4]"),
        ("concat", {"axis": 1}, (2, 3, 4), (2, 3, 5), "input1 of dim [2, 3, 5] does not fit input0 of dim [2, 3, 4]"),
        ("concat", {"axis": 1}, (2, 3, 4), (2, 3), "input1 of dim [2, 3] does not fit input0 of dim [2, 3, 4]"),
    ],
)
def test_dims_that_do_not_fit_are_refused(op, attributes, one, other, words):
    with pytest.raises(ConfigError) as caught:
        OPS[op].access(attributes, {"input0": one, "input1": other})
    assert caught.value.what == words


@pytest.mark.parametrize("value", ["H", "c", 2, -3, True, 1.0, None])
def test_axis_that_is_not_there_is_refused(value):
    with pytest.raises(ValueError, match=r"^one of N, C, or an integer from -2 to 1$"):
        OPS["concat"].attributes["axis"].read(value, 0)
