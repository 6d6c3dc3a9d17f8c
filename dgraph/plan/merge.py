"""Means and variances that ranks have of their own elements, and that travel together.

In: a layout, the transfers of a rank. Out: convoys. Promise: all ranks of a group find the same; what does not fit exactly is left
as it is: two sums, of which the second waits for the first, for a variance is taken around the mean.

The moments of a union follow from those of parts that do not overlap (Chan, Golub and LeVeque 1983, "Algorithms for computing the
sample variance: analysis and recommendations", equations 2.1, for any number of parts):

    n = sum n_k        mean = sum n_k mean_k / n        variance = sum n_k (variance_k + (mean_k - mean)^2) / n

Nothing of them is lost where the mean is large, as it would be in a sum of squares.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from dgraph.graph.node import OpNode
from dgraph.layout.assign import Layout
from dgraph.plan.kind import recognise
from dgraph.plan.transfer import MOST_SUMMED, Convoy, Merge, Transfer

MOST_MERGED = 1 << 18
"""Elements of all ranks together: every rank reads all of them."""
_SAME = ("over", "groups")
"""Attributes that tell what a statistic is of."""


def find_merges(layout: Layout, transfers: Mapping[str, Transfer], rank: int,
                lower: Collection[str]) -> list[Convoy]:  # fmt: skip
    """The convoys of one rank, each of a mean and the variance around it, whatever else is recognised or fused: results do not
    depend on how they travel. `lower`: see `dgraph.plan.make.make_plan`."""
    position = {name: k for k, name in enumerate(layout.graph.ops)}
    kind = "moments" if "moments" in lower else "messages"
    found: dict[str, Convoy] = {}
    for mean, variance in _pairs(layout):
        convoy = _convoy(layout, transfers, rank, mean, variance, position)
        if convoy is not None:
            group = convoy.merge.ranks if convoy.merge and kind == "moments" else ()
            both = tuple(replace(transfer, kind=kind, group=group) for transfer in convoy.transfers)
            found.setdefault(mean.name, replace(convoy, transfers=both))
    return list(found.values())


def _pairs(layout: Layout) -> Iterator[tuple[OpNode, OpNode]]:
    """Nodes that find a mean and, around it, the variance of one tensor."""
    graph = layout.graph
    for variance in graph.ops.values():
        if (variance.op, variance.kind) != ("variance", "forward"):
            continue
        inputs = dict(variance.inputs)
        for writer, _ in graph.writers[inputs["mean"]]:
            mean = graph.ops[writer]
            alike = all(mean.attributes.get(key) == variance.attributes[key] for key in _SAME)
            if mean.op == "mean" and alike and dict(mean.inputs)["input"] == inputs["input"]:
                yield mean, variance


def _convoy(layout: Layout, transfers: Mapping[str, Transfer], rank: int, mean: OpNode, variance: OpNode,
            position: Mapping[str, int]) -> Convoy | None:  # fmt: skip
    """Both tensors together, from the variance to the first reader behind it; None where somebody needs the mean before, or where
    they are not sums of the same ranks' pieces."""
    tensors = [dict(node.outputs)["output"] for node in (mean, variance)]
    parts = [transfers[tensor] for tensor in tensors if tensor in transfers]
    kinds = [recognise(layout.tensors[part.tensor], layout.mesh) for part in parts]
    running = {"running" in dict(node.inputs) for node in (mean, variance)}
    if len(running) > 1 or [kind.name for kind in kinds] != ["all_reduce"] * 2 or kinds[0] != kinds[1]:
        return None
    group, rect = kinds[0].group(layout.mesh, rank), parts[0].write_rect
    pieces, others = (tuple(layout.pieces(node.name, rank) for rank in group) for node in (mean, variance))
    readers = {
        position[name]
        for tensor in tensors
        for name, port in layout.graph.readers[tensor]
        if name != variance.name and layout.graph.ops[name].port_map(port)
    }
    start = position[variance.name]
    apart = any(layout.piece_rect(mean.name, "output", piece) != rect for own in pieces for piece in own)
    many = len(group) > MOST_SUMMED or 2 * rect.volume * len(group) > MOST_MERGED
    if pieces != others or apart or many or any(at < start for at in readers):
        return None
    merge = Merge((mean.name, variance.name), mean.access, group, pieces, *running)
    return Convoy(tuple(parts), start, min(readers, default=len(position)), merge)
