"""How many terms stand behind a parameter's elements: what Xavier, He and LeCun divide by."""

import pytest

from dgraph.graph.fan import fans
from tests.networks import config_text, program

OUT = "{name: out, softmax: {classes: 3}}"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("conv: {channels: 6, size: 3}", (4 * 9, 6 * 9)),
        ("conv: {channels: 6, size: [1, 7], padding: [0, 3], stride: 2}", (4 * 7, 6 * 7)),
        ("conv: {channels: 6, size: 3, groups: 2}", (2 * 9, 3 * 9)),
        ("conv: {channels: 8, size: 3, groups: 4}", (9, 2 * 9)),
        ("tiled: {channels: 2, tile: 2, size: 2, stride: 2}", (4 * 4, 2 * 4 * 4)),
        ("linear: {features: 5}", (4 * 64, 5)),
        ("conv_transpose: {channels: 6, size: 3}", (4 * 9, 6 * 9)),
        ("conv_transpose: {channels: 6, size: 2, stride: 2}", (4, 6 * 4)),
        ("conv_transpose: {channels: 6, size: 3, stride: 2, groups: 2}", (2 * 4, 3 * 9)),
        ("conv_transpose: {channels: 6, size: 1, stride: 3}", (4, 6)),
    ],
)
def test_fans(kind, expected):
    graph = program(config_text([f"{{name: L, {kind}}}", OUT], mesh="{y: 1}", shape="[4, 8, 8]")).graph
    assert fans(graph, "L.W") == expected
