"""Means and variances over several ranks: one pass and one message, as sound as two passes, whatever the layout."""

import numpy as np
import pytest

from dgraph.config import load_config
from dgraph.kernels.call import Moment
from dgraph.ops import OPS
from dgraph.plan.transfer import Merge
from dgraph.program import compile_config, plan_summary
from dgraph.rect import Rect
from dgraph.runtime.communicator import OneRank
from dgraph.runtime.merge import bind_merge
from dgraph.runtime.thread import run_threads
from dgraph.schedule.step import Compute
from dgraph.train import Worker
from dgraph.verify import compare, one_rank, run_steps
from tests.networks import config_text, load, looked_at, program
from tests.runs import CONFIGS

EXTENTS = (12, 3, 5, 4)


def merge_of(cuts, running=False):
    """A merge of the means over n, h and w of pieces of a tensor [12, 3, 5, 4]: by rank, the bounds of n and of h."""
    attributes = {name: attribute.read(attribute.default, 2) for name, attribute in OPS["mean"].attributes.items()}
    access = OPS["mean"].access(attributes, {"input": EXTENTS})
    pieces = tuple(tuple(Rect.of([n, (0, 3), h, (0, 4)]) for n, h in own) for own in cuts)
    return Merge(("mean", "variance"), access, tuple(range(len(cuts))), pieces, running)


CUTS = {
    "batch": [[((0, 6), (0, 5))], [((6, 12), (0, 5))]],
    "uneven": [[((0, 1), (0, 5))], [((1, 12), (0, 5))]],
    "space": [[((0, 12), (0, 2))], [((0, 12), (2, 3))], [((0, 12), (3, 5))]],
    "several pieces": [[((0, 3), (0, 5)), ((6, 9), (0, 5))], [((3, 6), (0, 5)), ((9, 12), (0, 5))]],
    "one without": [[((0, 12), (0, 5))], [], [((12, 12), (0, 5))]],
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [12, 5])
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_moments_of_parts_are_those_of_the_whole(cuts, rows, dtype):
    """A mean that is large beside its deviation, and that differs from part to part."""
    x = np.random.default_rng(0).normal(1000, 1, EXTENTS) + np.arange(12).reshape(-1, 1, 1, 1)
    terms = []
    for own in cuts:
        parts = [x[n[0] : min(n[1], rows), :, h[0] : h[1]].transpose(1, 0, 2, 3).reshape(3, -1) for n, h in own]
        elements = np.concatenate([np.zeros((3, 0)), *parts], axis=1)
        found = (elements.mean(1), elements.var(1)) if elements.size else (np.zeros(3), np.zeros(3))
        terms.append(tuple(value.astype(dtype) for value in found))
    out = np.empty(3, dtype), np.empty(3, dtype)
    moment = Moment(batch=12, samples=rows, total=rows)
    for _ in range(2):
        for action in bind_merge(merge_of(cuts), out, terms, moment):
            action()
    mean, variance = x[:rows].mean((0, 2, 3)), x[:rows].var((0, 2, 3))
    np.testing.assert_allclose(out[0], mean, rtol=1e-7 if dtype == "float32" else 1e-14)
    np.testing.assert_allclose(out[1], variance, rtol=1e-4 if dtype == "float32" else 1e-11)


def test_running_values_are_not_merged():
    out, moment = (np.empty(3), np.empty(3)), Moment(batch=12, samples=12, training=False)
    terms = [(np.full(3, 2.0), np.full(3, 5.0)), (np.zeros(3), np.zeros(3))]
    for action in bind_merge(merge_of(CUTS["batch"], running=True), out, terms, moment):
        action()
    assert out[0].tolist() == [2.0] * 3
    assert out[1].tolist() == [5.0] * 3


NORMED = (
    "{{name: C1, conv: {{channels: 6, size: 3, padding: 1}}, norm: batch, nonlinearity: relu, split: {0}}}",
    "{{name: C2, conv: {{channels: 4, size: 3, padding: 1}}, norm: {{layer: {{epsilon: 1.0e-3}}}}, nonlinearity: tanh}}",
    "{{name: I, instance_norm: {{affine: false}}}}",
    "{{name: out, softmax: {{classes: 3, bias: true}}}}",
)


def text_of(split, mesh, **more):
    return config_text([line.format(split) for line in NORMED], mesh, **more)


