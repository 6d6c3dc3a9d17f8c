"""What a configuration says, as frozen types.

In: values that the readers have checked. Out: `Config` and its parts. Promise: immutable, mappings included; two configs
are equal if they say the same, wherever it stands in their files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any

from dgraph.config.kind import FILTERS
from dgraph.config.path import find
from dgraph.config.plain import plain_node, plain_parameter, plain_split, plain_value
from dgraph.config.source import Tree
from dgraph.error import Place
from dgraph.graph.node import EMPTY, Attributes, Split
from dgraph.graph.spec import NodeSpec, ParameterSpec

Splits = Mapping[str, Split]
"""Letter of a dimension -> the mesh axes that cut it."""
Cell = int | float | tuple[int | float, ...]
"""A label in a table: one number, or a list of them."""
Paths = str | tuple[str, ...]
"""One file or folder, or several."""
Column = str | int
"""A column of a table in a file, by its name or its number."""
MEASURES = ("loss", "accuracy", "top5", "rmse", "mae", "r2")
"""The figures of a validation by which a run, or a trial of a search, can be judged."""
LARGEST = ("accuracy", "top5", "r2")
"""Those of which more is better."""


BACKENDS = ("numpy", "torch")
"""Whose kernels a network may run on."""
CHEAP = (
    "identity", "threshold", "logistic", "tanh", "relu", "leaky_relu", "prelu", "elu", "softplus", "gelu", "silu", "normalize",
    "affine", "dropout", "add", "multiply", "concat", "slice", "max_pool", "average_pool",
)  # fmt: skip
"""Ops whose results take about as long to compute as to read."""
PROGRESS = ("auto", "polls", "thread")
"""How transfers advance while a rank computes."""


@dataclass(frozen=True)
class Shares:
    """Which share of the samples serves for what; the three sum to 1."""

    train: float = 0.7
    validation: float = 0.1
    test: float = 0.2


@dataclass(frozen=True)
class DataConfig:
    """Where samples come from and how they are batched.

    `source` is one of `dgraph.config.data.SOURCES`; `shape` is [C, spatial...] of one sample, `label_shape` that of its labels
    and `classes` the number of their classes (each None where the source knows, or has real targets); `samples` is how many a
    synthetic source or a ring has; `rows` and `labels` are a table's, which stands there `repeat` times. Of files, `path` and
    `labels` are absolute paths, one or several, and `sets` those of subsets with files of their own; the keys from `name` to
    `channels_last` are what some sources need to know, as `dgraph.data.DataSpec` has them. `scale` divides every value; `shares`
    are of the main files; `read` is `rect` (a rank reads what it needs) or `same` (every rank reads the whole batch). `one_hot`
    makes real targets of class numbers; `prepare` are steps fitted on training samples, `fit_batch` of them at a time; `augment`
    are random changes of training samples; `prefetch` reads the next batch while a step computes (None: where the source reads
    files); `keep` keeps in memory, prepared, what was read.
    """

    source: str
    batch: int
    shape: tuple[int, ...] | None
    label_shape: tuple[int, ...] | None
    classes: int | None
    samples: int | None
    path: Paths | None
    rows: tuple[tuple[float, ...], ...] | None
    labels: tuple[Cell, ...] | Paths | None
    repeat: int | None
    name: str | None
    x: str | None
    y: str | None
    label: Column | tuple[Column, ...] | None
    columns: tuple[Column, ...] | None
    header: bool | None
    delimiter: str | None
    bounds: tuple[float, ...] | None
    channels: int | None
    size: tuple[int, int] | None
    channels_last: bool | None
    sets: Mapping[str, Mapping[str, Paths]] | None
    scale: float
    shares: Shares
    shuffle: bool
    read: str
    split: Splits | None
    one_hot: bool
    prepare: tuple[Choice, ...]
    fit_batch: int
    augment: tuple[Choice, ...]
    prefetch: bool | None
    keep: bool
    place: Place = field(compare=False, repr=False)

    def resolved(self) -> dict[str, Any]:
        """The section as plain values."""
        return _section(self)


@dataclass(frozen=True)
class AffineConfig:
    """`a * x + b`: which letters `a` spans (True: none, it is one number; False: there is no a), and which `b` spans (`all`: C and
    spatial; None: there is no b)."""

    scale: bool | str
    bias: str | None

    def resolved(self) -> dict[str, Any]:
        """The section as plain values."""
        return {"scale": self.scale, "bias": self.bias or "none"}


@dataclass(frozen=True)
class Nonlinearity:
    """A function by its name, and its attributes."""

    name: str
    attributes: Attributes

    def resolved(self) -> str | dict[str, Any]:
        """The section as plain values."""
        return {self.name: plain_value(self.attributes)} if self.attributes else self.name


@dataclass(frozen=True)
class LayerConfig:
    """One layer: `kind` with its attributes, and what may follow it.

    `kind` is one of `dgraph.config.kind.KINDS`, affine or nonlinearity; for affine, norm and nonlinearity None means: not
    there. `input` names a layer or a tensor (None: the layer before), `inputs` several. `split` and `pieces` belong to the
    main op, `loss_split` to the loss and metrics of a softmax layer; `init` and `update_split` to the weights, `shard` to
    all parameters.
    """

    name: str
    kind: str
    attributes: Attributes
    affine: AffineConfig | None
    nonlinearity: Nonlinearity | None
    norm: Nonlinearity | None
    input: str | None
    inputs: tuple[str, ...] | None
    split: Splits | None
    loss_split: Splits | None
    pieces: Mapping[str, int]
    init: Mapping[str, Mapping[str, Any]] | None
    shard: bool | None
    update_split: Splits | None
    place: Place = field(compare=False, repr=False)

    @property
    def reads(self) -> tuple[str, ...]:
        """The layers or tensors that it names as its inputs."""
        return self.inputs or (() if self.input is None else (self.input,))

    def resolved(self) -> dict[str, Any]:
        """The entry of the section `layers` as plain values."""
        entry: dict[str, Any] = {"name": self.name}
        if self.kind not in ("affine", "nonlinearity"):
            entry[self.kind] = plain_value(self.attributes)
        if self.kind in (*FILTERS, "affine"):
            entry["affine"] = self.affine.resolved() if self.affine else "none"
        if self.norm is not None and self.kind in FILTERS:
            entry["norm"] = self.norm.resolved()
        if self.nonlinearity is not None:
            entry["nonlinearity"] = self.nonlinearity.resolved()
        if self.pieces:
            entry["pieces"] = dict(self.pieces)
        for key in ("input", "inputs", "split", "loss_split", "init", "shard", "update_split"):
            if (value := getattr(self, key)) is not None:
                entry[key] = plain_split(value) if key.endswith("split") else plain_value(value)
        return entry


@dataclass(frozen=True)
class Choice:
    """One of several kinds, and its options: `{kind: {option: value}}`."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=lambda: EMPTY)

    def resolved(self) -> dict[str, Any]:
        """As plain values, without options that are None."""
        return {self.kind: plain_value({key: value for key, value in self.options.items() if value is not None})}


