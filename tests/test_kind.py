"""What messages are together, and which transfers travel together."""

from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings

from dgraph.graph.node import TensorNode
from dgraph.layout.assign import TensorLayout
from dgraph.layout.field import Field, Interval, Mesh, cut, whole
from dgraph.plan.check import check_plan, check_together
from dgraph.plan.kind import COLLECTIVES, KINDS, recognise
from dgraph.plan.make import make_transfer
from dgraph.program import plan_summary
from tests.networks import SPATIAL, config_text, program
from tests.strategies import tensor_layouts

DIM = (11, 7)
LINE = Mesh(("p",), (3,))
GRID = Mesh(("y", "x"), (2, 2))


def field(mesh, *axes, halo=0):
    """Dimension by dimension cut by some axes, and widened."""
    intervals = [cut(mesh, n, a) if a else whole(mesh, n) for n, a in zip(DIM, axes, strict=True)]
    wide = [
        Interval(np.maximum(i.start - halo, 0), np.minimum(i.stop + halo, n)) if a else i
        for i, n, a in zip(intervals, DIM, axes, strict=True)
    ]
    return Field.of(DIM, wide)


def tensor(write, read, replicas=()):
    return TensorLayout(TensorNode("t", DIM, "activation"), read, write, frozenset(replicas))


def at(mesh, place):
    """Whole at one place of an axis, empty elsewhere."""
    return field(mesh, (), ()).only_where(mesh.index(0) == place)


@pytest.mark.parametrize(
    ("mesh", "write", "read", "kind", "axes"),
    [
        (LINE, field(LINE, (), ()), field(LINE, (), ()), "all_reduce", (0,)),
        (LINE, field(LINE, (), ()), field(LINE, (0,), ()), "reduce_scatter", (0,)),
        (LINE, field(LINE, (0,), ()), field(LINE, (), ()), "all_gather", (0,)),
        (LINE, field(LINE, (0,), ()), field(LINE, (), (0,)), "all_to_all", (0,)),
        (LINE, at(LINE, 1), field(LINE, (), ()), "broadcast", (0,)),
        (LINE, field(LINE, (0,), ()), field(LINE, (0,), (), halo=1), "halo", (0,)),
        (LINE, field(LINE, (0,), (), halo=1), field(LINE, (0,), ()), "halo", (0,)),
        (GRID, field(GRID, (0,), ()), field(GRID, (0,), ()), "all_reduce", (1,)),
        (GRID, field(GRID, (), ()), field(GRID, (), ()), "all_reduce", (0, 1)),
        (GRID, field(GRID, (0,), (1,)), field(GRID, (0,), ()), "all_gather", (1,)),
        (GRID, field(GRID, (0,), (1,)), field(GRID, (), ()), "all_gather", (0, 1)),
        (GRID, field(GRID, (0,), (1,)), field(GRID, (0,), (1,), halo=2), "halo", (0, 1)),
        (GRID, field(GRID, (0,), ()), field(GRID, (), (0,)), "messages", (0, 1)),
        (GRID, field(GRID, (0, 1), ()), field(GRID, (0,), (1,)), "messages", (0, 1)),
    ],
)
def test_patterns(mesh, write, read, kind, axes):
    found = recognise(tensor(write, read), mesh)
    assert (found.name, found.axes) == (kind, axes)
    for rank in range(mesh.ranks):
        transfer = make_transfer("t", 0, tensor(write, read), mesh, rank)
        assert transfer.group == (found.group(mesh, rank) if kind in COLLECTIVES else ())
        assert kind not in COLLECTIVES or transfer.partners <= set(transfer.group)
        assert make_transfer("t", 0, tensor(write, read), mesh, rank, ()).kind == "messages"


def test_replicas_are_not_asked():
    found = recognise(tensor(field(GRID, (0,), ()), field(GRID, (), ()), replicas=[1]), GRID)
    assert (found.name, found.axes) == ("all_gather", (0,))
    assert found.group(GRID, 3) == (1, 3)


@settings(max_examples=300, deadline=None)
@given(tensor_layouts())
def test_collectives_are_what_they_say(pair):
    mesh, layout = pair
    kind = recognise(layout, mesh)
    transfers = [make_transfer("t", 0, layout, mesh, rank) for rank in range(mesh.ranks)]
    for rank, transfer in enumerate(transfers if kind.name in COLLECTIVES else ()):
        group = kind.group(mesh, rank)
        assert rank in group
        assert {kind.group(mesh, peer) for peer in group} == {group}
        assert len({transfers[peer] is None for peer in group}) == 1
        assert transfer is None or transfer.partners <= set(group)


