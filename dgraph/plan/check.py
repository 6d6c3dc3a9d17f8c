"""Proof of a plan, for all ranks at once, before anything runs.

In: a layout and the plans of all its ranks. Out: findings; none if all holds. Promise: what is found wrong is shown by
example: rule, node, rect, ranks.

    tiling      the distinct pieces of an op cover its iteration space exactly once: no product is missing, none counts twice; of a
                measure, what ranks count of a parameter covers it exactly once
    coverage    every element that a rank reads is written: by itself or in a message
    once        nothing arrives twice, unless writers' pieces differ in a label that the tensor lacks: a sum
    matching    every send has exactly one receive of the same rect
    together    ranks that take part in a transfer agree on what it is, on who takes part, and on what travels with it
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from dgraph.graph.access import image
from dgraph.layout.assign import Layout, OpLayout
from dgraph.layout.field import Integers
from dgraph.plan.kind import COLLECTIVES
from dgraph.plan.make import Plan
from dgraph.plan.message import Messages
from dgraph.plan.paint import corners, paint
from dgraph.plan.transfer import Convoy, Transfer
from dgraph.rect import Rect


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: the rule, the op or tensor, an example rect, the ranks concerned."""

    rule: str
    node: str
    rect: Rect | None
    ranks: tuple[int, ...]
    text: str

    def __str__(self) -> str:
        where = f", at {self.rect}" if self.rect else ""
        ranks = f", ranks {', '.join(map(str, self.ranks))}" if self.ranks else ""
        return f"{self.rule}: {self.node}: {self.text}{where}{ranks}"


def check_plan(layout: Layout, plans: Sequence[Plan]) -> list[Finding]:
    """All faults of the plans of all ranks (in rank order)."""
    findings = [finding for op in layout.ops.values() for finding in check_tiling(layout, op)]
    summed = {name for name in layout.tensors if _is_sum(layout, name)}
    for plan in plans:
        findings += check_reads(layout, plan, summed)
    return findings + check_matching(layout, plans) + check_together(plans)


def check_tiling(layout: Layout, op: OpLayout) -> Iterator[Finding]:
    """Whether the pieces of the ranks that tell apart (all places on the share's axes) tile the iteration space."""
    if op.node.kind in ("zero", "update", "gradient"):
        return
    sizes = layout.mesh.sizes
    places = product(*(range(n) if axis in op.share.axes else (0,) for axis, n in enumerate(sizes)))
    if op.node.kind == "measure":
        space = Rect.whole(op.node.access.dims["gradient"])
        owned = [(place, rect) for place in places for rect in layout.distinct(op.node.name, "gradient", place)]
    else:
        space = op.node.access.space.whole
        owned = [(place, rect) for place in places for rect in op.share.at(place)]
    counts, cells = paint(space, corners([rect for _, rect in owned]))
    wrong = np.argwhere(counts != 1)
    if len(wrong):
        rect = cells(wrong[0])
        ranks = tuple(int(np.ravel_multi_index(place, sizes)) for place, r in owned if r.intersect(rect))
        text = "no rank does this piece" if not ranks else f"this piece is done {int(counts[tuple(wrong[0])])} times"
        yield Finding("tiling", op.node.name, rect, ranks, text)


def check_reads(layout: Layout, plan: Plan, summed: set[str]) -> Iterator[Finding]:
    """Whether what one rank reads arrives, and, where it is no sum, arrives once."""
    for name in layout.tensors:
        read, transfer = layout.read_rect(name, plan.rank), plan.transfers.get(name)
        if not read:
            continue
        own = layout.write_rect(name, plan.rank).intersect(read)
        if transfer is None and own == read:
            continue
        counts, cells = paint(read, _contributions(own, transfer))
        missing = next(
            (r for r in map(cells, np.argwhere(counts == 0)) if not _is_zero(layout, name, r, plan.rank)), None
        )
        if missing is not None:
            yield Finding("coverage", name, missing, (plan.rank,), "is read, but does not arrive")
        elif name not in summed and counts.max() > 1:
            rect = cells(np.argwhere(counts > 1)[0])
            yield Finding("once", name, rect, (plan.rank,), f"arrives {int(counts.max())} times and is no sum")


def _is_zero(layout: Layout, name: str, rect: Rect, rank: int) -> bool:
    """Whether a part of a gradient, or of a result with gaps, is the zero that it was set to: no rank adds to it, as where no
    window reaches."""
    tensor = layout.tensors[name]
    if not tensor.node.accumulates and not _has_gaps(layout, name):
        return False
    place = layout.mesh.coordinates(rank)
    hit = tensor.write.overlaps(rect)
    for axis, size in enumerate(hit.shape):
        if axis in tensor.replicas and size > 1:
            hit = np.take(hit, [place[axis]], axis=axis)
    return not hit.any()


def _has_gaps(layout: Layout, name: str) -> bool:
    """Whether the op that writes a tensor leaves elements of it out, wherever it is cut."""
    dim = layout.graph.tensors[name].dim
    for writer, port in layout.graph.writers[name]:
        node = layout.graph.ops[writer]
        space, index = node.access.space, node.port_map(port)
        dense = all(expression.is_dense(space.box(space.whole)) for expression in index)
        if node.kind == "forward" and not (dense and image(index, space, space.whole, dim) == Rect.whole(dim)):
            return True
    return False


