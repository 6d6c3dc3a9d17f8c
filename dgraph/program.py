"""A compiled configuration: graph, layout, plans and schedules, all without MPI and without data.

In: a config. Out: `Program`. Promise: every rank that compiles the same config gets the same program; `digest` says whether
it did. This and `dgraph.train` are the places that know every room.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from dgraph.autodiff import add_gradients
from dgraph.average import Average
from dgraph.config import Config, DataConfig, plain_node, plain_parameter
from dgraph.data import OPENERS, DataSpec, Description, describe, require_samples, subset
from dgraph.error import CheckError, ConfigError, DataError, DgraphError
from dgraph.graph.build import build_graph, specs_of
from dgraph.graph.node import Graph
from dgraph.graph.sample import samples_first
from dgraph.graph.spec import NodeSpec
from dgraph.kernels.numpy import KERNELS
from dgraph.kernels.numpy.update import Recipe
from dgraph.layout import Layout, Mesh, assign_layout, part_readers
from dgraph.models import expand, place_of
from dgraph.ops import DECLARED, OPS
from dgraph.ops.metric import FIGURES
from dgraph.optimizer import Optimizer
from dgraph.plan.check import Finding, check_plan
from dgraph.plan.make import Plan, make_plan
from dgraph.rate import Rate
from dgraph.schedule.buffer import memory_orders
from dgraph.schedule.check import check_progress, postings
from dgraph.schedule.step import Schedule, make_schedule
from dgraph.schedule.turn import Turn, behind_gradients

SHOWN_FINDINGS = 20
COUNTED = ("messages", "sent_nbytes", "received_nbytes")
CLASS_LOSSES = ("softmax", "negative_log_likelihood")
TARGET_LOSSES = ("squared_error", "half_squared_norm", "absolute_error", "huber")
BINARY_LOSSES = ("binary_cross_entropy", "perceptron")
"""These take either kind of labels: two classes, or targets from 0 to 1."""


@dataclass(frozen=True, eq=False)
class Program:
    """A config made ready for its mesh. `training`: with gradient, zeroing and update nodes."""

    config: Config
    data: Description
    forward: Graph
    graph: Graph
    layout: Layout
    optimizer: Optimizer

    @property
    def ranks(self) -> int:
        return self.layout.mesh.ranks

    @cached_property
    def _orders(self) -> Mapping[str, tuple[int, ...]]:
        return memory_orders(self.graph, KERNELS, self.config.dtype)

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
        return make_plan(self.layout, rank)

    def schedule(self, plan: Plan) -> Schedule:
        """The ordered steps and buffers of the plan's rank."""
        states = len(self.optimizer.states)
        workspace = self.optimizer.recipe.workspace(self.config.dtype)
        batches, ahead = self.config.train.accumulate, (2 if self.training else 1) if self.prefetch else 0
        return make_schedule(
            self.layout, plan, KERNELS, self.config.dtype, states, workspace, self._orders, batches, ahead
        )

    def check(self) -> tuple[list[Finding], list[int]]:
        """Everything that is wrong with the plans of all ranks, and the peak bytes of each."""
        plans = [self.plan(rank) for rank in range(self.ranks)]
        findings = check_plan(self.layout, plans)
        schedules = [self.schedule(plan) for plan in plans]
        findings += check_progress([postings(schedule) for schedule in schedules])
        return findings, [schedule.peak_nbytes for schedule in schedules]

    def require_checked(self) -> None:
        """Raises CheckError with the first finding, if there is one."""
        findings, _ = self.check()
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


def data_spec(config: Config) -> DataSpec:
    """The `data` section as the data room takes it."""
    return section_spec(config.data, config.seed)


def section_spec(data: DataConfig, seed: int) -> DataSpec:
    """A `data` section as the data room takes it: what has the same name in both, and the seed."""
    same = {entry.name: getattr(data, entry.name) for entry in fields(DataSpec) if hasattr(data, entry.name)}
    changed = {
        "shares": (data.shares.train, data.shares.validation, data.shares.test),
        "repeat": data.repeat or 1,
        "sets": data.sets or {},
        "prepare": tuple({step.kind: step.options} for step in data.prepare),
        "augment": tuple({step.kind: step.options} for step in data.augment),
        "seed": seed,
    }
    return DataSpec(**(same | changed))


def optimizer_of(config: Config, epoch: int) -> Optimizer:
    """How parameters are updated; `epoch` is how many steps an epoch has."""
    train = config.train
    options, penalty = dict(train.optimizer.options), train.penalty
    recipe = Recipe(
        train.optimizer.kind,
        options,
        l1=penalty.l1 if penalty else 0.0,
        l2=penalty.l2 if penalty else 0.0,
        clip=train.clip,
        averaged=train.average is not None,
    )
    return Optimizer(
        recipe,
        rate_of(config, epoch),
        average_of(config, epoch),
        penalise_all=penalty is not None and penalty.biases,
        decay_all=options.get("biases", False),
    )


