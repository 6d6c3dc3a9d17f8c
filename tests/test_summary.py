"""The summary of a network: figures worked by hand, shared parameters, folding, and what the command prints."""

import json

import pytest

import dgraph
from dgraph.cli.main import main
from dgraph.config import parse_config
from dgraph.summary import summarize

TEXT = """\
name: small
mesh: {p: 2}
data: {source: synthetic, shape: [3, 8, 8], classes: 10, batch: 4}
blocks:
  unit:
    parameters: {channels: , stride: 1}
    layers:
      - {name: conv, conv: {channels: $channels, size: 3, stride: $stride, padding: 1, groups: 1}, norm: batch}
      - {name: up, conv_transpose: {channels: $channels, size: 2, stride: 2, groups: 2}}
layers:
  - {name: stage, block: {unit: {channels: 4}}, repeat: 2, last: {stride: 2}}
  - {name: pool, max_pool: {size: 2}}
  - {name: tiled, tiled: {channels: 2, tile: 1, size: 2, stride: 2}, split: {H: p}}
  - {name: out, softmax: {classes: 10, bias: true}}
train: {optimizer: {sgd: {rate: 0.1}}, steps: 1}
"""
BY_HAND = {
    "data": ("data", (4, 3, 8, 8), 0, 0),
    "stage.0.conv": ("conv", (4, 4, 8, 8), 4 * 3 * 9 + 8, 64 * 4 * 3 * 9),
    "stage.0.up": ("conv_transpose", (4, 4, 16, 16), 4 * 2 * 4 + 4, 64 * 4 * 2 * 4),
    "stage.1.conv": ("conv", (4, 4, 8, 8), 4 * 4 * 9 + 8, 64 * 4 * 4 * 9),
    "stage.1.up": ("conv_transpose", (4, 4, 16, 16), 4 * 2 * 4 + 4, 64 * 4 * 2 * 4),
    "pool": ("max_pool", (4, 4, 8, 8), 0, 0),
    "tiled": ("tiled", (4, 2, 4, 4), 16 * 2 * 4 * 4 + 1 + 2 * 16, 16 * 2 * 4 * 4),
    "out": ("softmax", (4, 10, 1, 1), 10 * 2 * 16 + 10, 10 * 2 * 16),
}


def test_the_figures_of_every_layer():
    summary = summarize(parse_config(TEXT))
    assert {row.name: (row.kind, row.dim, row.parameters, row.macs) for row in summary.layers} == BY_HAND
    assert summary.parameters == sum(row[2] for row in BY_HAND.values())
    assert summary.macs == sum(row[3] for row in BY_HAND.values())
    assert summary.parameter_nbytes == 4 * summary.parameters
    assert {row.name: row.output_nbytes for row in summary.layers}["stage.0.conv"] == 4 * 4 * 4 * 8 * 8


def test_figures_do_not_depend_on_batch_or_mesh_and_bytes_on_the_type():
    one = summarize(parse_config(TEXT))
    two = summarize(parse_config(TEXT, overrides=["data.batch=7", "mesh.p=3", "dtype=float64"]))
    assert (one.parameters, one.macs) == (two.parameters, two.macs)
    assert two.parameter_nbytes == 2 * one.parameter_nbytes


@pytest.mark.parametrize(("depth", "names"), [
    (1, ["data", "stage", "pool", "tiled", "out"]),
    (2, ["data", "stage.0", "stage.1", "pool", "tiled", "out"]),
    (3, [*BY_HAND]),
])  # fmt: skip
def test_folding_keeps_the_totals(depth, names):
    whole, folded = summarize(parse_config(TEXT)), summarize(parse_config(TEXT), depth)
    assert [row.name for row in folded.layers] == names
    assert (whole.parameters, whole.macs) == (folded.parameters, folded.macs)
    assert [sum(getattr(row, key) for row in folded.layers) for key in ("parameters", "macs")] == [
        whole.parameters,
        whole.macs,
    ]
    if depth == 1:
        assert (folded.layers[1].kind, folded.layers[1].dim) == ("4 layers", (4, 4, 16, 16))


def test_a_shared_parameter_counts_once():
    text = """\
data: {source: synthetic, shape: [3, 4, 4], classes: 5, batch: 2}
nodes:
  - {name: a, op: conv, attributes: {channels: 3, size: 1}, inputs: {input: data.raw_output, filters: W}}
  - {name: b, op: conv, attributes: {channels: 3, size: 1}, inputs: {input: a.output, filters: W}}
  - {name: c, op: linear, attributes: {features: 5}, inputs: {input: b.output, weights: V}}
  - {name: loss, op: softmax, inputs: {input: c.output, labels: data.labels_output}}
train: {optimizer: {sgd: {rate: 0.1}}, steps: 1}
"""
    rows = {row.name: (row.kind, row.parameters, row.macs) for row in summarize(parse_config(text)).layers}
    assert (rows["a"], rows["b"], rows["c"]) == (("conv", 9, 144), ("conv", 0, 144), ("linear", 240, 240))


def test_the_command(tmp_path, capsys):
    path = tmp_path / "small.yaml"
    path.write_text(TEXT)
    with pytest.raises(SystemExit) as exit_:
        main(["summary", str(path), "--depth", "1", "--json"])
    lines = capsys.readouterr().out.splitlines()
    assert exit_.value.code == 0
    summary = summarize(parse_config(TEXT), 1)
    assert lines[0] == "small: outputs of a batch of 4, multiply-accumulates (macs) of one sample"
    assert lines[3].split()[:3] == ["stage", "4", "layers"]
    assert lines[-3].split()[:3] == ["total", f"{summary.parameters:,}", f"{summary.macs:,}"]
    told = json.loads(lines[-1])
    assert told == json.loads(json.dumps(summary.plain()))
    assert {"parameters", "macs", "layers"} <= told.keys()


def test_what_does_not_fit_is_told(tmp_path, capsys):
    path = tmp_path / "small.yaml"
    path.write_text(TEXT.replace("size: 3,", "size: 17,"))
    with pytest.raises(SystemExit) as exit_:
        main(["summary", str(path)])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.startswith(f"{path}:8:")
    assert error.endswith("in block unit, used as stage.0, line 11)\n")


def test_from_python(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(TEXT)
    assert dgraph.load(path).summary(2) == summarize(parse_config(TEXT), 2).plain()
