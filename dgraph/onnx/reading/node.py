"""One node of a model as its reader sees it.

In: a NodeProto. Out: `Node`. Promise: an attribute that no reader asked for is an error, so that none is overlooked.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from dgraph.error import ConfigError


class Node:
    """Op, ports and attributes of a node. `label` is how errors call it; `results` are so many outputs as its reader gives."""

    def __init__(self, proto: onnx.NodeProto, number: int, opset: int, path: Path) -> None:
        self.op, self.domain, self.opset, self.path = proto.op_type, proto.domain, opset, path
        self.inputs, self.outputs = tuple(proto.input), tuple(proto.output)
        self.name, self.results = proto.name, 1
        self.label = f"node {proto.name or number} ({proto.op_type})"
        self._attributes = {one.name: one for one in proto.attribute}
        self._asked: set[str] = set()

    def take(self, key: str, default: Any = None) -> Any:
        """The value of an attribute."""
        self._asked.add(key)
        if key not in self._attributes:
            return default
        value = onnx.helper.get_attribute_value(self._attributes[key])
        return value.decode(errors="replace") if isinstance(value, bytes) else value

    def number(self, key: str, default: float) -> float:
        """The value of a real attribute, with no more digits than its 32 bits have."""
        value = self.take(key, default)
        return float(str(np.float32(value))) if key in self._attributes else default

    def numbers(self, key: str, default: list[int]) -> list[int]:
        """The value of an attribute that is as many integers as the default."""
        value = list(self.take(key, default))
        if len(value) != len(default):
            raise self.refuse(f"attribute {key} is {value}", f"{len(default)} numbers are needed")
        return value

    def expect(self, key: str, *values: Any) -> Any:
        """The value of an attribute of which only some values are supported; the first is the default."""
        value = self.take(key, values[0])
        if value not in values:
            raise self.refuse(f"attribute {key} is {value}", f"supported: {', '.join(map(str, values))}")
        return value

    def finish(self, wanted: Container[str]) -> None:
        """Raises ConfigError where an attribute was not asked for, or one of the `wanted` tensors is an output that no reader
        gave."""
        for key in self._attributes:
            if key not in self._asked:
                raise self.refuse(f"attribute {key} is not supported")
        beyond = [name for name in self.outputs[self.results :] if name and name in wanted]
        if beyond:
            raise self.refuse(f"output {beyond[0]} is not supported", "only the first is")

    def refuse(self, what: str, hint: str = "") -> ConfigError:
        """The error that says why this node cannot be read."""
        return ConfigError(f"{self.path}: {self.label}: {what}", hint)
