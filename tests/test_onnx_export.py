"""Networks as ONNX models: another runtime computes what dgraph does; out and in and out again changes nothing."""

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import load_file

from dgraph.checkpoint import Shard, open_checkpoint, write_checkpoint
from dgraph.config import load_config, parse_config
from dgraph.error import ConfigError
from dgraph.onnx.adopt import adopt
from dgraph.onnx.export import export
from dgraph.onnx.reading.file import read_model
from dgraph.onnx.values import initial_values
from dgraph.onnx.writing import file as writing
from dgraph.onnx.writing.model import predicted
from dgraph.program import compile_config, forward_graph
from dgraph.rect import Rect
from dgraph.runtime.communicator import OneRank
from dgraph.train import Worker
from dgraph.verify import one_rank
from tests.networks import config_text, looked_at
from tests.runs import ALONE
from tests.scaled import config_of, scaled
from tests.test_networks_layout import SMALL

LIMIT = {"float32": 1e-4, "float64": 1e-8}
FEWER = (
    *("layers.L0.tiled.channels=2", "layers.L1.tiled.channels=2"),
    *("data.classes=30", "layers.classifier.softmax.classes=30"),
)


def values_of(config):
    """Values for all that is kept, running statistics among them; none of them all zeros or ones."""
    random, graph = np.random.default_rng(3), forward_graph(config)[2]
    read = initial_values(graph, 1, config.dtype)
    values = {tensor.name: read(tensor.name) for tensor in graph.kept}
    for value in values.values():
        if value.size == 1 or value.std() == 0:
            value += random.uniform(0.05, 0.3, value.shape)
    return values


def save(values, folder):
    shards = [Shard(name, value.shape, Rect.whole(value.shape), value) for name, value in values.items()]
    meta = {"network": "net", "updates": 0, "optimizer": "sgd"}
    return write_checkpoint(folder, 0, shards, meta, 0, 1, lambda part: [part], lambda: None)


def forward(config, values, indices):
    """The data that a network reads, and what it predicts."""
    worker = Worker(looked_at(compile_config(one_rank(config), training=False)), OneRank())
    for name, value in values.items():
        for found in (worker.engine.store.reading(name), worker.engine.store.writing(name)):
            if found is not None:
                found[1][...] = value
    worker.forward(indices)
    prepared = worker.ready.preparation.prepared(worker.source)
    x = prepared.read(indices, Rect.whole(prepared.shape)).astype(config.dtype)
    y = worker.engine.store.writing(predicted(worker.program.forward))[1]
    logits = any(node.attributes.get("logits") for node in worker.program.forward.ops.values())
    return x, 1 / (1 + np.exp(-y)) if logits else y.copy()


