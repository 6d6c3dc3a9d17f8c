"""A network read from a model, as a config.

In: a `Network` of one input and one output. Out: the text of a config in node form. Promise: it says where it comes from, and
what a person must fill in; its loss is the usual one for what the network gives.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    kept, name, op, compared = _head(network, body, output)
    shape, labels = _labels(network, compared, op == "softmax")
    wanted = f"{labels[-1].name}.output" if labels else LABELS
    classes = {"softmax": {"classes": network.dims[compared][1]}, "binary_cross_entropy": {"classes": 2}}.get(op, {})
    attributes = data.attributes
    section = {"source": "synthetic", "shape": attributes["shape"], **classes, **shape, "batch": attributes["batch"]}
    loss = _loss(network, name, op, compared, wanted, output)
    nodes = [plain_node(spec) for spec in (*kept, *labels, *loss)]
    return _text(spelt(model.name or path.stem), network.dtype, section, nodes, _origin(model, path))


def _head(network: Network, body: list[NodeSpec], output: str) -> tuple[list[NodeSpec], str, str, str]:
    """The nodes that stay, the name of the loss, its op, and the tensor that it compares with labels. A last softmax becomes a part
    of the loss, which gives the same probabilities."""
    softmax = _last_softmax(network, body)
    if softmax is not None:
        return body[: body.index(softmax)], softmax.name, "softmax", dict(softmax.inputs)["input"]
    return body, "loss", "binary_cross_entropy" if body[-1].op == "logistic" else "squared_error", output


def _last_softmax(network: Network, body: list[NodeSpec]) -> NodeSpec | None:
    """The softmax over channels that is the output, or of which the output is [N, K] where all spatial extents are 1."""
    last = body[-1]
    flat = last.op == "reshape" and len(body) > 1 and dict(last.inputs)["input"] == _written(body[-2])
    found = body[-2] if flat else last
    dim = network.dims[_written(found)]
    others = [tensor for spec in body if spec is not last for _, tensor in spec.inputs]
    if found.op != "softmax_activation" or len(dim) > 5 or _written(found) in others:
        return None
    if found.attributes["axis"] % len(dim) != 1 or (flat and network.dims[_written(last)] != dim[:2]):
        return None
    return found


def _written(spec: NodeSpec) -> str:
    return dict(spec.outputs).get("output", f"{spec.name}.output")


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


def _loss(network: Network, name: str, op: str, compared: str, labels: str, output: str) -> list[NodeSpec]:
    """The loss, and the nodes that find its metrics."""
    probability = output if network.dims[output] == network.dims[compared] else f"{name}.probability"
    usual = op != "softmax" or probability == f"{name}.probability"
    loss = f"{name}.loss" if probability == f"{name}.output" else f"{name}.output"
    outputs = () if usual else (("probability", probability), ("output", loss))
    head = NodeSpec(name, op, (("input", compared), ("labels", labels)), outputs)
    metrics = f"{name}.evaluate"
    read = [("labels", labels), ("loss", loss), *(("params", one) for one in network.values)]
    extra = []
    if op == "softmax":
        finder = NodeSpec(metrics, "evaluate", (("probability", probability), *read))
    elif op == "binary_cross_entropy":
        finder = NodeSpec(metrics, "evaluate_binary", (("input", compared), *read))
    else:
        extra = [NodeSpec(f"{name}.targets", "sum_targets", (("labels", labels),))]
        finder = NodeSpec(
            metrics, "evaluate_error", (("input", compared), ("targets", f"{name}.targets.output"), *read)
        )
    return [head, *extra, finder, NodeSpec(f"{metrics}.accuracy", "accuracy", (("input", f"{metrics}.output"),))]
