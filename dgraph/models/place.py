"""Where in a config a fault of the graph or the layout was written.

In: a config, a node or parameter, and a dotted key of its declaration. Out: the nearest place in the file: the key itself where it
was written, else the node, the parameter or the layer. Promise: only the names that `dgraph.models.layer` gives are used.
"""

from __future__ import annotations

from dgraph.config.kind import NORM_KINDS
from dgraph.config.schema import Config, LayerConfig
from dgraph.error import Place

_NORM = (".mean", ".variance", ".normalize")
_LOSS = (".softmax", ".evaluate", ".evaluate.accuracy")


def place_of(config: Config, name: str, key: str, readers: tuple[str, ...] = ()) -> Place:
    """The place of a node's or parameter's key; its key where that names something, its value where the value is at fault.

    Parameters
    ----------
    name : the node or parameter; anything else gives the section of layers or nodes.
    key : such as `split.H`, `attributes.size`, `inputs.input`, `update_split.O`; may be empty.
    readers : the nodes that read a parameter, to point at where nothing declares it.
    """
    path = _declared(config, name, key) or _of_layer(config, name, key)
    if path is None and readers:
        return place_of(config, readers[0], "")
    return config.place(path or ("layers" if config.layers else "nodes"), key.startswith(("split", "pieces", "update")))


def _declared(config: Config, name: str, key: str) -> str | None:
    """The path of what a config declares under this very name."""
    if any(node.name == name for node in config.nodes):
        return _joined(f'nodes."{name}"', key)
    if name == "data":
        return _joined("data", key.removeprefix("attributes."))
    for parameter in config.parameters:
        given = not key.startswith("update_split") or parameter.update_split is not None
        if name in (parameter.name, parameter.update) and given:
            return _joined(f'parameters."{parameter.name}"', key if name == parameter.name else "update")
    return None


def _of_layer(config: Config, name: str, key: str) -> str | None:
    """The path within the layer that a node or parameter comes from: the longest layer name that it starts with."""
    layers = [layer for layer in config.layers if name.removeprefix("update_").startswith(f"{layer.name}.")]
    if not layers:
        return None
    layer = max(layers, key=lambda one: len(one.name))
    return _joined(f'layers."{layer.name}"', _layer_key(layer, name.removeprefix(layer.name), key))


def _layer_key(layer: LayerConfig, part: str, key: str) -> str:
    """A node's key as its layer calls it."""
    if key.startswith("split") and part in _LOSS and layer.kind == "softmax":
        return f"loss_{key}"
    if key.startswith("inputs"):
        return "input" if layer.inputs is None else "inputs"
    head, _, rest = key.partition(".")
    if head != "attributes":
        return key
    section = "affine" if part.endswith("A") else layer.kind
    if part.endswith("NL") and layer.nonlinearity is not None:
        section = f"nonlinearity.{layer.nonlinearity.name}"
    if part in _NORM and layer.kind not in NORM_KINDS:
        section = f"norm.{layer.norm.name}" if layer.norm else "norm"
    return _joined(section, rest)


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if key else path
