"""What of a node hides the communication beside it.

In: the steps of a node, the transfers that are waited for before it and those that start behind it. Out: all of them in order.
Promise: what is computed is the same in any order, and nothing is cut where nothing is gained; transfers start and are waited for
in the same order on all ranks, cut or not. Ranks that do the same piece do it in the same way, for they are to have the same bits:
whole.

    wait x                         compute conv, interior              reads only what this rank wrote itself
    compute conv            =>     wait x
                                   compute conv, rim                   what reads its neighbours' rows

    compute conv.grad       =>     compute conv.grad (input.delta)     a result that travels is made alone, and what is needed
    start x.grad                   start x.grad                        first comes first
    start filters.grad             compute conv.grad (filters.delta)
                                   start filters.grad
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from types import MappingProxyType

from dgraph.graph.access import Affine, image
from dgraph.graph.node import OpNode
from dgraph.kernels.call import Call
from dgraph.layout.assign import Layout
from dgraph.plan.transfer import Transfer
from dgraph.rect import Rect
from dgraph.schedule.buffer import Placement
from dgraph.schedule.step import NOWHERE, Compute, Start, Step, Wait

FLOPS, MEMORY_NBYTES = 2e10, 8e9
"""A second of a rank: operations of a product, bytes of operands."""
CALL_SECONDS = 1e-5
"""A further call of a kernel."""
RIM = 2
"""How many times as long a thin piece takes as so much of a large one."""
LINK_NBYTES, LINK_SECONDS = 1.25e8, 1e-4
"""A second of a link between hosts, and what a message takes at least."""


@dataclass(frozen=True)
class Rule:
    """When to cut: always (`overlap` True), never (False), or where it pays (None). `spread`: ranks are on several hosts. Within
    one it does not pay: ranks copy from each other's memory themselves, and nothing moves while they compute."""

    overlap: bool | None = None
    spread: bool = False
    itemsize: int = 4

    def pays(self, elements: int, hides: float, costs: float) -> bool:
        """Whether `hides` seconds of work beside a transfer of so many elements save more than cutting `costs`."""
        if self.overlap is not None:
            return self.overlap
        travels = LINK_SECONDS + elements * self.itemsize / LINK_NBYTES
        return self.spread and min(travels, hides) > costs

    def seconds(self, call: Call) -> float:
        """About how long a call takes: two operations a point, or a look at all of its operands."""
        return max(2 * call.piece.volume / FLOPS, self.passing(call.rects.values()))

    def passing(self, rects: Iterable[Rect]) -> float:
        """About how long it takes to read or write rects once."""
        return sum(rect.volume for rect in rects) * self.itemsize / MEMORY_NBYTES


def arrange(layout: Layout, name: str, steps: Sequence[Step], waits: Sequence[Wait], starts: Sequence[Start],
            placement: Placement, rule: Rule) -> list[Step]:  # fmt: skip
    """The steps of a node with the transfers before and behind it. `starts` come in the order in which they are needed."""
    node, share = layout.graph.ops[name], layout.ops[name].share
    if any(size > 1 and axis not in share.axes for axis, size in enumerate(layout.mesh.sizes)):
        return [*waits, *steps, *starts]
    before, behind = _waiting(node, steps, waits, placement, rule)
    return [*before, *_starting(node, behind, starts, rule)]


# --- interior and rims


def _waiting(node: OpNode, steps: Sequence[Step], waits: Sequence[Wait], placement: Placement,
             rule: Rule) -> tuple[list[Step], list[Step]]:  # fmt: skip
    """What comes up to the last wait, and what comes behind."""
    own: dict[str, Rect] = {}
    late: list[Wait] = []
    for wait in reversed(waits):
        there = [_there(node, transfer, placement) for transfer in wait.convoy.transfers]
        if not all(there):
            break
        own |= {port: rect for ports in there for port, rect in ports.items()}
        late.insert(0, wait)
    computes = [step for step in steps if isinstance(step, Compute)]
    if rule.overlap is False or not own or len(computes) < len(steps) or node.kind != "forward":
        return [*waits], [*steps]
    cuts = [cut_interior(step, own, node) for step in computes]
    elements = sum(transfer.receives.elements for wait in late for transfer in wait.convoy.transfers)
    hides = sum(rule.seconds(inner.call) for inner, _ in cuts if inner is not None)
    if not hides or not rule.pays(elements, hides, sum(_costs(inner, rims, node, rule) for inner, rims in cuts)):
        return [*waits], [*steps]
    interiors = [inner for inner, _ in cuts if inner is not None]
    return [*waits[: len(waits) - len(late)], *interiors, *late], [rim for _, rims in cuts for rim in rims]


def _there(node: OpNode, transfer: Transfer, placement: Placement) -> dict[str, Rect]:
    """By port, what of a tensor may be read before its transfer has ended: what this rank wrote itself, where it is read, and where
    nothing is added to it. Empty where there is none."""
    place = placement.places[transfer.tensor]
    if place.write is None or place.write != place.read or transfer.sums_in_place or transfer.overlaps:
        return {}
    ports = [port for port, tensor in node.inputs if tensor == transfer.tensor and node.port_map(port)]
    return dict.fromkeys(ports, transfer.write_rect)


