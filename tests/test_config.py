"""Configs: what they mean, what they refuse and where, and that they come back from their own YAML."""

import argparse
import dataclasses
import random
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.config import AffineConfig, Choice, Nonlinearity, load_config, parse_config, source, to_yaml
from dgraph.config.source import parse, scalar
from dgraph.error import ConfigError, Place
from dgraph.graph.node import Split

BAD = Path(__file__).parent / "bad"
LATER = ("graph_", "data_")
CASES = sorted(path.stem for path in BAD.glob("*.yaml") if not path.stem.startswith(LATER))

REFERENCE = """\
name: reference
mesh: {y: 2, x: 2}
data: {source: synthetic, shape: [1, 41, 41], classes: 3034, batch: 256, read: same, split: {H: y, W: x}}
layers:
  - {name: L0, tiled: {channels: 16, tile: 4, size: 10, stride: 2}, nonlinearity: tanh, split: {H: y, W: x}}
  - {name: L1, tiled: {channels: 16, tile: 4, size: 10, stride: 2}, nonlinearity: tanh, split: {H: y, W: x}}
  - {name: classifier, softmax: {classes: 3034}, split: {H: y, W: x}, loss_split: {N: [y, x]}}
train: {optimizer: {sgd: {rate: 0.01}}, steps: 3}
"""

EVERYTHING = """\
name: everything
dtype: float64
seed: 0x10
mesh: {t: 3, y: 2, x: 2}
data: &data
  source: npz
  path: samples.npz
  batch: 12
  scale: 255
  shares: {train: 0.5, validation: 0.25, test: 0.25}
  shuffle: false
  one_hot: true
  prepare: [standardize, {min_max: {low: -1, per: channel}}, {pca: {components: 9, whiten: true}}]
  fit_batch: 500
  augment: [{flip: {axis: HW}}, {shift: {W: 2}}, {crop: {H: 28}}, {normalize: {mean: [0.5], deviation: [2]}}]
  prefetch: false
  keep: true
  split: {N: {axes: [t, y], sizes: [4, 0, 2, 2, 2, 2]}}
layers:
  - {name: c0, conv: &conv {channels: 8, size: [3, 5], padding: [1, [2, 0]]}, affine: none, nonlinearity: relu}
  - {name: c1, conv: *conv, affine: {bias: CHW}, nonlinearity: {leaky_relu: {slope: 1e-1}}, pieces: {N: 2}}
  - {name: n, affine: {scale: true, bias: none}, input: c0}
  - {name: p, average_pool: {size: 2, count_padding: true}, nonlinearity: tanh, split: {C: x}}
  - {name: q, max_pool: {size: 3, stride: 1}}
  - {name: r, nonlinearity: logistic}
  - {name: f, linear: {features: 20}, init: {normal: {deviation: 0.1}}, shard: true, update_split: {K: [x, t]}}
  - {name: s, softmax: {classes: 10, bias: true}, loss_split: {N: y}}
nodes:
  - name: extra
    op: conv
    attributes: {channels: 4, size: [3, 3], padding: [[1, 0], 1], "name": "no"}
    inputs: {input: c0.conv.output, params: [a, "on"]}
    outputs: {output: here}
    split: {H: y}
    pieces: {W: 3}
parameters:
  c0.W: {init: {xavier: {gain: 2}}, update: update_c0, update_split: {O: y}, shard: false}
train: {optimizer: {adam: {rate: 1e-3}}, epochs: 2, log_every: 0, keep: 1}
tune:
  trials: 6
  rounds: 2
  narrow: 0.4
  seeds: 3
  metric: test.top5
  seed: 7
  keys: {train.optimizer.adam.rate: {log_uniform: [1e-4, 1]}, layers.c0.nonlinearity: {choice: [relu, {elu: {alpha: 2}}]}}
"""


def arguments(path):
    """The ranks and overrides that stand in the first line of a bad config."""
    first = path.read_bytes().split(b"\n")[0].decode(errors="replace")
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=int)
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args(shlex.split(first[2:]) if first.startswith("# -") else [])
    return given.n, given.set


def refused(text, *overrides, ranks=None):
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "f.yaml", overrides, ranks)
    return str(caught.value)


def outcome(call, *arguments):
    """What a call gives, or the ConfigError that it raises."""
    try:
        return call(*arguments)
    except ConfigError as error:
        return error


