"""Layers to nodes and parameters: names, ports, splits, defaults, and what a config overrides."""

import pytest

from dgraph.autodiff import add_gradients
from dgraph.config import load_config, parse_config
from dgraph.error import ConfigError
from dgraph.graph.build import build_graph
from dgraph.graph.node import Split
from dgraph.layout import Mesh, assign_layout
from dgraph.models import expand
from dgraph.ops import OPS
from dgraph.plan.check import check_plan
from dgraph.plan.make import make_plan
from dgraph.program import forward_graph
from tests.networks import config_text, program
from tests.runs import ALONE

HEAD = "{name: out, softmax: {classes: 3}}"


def expanded(*layers, shape="[2, 8, 8]", more="", head=True):
    """Nodes by name, and parameters by name, of a network of these layers."""
    body = "\n".join(f"  - {layer}" for layer in (*layers, *((HEAD,) if head else ())))
    text = f"""
mesh: {{y: 2, x: 2}}
data: {{source: synthetic, shape: {shape}, classes: 3, batch: 4, split: {{N: y}}}}
layers:
{body}
{more}
train: {{optimizer: {{sgd: {{rate: 0.1}}}}, steps: 1}}
"""
    config = parse_config(text)
    nodes, parameters = expand(config, config.data.shape)
    build_graph("test", nodes, parameters, OPS)
    return {node.name: node for node in nodes}, {parameter.name: parameter for parameter in parameters}


def ops_of(nodes, layer):
    return [(name, node.op) for name, node in nodes.items() if name.startswith(f"{layer}.")]


NODES = {
    "{name: L, tiled: {channels: 2, tile: 2, size: 2, stride: 2}, nonlinearity: tanh}": [
        ("L.filter", "tiled"),
        ("L.filterA", "affine"),
        ("L.filterNL", "tanh"),
    ],
    "{name: L, conv: {channels: 2, size: 3}, nonlinearity: relu}": [
        ("L.conv", "conv"),
        ("L.convA", "affine"),
        ("L.convNL", "relu"),
    ],
    "{name: L, conv: {channels: 2, size: 3}, affine: none}": [("L.conv", "conv")],
    "{name: L, linear: {features: 5}, nonlinearity: identity}": [
        ("L.linear", "linear"),
        ("L.linearA", "affine"),
        ("L.linearNL", "identity"),
    ],
    "{name: L, max_pool: {size: 2}}": [("L.pool", "max_pool")],
    "{name: L, average_pool: {size: 2}, nonlinearity: logistic}": [
        ("L.pool", "average_pool"),
        ("L.poolNL", "logistic"),
    ],
    "{name: L, affine: {scale: true, bias: CHW}}": [("L.affine", "affine")],
    "{name: L, affine: {scale: true, bias: none}, nonlinearity: tanh}": [
        ("L.affine", "affine"),
        ("L.affineNL", "tanh"),
    ],
    "{name: L, nonlinearity: {leaky_relu: {slope: 0.2}}}": [("L.NL", "leaky_relu")],
    **{
        f"{{name: L, nonlinearity: {name}}}": [("L.NL", name)]
        for name in ("threshold", "elu", "softplus", "gelu", "silu")
    },
    "{name: L, nonlinearity: {softmax: {axis: W}}}": [("L.NL", "softmax_activation")],
    "{name: L, nonlinearity: {gelu: {approximate: tanh}}}": [("L.NL", "gelu")],
}


@pytest.mark.parametrize("layer", NODES)
def test_a_layer_has_the_nodes_of_its_kind(layer):
    nodes, _ = expanded(layer)
    assert ops_of(nodes, "L") == NODES[layer]