@dataclass(frozen=True)
class StopConfig:
    """When to stop early: after `patience` validations in which the mean of `metric` over the last `window` of them has not become
    better than the best mean before by more than `least`."""

    patience: int
    window: int = 1
    metric: str = "loss"
    least: float = 0.0


@dataclass(frozen=True)
class Warmup:
    """A rate that rises at every step, in a straight line from a share `start` (key `from`) of itself to all of it, over so many
    `steps` or `epochs`. `shift`: the schedule begins when the warm-up ends; else both begin at once."""

    steps: int | None
    epochs: int | None
    start: float
    shift: bool

    def resolved(self) -> dict[str, Any]:
        """The section as plain values."""
        entry = {"steps": self.steps, "epochs": self.epochs, "from": self.start, "shift": self.shift}
        return {key: value for key, value in entry.items() if value is not None}


@dataclass(frozen=True)
class Penalty:
    """Adds `l1 * sign(w) + l2 * w` to the gradient of weights; with `biases`, of all parameters."""

    l1: float
    l2: float
    biases: bool

    def resolved(self) -> dict[str, Any]:
        """The section as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class TrainConfig:
    """How long to train, and how: exactly one of `steps` and `epochs` is given.

    `optimizer`, `schedule` (of its rate) and `average` (of the weights; None: there is none) are choices as the tables in
    `dgraph.config.train` have them. `scale_rate` is the batch for which the rate is meant (None: the one there is); `clip` the
    largest norm of all gradients together (None: any).
    A step adds up the gradients of `accumulate` batches. `log_every` counts steps, `validate_every` and `checkpoint_every` epochs,
    `checkpoint_steps` steps (0: never); `keep` is how many checkpoints are kept, besides the one whose validation was the `best` by
    this figure (none: no best one is kept); `stop` ends the run early; `shard` is what parameters do that do not say (see
    `ParameterSpec`).
    """

    optimizer: Choice
    schedule: Choice
    warmup: Warmup | None = None
    scale_rate: int | None = None
    penalty: Penalty | None = None
    clip: float | None = None
    average: Choice | None = None
    steps: int | None = None
    epochs: int | None = None
    accumulate: int = 1
    shard: bool = False
    log_every: int = 10
    validate_every: int = 1
    checkpoint_every: int = 1
    checkpoint_steps: int = 0
    keep: int = 2
    best: str = "loss"
    stop: StopConfig | None = None

    def resolved(self) -> dict[str, Any]:
        """The section as plain values."""
        return _section(self)


@dataclass(frozen=True)
class MessagesConfig:
    """How tensors travel; results do not depend on it, but for rounding where other ops are fused.

    `lower` are the kinds of `dgraph.plan.kind` that are recognised, all else are messages; `window`: ranks of one host read each
    other's memory in place; `bucket` is the most bytes of small transfers that travel as one (0: each by itself).
    """

    lower: tuple[str, ...]
    window: bool = True
    bucket: int = 1 << 20

    def resolved(self) -> dict[str, Any]:
        """The section as plain values."""
        return {"lower": list(self.lower), "window": self.window, "bucket": self.bucket}


@dataclass(frozen=True)
class TuneConfig:
    """What `dgraph tune` tries: either `keys` at random, or the rows of a table, all of `cases` with all of `grid`.

    `keys` gives a range or choice for each dotted path (kinds as `dgraph.config.tune` has them), `grid` a list of values; `cases`
    are named sets of values by path. `trials` random ones are made in `rounds`; each round searches a range `narrow` times as wide
    as the one before. Every trial is repeated with `seeds` seeds, from that of the config on. What counts is the figure `metric`
    of a subset, as `mode` says the least or the largest; random values are a function of `seed` and the trial's number.
    """

    keys: Mapping[str, Choice]
    cases: Mapping[str, Attributes]
    grid: Mapping[str, tuple[Any, ...]]
    trials: int | None
    rounds: int
    narrow: float
    seeds: int
    metric: str
    mode: str
    seed: int

    @property
    def paths(self) -> tuple[str, ...]:
        """Every dotted path that is tried, once, in order."""
        named = (path for values in self.cases.values() for path in values)
        return tuple(dict.fromkeys((*self.keys, *named, *self.grid)))

    def resolved(self) -> dict[str, Any]:
        """The section as plain values."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        values["keys"] = {path: {kind.kind: plain_value(kind.options["values"])} for path, kind in self.keys.items()}
        random = ("keys", "trials", "rounds", "narrow")
        left_out = () if self.keys else random
        kept = {
            key: value for key, value in values.items() if key not in left_out and value is not None and value != {}
        }
        return {key: plain_value(value) for key, value in kept.items()}