DATA = (
    "{name: C1, conv: {channels: 4, size: 3}, norm: batch, nonlinearity: relu, split: {N: p}}",
    "{name: C2, conv: {channels: 4, size: 3}, norm: batch, nonlinearity: relu}",
    "{name: out, softmax: {classes: 3}}",
)


def convoys(text, overrides=(), rank=0):
    made = program(text, overrides)
    assert made.check()[0] == []
    return [tuple(t.tensor for t in convoy.transfers) for convoy in made.plan(rank).convoys]


def test_gradients_of_parameters_travel_in_buckets():
    text = config_text(DATA, "{p: 4}", batch=8)
    parameters = {p.name + ".grad" for p in program(text).graph.parameters}
    together = [convoy for convoy in convoys(text) if set(convoy) & parameters]
    assert [set(convoy) for convoy in together] == [parameters]
    assert together[0][0].startswith("out."), "backward finishes the last layer first"
    alone = [convoy for convoy in convoys(text, ["messages.bucket=0"]) if set(convoy) & parameters]
    assert len(alone) == len(parameters)


def test_a_bucket_is_full():
    text = config_text(DATA, "{p: 4}", batch=8)
    made = program(text, ["messages.bucket=640"])
    for convoy in made.plan(0).convoys:
        assert len(convoy.transfers) == 1 or 8 * convoy.elements <= 640
    assert len(made.plan(0).convoys) > len(program(text).plan(0).convoys)


def test_statistics_of_one_node_travel_together():
    text = config_text(DATA, "{p: 4}", batch=8)
    assert {("C2.mean.output", "C2.variance.output"), ("C2.mean.output.grad", "C2.variance.output.grad")} <= {
        *convoys(text)
    }
    counted = [plan_summary(program(text, [f"messages.bucket={n}"]), [1])["ranks"][0] for n in (1 << 20, 0)]
    moments = sum(t["kind"] == "moments" for t in counted[1]["tensors"].values())
    assert moments == 4, "two of each norm, which are one message however small a bucket is"
    assert counted[0]["messages"] < counted[1]["messages"] == len(counted[1]["tensors"]) - moments // 2
    assert counted[0]["sent_nbytes"] == counted[1]["sent_nbytes"]


def test_sharded_updates_travel_in_buckets_too():
    train = "{optimizer: {adam: {rate: 0.1}}, steps: 1, shard: true}"
    made = program(config_text(DATA, "{p: 4}", batch=8, train=train))
    kinds = {convoy.kind for convoy in made.plan(2).convoys if len(convoy.transfers) > 1}
    assert {"reduce_scatter", "all_gather"} <= kinds
    assert made.check()[0] == []


def test_ranks_that_disagree_are_found():
    made = program(config_text(DATA, "{p: 4}", batch=8))
    plans = [made.plan(rank) for rank in range(4)]
    assert check_together(plans) == []
    bucket = next(convoy for convoy in plans[2].convoys if len(convoy.transfers) > 2)
    shorter = replace(bucket, transfers=bucket.transfers[:-1])
    others = tuple(shorter if convoy is bucket else convoy for convoy in plans[2].convoys)
    findings = check_together([*plans[:2], replace(plans[2], convoys=others), plans[3]])
    assert findings
    assert all(finding.rule == "together" and 2 in finding.ranks for finding in findings)


def test_a_kind_that_only_one_rank_sees_is_found():
    made = program(config_text(SPATIAL))
    plans = [made.plan(rank) for rank in range(4)]
    name = next(name for name, transfer in plans[3].transfers.items() if transfer.kind == "all_reduce")
    other = replace(plans[3].transfers[name], kind="messages", group=())
    alone = tuple(
        replace(convoy, transfers=tuple(other if t.tensor == name else t for t in convoy.transfers))
        for convoy in plans[3].convoys
    )
    changed = replace(plans[3], transfers=MappingProxyType({**plans[3].transfers, name: other}), convoys=alone)
    assert "together" in {finding.rule for finding in check_plan(made.layout, [*plans[:3], changed])}


def test_what_is_told_of_a_plan():
    made = program(config_text(SPATIAL))
    tensors = plan_summary(made, [0])["ranks"][0]["tensors"]
    found = tensors["C1.convNL.output"]
    assert (found["kind"], found["axes"]) == ("halo", ["y", "x"])
    assert found["way"] == "window: read in place; else messages"
    assert {t["kind"] for t in tensors.values()} <= {*KINDS, "messages"}
    without = plan_summary(program(config_text(SPATIAL), ["messages.window=false"]), [0])["ranks"][0]["tensors"]
    assert {t["way"] for t in without.values()} <= {"messages", "collective"}
