"""The memory of one rank: its buffers, the optimizer's state, and the first values of parameters.

In: a schedule, perhaps a window. Out: `Store`: arrays by buffer number, views by rect. Promise: everything that a step touches is
allocated here, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dgraph.graph.fan import fans
from dgraph.graph.node import Graph
from dgraph.kernels.call import Array
from dgraph.random import initial
from dgraph.rect import Rect
from dgraph.runtime.communicator import aligned
from dgraph.runtime.pack import shaped
from dgraph.runtime.window import Window
from dgraph.schedule.buffer import Buffer
from dgraph.schedule.step import NOWHERE, Schedule, Update


class Store:
    """Buffers of one rank; those that neighbours read in place lie in the window, if there is one. `states[parameter][state]` are
    the optimizer's arrays on the parameter's write rect. What lasts from run to run is that of the store `beside`, of the same
    layout, if there is one."""

    def __init__(self, schedule: Schedule, states: Iterable[str], window: Window | None = None,
                 beside: Store | None = None) -> None:  # fmt: skip
        self.schedule = schedule
        self.dtype = np.dtype(schedule.dtype)
        placement = schedule.placement
        self.arena = aligned(placement.arena_nbytes)
        self.buffers = {
            number: self._array(number, buffer, window, beside)
            for number, buffer in enumerate(placement.buffers)
            if number not in placement.absent
        }
        updates = [step for step in schedule.steps if isinstance(step, Update)]
        names = tuple(states)
        self.states: dict[str, dict[str, Array]] = {
            step.parameter: {state: self._like(step.target) for state in (() if step.follows else names)}
            for step in updates
        }
        self.updated = {step.parameter: step.target[1] for step in updates}

    def _array(self, number: int, buffer: Buffer, window: Window | None, beside: Store | None) -> Array:
        """The array of a buffer: in the arena, in the window, or in memory of its own."""
        offset = self.schedule.placement.offsets.get(number)
        if offset is not None:
            return arranged(self.arena[offset : offset + buffer.nbytes], buffer, self.dtype)
        if beside is not None:
            return beside.buffers[number]
        if window is not None and buffer.shared:
            return arranged(window.buffer(number, buffer.nbytes), buffer, self.dtype)
        return allocate(buffer, self.dtype)

    def scratch(self, step: int) -> Array:
        """The scratch of a step, or, behind the last, of what is done between runs."""
        offset, nbytes = self.schedule.scratch[step]
        return self.arena[offset : offset + nbytes]

    def view(self, place: tuple[int, Rect]) -> Array:
        """The array of a rect in a buffer; one with no elements for NOWHERE."""
        number, rect = place
        if number == NOWHERE:
            return np.zeros(rect.size, dtype=self.dtype)
        return self.buffers[number][rect.slices(self.schedule.placement.buffers[number].rect.start)]

    def _like(self, place: tuple[int, Rect]) -> Array:
        number, rect = place
        buffer = self.schedule.placement.buffers[number]
        return allocate(Buffer(buffer.tensor, rect, buffer.order, rect.volume * self.dtype.itemsize), self.dtype)

    def reading(self, tensor: str) -> tuple[Rect, Array] | None:
        """The buffer that this rank's readers of a tensor use, and its rect; None where it reads nothing. Raises ValueError for a
        tensor that something else may have taken the memory of."""
        self._require_lasting(tensor)
        number = self.schedule.placement.places[tensor].read
        return None if number is None else (self.schedule.placement.buffers[number].rect, self.buffers[number])

    def writing(self, tensor: str) -> tuple[Rect, Array] | None:
        """The buffer that this rank's writers of a tensor use, and its rect; None where it writes nothing. Raises ValueError as
        `reading`."""
        self._require_lasting(tensor)
        number = self.schedule.placement.places[tensor].write
        return None if number is None else (self.schedule.placement.buffers[number].rect, self.buffers[number])

    def _require_lasting(self, tensor: str) -> None:
        if tensor not in self.schedule.placement.lasting:
            raise ValueError(f"{tensor} does not last: what else a run needs may lie in its place")

    def initialise(self, graph: Graph, seed: int) -> None:
        """Draws the first values of all parameters and states by global index."""
        for parameter in graph.kept:
            init: Mapping[str, Mapping[str, Any]] = parameter.attributes["init"]
            fan_in, fan_out = fans(graph, parameter.name)
            places = self.schedule.placement.places[parameter.name]
            for number in {places.read, places.write} - {None}:
                rect = self.schedule.placement.buffers[number or 0].rect
                initial(init, seed, parameter.name, parameter.dim, rect, fan_in, fan_out, self.buffers[number or 0])


def allocate(buffer: Buffer, dtype: np.dtype[np.generic]) -> Array:
    """A zeroed array of the buffer's rect whose memory has the buffer's order."""
    return arranged(aligned(buffer.nbytes), buffer, dtype)


def arranged(memory: Array, buffer: Buffer, dtype: np.dtype[np.generic]) -> Array:
    """Bytes as an array of the buffer's rect, in the buffer's order."""
    return shaped(memory.view(dtype), buffer.rect.size, buffer.order)
