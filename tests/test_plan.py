"""Plans: the counts of known layouts, and that `check` finds what is wrong."""

from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest

from dgraph.layout.field import Interval
from dgraph.plan.check import check_matching, check_plan, check_tiling
from dgraph.plan.message import Messages
from dgraph.program import plan_summary
from dgraph.schedule.check import check_progress, postings
from tests.networks import SPATIAL, config_text, program


def without_first(messages):
    return Messages(messages.peers[1:], messages.starts[1:], messages.stops[1:])


def plans_of(made):
    return [made.plan(rank) for rank in range(made.ranks)]


def altered(plans, rank, tensor, **changes):
    transfers = dict(plans[rank].transfers)
    transfers[tensor] = replace(transfers[tensor], **changes)
    return [replace(p, transfers=MappingProxyType(transfers)) if p.rank == rank else p for p in plans]


@pytest.mark.parametrize(
    "mesh", ["{y: 1, x: 1}", "{y: 2, x: 1}", "{y: 2, x: 2}", "{y: 3, x: 2}", "{y: 5, x: 3}", "{y: 9, x: 9}"]
)
def test_good_plans_pass(mesh):
    findings, peaks = program(config_text(SPATIAL, mesh)).check()
    assert findings == []
    assert min(peaks) > 0 or mesh == "{y: 9, x: 9}"


def test_data_parallel_sends_only_gradients():
    layers = [
        "{name: C1, conv: {channels: 4, size: 3}, nonlinearity: relu, split: {N: p}}",
        "{name: out, softmax: {classes: 3}}",
    ]
    made = program(config_text(layers, "{p: 4}", batch=8))
    for rank in range(4):
        tensors = {n: t.kind for n, t in made.plan(rank).transfers.items()}
        assert tensors == {
            "out.softmax.output": "all_reduce",
            "out.evaluate.output": "all_reduce",
            "C1.W.grad": "all_reduce",
            "C1.b.grad": "all_reduce",
            "out.weights1.grad": "all_reduce",
        }


def test_sharded_update_is_reduce_scatter_and_all_gather():
    layers = ["{name: out, softmax: {classes: 8}, split: {N: p}}"]
    text = config_text(
        layers, "{p: 4}", classes=8, batch=8, train="{optimizer: {adam: {rate: 0.1}}, steps: 1, shard: true}"
    )
    made = program(text)
    weights = 8 * 2 * 8 * 8 * 8
    tensors = plan_summary(made, [1])["ranks"][0]["tensors"]
    assert tensors["out.weights1.grad"]["sent_nbytes"] == weights * 3 // 4
    assert tensors["out.weights1"]["received_nbytes"] == weights * 3 // 4
    assert made.schedule(made.plan(1)).state_nbytes == 2 * weights // 4


def test_one_spatial_layout_sends_only_halos():
    layers = [
        "{name: C1, conv: {channels: 4, size: 3, padding: 1}, nonlinearity: relu, split: {H: p}}",
        "{name: C2, conv: {channels: 4, size: 3, padding: 1}, nonlinearity: relu, split: {H: p}}",
        "{name: out, softmax: {classes: 3}}",
    ]
    made = program(config_text(layers, "{p: 4}", batch=2))
    transfer = made.plan(1).transfers["C1.convNL.output"]
    assert [peer for peer, _ in transfer.sends] == [0, 2]
    assert all(rect.size == (2, 4, 1, 8) for _, rect in transfer.sends)


def test_a_missing_message_is_found():
    made = program(config_text(SPATIAL))
    plans = plans_of(made)
    tensor = "C1.convNL.output"
    lost = altered(plans, 2, tensor, receives=without_first(plans[2].transfers[tensor].receives))
    rules = {finding.rule for finding in check_plan(made.layout, lost)}
    assert rules == {"coverage", "matching"}
    example = next(f for f in check_plan(made.layout, lost) if f.rule == "coverage")
    assert example.node == tensor
    assert example.ranks == (2,)
    assert example.rect


def test_a_message_that_nobody_awaits_is_found():
    made = program(config_text(SPATIAL))
    plans = plans_of(made)
    tensor = "C1.convNL.output"
    lost = altered(plans, 0, tensor, sends=without_first(plans[0].transfers[tensor].sends))
    finding = check_matching(made.layout, lost)[0]
    assert finding.node == tensor
    assert "not sent" in finding.text


def test_an_element_that_arrives_twice_is_found():
    made = program(config_text(SPATIAL))
    plans = plans_of(made)
    tensor = "C1.convNL.output"
    old = plans[2].transfers[tensor].receives
    twice = Messages(*(np.concatenate([a, a[:1]]) for a in (old.peers, old.starts, old.stops)))
    rules = {f.rule for f in check_plan(made.layout, altered(plans, 2, tensor, receives=twice))}
    assert "once" in rules


def test_a_piece_done_twice_or_never_is_found():
    made = program(config_text(SPATIAL))
    op = made.layout.ops["C1.conv"]
    piece = dict(op.share.pieces[0])
    for shift in (1, -1):
        start = piece["h"].start.copy()
        start[1] += shift
        bad = replace(op.share, pieces=({**piece, "h": Interval(start, piece["h"].stop)},))
        finding = next(check_tiling(made.layout, replace(op, share=bad)))
        assert finding.rule == "tiling"
        assert ("no rank" if shift > 0 else "2 times") in finding.text


def test_a_circle_of_waits_is_found():
    made = program(config_text(SPATIAL))
    orders = [postings(made.schedule(plan)) for plan in plans_of(made)]
    assert check_progress(orders) == []
    waits = [k for k, posting in enumerate(orders[1]) if posting.waits]
    starts = [k for k, posting in enumerate(orders[1]) if not posting.waits]
    late = list(orders[1])
    late.append(late.pop(starts[0]))
    finding = check_progress([orders[0], late, *orders[2:]])[0]
    assert finding.rule == "progress"
    assert 1 in finding.ranks
    last = orders[1][starts[-1]].tensor
    gone = [posting for posting in orders[1] if posting.tensor != last]
    assert waits
    assert "never" in check_progress([orders[0], gone, *orders[2:]])[0].text


def test_plans_agree_between_ranks_and_do_not_depend_on_who_plans():
    first, second = program(config_text(SPATIAL)), program(config_text(SPATIAL))
    assert first.digest() == second.digest()
    assert first.digest() != program(config_text(SPATIAL), ["seed=1"]).digest()