@dataclass(frozen=True)
class OverlapConfig:
    """How communication hides behind computation. `pieces`: whether nodes are cut for it (None: where that pays); `updates`: late,
    in the next step, if their gradients travel; in the `step`; or `auto`, late where ranks are on several hosts and it can be."""

    pieces: bool | None = None
    updates: str = "auto"

    def resolved(self) -> bool | str | dict[str, Any]:
        """As it is read."""
        for word, value in OVERLAP_WORDS.items():
            if self == value:
                return word
        return {"pieces": "auto" if self.pieces is None else self.pieces, "updates": self.updates}


UPDATES = ("auto", "late", "step")
OVERLAP_WORDS: Mapping[bool | str, OverlapConfig] = MappingProxyType(
    {"auto": OverlapConfig(), True: OverlapConfig(True), False: OverlapConfig(False, "step")}
)
"""Both in a word."""


@dataclass(frozen=True)
class MemoryConfig:
    """`reuse`: whether memory serves again within a step when what was there is needed no more; `in_place`: whether element-wise
    results are written over operands that are needed no more; `recompute`: ops whose results are computed again for gradients
    rather than kept, of `CHEAP`."""

    reuse: bool = True
    in_place: bool = True
    recompute: tuple[str, ...] = ()

    def resolved(self) -> dict[str, Any]:
        """The section as plain values."""
        return {"reuse": self.reuse, "in_place": self.in_place, "recompute": list(self.recompute) or False}


