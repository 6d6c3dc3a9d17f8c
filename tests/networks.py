"""Small networks for tests: layers and layouts as config text."""

from dataclasses import replace

from dgraph.config import parse_config
from dgraph.program import compile_config

HEAD = """
name: {name}
dtype: {dtype}
mesh: {mesh}
data: {{source: synthetic, shape: {shape}, classes: {classes}, batch: {batch}, samples: {samples}}}
"""


def config_text(
    layers, mesh="{y: 2, x: 2}", shape="[2, 8, 8]", classes=3, batch=6, dtype="float64", train="", name="net"
):
    """A whole config from layer lines."""
    head = HEAD.format(name=name, dtype=dtype, mesh=mesh, shape=shape, classes=classes, batch=batch, samples=4 * batch)
    rule = train or "{optimizer: {sgd: {rate: 0.1, momentum: 0.5}}, steps: 5}"
    return head + f"train: {rule}\nlayers:\n" + "".join(f"  - {line}\n" for line in layers)


def load(text, overrides=(), ranks=None):
    return parse_config(text, "net.yaml", overrides, ranks)


def program(text, overrides=(), ranks=None):
    return compile_config(load(text, overrides, ranks))


def looked_at(made):
    """The program with every tensor there to be looked at behind a run."""
    return replace(made, shown=frozenset(made.graph.tensors))


SPATIAL = (
    "{name: C1, conv: {channels: 4, size: 5, padding: 2}, nonlinearity: tanh, split: {H: y, W: x}}",
    "{name: P1, max_pool: {size: 3, stride: 2, padding: 1}}",
    "{name: C2, conv: {channels: 4, size: 3}, nonlinearity: leaky_relu, split: {N: y, O: x}}",
    "{name: out, softmax: {classes: 3, bias: true}, split: {C: x, H: y}, loss_split: {N: [y, x]}}",
)
