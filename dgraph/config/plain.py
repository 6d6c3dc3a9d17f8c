"""Specs back to plain values, and plain values to YAML.

In: node and parameter specs, splits. Out: dicts, lists and scalars that, dumped, load back to equal specs. Promise: the
text is read the same by YAML 1.1 and 1.2 readers, and has no anchors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from dgraph.config.source import scalar
from dgraph.graph.node import Split
from dgraph.graph.spec import NodeSpec, ParameterSpec

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_DUMPER):  # type: ignore[misc,valid-type]
    """Quotes what either version of YAML would not take for a string, and repeats values instead of naming them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = None if isinstance(scalar(data), str) else "'"
        node: yaml.ScalarNode = self.represent_scalar("tag:yaml.org,2002:str", data, style=style)
        return node


_Dumper.add_representer(str, _Dumper.represent_str)


def to_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as a YAML document, in the order given, innermost lists and mappings on one line each."""
    text: str = yaml.dump(
        dict(values), Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True
    )
    return text


def plain_value(value: Any) -> Any:
    """A frozen value as dicts and lists."""
    if isinstance(value, Mapping):
        return {key: plain_value(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain_value(item) for item in value]
    return value


def plain_split(splits: Mapping[str, Split]) -> dict[str, Any]:
    """`{H: y, W: [x, z], N: {axes: t, sizes: [30, 11]}}`."""
    return {letter: _plain_axes(split) for letter, split in splits.items()}


def _plain_axes(split: Split) -> Any:
    axes = split.axes[0] if len(split.axes) == 1 else list(split.axes)
    return axes if split.sizes is None else {"axes": axes, "sizes": list(split.sizes)}


def plain_node(spec: NodeSpec) -> dict[str, Any]:
    """An entry of the section `nodes`."""
    inputs: dict[str, Any] = {}
    for port, tensor in spec.inputs:
        inputs.setdefault(port, []).append(tensor)
    entry: dict[str, Any] = {"name": spec.name, "op": spec.op}
    if spec.attributes:
        entry["attributes"] = plain_value(spec.attributes)
    if inputs:
        entry["inputs"] = {port: names[0] if len(names) == 1 else names for port, names in inputs.items()}
    if spec.outputs:
        entry["outputs"] = dict(spec.outputs)
    if spec.split is not None:
        entry["split"] = plain_split(spec.split)
    if spec.pieces:
        entry["pieces"] = dict(spec.pieces)
    return entry


def plain_parameter(spec: ParameterSpec) -> dict[str, Any]:
    """The value of an entry of the section `parameters`."""
    entry: dict[str, Any] = {}
    if spec.init:
        entry["init"] = plain_value(spec.init)
    if spec.update is not None:
        entry["update"] = spec.update
    if spec.update_split is not None:
        entry["update_split"] = plain_split(spec.update_split)
    if spec.shard is not None:
        entry["shard"] = spec.shard
    if spec.rate != 1:
        entry["rate"] = spec.rate
    if spec.penalty is not None:
        entry["penalty"] = spec.penalty
    return entry