def test_the_softmax_layer_has_scores_loss_and_metrics():
    nodes, parameters = expanded()
    assert ops_of(nodes, "out") == [
        ("out.linear1", "linear"),
        ("out.softmax", "softmax"),
        ("out.evaluate", "evaluate"),
        ("out.evaluate.accuracy", "accuracy"),
    ]
    assert nodes["out.evaluate"].inputs == (
        ("labels", "data.labels_output"),
        ("probability", "out.softmax.probability"),
        ("loss", "out.softmax.output"),
        ("params", "out.weights1"),
    )
    assert parameters["out.weights1"].update == "update_W1"


def test_bias_of_a_softmax_layer():
    nodes, parameters = expanded("{name: end, softmax: {classes: 3, bias: true}}", head=False)
    assert [name for name, _ in ops_of(nodes, "end")][:2] == ["end.linear1", "end.linear1A"]
    assert list(parameters) == ["end.weights1", "end.bias1"]
    assert parameters["end.bias1"].update == "update_B1"
    assert nodes["end.softmax"].inputs[0] == ("input", "end.linear1A.output")


def test_two_losses_on_one_trunk_have_updates_of_their_own():
    nodes, parameters = expanded(
        "{name: trunk, conv: {channels: 2, size: 3}}",
        "{name: one, softmax: {classes: 3}}",
        "{name: two, softmax: {classes: 3}, input: trunk}",
        head=False,
    )
    assert [parameters[f"{name}.weights1"].update for name in ("one", "two")] == ["update_W1", "update_W2"]
    assert nodes["one.linear1"].inputs[0] == nodes["two.linear1"].inputs[0] == ("input", "trunk.convA.output")


def test_metrics_read_every_parameter_in_order():
    more = """nodes:
  - {name: side, op: linear, attributes: {features: 3}, inputs: {input: data.raw_output, weights: side.W}}"""
    nodes, parameters = expanded("{name: L, tiled: {channels: 2, tile: 1, size: 2, stride: 2}}", more=more)
    read = [tensor for port, tensor in nodes["out.evaluate"].inputs if port == "params"]
    assert read == list(parameters) == ["L.W", "L.a", "L.b", "out.weights1", "side.W"]


@pytest.mark.parametrize(("shape", "letters"), [("[2, 9]", "CW"), ("[2, 9, 9]", "CHW"), ("[2, 9, 9, 9]", "CDHW")])
def test_bias_all_spans_channels_and_space(shape, letters):
    layers = ["{name: L, tiled: {channels: 2, tile: 1, size: 2, stride: 1}}", "{name: out, softmax: {classes: 3}}"]
    made = program(config_text(layers, shape=shape))
    assert made.forward.ops["L.filterA"].attributes["bias"] == letters


def test_bias_all_spans_what_the_tensor_has_and_not_the_data():
    layers = [
        "{name: F, flatten: {}}",
        "{name: L, linear: {features: 2}, affine: {bias: all}}",
        "{name: out, softmax: {classes: 3}}",
    ]
    made = program(config_text(layers))
    assert made.forward.tensors["L.b"].dim == (1, 2)


def test_splits_go_to_the_main_node_and_to_the_loss():
    nodes, _ = expanded(
        "{name: L, conv: {channels: 2, size: 3}, nonlinearity: relu, split: {H: y}, pieces: {N: 2}}",
        "{name: act, nonlinearity: tanh, split: {C: x}}",
        "{name: end, softmax: {classes: 3}, split: {K: y}, loss_split: {N: [y, x]}}",
        head=False,
    )
    along_y, both = Split(("y",)), Split(("y", "x"))
    splits = {name: node.split for name, node in nodes.items() if node.split is not None}
    assert splits == {
        "data": {"N": along_y},
        "L.conv": {"H": along_y},
        "act.NL": {"C": Split(("x",))},
        "end.linear1": {"K": along_y},
        "end.softmax": {"N": both},
        "end.evaluate": {"N": both},
    }
    assert {name for name, node in nodes.items() if node.pieces} == {"L.conv"}


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ("nonlinearity: relu", "he"),
        ("nonlinearity: leaky_relu", "he"),
        ("nonlinearity: gelu", "he"),
        ("nonlinearity: tanh", "xavier"),
        ("", "xavier"),
    ],
)
def test_initial_values_suit_the_nonlinearity(keys, kind):
    _, parameters = expanded(f"{{name: L, conv: {{channels: 2, size: 3}}, affine: {{scale: true}}, {keys}}}")
    assert {name: next(iter(p.init)) for name, p in parameters.items() if name.startswith("L.")} == {
        "L.W": kind,
        "L.a": "constant",
        "L.b": "zero",
    }