@dataclass(frozen=True)
class Config:
    """A validated configuration.

    `backend` is the library of the kernels, numpy or torch, and `device` where they run. `overlap`: what is
    done so that communication hides behind computation; `progress` is how transfers advance meanwhile: by looks between nodes
    (polls), or by a thread beside them (thread, and auto where ranks are on several hosts).
    `fusion`: whether chains of ops may be done as one.
    `mesh` gives the sizes of the axes in order, the first the slowest; `source` is the file that it came from, `tree` its
    content with all blocks written out, `origins` the instances of blocks that layers come from, in words.
    """

    name: str
    dtype: str
    seed: int
    backend: str
    device: str
    overlap: OverlapConfig
    progress: str
    fusion: bool
    memory: MemoryConfig
    mesh: Mapping[str, int]
    data: DataConfig
    layers: tuple[LayerConfig, ...]
    nodes: tuple[NodeSpec, ...]
    parameters: tuple[ParameterSpec, ...]
    train: TrainConfig
    messages: MessagesConfig
    tune: TuneConfig | None
    source: str = field(compare=False)
    tree: Tree = field(compare=False, repr=False)
    origins: Mapping[str, str] = field(default_factory=lambda: EMPTY, compare=False, repr=False)

    def place(self, path: str, key: bool = False) -> Place:
        """Where the value at a dotted path such as `layers.L0.split.H` stands, or with `key` its key.

        Where there is no such path, the place of the nearest value above it.
        """
        places = find(self.tree, path)
        return places[0] if key else places[1]

    def origin(self, name: str) -> str:
        """The instance of a block, in words, that a layer, node, tensor or parameter comes from; empty if it comes from none."""
        while name and name not in self.origins:
            name = name.rpartition(".")[0]
        return self.origins.get(name, "")

    def resolved(self) -> dict[str, Any]:
        """All of it as plain values, defaults filled in: dumped as YAML, it loads back to an equal config."""
        sections: dict[str, Any] = {
            "name": self.name,
            "dtype": self.dtype,
            "seed": self.seed,
            "backend": self.backend,
            "device": self.device,
            "overlap": self.overlap.resolved(),
            "progress": self.progress,
            "fusion": self.fusion,
            "memory": self.memory.resolved(),
            "mesh": dict(self.mesh),
            "data": self.data.resolved(),
            "layers": [layer.resolved() for layer in self.layers],
            "nodes": [plain_node(node) for node in self.nodes],
            "parameters": {parameter.name: plain_parameter(parameter) for parameter in self.parameters},
            "train": self.train.resolved(),
            "messages": self.messages.resolved(),
            "tune": self.tune.resolved() if self.tune else {},
        }
        return {key: value for key, value in sections.items() if value not in ([], {})}


def _section(values: DataConfig | TrainConfig) -> dict[str, Any]:
    """The fields of a section that are not None, but for its place."""
    section: dict[str, Any] = {}
    for entry in fields(values):
        value = getattr(values, entry.name)
        if value in (None, ()) or entry.name == "place":
            continue
        if entry.name in ("prepare", "augment"):
            section[entry.name] = [step.resolved() for step in value]
        elif entry.name == "split":
            section["split"] = plain_split(value)
        elif isinstance(value, (Choice, Warmup, Penalty)):
            section[entry.name] = value.resolved()
        else:
            section[entry.name] = asdict(value) if isinstance(value, (Shares, StopConfig)) else plain_value(value)
    return section