@pytest.mark.parametrize("name", CASES)
def test_bad_configs_give_their_line(name, monkeypatch):
    monkeypatch.chdir(BAD)
    ranks, overrides = arguments(BAD / f"{name}.yaml")
    with pytest.raises(ConfigError) as caught:
        load_config(f"{name}.yaml", overrides, ranks)
    assert str(caught.value) + "\n" == (BAD / f"{name}.txt").read_text()
    assert caught.value.status == 2


def test_there_are_enough_bad_configs():
    assert len(CASES) >= 40
    assert {path.stem for path in BAD.glob("*.yaml")} == {path.stem for path in BAD.glob("*.txt")}


def test_the_reference_reads_as_it_says():
    config = parse_config(REFERENCE)
    first, _, last = config.layers
    assert (config.name, config.dtype, config.seed, dict(config.mesh)) == ("reference", "float32", 0, {"y": 2, "x": 2})
    assert config.data.shape == (1, 41, 41)
    assert (config.data.samples, config.data.read, config.data.shuffle) == (1024, "same", True)
    assert dict(first.attributes) == {"channels": 16, "tile": 4, "size": 10, "stride": 2}
    assert first.affine == AffineConfig(True, "all")
    assert first.nonlinearity == Nonlinearity("tanh", {})
    assert dict(last.loss_split) == {"N": Split(("y", "x"))}
    assert config.train.optimizer == Choice("sgd", {"rate": 0.01, "momentum": 0.0, "dampening": 0.0, "nesterov": False})
    assert (config.train.steps, config.train.epochs) == (3, None)


