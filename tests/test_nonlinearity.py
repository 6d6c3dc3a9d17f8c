"""Nonlinearities against PyTorch."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.peer import compare, dims, torch

FUNCTIONS = {
    "identity": lambda input: input,
    "logistic": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
}


@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_nonlinearity_is_that_of_torch(name, data):
    compare(data, name, {}, {"input": data.draw(dims(2))}, lambda input: FUNCTIONS[name](input))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_affine_is_that_of_torch(data):
    without = data.draw(st.sets(st.sampled_from("ab")))
    letters = "".join(data.draw(st.sets(st.sampled_from("NCHW"))))
    compare(
        data,
        "affine",
        {"bias": letters},
        {"input": data.draw(dims(4, 4))},
        lambda input, a=1, b=0: a * input + b,
        without=without,
    )


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_softmax_is_the_cross_entropy_of_torch(data):
    dim = data.draw(dims(2))

    def function(input, labels):
        labels = labels[:, 0].long()
        losses = torch.nn.functional.cross_entropy(input, labels, ignore_index=-1, reduction="sum")
        return {"probability": torch.softmax(input, 1), "output": losses / labels.numel()}

    compare(data, "softmax", {}, {"input": dim, "labels": (dim[0], 1, *dim[2:])}, function)