def merged(made, rank=0):
    return [convoy.merge.nodes for convoy in made.plan(rank).convoys if convoy.merge]


@pytest.mark.parametrize(
    ("split", "mesh", "batch", "count"),
    [
        ("{N: p}", "{p: 3}", 7, 1),
        ("{N: p}", "{p: 3}", 2, 0),
        ("{H: p}", "{p: 3}", 4, 3),
        ("{O: p}", "{p: 2}", 4, 0),
        ("{O: p, H: q}", "{p: 2, q: 2}", 3, 3),
        ("{N: {axes: p, sizes: [1, 5]}}", "{p: 2}", 6, 1),
    ],
)
def test_any_layout_gives_what_one_rank_gives(split, mesh, batch, count):
    """Ranks without samples have two sums as before: there is no rect that all of them have."""
    text = text_of(split, mesh, batch=batch, shape="[2, 7, 6]")
    made = program(text)
    assert made.check()[0] == []
    assert len(merged(made)) == count
    for overrides in ([], ["messages.lower=false"], ["messages.window=false"]):
        config = load(text, overrides)
        assert compare(run_steps(config, 2), run_steps(one_rank(config), 2))["worst"] < 1e-11


def test_pieces_of_a_rank_are_one_part():
    text = text_of("{N: p}", "{p: 2}", batch=8).replace("split: {N: p}", "split: {N: p}, pieces: {N: 4}", 1)
    made = program(text)
    steps = [s for s in made.schedule(made.plan(1)).steps if isinstance(s, Compute) and s.node == "C1.variance"]
    assert {len(step.call.among) for step in steps} == {len(steps)}
    config = load(text)
    assert compare(run_steps(config, 2), run_steps(one_rank(config), 2))["worst"] < 1e-11


def test_backward_is_one_message_and_so_is_forward():
    made = compile_config(load_config(CONFIGS / "resnet20_cifar.yaml", ("mesh={p: 2}", "layers.conv.split={N: p}")))
    rank = plan_summary(made, [0])["ranks"][0]
    norms = sum(node.op == "normalize" and node.kind == "forward" for node in made.graph.ops.values())
    kinds = [t["kind"] for t in rank["tensors"].values()]
    assert kinds.count("moments") == 2 * norms
    assert len(merged(made)) == norms
    # The loss, the figures of the step, and two buckets of parameters.
    assert rank["messages"] == 2 * norms + 4


def test_without_it_there_are_two_sums(monkeypatch):
    """More ranks than may be merged: each statistic is a sum as any other, and the numbers are the same up to rounding."""
    text = text_of("{N: p}", "{p: 2}", batch=6)
    usual = run_steps(load(text), 2)
    monkeypatch.setattr("dgraph.plan.merge.MOST_SUMMED", 1)
    assert merged(program(text)) == []
    assert compare(run_steps(load(text), 2), usual)["worst"] < 1e-11


def statistics(communicator, made):
    """Mean and variance of a norm behind one step, and the loss of an evaluation of a partial batch."""
    worker = Worker(made, communicator)
    indices = worker.batches("train", shuffle=False).indices(0, 0)
    worker.train_step(indices)
    found = [worker.engine.value(f"B.{name}.output").copy() for name in ("mean", "variance")]
    x = worker.engine.value("data.raw_output").copy()
    communicator.close()
    return found, x


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_hard_numbers_in_single_precision(backend):
    """Samples whose mean is a thousand times their deviation."""
    pytest.importorskip("torch")
    text = config_text(
        ("{name: B, batch_norm: {}, split: {N: p}}", "{name: out, softmax: {classes: 3}}"), "{p: 3}",
        "[2, 30, 30]", batch=8, dtype="float32",
    )  # fmt: skip
    text = text.replace("source: synthetic,", "source: synthetic, scale: 0.001,")
    made = looked_at(program(text, [f"backend={backend}"]))
    results = run_threads(3, lambda communicator: statistics(communicator, made))
    alone, x = statistics(OneRank(), looked_at(compile_config(one_rank(made.config))))
    exact = x.astype("float64").mean((0, 2, 3)), x.astype("float64").var((0, 2, 3))
    for found in (alone, *(found for found, _ in results)):
        for value, wanted in zip(found, exact, strict=True):
            np.testing.assert_allclose(value.ravel(), wanted, rtol=1e-5)
    assert len({value.tobytes() for (value, _), _ in results}) == 1
