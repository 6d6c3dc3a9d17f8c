"""Nodes cut so that communication hides behind them: which pieces, in which order, and the same numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.rect import Rect
from dgraph.schedule.check import check_progress, postings
from dgraph.schedule.interior import Rule
from dgraph.schedule.step import Compute, Start, Wait
from tests.networks import config_text, program
from tests.workers import run

CONV = "{{name: C{}, conv: {{channels: 3, size: {}, stride: {}, padding: {}}}, {}split: {}}}"
END = "{name: out, softmax: {classes: 3}, split: {N: [y, x]}, loss_split: {N: [y, x]}}"


def cut_network(layers, mesh, shape="[2, 12, 13]", overlap="true", bucket=0, **others):
    return program(
        config_text((*layers, END), mesh, shape=shape, batch=4, **others),
        [f"overlap={overlap}", f"messages.bucket={bucket}"],
    )


def words(made, rank, node=None):
    """The steps of one rank in short: of all nodes, or of one and of what travels beside it."""
    found = []
    for step in made.schedule(made.plan(rank)).steps:
        match step:
            case Compute(node=name, call=call) if node in (None, name):
                found.append((name, call.piece, frozenset(call.rects)))
            case Start() | Wait():
                found.append((type(step).__name__.lower(), step.node))
    return found


def around(found, name):
    """From the first to the last step of a node, and those beside."""
    places = [k for k, step in enumerate(found) if step[0] == name]
    return found[places[0] - 1 : places[-1] + 2]


def test_the_interior_is_done_before_the_wait_and_the_rims_behind():
    layers = [CONV.format(k, 3, 1, 1, "", "{H: y}") for k in range(2)]
    made = cut_network(layers, "{y: 3, x: 1}")
    labels = made.graph.ops["C1.conv"].access.space.labels
    found = [step[:2] for step in around(words(made, 1), "C1.conv")]
    halo = "C0.convA.output"
    assert found[0] == ("start", halo)
    interior, _, *rims = found[1:-1]
    rows = [piece.bounds[labels.index("h")] for _, piece in (interior, *rims)]
    assert found[2] == ("wait", halo)
    assert rows == [(5, 7), (4, 5), (7, 8)]
    whole = cut_network(layers, "{y: 3, x: 1}", overlap="false")
    assert [step[0] for step in around(words(whole, 1), "C1.conv")][:2] == ["wait", "C1.conv"]


def test_what_no_neighbour_has_is_no_rim():
    layers = [CONV.format(k, 5, 2, 2, "", "{H: y, W: x}") for k in range(2)]
    made = cut_network(layers, "{y: 2, x: 2}", "[2, 24, 25]")
    labels = made.graph.ops["C1.conv"].access.space.labels
    pieces = [step[1] for step in words(made, 0, "C1.conv") if step[0] == "C1.conv"]
    (whole,) = made.layout.pieces("C1.conv", 0)
    assert whole.bounds[labels.index("h")] == (0, 3)
    assert [piece.bounds[labels.index("h")] for piece in pieces] == [(0, 2), (2, 3), (0, 2)]
    assert sum(piece.volume for piece in pieces) == whole.volume


def test_a_halo_wider_than_the_piece_leaves_no_interior():
    layers = [CONV.format(k, 9, 1, 4, "", "{H: y}") for k in range(2)]
    made = cut_network(layers, "{y: 4, x: 1}", "[2, 9, 5]")
    for rank in range(4):
        found = words(made, rank, "C1.conv")
        (place,) = [k for k, step in enumerate(found) if step[0] == "C1.conv"]
        assert found[place - 1][0] == "wait"


def test_a_result_that_travels_is_made_before_the_others():
    layers = [CONV.format(k, 3, 1, 1, "", "{H: y}") for k in range(2)]
    made = cut_network(layers, "{y: 2, x: 1}")
    found = [step if len(step) == 2 else step[2] for step in around(words(made, 0), "C1.conv.grad")]
    reads = {"output.delta", "input", "filters"}
    assert found[1:] == [
        reads | {"input.delta"},
        ("start", "C0.convA.output.grad"),
        reads | {"filters.delta"},
        ("start", "C1.W.grad"),
    ]
    split = cut_network([CONV.format(k, 3, 1, 1, "", "{N: y}") for k in range(2)], "{y: 2, x: 1}")
    found = [step if len(step) == 2 else step[2] for step in around(words(split, 0), "C1.conv.grad")]
    assert found[1:4] == [reads | {"filters.delta"}, ("start", "C1.W.grad"), reads | {"input.delta"}]


def test_it_pays_where_more_is_hidden_than_is_spent():
    near, far = Rule(), Rule(spread=True)
    assert not near.pays(1 << 20, 1.0, 0.0)
    assert far.pays(1 << 20, 1.0, 1e-2)
    assert not far.pays(1 << 20, 1e-3, 1e-2)
    assert Rule(overlap=True).pays(0, 0.0, 1.0)
    assert not Rule(overlap=False).pays(1 << 30, 1.0, 0.0)


def test_small_nodes_are_left_whole():
    layers = [CONV.format(k, 3, 1, 1, "", "{H: y}") for k in range(2)]
    auto, never = (cut_network(layers, "{y: 2, x: 1}", overlap=word) for word in ("auto", "false"))
    assert words(auto, 0) == words(never, 0)


def weights_and_losses(made):
    def body(worker):
        batch = worker.training_batches(shuffle=False).indices(0, 0)
        losses = [worker.train_step(batch).tolist() for _ in range(3)]
        found = {p.name: worker.engine.value(p.name) for p in made.graph.parameters}
        return losses, {name: value.copy() for name, value in found.items() if value is not None}

    return run(made, body)


def same_numbers(layers, mesh, shape, dtype="float64", exact=1e-12):
    whole, cut = (
        weights_and_losses(cut_network(layers, mesh, shape, overlap=word, dtype=dtype)) for word in ("false", "true")
    )
    for (losses, values), (others, theirs) in zip(whole, cut, strict=True):
        np.testing.assert_allclose(losses, others, rtol=exact)
        for name, value in values.items():
            np.testing.assert_allclose(value, theirs[name], rtol=exact, atol=exact, err_msg=name)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_any_layout_gives_the_numbers_of_whole_nodes(data):
    def layer(k):
        size = data.draw(st.integers(1, 5))
        split = data.draw(
            st.sampled_from(["{H: y, W: x}", "{H: [y, x]}", "{N: y, W: x}", "{O: y, H: x}", "{C: x, H: y}"])
        )
        norm = data.draw(st.sampled_from(["", "norm: batch, nonlinearity: relu, ", "nonlinearity: tanh, "]))
        return CONV.format(k, size, data.draw(st.integers(1, 2)), size // 2, norm, split)

    layers = [layer(k) for k in range(3)]
    if data.draw(st.booleans()):
        layers.insert(2, "{name: P, max_pool: {size: 3, stride: 1, padding: 1}, split: {H: y, W: x}}")
    mesh = data.draw(st.sampled_from(["{y: 2, x: 1}", "{y: 2, x: 2}", "{y: 1, x: 3}"]))
    rows = data.draw(st.integers(9, 14))
    made, whole = (cut_network(layers, mesh, f"[2, {rows}, 11]", word) for word in ("true", "false"))
    for plan in map(made.plan, range(made.ranks)):
        assert postings(made.schedule(plan)) == postings(whole.schedule(plan, spread=True))
    assert check_progress([postings(made.schedule(made.plan(rank))) for rank in range(made.ranks)]) == []
    assert made.check()[0] == []
    same_numbers(layers, mesh, f"[2, {rows}, 11]")


def test_tiled_filters_and_uneven_pieces():
    layers = [
        "{name: T0, tiled: {channels: 3, tile: 2, size: 5, stride: 2}, nonlinearity: tanh, split: {H: y, W: x}}",
        "{name: T1, tiled: {channels: 2, tile: 1, size: 4, stride: 1}, split: {H: y, W: x}}",
    ]
    made = cut_network(layers, "{y: 2, x: 1}", "[1, 25, 15]")
    cut = [step for step in words(made, 0, "T1.filter") if step[0] == "T1.filter"]
    assert len(cut) == 2
    same_numbers(layers, "{y: 2, x: 2}", "[1, 25, 15]")


@pytest.mark.parametrize("rank", range(4))
def test_pieces_are_a_partition(rank):
    layers = [CONV.format(k, 3, 1, 1, "", "{H: y, W: x}") for k in range(2)]
    made = cut_network(layers, "{y: 2, x: 2}")
    pieces = [step[1] for step in words(made, rank, "C1.conv") if step[0] == "C1.conv"]
    assert len(pieces) == 3
    (whole,) = made.layout.pieces("C1.conv", rank)
    assert sum(piece.volume for piece in pieces) == whole.volume
    assert not any(a.intersect(b) for k, a in enumerate(pieces) for b in pieces[:k])
    assert all(isinstance(piece, Rect) and piece in whole for piece in pieces)


def test_a_piece_that_other_ranks_do_too_stays_whole():
    layers = [CONV.format(0, 3, 1, 1, "", "{N: y}"), CONV.format(1, 3, 1, 1, "", "{}")]
    made, whole = (cut_network(layers, "{y: 2, x: 1}", overlap=word) for word in ("true", "false"))
    assert [step for step in words(made, 0) if step[0].startswith("C1")] == [
        step for step in words(whole, 0) if step[0].startswith("C1")
    ]