def test_every_key_reads_as_it_says():
    config = parse_config(EVERYTHING, "some/dir/file.yaml")
    layers = {layer.name: layer for layer in config.layers}
    assert (config.seed, config.data.scale, config.data.split["N"].sizes) == (16, 255.0, (4, 0, 2, 2, 2, 2))
    assert config.data.path == str(Path("some/dir/samples.npz").absolute())
    assert layers["c0"].attributes["padding"] == (1, (2, 0))
    assert (layers["c0"].affine, layers["c1"].affine) == (None, AffineConfig(False, "CHW"))
    assert (layers["n"].kind, layers["n"].affine, layers["n"].input) == ("affine", AffineConfig(True, None), "c0")
    assert (layers["p"].attributes["stride"], layers["q"].attributes["stride"]) == (2, 1)
    assert layers["r"].kind == "nonlinearity"
    assert layers["f"].init == {"normal": {"mean": 0.0, "deviation": 0.1}}
    assert config.nodes[0].inputs == (("input", "c0.conv.output"), ("params", "a"), ("params", "on"))
    assert config.nodes[0].attributes["name"] == "no"
    assert (config.parameters[0].name, config.parameters[0].shard) == ("c0.W", False)
    assert config.train.optimizer == Choice("adam", {"rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8})


TABLE = """
data: {source: table, rows: [[0, 1.5], [1, -2]], labels: [[0.5, 1], [1e-9, 3]], repeat: 3, batch: 4}
layers: [{name: unit, linear: {features: 2}}]
train: {optimizer: {sgd: {rate: 1}}, steps: 1}
"""


def test_a_table_reads_as_it_says():
    data = parse_config(TABLE).data
    assert (data.rows, data.labels, data.repeat) == (((0, 1.5), (1, -2)), ((0.5, 1), (1e-9, 3)), 3)
    assert (data.shape, data.label_shape, data.classes, data.samples) == ((2,), None, None, None)


FILES = """
data:
  source: idx
  path: [images.gz, more/images]
  labels: [/labels.gz, more/labels]
  sets: {test: {path: t, labels: u}}
  batch: 4
layers: [{name: unit, linear: {features: 2}}]
train: {optimizer: {sgd: {rate: 1}}, steps: 1}
"""
COLUMNS = """
data: {source: csv, path: a.csv, label: [kind, -1], columns: [a, 0], header: false, delimiter: "\\t", batch: 4}
layers: [{name: unit, linear: {features: 2}}]
train: {optimizer: {sgd: {rate: 1}}, steps: 1}
"""
FACES = """
data:
  {source: utkface, path: faces, label: age, bounds: [10, 25.5], channels: 1, size: [64, 48], batch: 4,
   sets: {validation: {path: v}, test: {path: t}}}
layers: [{name: unit, linear: {features: 2}}]
train: {optimizer: {sgd: {rate: 1}}, steps: 1}
"""


def test_files_read_as_they_say():
    data = parse_config(FILES, "some/dir/file.yaml").data
    here = Path("some/dir").absolute()
    assert data.path == (str(here / "images.gz"), str(here / "more/images"))
    assert data.labels == ("/labels.gz", str(here / "more/labels"))
    assert data.sets == {"test": {"path": str(here / "t"), "labels": str(here / "u")}}
    assert (data.shares.train, data.shares.validation, data.shares.test) == (
        pytest.approx(0.875),
        pytest.approx(0.125),
        0,
    )
    other = parse_config(FILES, "some/dir/file.yaml", ["data.sets.test.path=here", "data.shares={train: 1}"]).data
    assert other.sets["test"]["path"] == str(Path("here").absolute())
    assert dataclasses.astuple(other.shares) == (1, 0, 0)
    data = parse_config(COLUMNS).data
    assert (data.label, data.columns, data.header, data.delimiter) == (("kind", -1), ("a", 0), False, "\t")
    data = parse_config(FACES).data
    assert (data.label, data.bounds, data.channels, data.size) == ("age", (10, 25.5), 1, (64, 48))
    assert dataclasses.astuple(data.shares) == (1, 0, 0)


@pytest.mark.parametrize("text", [REFERENCE, EVERYTHING, TABLE, FILES, COLUMNS, FACES])
def test_a_resolved_config_loads_back_equal(text):
    config = parse_config(text)
    plain = config.resolved()
    for dumped in (to_yaml(plain), yaml.safe_dump(plain, sort_keys=False)):
        again = parse_config(dumped)
        assert again == config
        assert list(again.mesh.items()) == list(config.mesh.items())
    assert yaml.safe_load(to_yaml(plain)) == plain


def test_configs_are_frozen():
    config = parse_config(REFERENCE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1
    for mapping in (
        config.mesh,
        config.data.split,
        config.layers[0].attributes,
        config.layers[0].nonlinearity.attributes,
    ):
        with pytest.raises(TypeError):
            mapping["x"] = 1


def test_the_name_is_the_stem_of_the_file(tmp_path):
    path = tmp_path / "my net.yaml"
    path.write_text(REFERENCE.replace("name: reference\n", ""))
    config = load_config(path)
    assert (config.name, config.source) == ("my_net", str(path))


@pytest.mark.parametrize(
    ("mesh", "ranks", "sizes"),
    [
        ("{y: auto, x: 2}", None, [1, 2]),
        ("{y: auto, x: 2}", 6, [3, 2]),
        ("{y: 2, x: auto}", 2, [2, 1]),
        ("{y: 2, x: 2}", 4, [2, 2]),
        ("{}", 1, []),
    ],
)
def test_the_mesh_fits_the_ranks(mesh, ranks, sizes):
    text = re.sub("split: {[^}]*}, |, split: {[^}]*}|, loss_split: {[^}]*}", "", REFERENCE)
    assert list(parse_config(text, overrides=[f"mesh={mesh}"], ranks=ranks).mesh.values()) == sizes


def test_a_mesh_against_the_ranks_is_told_at_its_place():
    assert refused(REFERENCE, ranks=3) == (
        "f.yaml:2:7: error: mesh 2 x 2 has 4 ranks, but 3 were started (start 4, or set an axis to auto)"
    )
    assert refused(REFERENCE, "mesh.y=3", ranks=4).startswith("f.yaml:2:7: error: mesh 3 x 2 has 6 ranks")


@pytest.mark.parametrize(
    ("path", "line", "column"),
    [
        ("layers.L0.split.H", 5, 100),
        ("layers.0.split.H", 5, 100),
        ("layers.classifier.loss_split.N.1", 7, 91),
        ("layers.L0.input", 5, 5),
        ("train.optimizer.sgd.rate", 8, 33),
        ("nothing", 1, 1),
    ],
)
def test_places_by_path(path, line, column):
    assert parse_config(REFERENCE, "f.yaml").place(path) == Place("f.yaml", line, column)


def test_places_of_keys_and_of_specs():
    config = parse_config(EVERYTHING, "f.yaml")
    assert config.place("nodes.extra.op", key=True).line == 30
    assert (config.nodes[0].place.line, config.parameters[0].place.line, config.layers[3].place.line) == (29, 37, 23)


def test_overrides():
    config = parse_config(
        EVERYTHING,
        "dir/f.yaml",
        [
            "train.steps=5",
            "train.epochs=null",
            "layers.0.pieces={N: 3}",
            "layers.c1.pieces.N=4",
            "parameters.c0.W.shard=true",
            'parameters."f.W".init=he',
            "data.path=here.npz",
            "mesh={x: 2, t: 3, y: 2}",
            "name='1e3'",
        ],
    )
    assert (config.train.steps, config.train.epochs) == (5, None)
    assert [dict(layer.pieces) for layer in config.layers[:2]] == [{"N": 3}, {"N": 4}]
    assert [(one.name, one.shard) for one in config.parameters] == [("c0.W", True), ("f.W", None)]
    assert config.data.path == str(Path("here.npz").absolute())
    assert (list(config.mesh), config.name) == (["x", "t", "y"], "1e3")
    assert config.place("train.steps").file == "--set train.steps"


def test_an_override_of_an_alias_leaves_its_anchor_alone():
    config = parse_config(EVERYTHING, overrides=["layers.c1.conv.channels=9"])
    assert [layer.attributes["channels"] for layer in config.layers[:2]] == [8, 9]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("+.5E1", 5.0),
        ("1.", 1.0),
        ("007", 7),
        ("0o17", 15),
        ("0xfF", 255),
        ("-3", -3),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("0b1", "0b1"),
        ("0x", "0x"),
        (".", "."),
        ("e3", "e3"),
        ("yes", "yes"),
        ("off", "off"),
        ("y", "y"),
        ("TRUE", True),
        ("tRUE", "tRUE"),
        ("null", None),
        ("2024-01-01", "2024-01-01"),
    ],
)
def test_scalars_follow_the_core_rules(text, value):
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[" * 100_000, "f:1:51: error: values are nested more than 50 deep (no config needs that)"),
        ("- " * 100_000, "f:1:101: error: values are nested more than 50 deep (no config needs that)"),
        ("a: " + "{a: " * 100_000, "f:1:200: error: values are nested more than 50 deep (no config needs that)"),
        ("a: &x [*x]", "f:1:8: error: alias *x stands inside the value that it refers to"),
        ("a:\n\tb: 1", "f:2:1: error: a tab cannot indent (use spaces)"),
    ],
)
def test_hostile_text_ends_in_one_line(loader, text, line, monkeypatch):
    monkeypatch.setattr(source, "_LOADER", getattr(yaml, loader))
    start = time.perf_counter()
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    assert str(caught.value) == line
    assert time.perf_counter() - start < 2


