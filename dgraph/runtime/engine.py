"""The loop: a schedule bound to memory and to a communicator, run step by step.

In: a schedule, a layout, a backend, an optimizer, a feed. Out: `Engine`: `train_batch`, `forward`. Promise: all is bound before the
first step; a step calls actions without arguments, one after the other, and decides nothing.

State: the buffers and optimizer arrays (`store`), those that the feed fills (`fed`), the count of updates (`updates`), when it is
(`moment`), which action is running (`where`), what is under way (`progress`), and whether updates are still to come (`pending`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from time import perf_counter

import numpy as np

from dgraph.graph.node import Graph, OpNode
from dgraph.kernels.backend import Backend
from dgraph.kernels.call import Action, Array, Moment
from dgraph.kernels.numpy.update import AVERAGE, Operands
from dgraph.layout.assign import Layout
from dgraph.optimizer import Optimizer
from dgraph.plan.transfer import Convoy
from dgraph.rect import Rect
from dgraph.runtime.communicator import Communicator
from dgraph.runtime.convoy import BoundConvoy, Part
from dgraph.runtime.progress import Flight, Progress
from dgraph.runtime.store import Store
from dgraph.runtime.transfer import bind_convoy
from dgraph.runtime.window import open_window
from dgraph.schedule.step import Compute, Feed, Fused, Measure, Schedule, Start, Step, Update, Wait, Zero
from dgraph.schedule.touch import touch
from dgraph.schedule.turn import Turn
from dgraph.trace import Recorder

Feeder = Callable[[str, Mapping[str, tuple[Array, Rect]]], None]
"""Fills what a node gives: its name; port -> array and rect."""


@dataclass(frozen=True)
class Bound:
    """One action of the loop: its node, what it does, the bytes that it sends, and the transfer that it ends."""

    node: str
    verb: str
    action: Action
    nbytes: int = 0
    flight: Flight | None = None


@dataclass(frozen=True)
class Run:
    """Steps to be done one after the other, and their bare actions; the first `forward` belong to the forward nodes."""

    steps: Sequence[Bound]
    actions: Sequence[Action]
    forward: int

    @staticmethod
    def of(steps: Sequence[Bound], look: Action, forward: int, under_way: int = 0) -> Run:
        """The run of these steps, with a look at the transfers behind each step during which some are under way, as so many are
        before the first."""
        looked: list[Bound] = []
        place = 0
        for k, step in enumerate(steps):
            if k == forward:
                place = len(looked)
            looked.append(step)
            if step.verb in ("start", "wait"):
                under_way += 1 if step.verb == "start" else -1
            elif under_way:
                looked.append(Bound(step.node, "look", look))
        return Run(looked, [step.action for step in looked], place if forward < len(steps) else len(looked))


class Engine:
    """One rank at work. Making it is collective; so are `train_batch` and `forward`. `thread`: whether a thread makes progress
    while this one computes; `window`: whether ranks of one host read each other's memory in place, where it can be shared;
    `beside`: another engine of this layout, whose parameters, states and moment it has."""

    def __init__(self, schedule: Schedule, layout: Layout, communicator: Communicator, optimizer: Optimizer,
                 backend: Backend, feed: Feeder, seed: int = 0, thread: bool = False,
                 window: bool = True, beside: Engine | None = None) -> None:  # fmt: skip
        self.schedule, self.layout, self.communicator, self.optimizer = schedule, layout, communicator, optimizer
        self.backend = backend
        backend.prepare()
        self.window = open_window(schedule, len(layout.tensors), communicator) if window else None
        self.store: Store = Store(schedule, optimizer.states, self.window, None if beside is None else beside.store)
        self.updates = 0
        self.progress = Progress(communicator.pulse) if thread else Progress()
        self.moment: Moment = Moment(seed) if beside is None else beside.moment
        self.fed: dict[str, Mapping[str, tuple[Array, Rect]]] = {}
        self._feed = feed
        self._position = 0
        self.pending = False
        convoys = sorted((step.convoy for step in schedule.steps if isinstance(step, Start)), key=lambda c: c.number)
        # What is put off takes turns: what is needed first goes first.
        waits = [(k, step) for k, step in enumerate(schedule.steps) if isinstance(step, Wait)]
        urgency = {step.node: k for k, step in waits if schedule.turns[k] is Turn.NEXT}
        self._convoys = {convoy.name: self._convoy(convoy, urgency.get(convoy.name)) for convoy in convoys}
        self._flights = {name: Flight(convoy, self.progress) for name, convoy in self._convoys.items()}
        bound = [self._bind(step, self.store.scratch(k)) for k, step in enumerate(schedule.steps)]
        forward = [k for k in range(schedule.forward) if schedule.turns[k] is not Turn.NEXT]
        evaluated = [entry for k in forward if (entry := bound[k]) is not None]
        unwaited = self._unwaited([schedule.steps[k] for k in forward])
        self._forward = Run.of([*evaluated, *unwaited], self.progress.look, len(evaluated))
        self._runs = {
            (first, last, behind): self._batch(bound, first, last, behind)
            for first, last, behind in product((True, False), repeat=3)
        }
        self._late = self._chosen(bound, {Turn.NEXT}, True)
        self._put_off = self._touched_late()
        self._running = self._runs[True, True, False]
        self._exchanges, self._parameter_transfers = self._averages()

    @property
    def graph(self) -> Graph:
        return self.layout.graph

    @property
    def where(self) -> str:
        """The node, or the nodes, whose action is running, or ran last."""
        return self._running.steps[self._position].node if self._running.steps else ""

    def train_batch(self, first: bool = True, last: bool = True, recorder: Recorder | None = None,
                    judge: Action | None = None) -> None:  # fmt: skip
        """One batch of a training step: forward and gradient; behind the last one, the updates that are not put off into the next
        step. `judge` is called in between, when losses are known and parameters are what they were; what it raises on all ranks
        ends the run. Collective."""
        self.moment.training = True
        run = self._runs[first, last, first and self.pending]
        self._run(run, recorder, 0, run.forward)
        if first:
            # Not before: what was put off belongs to the moment of its own step.
            self.pending = False
            self.updates += 1
            self.moment.update = self.updates
            self.moment.rate = self.optimizer.rate(self.updates - 1)
            self.moment.share = self.optimizer.share(self.updates)
        if judge is not None:
            judge()
        self._run(run, recorder, run.forward, len(run.actions))
        self.pending = last and self.schedule.late

    def actions_of_batch(self, first: bool = True, last: bool = True) -> Run:
        """What `train_batch` does, action by action, behind a training step."""
        return self._runs[first, last, first and self.schedule.late]

    def actions_of_step(self) -> list[Bound]:
        """All that a training step of one batch does, what is put off at its end: whoever does so has put off nothing."""
        return [*self._runs[True, True, False].steps, *self._late.steps]

    def finish(self) -> None:
        """The updates of the last training step that were put off into the next one, if there are any. Collective, but for that no
        rank has to come at the same time as the others."""
        if self.pending:
            self.pending = False
            self._run(self._late, None, 0, len(self._late.actions))

    def forward(self, recorder: Recorder | None = None) -> None:
        """The forward nodes alone, as in an evaluation. Collective."""
        self.finish()
        self.moment.training = False
        self._run(self._forward, recorder, 0, len(self._forward.actions))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """While it is entered, parameters have the values of their averages, where there are any by now. Collective, both at its
        beginning and at its end; nothing is trained in between. After an exception every rank has back what it updates, to be
        saved; what it reads has not been sent."""
        self.finish()
        there = self.optimizer.averages(self.updates)
        exchanges, transfers = (self._exchanges, self._parameter_transfers) if there else ((), ())
        for action in (*exchanges, *transfers):
            action()
        try:
            yield
        finally:
            for action in exchanges:
                action()
        for action in transfers:
            action()

    def _run(self, run: Run, recorder: Recorder | None, start: int, stop: int) -> None:
        self._running = run
        # A value that is not finite is for the loss to report, once; NumPy would warn of it on every rank and in every kernel.
        with np.errstate(all="ignore"):
            if recorder is None:
                actions = run.actions
                for self._position in range(start, stop):
                    actions[self._position]()
                return
            for self._position in range(start, stop):
                entry, began = run.steps[self._position], perf_counter()
                entry.action()
                seconds = perf_counter() - began
                hidden = None if entry.flight is None else entry.flight.hidden
                recorder.span(entry.node, entry.verb, began, seconds, entry.nbytes, hidden)

    # --- binding

    def _batch(self, bound: Sequence[Bound | None], first: bool, last: bool, behind: bool) -> Run:
        """What is done at a batch that is, or is not, the first or the last of its training step, and comes `behind` a step whose
        updates were put off."""
        wanted = {Turn.EVERY: True, Turn.FIRST: first, Turn.LAST: last, Turn.NEXT: behind}
        return self._chosen(bound, {turn for turn, now in wanted.items() if now}, behind)

    def _chosen(self, bound: Sequence[Bound | None], wanted: Collection[Turn], behind: bool) -> Run:
        """The steps of these turns."""
        turns, steps = self.schedule.turns, self.schedule.steps
        places = [k for k, turn in enumerate(turns) if bound[k] is not None and turn in wanted]
        forward = sum(k < self.schedule.forward for k in places)
        late = [step for k, step in enumerate(steps) if turns[k] is Turn.NEXT and isinstance(step, (Start, Wait))]
        under_way = sum(1 if isinstance(step, Wait) else -1 for step in late) if behind else 0
        chosen = [entry for k in places if (entry := bound[k]) is not None]
        return Run.of(chosen, self.progress.look, forward, under_way)

    def _touched_late(self) -> frozenset[int]:
        """The buffers that what is put off has to do with."""
        late = [step for step, turn in zip(self.schedule.steps, self.schedule.turns, strict=True) if turn is Turn.NEXT]
        return frozenset(n for step in late for n in touch(step, self.graph, self.schedule.placement).all)

    def _bind(self, step: Step, scratch: Array) -> Bound | None:
        match step:
            case Compute():
                return Bound(step.node, step.verb, self._compute(step, scratch))
            case Fused():
                return Bound(step.node, step.verb, self._fused(step, scratch))
            case Feed():
                self.fed[step.node] = places = {
                    port: (self.store.view(place), place[1]) for port, place in step.ports.items()
                }
                return Bound(step.node, "feed", lambda: self._feed(step.node, places))
            case Zero(node=node, buffer=number, elided=elided):
                if elided or number is None:
                    return None
                memory = self.store.buffers[number]
                return Bound(node, "zero", lambda: memory.fill(0))
            case Measure():
                return Bound(step.node, "measure", self._measure(step, scratch))
            case Update():
                return Bound(step.node, "update", self._update(step, scratch))
            case Start(convoy=convoy):
                nbytes = self._convoys[convoy.name].sent_nbytes
                return Bound(convoy.name, "start", self._flights[convoy.name].start, nbytes)
            case Wait(convoy=convoy):
                return self._waiting(convoy.name)

    def _waiting(self, convoy: str) -> Bound:
        flight = self._flights[convoy]
        return Bound(convoy, "wait", flight.wait, flight=flight)

    def _compute(self, step: Compute, scratch: Array) -> Action:
        call = replace(step.call, moment=self.moment)
        arrays = {port: self.store.view(place) for port, place in step.ports.items()}
        return self.backend.kernels[call.op, call.gradient].bind(call, arrays, scratch)

    def _fused(self, step: Fused, scratch: Array) -> Action:
        calls = tuple(replace(call, moment=self.moment) for call in step.chain.calls)
        arrays = [{port: self.store.view(place) for port, place in part.ports.items()} for part in step.parts]
        chain = replace(step.chain, calls=calls)
        return self.backend.fusions[chain.ops].bind(chain, arrays, scratch)

    def _update(self, step: Update, scratch: Array) -> Action:
        operands, updates = self._operands(step, step.target[1]), self.backend.updates
        if step.follows:
            parameter, gradient = operands.parameter, operands.gradient
            return updates.follow(step.attributes, parameter, gradient, scratch, self.moment)
        return updates.update(self.optimizer.recipe_of(step.attributes), operands, scratch, self.moment)

    def _measure(self, step: Measure, scratch: Array) -> Action:
        recipe = self.optimizer.recipe_of(step.update.attributes)
        pieces = [self._operands(step.update, piece) for piece in step.pieces]
        stage = self.graph.ops[step.node].attributes["stage"]
        row, measure = self.store.view(step.row), self.backend.updates.measure
        return measure(recipe, stage, pieces, row, scratch, self.moment)

    def _operands(self, step: Update, rect: Rect) -> Operands:
        """What the update of a part of its target works on."""
        inside = rect.slices(step.target[1].start)
        return Operands(
            parameter=self.store.view(step.target)[inside],
            gradient=self.store.view(step.gradient)[inside],
            states={name: array[inside] for name, array in self.store.states[step.parameter].items()},
            norms={stage: self.store.view(place) for stage, place in step.norms.items()},
            row=step.attributes.get("row", 0),
        )

    def _averages(self) -> tuple[list[Action], list[Action]]:
        """By what parameters and their averages change places, and by what every rank gets what it reads of them."""
        if self.optimizer.average is None:
            return [], []
        updates = [step for step in self.schedule.steps if isinstance(step, Update) and not step.follows]
        parameters = {p.name for p in self.graph.parameters}
        steps = [step for step in self.schedule.steps if isinstance(step, Start)]
        flights = [self._flights[s.node] for s in steps if parameters & {t.tensor for t in s.convoy.transfers}]
        scratch, states = self.store.scratch(len(self.schedule.steps)), self.store.states
        exchange = self.backend.updates.exchange
        swaps = [exchange(self.store.view(u.target), states[u.parameter][AVERAGE], scratch) for u in updates]
        return swaps, [*(flight.start for flight in flights), *(flight.wait for flight in flights)]

    def _convoy(self, convoy: Convoy, urgency: int | None) -> BoundConvoy:
        parts = []
        for transfer in convoy.transfers:
            place = self.schedule.placement.places[transfer.tensor]
            pairs = ((place.write, transfer.write_rect), (place.read, transfer.read_rect))
            write, read = (
                self.store.view((number, rect)) if number is not None and rect else None for number, rect in pairs
            )
            parts.append(Part(transfer, write, read))
        return bind_convoy(convoy, parts, self.communicator, self.window, self.moment, urgency)

    def _unwaited(self, steps: Sequence[Step]) -> list[Bound]:
        """Waits for what an evaluation starts and only a later node would wait for."""
        started = [step.node for step in steps if isinstance(step, Start)]
        waited = {step.node for step in steps if isinstance(step, Wait)}
        return [self._waiting(name) for name in started if name not in waited]

    # --- results

    def value(self, tensor: str) -> Array | None:
        """This rank's read rect of a tensor; None where it reads nothing. Where updates are put off, as `finish`."""
        if self.schedule.placement.places[tensor].read in self._put_off:
            self.finish()
        found = self.store.reading(tensor)
        if found is None:
            return None
        rect, array = found
        return array[self.layout.read_rect(tensor, self.schedule.rank).slices(rect.start)]

    def first_non_finite(self, schedule: Schedule) -> tuple[int, str, str] | None:
        """(place in the graph's order, node, tensor) of the first forward result on this rank that holds a NaN or infinity, but for
        the NaN by which labels say that a sample is not there.

        The batch goes once more through the forward nodes, one by one as the `schedule` of an evaluation has them, by the same
        parameters. Collective.
        """
        self.progress.finish()
        other = Engine(schedule, self.layout, self.communicator, self.optimizer, self.backend, self._feed,
                       window=False, beside=self)  # fmt: skip
        position, found = {name: k for k, name in enumerate(self.graph.ops)}, None
        with np.errstate(all="ignore"):
            for entry in other._forward.steps:
                entry.action()
                tensor = other._non_finite(self.graph.ops[entry.node]) if entry.verb in ("compute", "feed") else None
                if found is None and tensor is not None:
                    found = position[entry.node], entry.node, tensor
        other.release()
        return found

    def release(self) -> None:
        """Gives back the exchanges of an engine that has none under way and is not used again. Local."""
        for convoy in self._convoys.values():
            for exchange in convoy.exchanges:
                self.communicator.release(exchange)

    def _non_finite(self, node: OpNode) -> str | None:
        """The first result of a node, as it has just been written, that is not finite."""
        for port, tensor in node.outputs:
            number = self.schedule.placement.places[tensor].write
            marked = (node.op, port) == ("data", "labels")
            if number is not None:
                written = self.layout.write_rect(tensor, self.schedule.rank)
                values = self.store.view((number, written))
                if np.isinf(values).any() or (not marked and np.isnan(values).any()):
                    return tensor
        return None
