"""What a piece of a convolution is to PyTorch: windows on arrays, group by group.

In: a call of conv or conv_transpose. Out: `Windows`, and the parts of its arrays that one convolution takes. Promise: both ops,
forward and gradients, are the same sum, with `small`, `big` and `filters` in turn as what is written:

    small[n, a, h] ~ big[n, b, h*stride + i*dilation - padding] ~ filters[a, b, i]

A rect of big is clipped at the edges of its tensor, so what a piece lacks before and behind it is padding: another on each side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dgraph.kernels.call import Array, Call

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Roles:
    """Which operand of an op, by its name, is small and which is big."""

    small: str
    big: str
    filters: str = "filters"

    @property
    def all(self) -> tuple[str, str, str]:
        return self.small, self.big, self.filters


@dataclass(frozen=True)
class Windows:
    """Stride and dilation by spatial dimension, at least two of them, `before` and `after` what lies outside of big's rect, the
    `size` of filters, and how many `groups` one convolution does."""

    stride: Sizes
    dilation: Sizes
    before: Sizes
    after: Sizes
    size: Sizes
    groups: int

    @property
    def reach(self) -> Sizes:
        """How far a window reaches."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.size, self.dilation, strict=True))

    @property
    def is_even(self) -> bool:
        """Whether padding is what the library can do by itself: less than a window, and the same on both sides, where that gives
        no window more."""
        sides = zip(self.before, self.after, self.reach, self.stride, strict=True)
        return all(before < reach and 0 <= before - after < stride for before, after, reach, stride in sides)

    @property
    def padding(self) -> Sizes:
        """What is left to the library."""
        return self.before if self.is_even else (0,) * len(self.size)

    @property
    def is_product(self) -> bool:
        """Whether every window is one place: then the sum is a matrix product."""
        return {*self.size} == {1} and not any((*self.before, *self.after)) and self.groups == 1

    @property
    def leaves_gaps(self) -> bool:
        """Whether there are places between the first of one window and that of the next."""
        return {*self.stride} != {1}


def windows_of(call: Call, roles: Roles, big: str) -> Windows:
    """The windows of a call, on the rect of its port `big`."""
    box, rect = call.space.box(call.piece), call.rects[big]
    index = call.access.maps[roles.big][2:]
    bounds = [expression.bounds(box) for expression in index]
    extents = [box[expression.terms[0][0]] for expression in call.access.maps[roles.filters][2:]]
    ones, zeros = ((1,), (0,)) if len(index) == 1 else ((), ())
    return Windows(
        stride=(*ones, *(expression.terms[0][1] for expression in index)),
        dilation=(*ones, *(expression.terms[1][1] for expression in index)),
        before=(*zeros, *(start - a for (a, _), start in zip(bounds, rect.start[2:], strict=True))),
        after=(*zeros, *(b - stop for (_, b), stop in zip(bounds, rect.stop[2:], strict=True))),
        size=(*ones, *(last - first for first, last in extents)),
        groups=groups_of(call, roles)[1],
    )


def groups_of(call: Call, roles: Roles) -> tuple[range, int]:
    """The groups of a piece that are convolutions of their own, and how many groups each of these does: all of them at once, unless
    the piece has some of their channels only."""
    if "g" not in call.space.labels:
        return range(1), 1
    box = call.space.box(call.piece)
    whole = call.space.box(call.space.whole)
    first, last = box["g"]
    channels = [call.access.maps[name][1].terms[-1][0] for name in (roles.small, roles.big)]
    if all(box[label] == whole[label] for label in channels):
        return range(first, first + 1), last - first
    return range(first, last), 1


def parts_of(call: Call, roles: Roles, ports: Mapping[str, str],
             arrays: Mapping[str, Array]) -> Iterator[dict[str, Array]]:  # fmt: skip
    """The arrays by role, with two spatial dimensions or three, that each convolution takes; `ports` by role."""
    groups, together = groups_of(call, roles)
    for group in groups:
        yield {
            name: flat(arrays[port][_slices(call, roles, name, port, (group, group + together))])
            for name, port in ports.items()
        }


def _slices(call: Call, roles: Roles, name: str, port: str, groups: tuple[int, int]) -> tuple[slice, ...]:
    """The part of an operand's array that belongs to some groups."""
    d = 0 if name == roles.filters else 1
    start, stop = call.access.maps[name][d].bounds({**call.space.box(call.piece), "g": groups})
    origin = call.rects[port].start[d]
    return (*(slice(None),) * d, slice(start - origin, stop - origin))


def flat(array: Array) -> Array:
    """The array with at least two spatial dimensions."""
    return array[:, :, None] if array.ndim == 3 else array