def cut_interior(step: Compute, own: Mapping[str, Rect], node: OpNode) -> tuple[Compute | None, list[Compute]]:
    """A piece cut in two: the box whose operands lie in `own`, by port, and what is around it; no interior where there is none, or
    where results of the parts would fall on each other."""
    call = step.call
    results = [port for port, _ in node.outputs if port in call.rects]
    bounds = dict(zip(call.space.labels, call.piece.bounds, strict=True))
    leading = frozenset.intersection(*(frozenset(_labels(call, port)) for port in results))
    for port, rect in own.items():
        for expression, (start, stop), extent in zip(
            call.access.maps[port], rect.bounds, call.access.dims[port], strict=True
        ):
            label = next((name for name, _ in expression.terms if name in leading), None)
            if label is not None:
                low, high = start if start > 0 else None, stop if stop < extent else None
                bounds[label] = _within(expression, label, bounds, low, high)
    inner = Rect.of(bounds[name] for name in call.space.labels)
    rims = call.piece.subtract(inner)
    parts = [cut_piece(step, piece) for piece in (inner, *rims)]
    whole = all(parts[0].call.rects[port] in rect for port, rect in own.items() if port in call.rects)
    if call.accumulate or not inner or not whole or not all(_parted(port, call, parts) for port in results):
        return None, [step]
    return parts[0], parts[1:]


def _labels(call: Call, port: str) -> list[str]:
    return [name for expression in call.access.maps[port] for name, _ in expression.terms]


def _within(expression: Affine, label: str, bounds: Mapping[str, tuple[int, int]], low: int | None,
            high: int | None) -> tuple[int, int]:  # fmt: skip
    """The values of a label with which an index stays within [low, high), whatever the other labels are."""
    coefficient = dict(expression.terms)[label]
    first, last = Affine(tuple(t for t in expression.terms if t[0] != label), expression.offset).bounds({**bounds})
    start, stop = bounds[label]
    if low is not None:
        start = max(start, -((first - low) // coefficient))
    if high is not None:
        stop = min(stop, (high - last) // coefficient + 1)
    return start, max(start, stop)


def cut_piece(step: Compute, piece: Rect) -> Compute:
    """The part of a step that does `piece`, a part of its own."""
    call, ports = step.call, {}
    for port, (number, _) in step.ports.items():
        name = port.removesuffix(".delta")
        rect = image(call.access.maps[name], call.space, piece, call.access.dims[name])
        ports[port] = (number if rect else NOWHERE, rect)
    rects = {port: rect for port, (_, rect) in ports.items()}
    return replace(step, call=replace(call, piece=piece, rects=rects), ports=MappingProxyType(ports))


def _parted(port: str, call: Call, parts: Sequence[Compute]) -> bool:
    """Whether the parts write all of a result, each element once."""
    rects = [part.call.rects[port] for part in parts]
    index = call.access.maps[port]
    dense = all(expression.is_dense(call.space.box(part.call.piece)) for part in parts for expression in index)
    apart = not any(a.intersect(b) for a, b in combinations(rects, 2))
    return dense and apart and sum(rect.volume for rect in rects) == call.rects[port].volume


def _costs(inner: Compute | None, rims: Sequence[Compute], node: OpNode, rule: Rule) -> float:
    """Seconds that a cut takes: further calls, thin pieces, and results that go to memory before what follows reads them."""
    if inner is None:
        return 0.0
    thin = (RIM - 1) * sum(rule.seconds(rim.call) for rim in rims)
    results = [part.call.rects[port] for part in (inner, *rims) for port, _ in node.outputs if port in part.call.rects]
    return CALL_SECONDS * len(rims) + thin + 2 * rule.passing(results)


# --- results one by one


def _starting(node: OpNode, steps: Sequence[Step], starts: Sequence[Start], rule: Rule) -> list[Step]:
    """The steps and the starts behind them; a gradient's results that travel are made one by one where that pays."""
    groups = [[port for port, tensor in node.outputs if tensor in start.convoy.tensors] for start in starts]
    rest = [port for port, _ in node.outputs if not any(port in group for group in groups)]
    groups += [rest] if rest else []
    if node.kind != "gradient" or len(groups) < 2 or not _parts_pay(steps, groups, starts, rule):
        return [*steps, *starts]
    arranged: list[Step] = []
    for number, group in enumerate(groups):
        arranged += [part for step in steps for part in _only(step, group, node)]
        arranged += starts[number : number + 1]
    return arranged


def _parts_pay(steps: Sequence[Step], groups: Sequence[Sequence[str]], starts: Sequence[Start], rule: Rule) -> bool:
    """Whether what travels first is long enough under way, and what is made behind it long enough in the making."""
    calls = [step.call for step in steps if isinstance(step, Compute)]
    if len(calls) < len(steps) or not calls:
        return False
    read = [rect for call in calls for port, rect in call.rects.items() if not any(port in group for group in groups)]
    costs = (len(groups) - 1) * (CALL_SECONDS * len(calls) + rule.passing(read))
    return rule.pays(starts[0].convoy.elements, sum(map(rule.seconds, calls)) * (len(groups) - 1), costs)


def _only(step: Step, results: Sequence[str], node: OpNode) -> list[Compute]:
    """The step with these of its results alone; none where it has none of them."""
    written = {port for port, _ in node.outputs}
    if not isinstance(step, Compute) or not any(port in step.ports for port in results):
        return []
    ports = {port: place for port, place in step.ports.items() if port not in written or port in results}
    rects = {port: rect for port, (_, rect) in ports.items()}
    call = replace(step.call, rects=rects, accumulate=step.call.accumulate & rects.keys())
    return [replace(step, call=call, ports=MappingProxyType(ports))]