def _contributions(own: Rect, transfer: Transfer | None) -> tuple[Integers, Integers]:
    starts, stops = corners([own] if own else [], own.ndim)
    if transfer is None:
        return starts, stops
    columns = transfer.receives
    return np.concatenate([starts, columns.starts]), np.concatenate([stops, columns.stops])


def _is_sum(layout: Layout, tensor: str) -> bool:
    """Whether ranks may add to the same element: a gradient, norms, or a cut label that the tensor's map lacks or blurs."""
    if layout.tensors[tensor].node.accumulates:
        return True
    for name, port in layout.graph.writers[tensor]:
        if layout.graph.ops[name].kind == "update":
            continue
        op = layout.ops[name]
        sharp = {t for e in op.node.port_map(port) if len(e.terms) == 1 or _tiles(e.terms, op) for t, _ in e.terms}
        cut = {label for piece in op.share.pieces for label, interval in piece.items() if interval.axes()}
        if cut - sharp:
            return True
    return False


def _tiles(terms: Sequence[tuple[str, int]], op: OpLayout) -> bool:
    """Whether an index `outer * extent(inner) + inner` takes every value of a range once on every rank: where several values of
    `outer` come with a part of `inner`, the rects of ranks have gaps and overlap."""
    extents = dict(zip(op.node.access.space.labels, op.node.access.space.extents, strict=True))
    if len(terms) != 2 or terms[1][1] != 1 or terms[0][1] != extents[terms[1][0]]:
        return False
    return not any(
        (
            (piece[terms[0][0]].stop - piece[terms[0][0]].start > 1)
            & (piece[terms[1][0]].stop - piece[terms[1][0]].start < extents[terms[1][0]])
        ).any()
        for piece in op.share.pieces
    )


def check_matching(layout: Layout, plans: Sequence[Plan]) -> list[Finding]:
    """Whether sends and receives of all ranks pair up, tensor by tensor."""
    findings = []
    for name in layout.tensors:
        transfers = [(plan.rank, plan.transfers[name]) for plan in plans if name in plan.transfers]
        if not transfers:
            continue
        sent = _table([(rank, t.sends) for rank, t in transfers], sender_first=True)
        received = _table([(rank, t.receives) for rank, t in transfers], sender_first=False)
        if not np.array_equal(sent, received):
            findings.append(_unmatched(name, sent, received))
    return findings


def _table(entries: Sequence[tuple[int, Messages]], sender_first: bool) -> Integers:
    """Rows (src, dst, starts, stops) of all messages, sorted."""
    rows = []
    for rank, messages in entries:
        peers = messages.peers
        own = np.full_like(peers, rank)
        pair = (own, peers) if sender_first else (peers, own)
        rows.append(np.column_stack([*pair, messages.starts, messages.stops]))
    table: Integers = np.concatenate(rows)
    return table[np.lexsort(table.T[::-1])]


def _unmatched(name: str, sent: Integers, received: Integers) -> Finding:
    ours, theirs = {tuple(row) for row in sent.tolist()}, {tuple(row) for row in received.tolist()}
    odd = sorted(ours ^ theirs)
    if not odd:
        return Finding("matching", name, None, (), "a message is sent or received twice")
    row = odd[0]
    ndim = (len(row) - 2) // 2
    rect = Rect.of(zip(row[2 : 2 + ndim], row[2 + ndim :], strict=True))
    text = "is sent, but not received" if row in ours else "is awaited, but not sent"
    return Finding("matching", name, rect, (int(row[0]), int(row[1])), text)


def check_together(plans: Sequence[Plan]) -> list[Finding]:
    """Whether the ranks of every convoy see the same one: its tensors in order, its kind, its group; and nobody else has a part in
    it. The first of a group compares itself with all others, each of these with the first."""
    convoys = {
        (plan.rank, transfer.tensor): convoy
        for plan in plans
        for convoy in plan.convoys
        for transfer in convoy.transfers
    }
    findings = []
    for (rank, tensor), convoy in convoys.items():
        group = convoy.group
        others = convoy.partners if not group else group if rank == group[0] else group[:1]
        for peer in sorted(others):
            text = _unequal(convoy, convoys.get((peer, tensor)))
            if text:
                findings.append(Finding("together", tensor, None, (rank, peer), text))
                break
        strangers = sorted(convoy.partners - set(group)) if convoy.kind in COLLECTIVES else []
        if strangers:
            text = f"a message of {convoy.kind} leaves its group"
            findings.append(Finding("together", tensor, None, (rank, strangers[0]), text))
    return findings


def _unequal(one: Convoy, other: Convoy | None) -> str:
    """In what two ranks' views of a convoy differ; nothing where they agree."""
    if other is None:
        return "a rank has no part in it"
    if (one.kind, one.group) != (other.kind, other.group):
        return f"the ranks disagree on who takes part, or how: {one.kind} and {other.kind}"
    if [t.tensor for t in one.transfers] != [t.tensor for t in other.transfers]:
        return f"the ranks disagree on what travels together: {one.name} and {other.name}"
    return ""
