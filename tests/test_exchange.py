"""Exchanges at work on threads: the one rule, and the adjoint identity <Fx, y> = <x, F*y>."""

import numpy as np
from hypothesis import given, settings

from dgraph.layout.assign import TensorLayout
from dgraph.plan.make import _transfer
from dgraph.plan.message import receives, sends
from dgraph.plan.paint import paint
from dgraph.runtime.thread import run_threads
from dgraph.runtime.transfer import BoundTransfer
from tests.strategies import tensor_layouts


def run(mesh, layout, values):
    """What every rank reads, from what every rank wrote (both None where empty)."""

    def body(communicator):
        rank = communicator.rank
        place = mesh.coordinates(rank)
        read, write = layout.read.at(place), layout.write.at(place)
        transfer = _transfer("t", 7, layout, mesh, rank)
        out = np.full(read.size, np.nan) if read else None
        if transfer is None:
            if read:
                out = values[rank][read.slices(write.start)].copy()
            return out
        mine = None if values[rank] is None else values[rank].copy()
        if transfer.all_reduce:
            out = mine
        bound = BoundTransfer(transfer, mine, out, transfer.all_reduce is not None, communicator)
        for _ in range(2):
            if transfer.all_reduce:
                out[...] = values[rank]
            bound.start()
            bound.wait()
        return out

    return run_threads(mesh.ranks, body)


def rule(mesh, layout, values):
    """The one rule, rank by rank: the sum over ranks at the reader's place on the replica axes."""
    result = []
    for r in range(mesh.ranks):
        place = mesh.coordinates(r)
        read = layout.read.at(place)
        whole = np.zeros(layout.node.dim)
        for s in range(mesh.ranks):
            other = mesh.coordinates(s)
            if values[s] is not None and all(place[a] == other[a] for a in layout.replicas):
                whole[layout.write.at(other).slices()] += values[s]
        result.append(whole[read.slices()] if read else None)
    return result


def random_values(mesh, field, seed):
    rng = np.random.default_rng(seed)
    rects = [field.at(mesh.coordinates(r)) for r in range(mesh.ranks)]
    return [rng.standard_normal(rect.size) if rect else None for rect in rects]


def dot(a, b):
    return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True) if x is not None)


def covered(mesh, layout):
    """Whether every read element has a writer."""
    for r in range(mesh.ranks):
        read = layout.read.at(mesh.coordinates(r))
        parts = [rect for _, rect in receives(layout, mesh, r)] + [layout.write.at(mesh.coordinates(r)).intersect(read)]
        parts = [part for part in parts if part]
        if read and not parts:
            return False
        if read:
            corners = np.array([p.start for p in parts]), np.array([p.stop for p in parts])
            if not paint(read, corners)[0].all():
                return False
    return True


@settings(max_examples=150, deadline=None)
@given(tensor_layouts())
def test_sender_and_receiver_find_the_same_messages(pair):
    mesh, layout = pair
    sent = {(r, peer, rect) for r in range(mesh.ranks) for peer, rect in sends(layout, mesh, r)}
    received = {(peer, r, rect) for r in range(mesh.ranks) for peer, rect in receives(layout, mesh, r)}
    assert sent == received
    for src, dst, rect in sent:
        assert rect == layout.write.at(mesh.coordinates(src)).intersect(layout.read.at(mesh.coordinates(dst)))
        assert src != dst


@settings(max_examples=100, deadline=None)
@given(tensor_layouts())
def test_exchange_is_the_rule_and_its_reverse_the_adjoint(pair):
    mesh, layout = pair
    if not covered(mesh, layout):
        return
    reverse = TensorLayout(layout.node, layout.write, layout.read, layout.replicas)
    x, y = random_values(mesh, layout.write, 1), random_values(mesh, layout.read, 2)
    fx, expected = run(mesh, layout, x), rule(mesh, layout, x)
    for got, wanted in zip(fx, expected, strict=True):
        assert (got is None) == (wanted is None)
        if got is not None:
            np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)
    if covered(mesh, reverse):
        back = run(mesh, reverse, y)
        left, right = dot(fx, y), dot(x, back)
        assert abs(left - right) <= 1e-12 * max(1.0, abs(left), sum(float(np.abs(v).sum()) for v in x if v is not None))
