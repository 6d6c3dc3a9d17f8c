"""What a person declares: nodes and parameters, before shapes are known.

In: plain values from a config or from `dgraph.models`. Out: frozen specs that `build_graph` turns into a graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dgraph.error import Place
from dgraph.graph.node import EMPTY, Attributes, Split


@dataclass(frozen=True)
class NodeSpec:
    """One forward op: ports to tensors. Outputs left out are named `<name>.<port>`.

    `inputs` maps a port to a tensor name (a variadic port such as `params` may appear several times).
    """

    name: str
    op: str
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...] = ()
    attributes: Attributes = field(default_factory=lambda: EMPTY)
    split: Mapping[str, Split] | None = None
    pieces: Mapping[str, int] = field(default_factory=lambda: EMPTY)
    place: Place | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class ParameterSpec:
    """A parameter: how it starts, what its update node is called, and how the update is cut.

    `init` is {kind: arguments}, e.g. {"uniform": {"low": -0.1, "high": 0.1}}; kinds: zero, constant, normal, uniform,
    xavier, he, lecun. `update` names the update node (`update_<name>` if None). `update_split` cuts it by mesh axes;
    `shard` cuts it over the ranks that would otherwise repeat it. `rate` multiplies the rate of learning; `penalty` says whether
    penalty, decay and trust ratio apply (None: as the optimizer has it).
    """

    name: str
    init: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: EMPTY)
    update: str | None = None
    update_split: Mapping[str, Split] | None = None
    shard: bool | None = None
    rate: float = 1.0
    penalty: bool | None = None
    place: Place | None = field(default=None, compare=False, repr=False)