def run(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return session.run(None, {given.name: x})[0]


def check(config, folder):
    """Exports a network, runs it elsewhere, and takes it in and out again."""
    values = values_of(config)
    checkpoint, first, again = save(values, folder / "net"), folder / "model.onnx", folder / "in" / "model.onnx"
    export(config, checkpoint, first, any_batch=False)
    onnx.checker.check_model(first, full_check=True)
    x, y = forward(config, values, np.arange(config.data.batch) % 4)
    found = run(first, x)
    assert found.shape == (y.shape[:2] if max(y.shape[2:], default=1) == 1 else y.shape)
    assert np.abs(found.reshape(y.shape) - y).max() <= LIMIT[config.dtype] * max(1, np.abs(y).max())
    adopt(first, folder / "in", 1)
    adopted = load_config(folder / "in" / "config.yaml", (), 1)
    export(adopted, folder / "in", again, any_batch=False)
    assert again.read_bytes() == first.read_bytes()
    stored = open_checkpoint(folder / "in")
    compared = forward(adopted, {name: whole(stored, name) for name in stored.names}, np.arange(config.data.batch) % 4)[
        1
    ]
    assert compared.reshape(-1).shape == y.reshape(-1).shape
    return adopted


def whole(checkpoint, name):
    tensor = checkpoint.tensors[name]
    value = np.empty(tensor.dim, tensor.dtype)
    checkpoint.read(name, Rect.whole(tensor.dim), value)
    return value


@pytest.mark.parametrize("path", ALONE, ids=lambda path: path.stem)
def test_every_config(path, tmp_path):
    if path.stem in SMALL:
        classes = None if path.stem in ("unet3d", "cosmoflow") else 5
        config = config_of(scaled(path.stem, batch=2, classes=classes, dtype="float32", **SMALL[path.stem]))
    else:
        overrides = FEWER if path.stem == "reference" else ()
        config = load_config(path, ("data.batch=2", *overrides))
    check(config, tmp_path)


HEAD = "{name: out, softmax: {classes: 3, bias: true}}"
CASES = """
bias of one number
  {name: a, affine: {scale: true, bias: none}}
scale over channels and rows
  {name: a, affine: {scale: CH, bias: W}}
bias over space
  {name: a, affine: {scale: true, bias: HW}}
strided, dilated, grouped
  {name: a, conv: {channels: 4, size: [2, 3], stride: [2, 1], padding: [[1, 0], 2], groups: 2, dilation: 2}}
transposed
  {name: a, conv_transpose: {channels: 4, size: 3, stride: 2, padding: 1, output_padding: 1, groups: 2}}
tiled
  {name: a, tiled: {channels: 3, tile: [1, 2], size: [3, 2], stride: [2, 3]}}
tiled once
  {name: a, tiled: {channels: 3, tile: 2, size: 8, stride: 1}}
linear, linear
  {name: a, linear: {features: 4}, nonlinearity: relu}
  {name: b, linear: {features: 5}, norm: batch}
linear, conv
  {name: a, linear: {features: 4}, nonlinearity: elu}
  {name: b, conv: {channels: 4, size: 1}}
max pool
  {name: a, max_pool: {size: 3, stride: 2, padding: 1, ceil: true}}
dilated max pool
  {name: a, max_pool: {size: 2, stride: 1, dilation: 2}}
average pool
  {name: a, average_pool: {size: 3, stride: 2, padding: [[1, 0], 1]}}
average pool in ceil mode
  {name: a, average_pool: {size: 3, stride: 2, ceil: true}}
average pool with padding
  {name: a, average_pool: {size: 3, stride: 2, padding: 1, count_padding: true, ceil: true}}
global pools
  {name: a, global_max_pool: {}}
  {name: b, global_average_pool: {}, input: data}
  {name: c, add: {}, inputs: [a, b]}
local response norm
  {name: a, local_response_norm: {size: 3, alpha: 0.1, beta: 0.6, k: 2}}
batch norm
  {name: a, conv: {channels: 4, size: 3}, norm: {batch: {momentum: 0.2, epsilon: 0.01}}, nonlinearity: relu}
batch norm without factors
  {name: a, batch_norm: {affine: false}}
layer norm
  {name: a, layer_norm: {epsilon: 0.001}}
layer norm without factors
  {name: a, layer_norm: {affine: false}}
group norm
  {name: b, conv: {channels: 4, size: 3}}
  {name: a, group_norm: {groups: 2}}
instance norm
  {name: a, instance_norm: {}}
dropout
  {name: a, dropout: {rate: 0.3}}
joins
  {name: a, conv: {channels: 2, size: 1}}
  {name: b, add: {}, inputs: [a, data, a]}
  {name: c, multiply: {}, inputs: [a, b, data]}
  {name: d, add: {}, inputs: [c, b]}
  {name: e, concat: {axis: C}, inputs: [d, a]}
  {name: f, concat: {axis: H}, inputs: [e, e]}
shapes
  {name: a, flatten: {axis: 1}}
  {name: b, reshape: {shape: [0, 4, 4, 8]}}
  {name: c, transpose: {order: [0, 2, 3, 1]}}
  {name: d, slice: {H: [1, 4, 2], W: [-3, null]}}
  {name: e, pad: {H: [1, 2], W: [0, 1], value: 0.5}}
  {name: f, crop: {H: [1, 1]}}
upsampled
  {name: a, upsample: {scale: [2, 3]}}
  {name: b, upsample: {scale: 2, mode: linear}}
matrix products side by side
  {name: a, linear: {features: 4}}
  {name: b, linear: {features: 3}, input: a}
  {name: c, concat: {axis: C}, inputs: [a, b]}
nonlinearities
  {name: a, affine: {bias: C}, nonlinearity: {threshold: {at: -0.5}}}
  {name: b, add: {}, inputs: [a, data]}
  {name: c, nonlinearity: {leaky_relu: {slope: 0.2}}}
  {name: d, nonlinearity: prelu}
  {name: e, nonlinearity: {elu: {alpha: 0.7}}}
  {name: f, nonlinearity: softplus}
  {name: g, nonlinearity: {softplus: {beta: 2}}}
  {name: h, nonlinearity: gelu}
  {name: i, nonlinearity: {gelu: {approximate: tanh}}}
  {name: j, nonlinearity: silu}
  {name: k, nonlinearity: softmax}
  {name: l, nonlinearity: identity}
  {name: m, nonlinearity: logistic}
  {name: n, nonlinearity: tanh}
"""
"""A name, and the layers of the network."""


def cases():
    found, name = {}, ""
    for line in CASES.strip().splitlines():
        name = name if line.startswith(" ") else line
        found.setdefault(name, []).extend([line.strip()] if line != name else [])
    return found


def network(*layers, dtype="float32", **more):
    return parse_config(config_text([*layers, HEAD], dtype=dtype, batch=3, **more), "net.yaml")


@pytest.mark.parametrize("name", cases())
def test_every_layer(name, tmp_path):
    check(network(*cases()[name]), tmp_path)


def test_double_precision(tmp_path):
    layers = (
        "{name: a, linear: {features: 6}, nonlinearity: tanh}",
        "{name: b, linear: {features: 4}, nonlinearity: relu}",
    )
    check(network(*layers, dtype="float64"), tmp_path)


NODES = """
nodes:
  - {name: m, op: mean, attributes: {over: C}, inputs: {input: data.raw_output}}
  - {name: v, op: variance, attributes: {over: C}, inputs: {input: data.raw_output, mean: m.output}}
  - name: n
    op: normalize
    attributes: {over: C, epsilon: 0.01}
    inputs: {input: data.raw_output, mean: m.output, variance: v.output, scale: n.scale}
  - {name: s, op: softmax_activation, attributes: {axis: H}, inputs: {input: n.output}}
  - {name: e, op: %s, attributes: {%s}, inputs: {input: s.output, labels: data.labels_output}}
"""
HEADS = {
    "squared_error": ("squared_error", ""),
    "probabilities of two classes": ("binary_cross_entropy", ""),
    "scores of two classes": ("binary_cross_entropy", "logits: true"),
}


@pytest.mark.parametrize("head", HEADS)
def test_statistics_by_themselves_and_other_losses(head, tmp_path):
    text = (
        config_text([], batch=3, dtype="float32")
        .replace("layers:\n", NODES % HEADS[head])
        .replace("classes: 3", "label_shape: [2, 8, 8]")
    )
    check(parse_config(text, "net.yaml"), tmp_path)


@pytest.mark.parametrize("shape", ["[5]", "[2, 9]", "[2, 5, 6, 7]"])
def test_any_number_of_dimensions(shape, tmp_path):
    windows = [] if shape == "[5]" else ["{name: c, conv: {channels: 3, size: 3}}", "{name: u, upsample: {scale: 2}}"]
    layers = [*windows, "{name: l, linear: {features: 4}, norm: layer, nonlinearity: gelu}"]
    check(network(*layers, shape=shape), tmp_path)


def test_any_batch(tmp_path):
    layers = (
        "{name: c, conv: {channels: 4, size: 3}, norm: batch, nonlinearity: relu}",
        "{name: r, reshape: {shape: [0, 2, 72]}}",
    )
    path = tmp_path / "m.onnx"
    export(network(*layers), None, path, any_batch=True)
    assert run(path, np.zeros((7, 2, 8, 8), "float32")).shape == (7, 3)
    assert read_model(path).inputs[0].dims == (None, 2, 8, 8)


def test_a_network_of_a_fixed_batch_is_refused(tmp_path):
    config = network("{name: a, reshape: {shape: [6, 64]}}", "{name: b, reshape: {shape: [3, 128]}}")
    with pytest.raises(ConfigError, match="batch"):
        export(config, None, tmp_path / "m.onnx", any_batch=True)
    assert not list(tmp_path.iterdir())


def test_large_values_stand_beside_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "EXTERNAL_NBYTES", 1)
    check(network("{name: l, linear: {features: 20}}"), tmp_path)
    assert sorted(path.name for path in tmp_path.glob("model*")) == ["model.onnx", "model.onnx.data"]
    assert (tmp_path / "model.onnx.data").stat().st_size == 20 * 128 * 4


def test_it_is_said_what_lies_before_the_model(tmp_path):
    flip, crop = "{flip: {axis: W}}", "{crop: {H: 8}}"
    for keys, behind in (
        (f"augment: [{flip}]", ()),
        (f"augment: [{flip}, {crop}]", ("augment",)),
        ("scale: 2, prepare: [{standardize: {}}]", ("scale", "prepare")),
    ):
        config = parse_config(config_text([HEAD], batch=3).replace("samples:", f"{keys}, samples:"), "net.yaml")
        assert export(config, None, tmp_path / "m.onnx", any_batch=False).behind == behind


def test_weights_alone(tmp_path):
    config = network("{name: c, conv: {channels: 4, size: 3}, norm: batch}")
    values = values_of(config)
    export(config, save(values, tmp_path / "net"), tmp_path / "w.safetensors", any_batch=False)
    found = load_file(tmp_path / "w.safetensors")
    assert found.keys() == values.keys() >= {"c.W", "c.running_mean", "c.running_variance", "out.bias1"}
    assert all(np.array_equal(found[name], values[name]) for name in values)
