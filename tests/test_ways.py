"""Whatever way tensors go, a run has the same bits; and the result of one rank."""

import numpy as np
import pytest

from dgraph.verify import compare, one_rank, run_steps
from tests.networks import SPATIAL, config_text, load

WAYS = (
    ["messages.window=false"],
    ["messages.lower=false"],
    ["messages.lower=[all_reduce, halo]", "messages.bucket=0"],
    ["messages.window=false", "messages.lower=false", "messages.bucket=0"],
    ["overlap={updates: late}"],
    ["messages.window=false", "overlap={pieces: false, updates: late}", "messages.bucket=0"],
    ["memory={in_place: false, recompute: true}", "overlap={updates: late}"],
    ["memory.recompute=[relu, tanh, normalize]", "messages.window=false"],
)
NORMED = (
    "{name: C1, conv: {channels: 4, size: 3, padding: 1}, norm: batch, nonlinearity: relu, split: {N: y, W: x}}",
    "{name: C2, conv: {channels: 6, size: 3, stride: 2}, norm: batch, nonlinearity: tanh, split: {O: [x, y]}}",
    "{name: C3, linear: {features: 5}, nonlinearity: relu, split: {K: y, C: x}}",
    "{name: out, softmax: {classes: 3, bias: true}, split: {N: [y, x]}}",
)
SHARDED = "{optimizer: {adam: {rate: 0.01}}, steps: 3, shard: true}"


def bits(outcome):
    parts = {**outcome.gradients, **outcome.parameters}
    return {name: value.tobytes() for name, value in parts.items()}


@pytest.mark.parametrize(
    "text",
    [
        config_text(SPATIAL, "{y: 2, x: 2}"),
        config_text(SPATIAL, "{y: 3, x: 2}", "[2, 9, 7]", batch=5),
        config_text(NORMED, "{y: 2, x: 2}", batch=5, train=SHARDED),
        config_text(NORMED, "{y: 1, x: 3}", "[2, 9, 7]", batch=4, dtype="float32", train=SHARDED),
    ],
)
def test_every_way_has_the_same_bits(text):
    usual = run_steps(load(text), 2)
    limit = 1e-4 if "float32" in text else 1e-9
    assert compare(usual, run_steps(one_rank(load(text)), 2))["worst"] <= limit
    for way in WAYS:
        other = run_steps(load(text, way), 2)
        assert bits(other) == bits(usual), way
        for one, two in zip(other.metrics, usual.metrics, strict=True):
            np.testing.assert_array_equal(one, two)


def test_every_way_with_pytorch():
    """What the config says of kinds and buckets decides which ops are fused; whether there is a window decides nothing."""
    pytest.importorskip("torch")
    text = config_text(NORMED, "{y: 2, x: 2}", batch=5, dtype="float32")
    usual = run_steps(load(text, ["backend=torch"]), 2)
    alone = run_steps(one_rank(load(text, ["backend=torch"])), 2)
    for way in ([], *WAYS):
        other = run_steps(load(text, [*way, "backend=torch"]), 2)
        assert compare(other, alone)["worst"] <= 1e-4
        assert bits(other) == bits(usual) or way not in ([], ["messages.window=false"])


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("layers", [SPATIAL, NORMED])
def test_what_hides_communication_changes_no_number(layers, backend):
    if backend == "torch":
        pytest.importorskip("torch")
    text = config_text(layers, "{y: 2, x: 2}", batch=5, dtype="float32")
    plain = run_steps(load(text, [f"backend={backend}", "overlap=false"]), 2)
    for word in ("true", "{pieces: true, updates: late}", "{pieces: false, updates: late}"):
        other = run_steps(load(text, [f"backend={backend}", f"overlap={word}"]), 2)
        assert compare(other, plain)["worst"] <= 1e-5
        assert bits(other) == bits(plain) or "pieces: false" not in word
