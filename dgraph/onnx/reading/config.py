"""A network read from a model, as a config.

In: a `Network` of one input and one output. Out: the text of a config in node form. Promise: it says where it comes from, and
what a person must fill in; its loss is the usual one for what the network gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dgraph.config import plain_node, to_yaml
from dgraph.error import ConfigError
from dgraph.graph.node import Dim
from dgraph.graph.spec import NodeSpec
from dgraph.onnx.reading.file import Input, Model
from dgraph.onnx.reading.intake import spelt
from dgraph.onnx.reading.network import Network

RAW, LABELS = "data.raw_output", "data.labels_output"


def feed_data(one: Input, dim: Dim) -> tuple[NodeSpec, str]:
    """The data node of a config, which gives the one input of its network."""
    outputs = (("raw_data", RAW), ("labels", LABELS))
    attributes = MappingProxyType({"batch": dim[0], "shape": list(dim[1:])})
    return NodeSpec("data", "data", (), outputs, attributes), "raw_data"


def require_single(model: Model, path: Path) -> None:
    """Raises ConfigError for a model whose ends a config cannot have."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        what = f"{path}: {len(model.inputs)} inputs and {len(model.outputs)} outputs"
        raise ConfigError(what, "a config has one input, its data, and one output")
    if not 2 <= len(model.inputs[0].dims) <= 5:
        shown = f"{path}: input {model.inputs[0].name} has {len(model.inputs[0].dims)} dimensions"
        raise ConfigError(shown, "data is [N, C] and up to 3 spatial dimensions")


def config_text(network: Network, model: Model, path: Path) -> str:
    """The config of a network, with a loss and metrics of its output."""
    data, *body = network.specs
    output = next(iter(network.outputs.values()))
    last = body[-1]
    reads = [tensor for spec in body for _, tensor in spec.inputs]
    is_classifier = (
        last.op == "softmax_activation"
        and last.attributes["axis"] % len(network.dims[output]) == 1
        and output not in reads
        and len(network.dims[output]) <= 5
    )
    scores = dict(last.inputs)["input"] if is_classifier else output
    shape, labels = _labels(network, scores, is_classifier)
    name = spelt(last.name) if is_classifier else "loss"
    wanted = labels[-1].name + ".output" if labels else LABELS
    head = _classifier(network, last, output, wanted) if is_classifier else _regression(network, name, output, wanted)
    body = body[:-1] if is_classifier else body
    classes = {"classes": network.dims[scores][1]} if is_classifier else {}
    attributes = data.attributes
    section = {"source": "synthetic", "shape": attributes["shape"], **classes, **shape, "batch": attributes["batch"]}
    nodes = [plain_node(spec) for spec in (*body, *labels, *head)]
    return _text(spelt(model.name or path.stem), network.dtype, section, nodes, _origin(model, path))


def _origin(model: Model, path: Path) -> str:
    maker = f", made by {model.origin}" if model.origin else ""
    return f"{path.name}: ONNX operator set {model.opset}{maker}".encode("ascii", "replace").decode()


def _text(name: str, dtype: str, data: dict[str, Any], nodes: Sequence[dict[str, Any]], origin: str) -> str:
    parts = [
        f"# From {origin}. The values of its parameters are in the checkpoint beside this file.\n",
        to_yaml({"name": name, "dtype": dtype, "mesh": {"p": "auto"}}),
        "# Stands in for your own data, such as {source: npz, path: samples.npz, batch: 64, split: {N: p}}.\n",
        to_yaml({"data": {**data, "split": {"N": "p"}}}),
        to_yaml({"nodes": nodes}),
        to_yaml({"train": {"optimizer": {"sgd": {"rate": 0.001}}, "steps": 100}}),
    ]
    return "".join(parts)


def _labels(network: Network, scores: str, classes: bool) -> tuple[dict[str, Any], list[NodeSpec]]:
    """The shape of a sample's labels as the data section has it, and the node that gives them the dimensions of the output."""
    _, *given = network.dims[RAW]
    batch, *rest = network.dims[scores]
    wanted = [1, *rest[1:]] if classes else rest
    if not rest or batch != network.dims[RAW][0]:
        raise ConfigError(f"the output has dim {[batch, *rest]}", "its first extent must be that of the batch")
    fits = len(wanted) == len(given)
    own = wanted if fits else [prod(wanted)]
    shape = {} if classes and prod(wanted) == 1 else {"label_shape": own}
    if fits:
        return shape, []
    attributes = MappingProxyType({"shape": [0, *wanted]})
    return shape, [NodeSpec("labels", "reshape", (("input", LABELS),), attributes=attributes)]


def _classifier(network: Network, last: NodeSpec, output: str, labels: str) -> list[NodeSpec]:
    """Cross-entropy in place of a last softmax, of which it gives the same probabilities."""
    outputs = () if output == f"{last.name}.probability" else (("probability", output),)
    inputs = (("input", dict(last.inputs)["input"]), ("labels", labels))
    loss = replace(last, op="softmax", inputs=inputs, outputs=outputs, attributes=MappingProxyType({}))
    name = f"{last.name}.evaluate"
    read = (("labels", labels), ("probability", output), ("loss", f"{last.name}.output"), *_parameters(network))
    return [
        loss,
        NodeSpec(name, "evaluate", read),
        NodeSpec(f"{name}.accuracy", "accuracy", (("input", f"{name}.output"),)),
    ]


def _regression(network: Network, name: str, output: str, labels: str) -> list[NodeSpec]:
    targets, errors = f"{name}.targets", f"{name}.evaluate"
    read = (("labels", labels), ("input", output), ("loss", f"{name}.output"), ("targets", f"{targets}.output"))
    return [
        NodeSpec(name, "squared_error", (("input", output), ("labels", labels))),
        NodeSpec(targets, "sum_targets", (("labels", labels),)),
        NodeSpec(errors, "evaluate_error", (*read, *_parameters(network))),
        NodeSpec(f"{errors}.accuracy", "accuracy", (("input", f"{errors}.output"),)),
    ]


def _parameters(network: Network) -> tuple[tuple[str, str], ...]:
    return tuple(("params", name) for name in network.values)
