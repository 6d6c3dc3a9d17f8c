"""What all chains have in common: whether they are what a fusion takes them for, and their kernels one by one where operands lie so
that the fusion cannot be used.

In: a chain, arrays. Out: answers, actions. Promise: an inner result needs no memory of its own: it stands where a later result of
its shape will, and kernels that go element by element may work in place; results of a value a channel are small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dgraph.kernels.call import Action, Array, Call, Chain, Kernel
from dgraph.kernels.numpy.block import in_sequence

Arrays = Sequence[Mapping[str, Array]]
Home = tuple[Array, list[tuple[Array, bool]]]
"""Where a delta is made, and to what arrays it is copied, or added (True)."""


def of_one_piece(calls: Sequence[Call]) -> bool:
    """Whether all calls have one and the same piece, all that is summed: all of the space but for the channels, which may be cut,
    or what a statistic is of."""
    first = calls[0]
    if first.among:
        return all(call.among == (call.piece,) == (first.piece,) for call in calls)
    places = zip(first.space.labels, first.piece.bounds, first.space.extents, strict=True)
    whole = all(bounds == (0, extent) for label, bounds, extent in places if label != "c")
    return whole and all(call.piece == first.piece and call.space == first.space for call in calls)


def assigns(call: Call, *ports: str) -> bool:
    """Whether these ports are there, and none of them is added into."""
    return all(port in call.rects and port not in call.accumulate for port in ports)


def linked(chain: Chain, k: int, **sources: tuple[int, str]) -> bool:
    """Whether ports of call k (`output_delta` stands for `output.delta`) are these results, and no others are results at all."""
    wanted = {port.replace("_delta", ".delta"): source for port, source in sources.items()}
    return dict(chain.links[k]) == wanted


def passes_on(chain: Chain, k: int) -> bool:
    """Whether gradient call k takes the delta that the one before it has written; of a sum, whether it has two deltas of one
    shape."""
    call, links, before = chain.calls[k], chain.links[k], chain.calls[k - 1]
    if list(links) != ["output.delta"] or links["output.delta"][0] != k - 1:
        return False
    if before.op == "add" and not assigns(before, links["output.delta"][1]):
        return False
    if call.op != "add":
        return True
    deltas = [rect.size for port, rect in call.rects.items() if port != "output.delta"]
    return len(deltas) == 2 and all(size == call.rects["output.delta"].size for size in deltas)


def home_of(chain: Chain, full: Arrays, delta: Array) -> Home:
    """For [add.grad] behind the gradient of a nonlinearity: where what passes this goes first, its own result, or that of add.grad
    which nobody else reads, or `delta`; and where it goes from there."""
    homes = [(full[0]["input.delta"], False)]
    if chain.calls[1].op == "add":
        homes += [(full[1][p], p in chain.calls[1].accumulate) for p in chain.calls[1].rects if p.startswith("input")]
    # What is assigned and kept is written once, and read again from there.
    homes = [(array, added) for array, added in homes if added or not same_memory(array, delta)]
    kept = [array for array, added in homes if not added]
    home = kept[0] if kept else delta
    return home, [(array, added) for array, added in homes if added or not same_memory(array, home)]


def completed(chain: Chain, arrays: Arrays, inner: Mapping[tuple[int, str], Array]) -> list[dict[str, Array]]:
    """The arrays of every call, inner results and those who read them included: where `inner` says, else in small arrays."""
    full = [dict(own) for own in arrays]
    for k, port in sorted(chain.inner):
        source = chain.links[k].get(port)
        if source is not None and source in chain.inner:
            full[k][port] = full[source[0]][source[1]]
        else:
            found = inner.get((k, port))
            full[k][port] = np.zeros(chain.calls[k].rects[port].size, chain.calls[k].dtype) if found is None else found
    for k, links in enumerate(chain.links):
        for port, (j, source_port) in links.items():
            full[k].setdefault(port, full[j][source_port])
    return full


def one_by_one(chain: Chain, arrays: Arrays, kernels: Mapping[tuple[str, bool], Kernel], scratch: Array) -> Action:
    """The kernels of a chain, one after the other, on arrays that are `completed`."""
    calls = zip(chain.calls, arrays, strict=True)
    return in_sequence([kernels[call.op, call.gradient].bind(call, own, scratch) for call, own in calls])


def workspace_of(chain: Chain, kernels: Mapping[tuple[str, bool], Kernel]) -> int:
    """Bytes of scratch for its kernels."""
    return max(kernels[call.op, call.gradient].workspace(call) for call in chain.calls)


def same_memory(first: Array, *others: Array) -> bool:
    """Whether arrays are views of the very same elements."""
    return all(
        (one.ctypes.data, one.strides, one.shape) == (first.ctypes.data, first.strides, first.shape) for one in others
    )
