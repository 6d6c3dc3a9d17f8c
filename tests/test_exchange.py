"""Exchanges at work on threads: the one rule, and the adjoint identity <Fx, y> = <x, F*y>."""

from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.layout.assign import TensorLayout
from dgraph.plan.kind import KINDS
from dgraph.plan.make import Plan, make_transfer
from dgraph.plan.message import receives, sends
from dgraph.plan.paint import paint
from dgraph.plan.transfer import ONE_PHASE_NBYTES, Convoy
from dgraph.runtime.convoy import Part
from dgraph.runtime.store import Store
from dgraph.runtime.thread import ThreadCommunicator, run_threads
from dgraph.runtime.transfer import bind_convoy
from dgraph.runtime.window import open_window
from dgraph.schedule.buffer import place_tensors
from dgraph.schedule.step import Schedule, Start
from tests.strategies import tensor_layouts

WAYS = {
    "messages": {"lower": (), "window": False},
    "kinds": {"window": False},
    "window": {},
    "window without kinds": {"lower": ()},
    "in place": {"in_place": True},
    "hosts of two": {"hosts": True},
    "hosts of two, in place": {"hosts": True, "in_place": True},
}
"""Every way that a tensor can go."""


class OfTwo(ThreadCommunicator):
    """Ranks 0 and 1 are on one host, 2 and 3 on another, and so on."""

    def share(self, nbytes, signals, note):
        shared = super().share(nbytes, signals, note)
        here = [rank for rank in range(self.size) if rank // 2 == self.rank // 2]
        if len(here) == 1:
            return None
        shared.blocks = {rank: shared.blocks[rank] for rank in here}
        return shared


def run(mesh, layout, values, lower=KINDS, window=True, in_place=False, hosts=False, gradient=False):
    """What every rank reads, from what every rank wrote (both None where empty)."""
    limits = {"IN_PLACE_NBYTES": 0, "ONE_PHASE_NBYTES": 0} if in_place else {"ONE_PHASE_NBYTES": ONE_PHASE_NBYTES}
    layout = replace(layout, node=replace(layout.node, role="gradient" if gradient else "activation"))

    def body(communicator):
        rank = communicator.rank
        communicator = OfTwo(communicator._board, rank) if hosts else communicator
        transfer = make_transfer("t", 7, layout, mesh, rank, lower)
        convoys = () if transfer is None else (Convoy((transfer,), 0, 2),)
        plan = Plan(rank, {"t": transfer} if transfer else {}, convoys)
        one = SimpleNamespace(
            tensors={"t": layout},
            read_rect=lambda name, rank: layout.read.at(mesh.coordinates(rank)),
            write_rect=lambda name, rank: layout.write.at(mesh.coordinates(rank)),
        )
        order = tuple(reversed(range(len(layout.node.dim))))
        placement = place_tensors(one, plan, {"t": order}, 8)
        steps = tuple(Start(convoy) for convoy in convoys)
        schedule = Schedule(rank, "float64", placement, steps, (), 0, 0, 0, 0, 0)
        opened = open_window(schedule, 8, communicator) if window else None
        store, place = Store(schedule, (), opened), placement.places["t"]
        rects = (place.write, one.write_rect("t", rank)), (place.read, one.read_rect("t", rank))
        write, read = (store.view((number, rect)) if rect else None for number, rect in rects)
        bound = bind_convoy(convoys[0], [Part(transfer, write, read)], communicator, opened) if convoys else None
        results = []
        for time in range(5):
            if write is not None:
                write[...] = (time + 1) * values[rank]
            if bound is not None:
                bound.start()
                while time % 2 and not bound.test():
                    pass
                bound.wait()
            results.append(None if read is None else read.copy())
        for time, result in enumerate(results):
            if result is not None:
                np.testing.assert_allclose(result, (time + 1) * results[0], rtol=1e-12, atol=1e-12)
        return results[0]

    with patch.multiple("dgraph.plan.transfer", **limits):
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
        back = run(mesh, reverse, y, gradient=True)
        left, right = dot(fx, y), dot(x, back)
        assert abs(left - right) <= 1e-12 * max(1.0, abs(left), sum(float(np.abs(v).sum()) for v in x if v is not None))


@settings(max_examples=60, deadline=None)
@given(tensor_layouts(), st.booleans())
def test_every_way_gives_the_same_bits(pair, gradient):
    mesh, layout = pair
    if not covered(mesh, layout):
        return
    values = random_values(mesh, layout.write, 1)
    outcomes = [run(mesh, layout, values, gradient=gradient, **way) for way in WAYS.values()]
    for outcome in outcomes[1:]:
        for got, wanted in zip(outcome, outcomes[0], strict=True):
            assert (got is None) == (wanted is None)
            if got is not None:
                np.testing.assert_array_equal(got, wanted)