def test_depth_through_aliases_counts():
    nest = "".join(f"a{k}: &a{k} [*a{k - 1}]\n" for k in range(1, 60))
    assert "nested more than 50 deep (through aliases)" in refused("a0: &a0 []\n" + nest)


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "absent.yaml", tmp_path, "a\0b"):
        with pytest.raises(ConfigError, match="cannot read the file"):
            load_config(path)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    path = tmp_path / "marked.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + REFERENCE.encode())
    assert load_config(path) == parse_config(REFERENCE)


WORDS = [
    "null",
    "-1",
    "1.5",
    "auto",
    "[]",
    "{}",
    "{a: b}",
    "&a",
    "*a",
    "!t",
    "\n",
    "\t",
    "'",
    '"',
    "\0",
    "é",
    "]",
    ": ",
]
PATHS = ["layers", "L0", "0", "split", "H", "mesh", "y", "train", "", "²", '"', "99999999999"]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(PATHS), max_size=4), st.sampled_from(["=", "= ", ""]))
def test_mutations_load_back_or_give_one_line(seed, steps, equals):
    chosen = random.Random(seed)
    tokens = list(re.finditer(r"[\w.-]+|[\[\]{},:]", REFERENCE))
    start, stop = chosen.choice(tokens).span()
    text = REFERENCE[:start] + chosen.choice(WORDS) + REFERENCE[stop:]
    overrides = [".".join(steps) + equals + chosen.choice(WORDS)] if chosen.random() < 0.5 else []
    result = outcome(parse_config, text, "f.yaml", overrides, chosen.choice([None, 1, 4]))
    if isinstance(result, ConfigError):
        assert result.place is not None
        assert str(result).isprintable()
    else:
        assert parse_config(to_yaml(result.resolved())) == result


@given(
    st.recursive(st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False), st.lists, max_leaves=5)
)
def test_what_is_dumped_is_what_is_read(value):
    def plain(tree):
        return [plain(item) for item in tree.value] if isinstance(tree.value, list) else tree.value

    result = outcome(parse, to_yaml({"key": value}), "f")
    if isinstance(result, ConfigError):
        assert "digits" in result.what
    else:
        assert plain(result.value["key"]) == value


def test_importing_config_is_light():
    script = "import sys, dgraph.config; print([m for m in ('numpy', 'mpi4py', 'networkx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"
