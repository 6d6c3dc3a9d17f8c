"""A program: graph, layout, plans and schedules of all ranks.

In: what `dgraph.program.compile` made. Out: `Program`. Promise: every rank that compiles the same config gets the same program;
`digest` says whether it did.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dgraph.config import Config, plain_node, plain_parameter
from dgraph.data import OPENERS, Description
from dgraph.error import CheckError
from dgraph.graph.build import specs_of
from dgraph.graph.node import Graph
from dgraph.kernels.backend import Backend
from dgraph.layout import Layout
from dgraph.optimizer import Optimizer
from dgraph.plan.check import Finding, check_plan
from dgraph.plan.make import Plan, make_plan
from dgraph.program.shown import reported
from dgraph.schedule.buffer import memory_orders
from dgraph.schedule.check import check_progress, postings
from dgraph.schedule.make import ITEMSIZE, Demand, make_schedule
from dgraph.schedule.overwrite import check_memory
from dgraph.schedule.postpone import obstacle
from dgraph.schedule.step import Schedule


@dataclass(frozen=True, eq=False)
class Program:
    """A config made ready for its mesh. `training`: with gradient, zeroing and update nodes; `shown`: tensors that are looked at
    behind a run, beside those that are reported."""

    config: Config
    data: Description
    forward: Graph
    graph: Graph
    layout: Layout
    optimizer: Optimizer
    backend: Backend
    shown: frozenset[str] = frozenset()

    @property
    def ranks(self) -> int:
        return self.layout.mesh.ranks

    @cached_property
    def _orders(self) -> Mapping[str, tuple[int, ...]]:
        return memory_orders(self.graph, self.backend.kernels, self.config.dtype)

    @property
    def training(self) -> bool:
        """Whether the graph has gradients and updates."""
        return self.graph is not self.forward

    @property
    def prefetch(self) -> bool:
        """Whether batches are read ahead."""
        data = self.config.data
        return data.source in OPENERS if data.prefetch is None else data.prefetch

    def plan(self, rank: int) -> Plan:
        """All messages of one rank."""
        messages = self.config.messages
        return make_plan(self.layout, rank, messages.lower, messages.bucket // ITEMSIZE[self.config.dtype])

    def schedule(self, plan: Plan, spread: bool = False) -> Schedule:
        """The ordered steps and buffers of the plan's rank. `spread`: ranks are on several hosts, where more is cut so that
        communication hides behind it; transfers start and are waited for in the same order."""
        config = self.config
        demand = Demand(
            states=len(self.optimizer.states),
            update_workspace=self.optimizer.recipe.workspace(config.dtype),
            batches=config.train.accumulate,
            ahead=(2 if self.training else 1) if self.prefetch else 0,
            shown=self.shown | reported(self.forward),
            fusion=config.fusion,
            reuse=config.memory.reuse,
            in_place=config.memory.in_place,
            recompute=frozenset(config.memory.recompute),
            overlap=config.overlap.pieces,
            spread=spread,
            late=self.is_late(spread),
        )
        return make_schedule(self.layout, plan, self.backend, config.dtype, demand, self._orders)

    def is_late(self, spread: bool) -> bool:
        """Whether updates are put off into the next step, if ranks are on several hosts or not."""
        wanted = self.config.overlap.updates
        return self.training and (wanted == "late" or (wanted == "auto" and spread and not obstacle(self.graph)))

    def evaluation(self, plan: Plan) -> Schedule:
        """The forward nodes alone of a schedule, each by itself."""
        demand = Demand(evaluation=True, fusion=False, reuse=self.config.memory.reuse, overlap=False)
        return make_schedule(self.layout, plan, self.backend, self.config.dtype, demand, self._orders)

    def check(self, spread: bool | None = None) -> tuple[list[Finding], list[int]]:
        """Everything that is wrong with the plans of all ranks, and the peak bytes of each; where they are on several hosts
        (`spread`), or on one, or where nobody knows, either way: then the bytes are those on one."""
        plans = [self.plan(rank) for rank in range(self.ranks)]
        findings, peaks = check_plan(self.layout, plans), list[int]()
        ways = ((False, True) if self.ranks > 1 else (False,)) if spread is None else (spread,)
        for way in ways:
            schedules = [self.schedule(plan, way) for plan in plans]
            findings += check_progress([postings(schedule, self.is_late(way)) for schedule in schedules])
            for schedule in schedules:
                findings += check_memory(schedule, self.graph, self.backend, self.config.train.accumulate)
            peaks = peaks or [schedule.peak_nbytes for schedule in schedules]
        return findings, peaks

    def require_checked(self, spread: bool) -> None:
        """Raises CheckError with the first finding, if there is one; as `check`."""
        findings, _ = self.check(spread)
        if findings:
            raise CheckError(str(findings[0]), f"{len(findings)} findings; dgraph check shows all")

    def expanded(self) -> dict[str, Any]:
        """The config in its node form: every node and parameter declared, no layers. It loads back to the same graph."""
        nodes, parameters = specs_of(self.forward)
        values = {
            key: value
            for key, value in self.config.resolved().items()
            if key not in ("layers", "nodes", "parameters", "tune")
        }
        return values | {
            "nodes": [plain_node(spec) for spec in nodes],
            "parameters": {spec.name: plain_parameter(spec) for spec in parameters},
        }

    def digest(self) -> str:
        """A hash of all that ranks must agree on: nodes, rects of all ranks, dtype, seed, optimizer."""
        digest = hashlib.sha256(repr(self.expanded()).encode())
        for part in self._parts():
            digest.update(part)
        return digest.hexdigest()

    def _parts(self) -> Iterator[bytes]:
        config = self.config
        yield repr((config.dtype, config.seed, self.optimizer)).encode()
        yield repr((self.layout.mesh, tuple(self.graph.ops), config.data.batch, config.train.accumulate)).encode()
        for name, tensor in self.layout.tensors.items():
            yield name.encode()
            for field in (tensor.read, tensor.write):
                for interval in field.intervals:
                    yield interval.start.tobytes()
                    yield interval.stop.tobytes()
