"""Statistics, normalisation, dropout: against PyTorch, under any split, in an evaluation, and at hard numbers."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.kernels.call import Moment
from dgraph.ops.label import dimension_labels
from tests.peer import compare, dims, torch

EXAMPLES = settings(max_examples=200, deadline=None)


@st.composite
def inputs(draw):
    """(dim, letters that statistics are over, groups)."""
    dim = draw(dims())
    letters = [name.upper() for name in dimension_labels(len(dim))]
    over = draw(st.lists(st.sampled_from(letters), unique=True))
    groups = 1
    if "C" in over:
        groups = draw(st.sampled_from([k for k in range(1, dim[1] + 1) if dim[1] % k == 0]))
    return dim, over, groups


def grouped(dim, over, groups):
    """The shape with groups as a dimension of their own, the dimensions that are summed in it, and the statistic's dim."""
    letters = [name.upper() for name in dimension_labels(len(dim))]
    shape, axes, kept = [], [], []
    for letter, n in zip(letters, dim, strict=True):
        if letter == "C" and letter in over and groups > 1:
            shape += [groups, n // groups]
            axes.append(len(shape) - 1)
            kept.append(groups)
        else:
            shape.append(n)
            if letter in over:
                axes.append(len(shape) - 1)
            kept.append(1 if letter in over else n)
    return shape, axes, kept


def mean(x, over, groups):
    shape, axes, kept = grouped(x.shape, over, groups)
    y = x.reshape(shape)
    return (y.mean(axes) if axes else y).reshape(kept)


def spread(statistic, dim):
    """A statistic on every element."""
    for d, n in enumerate(dim):
        if statistic.shape[d] not in (1, n):
            statistic = statistic.repeat_interleave(n // statistic.shape[d], d)
    return statistic


def variance(x, over, groups):
    return mean((x - spread(mean(x, over, groups), x.shape)) ** 2, over, groups)


@EXAMPLES
@given(st.data(), inputs())
def test_mean(data, case):
    dim, over, groups = case
    attributes = {"over": over, "groups": groups}
    compare(data, "mean", attributes, {"input": dim}, lambda input: mean(input, over, groups), without=("running",))


@EXAMPLES
@given(st.data(), inputs())
def test_variance(data, case):
    dim, over, groups = case
    x = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=dim)
    centre = mean(torch.tensor(x), over, groups).numpy()
    compare(
        data,
        "variance",
        {"over": over, "groups": groups},
        {"input": dim, "mean": centre.shape},
        lambda input, mean: variance(input, over, groups),
        values={"input": x, "mean": centre},
        without=("running",),
    )


@EXAMPLES
@given(st.data(), inputs(), st.sampled_from([(), ("scale",), ("shift",), ("scale", "shift")]))
def test_normalize(data, case, without):
    dim, over, groups = case
    letters = [name.upper() for name in dimension_labels(len(dim))]
    spans = data.draw(st.lists(st.sampled_from(letters), unique=True))
    epsilon = data.draw(st.sampled_from([1e-5, 1e-3, 0.1]))

    def function(input, mean, variance, scale=1, shift=0):
        return (input - spread(mean, dim)) / torch.sqrt(spread(variance, dim) + epsilon) * scale + shift

    *_, kept = grouped(dim, over, groups)
    compare(
        data,
        "normalize",
        {"over": over, "groups": groups, "epsilon": epsilon, "spans": spans},
        {"input": dim, "mean": tuple(kept), "variance": tuple(kept)},
        function,
        values={"variance": lambda random, dim: random.uniform(0.5, 2, dim)},
        without=without,
    )


@EXAMPLES
@given(st.data(), dims(), st.sampled_from([0, 0.2, 0.5, 0.9]))
def test_dropout(data, dim, rate):
    moment = Moment(seed=3, step=data.draw(st.integers(0, 9)))
    whole = {}

    def function(input):
        mask = torch.tensor(whole["mask"].astype("float64"))
        return {"output": input * mask, "mask": mask}

    from tests.problem import Problem

    whole |= Problem(("dropout", {"rate": rate}, {"input": dim}), "float64", moment=moment).run()
    compare(data, "dropout", {"rate": rate}, {"input": dim}, function, moment=moment)
    assert set(np.unique(whole["mask"])) <= {0.0, 1 / (1 - rate)}
