"""The comparison with PyTorch itself: groups as compound labels, and what it must find."""

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from dgraph.ops import OPS
from tests.peer import compare, cuts, torch


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_grouped_convolution(data):
    groups, stride = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    inner, outer = groups * data.draw(st.integers(1, 2)), groups * data.draw(st.integers(1, 2))
    attributes = {"size": 3, "groups": groups, "channels": outer, "stride": stride, "padding": 1}
    dim = (data.draw(st.integers(1, 2)), inner, data.draw(st.integers(3, 7)), 4)

    def function(input, filters):
        return torch.conv2d(input, filters, None, stride, 1, 1, groups)

    compare(data, "conv", attributes, {"input": dim}, function)


@pytest.mark.parametrize("wrong", [lambda x: torch.tanh(x) + 1e-3, lambda x: torch.tanh(x).detach() + 0 * x])
def test_a_wrong_output_or_gradient_is_found(wrong):
    @settings(max_examples=5, deadline=None, database=None, phases=[Phase.generate])
    @given(st.data())
    def compared(data):
        compare(data, "tanh", {}, {"input": (2, 3)}, lambda input: wrong(input))

    with pytest.raises(AssertionError, match="is off by"):
        compared()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_pieces_make_up_the_whole(data):
    access = OPS["conv"].access(
        {"channels": 6, "groups": 2, "size": (2,), "stride": (1,), "dilation": (1,), "padding": ((0, 0),)},
        {"input": (2, 4, 5)},
    )
    cut = data.draw(cuts(OPS["conv"], access))
    assert sum(piece.volume for piece in cut.pieces) == access.space.whole.volume