def test_prelu_brings_its_slope():
    nodes, parameters = expanded("{name: L, nonlinearity: prelu}", "{name: M, nonlinearity: {prelu: {spans: CHW}}}")
    assert nodes["L.NL"].inputs[1] == ("slope", "L.slope")
    assert parameters["L.slope"].init == {"constant": {"value": 0.25}}
    assert nodes["M.NL"].attributes == {"spans": "CHW"}


def test_parameters_of_the_config_override_field_by_field():
    layer = "{name: L, conv: {channels: 2, size: 3}, init: lecun, shard: true, update_split: {O: x}}"
    more = "parameters: {L.W: {init: {constant: {value: 2}}, update: mine}, L.b: {shard: false}}"
    _, parameters = expanded(layer, more=more)
    weights, bias = parameters["L.W"], parameters["L.b"]
    assert (weights.init, weights.update, weights.shard) == ({"constant": {"value": 2}}, "mine", True)
    assert weights.update_split == {"O": Split(("x",))}
    assert (bias.init, bias.shard, bias.update_split) == ({"zero": {}}, False, None)


def test_inputs_are_layers_or_tensors():
    nodes, _ = expanded(
        "{name: one, conv: {channels: 2, size: 3}}",
        "{name: two, max_pool: {size: 2}, input: data}",
        "{name: three, nonlinearity: tanh, input: one.conv.output}",
        "{name: end, softmax: {classes: 3}, input: two}",
        head=False,
    )
    first = {name: node.inputs[0][1] for name, node in nodes.items() if node.inputs}
    assert (first["two.pool"], first["three.NL"]) == ("data.raw_output", "one.conv.output")
    assert first["end.linear1"] == "two.pool.output"


def test_a_data_node_of_the_config_takes_the_place_of_the_added_one():
    more = """nodes:
  - {name: source, op: data, attributes: {batch: 4, shape: [2, 8, 8]}, outputs: {raw_data: pictures}}"""
    nodes, _ = expanded(more=more)
    assert "data" not in nodes
    assert nodes["out.linear1"].inputs[0] == ("input", "pictures")
    assert nodes["out.softmax"].inputs[1] == ("labels", "source.labels_output")


def test_nothing_reads_a_loss():
    with pytest.raises(ConfigError, match=r"^<string>:6:5: error: layer L cannot read the loss end \(name"):
        expanded("{name: end, softmax: {classes: 3}}", "{name: L, nonlinearity: tanh}", head=False)


def test_a_fault_of_the_graph_stands_at_the_layer():
    with pytest.raises(ConfigError, match=r"^<string>:5:5: error: node L.conv: a window of 9 does not fit into 8"):
        expanded("{name: L, conv: {channels: 2, size: 9}}")


def ranks_of(path):
    """The numbers of ranks to try: that of the mesh, or several where an axis is `auto`."""
    return (1, 3, 4) if "auto" in path.read_text() else (4,)


@pytest.mark.parametrize(
    ("path", "ranks"), [pytest.param(p, n, id=f"{p.stem}-{n}") for p in ALONE for n in ranks_of(p)]
)
def test_plans_of_all_configs_are_sound(path, ranks):
    config = load_config(path, ranks=ranks)
    graph = add_gradients(forward_graph(config)[2], OPS)
    layout = assign_layout(graph, Mesh.of(config.mesh), OPS, config.train.shard)
    assert check_plan(layout, [make_plan(layout, rank) for rank in range(ranks)]) == []