def rate_of(config: Config, epoch: int) -> Rate:
    """The rate of every step. A schedule of no said length is as long as the run, but for a warm-up that comes before it."""
    train = config.train
    options, warmup = dict(train.schedule.options), 0
    if train.warmup is not None:
        warmup = train.warmup.steps if train.warmup.steps is not None else (train.warmup.epochs or 0) * epoch
    unit = 1 if options.get("per") == "step" else epoch
    if "length" in options and options["length"] is None:
        steps = train.steps if train.steps is not None else (train.epochs or 0) * epoch
        before = warmup if train.warmup is None or train.warmup.shift else 0
        options["length"] = max(1, -(-(steps - before) // unit))
    return Rate(
        base=float(train.optimizer.options["rate"]),
        curve=train.schedule.kind,
        options=options,
        scale=1.0 if train.scale_rate is None else config.data.batch * train.accumulate / train.scale_rate,
        epoch=unit,
        warmup=warmup,
        start=0.0 if train.warmup is None else train.warmup.start,
        shift=train.warmup is None or train.warmup.shift,
    )


def average_of(config: Config, epoch: int) -> Average | None:
    """When weights go into their average."""
    if config.train.average is None:
        return None
    options = config.train.average.options
    begin = options["from"] * (epoch if options["per"] == "epoch" else 1)
    return Average(begin, epoch if options["every"] == "epoch" else 1, options.get("decay"))


def steps_of_epoch(config: Config, data: Description) -> int:
    """How many steps an epoch has; 1 where there is nothing to train on."""
    samples = len(subset(data_spec(config), data, "train"))
    return max(1, -(-samples // (config.data.batch * config.train.accumulate)))


def compile_config(config: Config, training: bool = True) -> Program:
    """Compiles a config; with `training` false, the forward graph alone.

    Raises ConfigError (with a place) for what does not fit, CheckError for what a layout cannot express.
    """
    data, specs, forward = forward_graph(config, training)
    if training:
        _check_judging(config, data, forward)
    with _graph_place(config, specs):
        mesh = Mesh.of(config.mesh)
        if mesh.ranks > 1:
            forward = part_readers(forward, assign_layout(forward, mesh, OPS), OPS)
        optimizer = optimizer_of(config, steps_of_epoch(config, data))
        graph = add_gradients(forward, OPS, optimizer.norms) if training else forward
        layout = assign_layout(graph, mesh, OPS, config.train.shard)
    return Program(config, data, forward, graph, layout, optimizer)


def forward_graph(config: Config, training: bool = False) -> tuple[Description, tuple[NodeSpec, ...], Graph]:
    """What the data is, the nodes that a config stands for, and their graph; raises as `compile_config`. `training`: there must
    be samples to train on."""
    data = _describe(config, training)
    specs, parameters = expand(config, data.shape, data.label_shape)
    with _graph_place(config, specs):
        graph = build_graph(config.name, specs, parameters, DECLARED)
        _check_data(graph, data, config.data.batch)
        _check_labels(graph, data)
        if training:
            _check_partial(graph, config, data)
    return data, specs, graph


@contextmanager
def _graph_place(config: Config, specs: Sequence[NodeSpec]) -> Iterator[None]:
    """Gives errors of graph and layout the place where the config declares what they are about, and the block around it."""
    try:
        yield
    except DgraphError as error:
        readers = tuple(spec.name for spec in specs if error.name in (tensor for _, tensor in spec.inputs))
        if error.name or error.place is None:
            error.place = place_of(config, error.name, error.key, readers)
        raise error.within(config.origin(error.name.removeprefix("update_"))) from None


def _describe(config: Config, training: bool) -> Description:
    """The numbers of the data; DataError where there is nothing to train on."""
    spec = data_spec(config)
    with data_place(config):
        data = describe(spec)
    samples = len(subset(spec, data, "train")) if training else 0
    if training and not samples:
        what = f"there is nothing to train on: a share of {spec.shares[0]:g} of {data.samples} samples"
        raise DataError(what, "data.shares.train", config.place("data.shares"))
    if training:
        with data_place(config):
            require_samples(spec.prepare, samples)
    return data


@contextmanager
def data_place(config: Config) -> Iterator[None]:
    """Gives errors of the data source the place of the key that is at fault, or where the config names the source."""
    try:
        yield
    except DgraphError as error:
        key = "path" if isinstance(error, DataError) and not error.key.startswith("sets.") else error.key
        raise error.at(config.place(f"data.{key}" if key else "data")) from None


def _check_data(graph: Graph, data: Description, batch: int) -> None:
    """Data nodes give batches of the data that there are."""
    for node in graph.ops.values():
        if node.op != "data":
            continue
        for port, key, shape in (("raw_data", "shape", data.shape), ("labels", "label_shape", data.label_shape)):
            dim = node.access.dims[port]
            if dim != (batch, *shape):
                what = f"node {node.name}: {port} of dim {list(dim)} is not what the data gives, {[batch, *shape]}"
                hint = "batch, shape and label_shape are those of the section data"
                raise ConfigError(what, hint).about(node.name, f"attributes.{key if dim[0] == batch else 'batch'}")


def _check_labels(graph: Graph, data: Description) -> None:
    """Every loss that reads the labels of the data gets what it needs: class numbers, each with a score, or real targets."""
    for node in graph.ops.values():
        labels = dict(node.inputs).get("labels")
        if labels is None or graph.ops[graph.writers[labels][0][0]].op != "data":
            continue
        if node.op in (*CLASS_LOSSES, "one_hot") and data.classes is None:
            hint = "give data the number of classes, or take another loss"
            what = f"node {node.name}: {node.op} needs class numbers, the data has real targets"
            raise ConfigError(what, hint).about(node.name)
        if node.op in TARGET_LOSSES and data.classes is not None:
            hint = "give data a label_shape and no classes, or take another loss"
            what = f"node {node.name}: {node.op} needs real targets, the data has class numbers"
            raise ConfigError(what, hint).about(node.name)
        if node.op in BINARY_LOSSES and (data.classes or 0) > 2:
            what = f"node {node.name}: {node.op} needs labels from 0 to 1, the data has {data.classes} classes"
            raise ConfigError(what, "take softmax, cross_entropy or one_vs_all").about(node.name)
        told = {"one_hot": "output"}.get(node.op, "input")
        if node.op in (*CLASS_LOSSES, "one_hot") and node.access.dims[told][1] < (data.classes or 0):
            what = f"node {node.name}: {node.access.dims[told][1]} classes are fewer than the data's {data.classes}"
            raise ConfigError(what, "every label needs a score").about(node.name, "attributes.classes")


def _check_partial(graph: Graph, config: Config, data: Description) -> None:
    """Statistics over samples know which of them a partial batch has."""
    count, batch = len(subset(data_spec(config), data, "train")), config.data.batch
    known = samples_first(graph) if count % batch else frozenset(graph.tensors)
    for node in graph.ops.values():
        if node.op in ("mean", "variance") and "N" in node.attributes["over"] and node.inputs[0][1] not in known:
            what = (
                f"node {node.name}: a statistic over N of {node.inputs[0][1]}, whose rows are not those of the samples"
            )
            hint = (
                f"the last batch of an epoch has {count % batch} of {batch} samples; take a batch that divides {count}"
            )
            raise ConfigError(what, hint).about(node.name)


def _check_judging(config: Config, data: Description, graph: Graph) -> None:
    """What decides which checkpoint is the best, and when to stop, is there to decide."""
    stop, best = config.train.stop, config.train.best
    known = next((FIGURES[node.op] for node in reversed([*graph.ops.values()]) if node.op in FIGURES), ())
    wanted = [("best", best)] if best not in ("loss", "none") else []
    for key, metric in [*wanted, *([("stop.metric", stop.metric)] if stop is not None else [])]:
        if metric not in known:
            what = f"train.{key}: the network has no {metric}"
            hint = f"it has {', '.join(known)}" if known else "it has no loss with metrics"
            raise ConfigError(what, hint, config.place(f"train.{key}"))
    if stop is not None and not len(subset(data_spec(config), data, "validation")):
        hint = "give some in data.shares.validation"
        raise ConfigError("train.stop needs samples for validation", hint, config.place("train.stop", key=True))


def plan_summary(program: Program, ranks: range | list[int]) -> dict[str, Any]:
    """Bytes and messages of a training step, and memory, of some ranks: the result of `dgraph plan`. `size` is the number of all
    ranks; `ranks` lists those asked for, each with `rank`, `peak_nbytes`, `sent_nbytes`, `messages` and, by tensor, `tensors`."""
    itemsize = 4 if program.config.dtype == "float32" else 8
    late, batches = behind_gradients(program.graph), program.config.train.accumulate
    entries = []
    for rank in ranks:
        plan = program.plan(rank)
        schedule = program.schedule(plan)
        tensors: dict[str, dict[str, Any]] = {}
        for name, transfer in plan.transfers.items():
            tensors[name] = {
                "kind": transfer.kind,
                "messages": len(transfer.sends),
                "sent_nbytes": transfer.sends.elements * itemsize,
                "received_nbytes": transfer.receives.elements * itemsize,
            }
            if transfer.all_reduce:
                block = transfer.read_rect.volume * itemsize
                tensors[name] |= {"messages": 1, "sent_nbytes": block, "received_nbytes": block}
            if late.transfer(name) is Turn.EVERY:
                tensors[name] |= {key: batches * tensors[name][key] for key in COUNTED}
        entries.append(
            {
                "rank": rank,
                "peak_nbytes": schedule.peak_nbytes,
                "sent_nbytes": sum(t["sent_nbytes"] for t in tensors.values()),
                "messages": sum(t["messages"] for t in tensors.values()),
                "tensors": tensors,
            }
        )
    return {"size": program.ranks, "ranks": entries}
