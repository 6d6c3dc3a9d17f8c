"""Labels with more or fewer last extents of 1 than what they are compared with, as behind a flatten."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.error import ConfigError
from dgraph.ops import OPS
from dgraph.verify import compare as apart
from dgraph.verify import one_rank, run_steps
from tests.joined import MESHES
from tests.networks import config_text, load
from tests.peer import compare, dims, torch

functional = torch.nn.functional


@st.composite
def other_dims(draw, dim):
    """The same dim, with ones more or fewer at its end."""
    inner = list(dim)
    while len(inner) > 1 and inner[-1] == 1 and draw(st.booleans()):
        inner.pop()
    return (*inner, *draw(st.lists(st.just(1), max_size=2)))


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_cross_entropy(data):
    dim = data.draw(dims(2, 4))

    def function(input, labels):
        labels = labels.reshape(dim[0], *dim[2:]).long()
        losses = functional.cross_entropy(input, labels, ignore_index=-1, reduction="sum")
        return {"probability": torch.softmax(input, 1), "output": losses / labels.numel()}

    labels = data.draw(other_dims((dim[0], 1, *dim[2:])))
    compare(data, "softmax", {}, {"input": dim, "labels": labels}, function)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_squared_error(data):
    dim = data.draw(dims(2, 4))
    labels = data.draw(other_dims(dim))
    compare(
        data, "squared_error", {}, {"input": dim, "labels": labels},
        lambda input, labels: functional.mse_loss(input, labels.reshape(dim)),
    )  # fmt: skip


@pytest.mark.parametrize("ranks", MESHES)
def test_real_targets_behind_a_flatten(ranks):
    lines = [
        "{name: A, conv: {channels: 3, size: 3}, nonlinearity: tanh, split: {H: y, W: x}}",
        "{name: F, flatten: {}}",
        "{name: B, linear: {features: 4}, split: {K: x, N: y}}",
        "{name: out, squared_error: {}, split: {C: y}}",
    ]
    text = config_text(lines, MESHES[ranks]).replace("classes: 3", "label_shape: [4, 1, 1]")
    config = load(text)
    result = apart(run_steps(config, 3), run_steps(one_rank(config), 3))
    assert result["worst"] <= 1e-10, result


@pytest.mark.parametrize(
    ("op", "dim", "labels"), [("softmax", (4, 3), (4, 3)), ("softmax", (4, 3, 2), (4, 1)), ("huber", (4, 3), (4, 1, 3))]
)
def test_others_are_refused(op, dim, labels):
    with pytest.raises(ConfigError, match="do not fit"):
        OPS[op].access({}, {"input": dim, "labels": labels})
