"""Layers with windows: what they expand to, what is refused, and any layout against one rank."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgraph.plan.check import check_plan
from dgraph.plan.make import make_plan
from dgraph.verify import compare, one_rank, run_steps
from tests.networks import config_text, load, program
from tests.test_equality import splits

LIMIT = {"float64": 1e-9, "float32": 1e-4}
MESHES = {3: "{y: 3, x: 1}", 4: "{y: 2, x: 2}", 6: "{y: 3, x: 2}"}
OUT = "{name: out, softmax: {classes: 3}, split: {N: y}}"


def network(*lines, mesh=MESHES[4], shape="[4, 9, 8]", dtype="float64", batch=3):
    return config_text([*lines, OUT], mesh, shape, batch=batch, dtype=dtype)


def worst(text, steps=2):
    config = load(text)
    return compare(run_steps(config, steps), run_steps(one_rank(config), steps))["worst"]


# --- layers to nodes


@pytest.mark.parametrize(
    ("kind", "nodes"),
    [
        ("conv_transpose: {channels: 2, size: 3}, nonlinearity: relu", ["L.conv", "L.convA", "L.convNL"]),
        ("conv_transpose: {channels: 2, size: 2, stride: 2}, affine: none", ["L.conv"]),
        ("max_pool: {size: 3, stride: 2, dilation: 2, ceil: true}", ["L.pool"]),
        ("average_pool: {size: 3, ceil: true, count_padding: true}, nonlinearity: tanh", ["L.pool", "L.poolNL"]),
        ("global_max_pool: {}", ["L.pool"]),
        ("local_response_norm: {size: 5, alpha: 1.0e-4, beta: 0.75, k: 2}", ["L.local_response_norm"]),
    ],
)
def test_nodes_of_a_layer(kind, nodes):
    graph = program(network(f"{{name: L, {kind}}}")).forward
    assert [name for name in graph.ops if name.startswith("L.")] == nodes


@pytest.mark.parametrize(
    ("kind", "dim"),
    [
        ("conv_transpose: {channels: 2, size: 3, stride: 2}", (3, 2, 19, 17)),
        ("conv_transpose: {channels: 2, size: [1, 4], stride: [3, 2], padding: [0, [1, 2]]}", (3, 2, 25, 15)),
        ("conv_transpose: {channels: 2, size: 2, stride: 2, output_padding: [1, 0], groups: 2}", (3, 2, 19, 16)),
        ("conv_transpose: {channels: 2, size: 3, dilation: 4, padding: 2}", (3, 2, 13, 12)),
        ("max_pool: {size: 3, stride: 2}", (3, 4, 4, 3)),
        ("max_pool: {size: 3, stride: 2, ceil: true}", (3, 4, 4, 4)),
        ("max_pool: {size: 2, stride: 3, padding: 1, ceil: true}", (3, 4, 4, 3)),
        ("max_pool: {size: 3, stride: 1, dilation: [1, 3]}", (3, 4, 7, 2)),
        ("average_pool: {size: [1, 8]}", (3, 4, 9, 1)),
        ("global_max_pool: {}", (3, 4, 1, 1)),
        ("local_response_norm: {size: 9}", (3, 4, 9, 8)),
    ],
)
def test_dims_of_a_layer(kind, dim):
    graph = program(network(f"{{name: L, {kind}}}")).forward
    first = next(node for name, node in graph.ops.items() if name.startswith("L."))
    assert graph.tensors[dict(first.outputs)["output"]].dim == dim


def test_parameters_of_a_transposed_convolution_are_those_of_the_convolution_turned_round():
    graph = program(network("{name: L, conv_transpose: {channels: 6, size: [3, 2], groups: 2}}")).forward
    assert {p.name: p.dim for p in graph.parameters if p.name.startswith("L.")} == {
        "L.W": (4, 3, 3, 2),
        "L.b": (1, 6, 1, 1),
    }


# --- any layout


HALO = "{name: A, conv: {channels: 6, size: 3, padding: 1}, nonlinearity: tanh, split: {H: y, W: x}}"
FILTER = "{name: A, conv: {channels: 6, size: 3, padding: 1}, nonlinearity: tanh, split: {O: [y, x]}}"
LAYERS = [
    "conv_transpose: {channels: 4, size: 3, stride: 2, output_padding: 1}, split: {H: [y, x]}",
    "conv_transpose: {channels: 4, size: 2, stride: 2}, split: {H: y, W: x}",
    "conv_transpose: {channels: 3, size: 1, stride: 3, output_padding: 2}, split: {H: y, W: x}",
    "conv_transpose: {channels: 3, size: [1, 5], stride: [2, 1], padding: [0, [1, 3]]}, split: {W: y, H: x}",
    "conv_transpose: {channels: 4, size: 3, stride: 3, padding: 2, dilation: 2}, split: {H: [y, x]}",
    "conv_transpose: {channels: 4, size: 3, stride: 2, groups: 2}, split: {O: y, C: x}",
    "conv_transpose: {channels: 6, size: 3, stride: 2, groups: 6}, split: {O: [y, x]}",
    "conv_transpose: {channels: 4, size: 3, stride: 2}, split: {N: y, I: x}",
    "conv_transpose: {channels: 4, size: 2, stride: 3}, split: {H: {axes: [y, x], sizes: [SIZES]}}",
    "conv_transpose: {channels: 4, size: 3, stride: 2}, pieces: {H: 3, O: 2}, split: {N: y}",
    "conv: {channels: 6, size: [1, 7], padding: [0, 3], groups: 6}, split: {W: [y, x]}",
    "conv: {channels: 4, size: [7, 1], padding: [[4, 2], 0], dilation: [2, 1]}, split: {H: y, O: x}",
    "max_pool: {size: 3, stride: 2, dilation: 2, padding: [[2, 1], [0, 2]], ceil: true}, split: {H: y, W: x}",
    "max_pool: {size: 3, stride: 2, ceil: true}, split: {W: [y, x]}",
    "average_pool: {size: 3, stride: 2, ceil: true, padding: 1, count_padding: true}, split: {W: [y, x]}",
    "average_pool: {size: [3, 1], stride: 2, ceil: true, padding: [[1, 2], 0]}, split: {H: y, I: x}",
    "average_pool: {size: 2, stride: 1, dilation: 3, padding: 2}, split: {H: y, W: x}",
    "global_max_pool: {}, split: {C: [y, x]}",
    "global_max_pool: {}, nonlinearity: tanh",
    "local_response_norm: {size: 5, alpha: 0.5}, split: {C: [y, x]}",
    "local_response_norm: {size: 4, alpha: 2, beta: 1.5, k: 0.5}, split: {C: y, H: x}",
    "local_response_norm: {size: 3}, pieces: {C: 3}",
]
UNEVEN = {3: "2, 0, 7", 4: "0, 6, 0, 3", 6: "0, 4, 0, 0, 4, 1"}


@pytest.mark.parametrize("ranks", MESHES)
@pytest.mark.parametrize("layer", LAYERS)
def test_any_layout_gives_the_result_of_one_rank(layer, ranks):
    line = f"{{name: L, {layer}}}".replace("SIZES", UNEVEN[ranks])
    dtype = "float32" if ranks == 3 else "float64"
    first = FILTER if ranks == 4 else HALO
    assert worst(network(first, line, mesh=MESHES[ranks], dtype=dtype)) <= LIMIT[dtype]


def per_dimension(draw, letters, least, most):
    return [draw(st.integers(least, most)) for _ in letters]


def transposed(draw, letters, extents):
    """(attributes, letters of a split) of a transposed convolution."""
    groups = draw(st.sampled_from([1, 1, 2]))
    size, stride = per_dimension(draw, letters, 1, 4), per_dimension(draw, letters, 1, 4)
    dilation, beyond = per_dimension(draw, letters, 1, 2), per_dimension(draw, letters, 0, 2)
    reach = [(n - 1) * s + d * (k - 1) for n, k, s, d in zip(extents, size, stride, dilation, strict=True)]
    padding = [per_dimension(draw, range(2), 0, min(2, most // 2)) for most in reach]
    attributes = (
        f"size: {size}, stride: {stride}, dilation: {dilation}, padding: {padding}, output_padding: {beyond}, "
        f"groups: {groups}, channels: {groups * draw(st.integers(1, 3))}"
    )
    return attributes, ["N", "O", "C", *letters, "J"]


def pooled(draw, letters, extents):
    """The same of pooling, its windows at most as large as the input, in ceil mode."""
    size = [draw(st.integers(1, min(3, n))) for n in extents]
    padding = [per_dimension(draw, range(2), 0, k - 1) for k in size]
    stride = per_dimension(draw, letters, 1, 3)
    return f"size: {size}, stride: {stride}, padding: {padding}, ceil: true", ["N", "C", *letters]


def normed(draw, letters, extents):
    """The same of local response normalisation."""
    return f"size: {draw(st.integers(1, 6))}, alpha: 0.5", ["N", "C", *letters]


KINDS = {
    "conv_transpose": transposed,
    "max_pool": pooled,
    "average_pool": pooled,
    "local_response_norm": normed,
    "global_max_pool": lambda draw, letters, extents: ("", ["N", "C"]),
}


@st.composite
def windowed(draw):
    """A network with any window in the middle, in any split: 1 to 3 spatial dimensions, 2 to 6 ranks."""
    sizes = draw(st.sampled_from([[2], [3], [4], [2, 2], [3, 2], [1, 4], [2, 1, 3]]))
    mesh = dict(zip("zyx", sizes, strict=False))
    letters = draw(st.sampled_from(["W", "HW", "HW", "DHW"]))
    extents = per_dimension(draw, letters, 1, 12 // len(letters))
    batch = draw(st.integers(1, 4))
    kind = draw(st.sampled_from(["conv_transpose", "conv_transpose", *KINDS]))
    attributes, cuts = KINDS[kind](draw, letters, extents)
    split = draw(splits(mesh, cuts, {"N": batch, letters[0]: extents[0]} if kind == "conv_transpose" else {"N": batch}))
    nothing = ", affine: none" if kind == "conv_transpose" else ""
    tail = draw(st.sampled_from(["nonlinearity: tanh", f"nonlinearity: logistic{nothing}", f"split: {split}{nothing}"]))
    behind = draw(st.sampled_from(["", "max_pool: {size: 1}", "conv: {channels: 2, size: 3, padding: 1}"]))
    lines = [
        f"{{name: A, conv: {{channels: 4, size: 1}}, nonlinearity: tanh, split: {draw(splits(mesh, ['N', 'O'], {}))}}}",
        f"{{name: L, {kind}: {{{attributes}}}, {tail}{'' if 'split' in tail else f', split: {split}'}}}",
        *([f"{{name: B, {behind}}}"] if behind else []),
        f"{{name: out, softmax: {{classes: 3}}, split: {draw(splits(mesh, ['N', 'K', 'C', letters[-1]], {}))}}}",
    ]
    axes = "{" + ", ".join(f"{name}: {n}" for name, n in mesh.items()) + "}"
    return config_text(lines, axes, str([3, *extents]), batch=batch)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(windowed())
def test_windows_on_random_layouts(text):
    assert worst(text, steps=1) <= LIMIT["float64"], text


# --- what is sent


def sent(text, tensor):
    """Elements of a tensor that each rank sends; the plan is sound."""
    layout = program(text).layout
    plans = [make_plan(layout, rank) for rank in range(layout.mesh.ranks)]
    assert check_plan(layout, plans) == []
    return [plan.transfers[tensor].sends.elements if tensor in plan.transfers else 0 for plan in plans]


def test_a_response_norm_sends_a_halo_of_channels():
    line = "{name: L, local_response_norm: {size: 5}, split: {C: x}}"
    first = "{name: A, conv: {channels: 12, size: 1}, split: {O: x}}"
    text = network(first, line, mesh="{y: 1, x: 3}", shape="[4, 5, 6]", batch=2)
    plane = 2 * 5 * 6
    assert sent(text, "A.convA.output") == [2 * plane, 4 * plane, 2 * plane]
    assert sent(text, "A.convA.output.grad") == [2 * plane, 4 * plane, 2 * plane]


def test_windows_of_a_transposed_convolution_send_what_overlaps():
    line = "{name: L, conv_transpose: {channels: 2, size: SIZE, stride: 2}, split: {H: x}}"
    text = network(line, mesh="{y: 1, x: 3}", shape="[4, 9, 6]", batch=2)
    assert sent(text.replace("SIZE", "2"), "L.conv.output") == [0, 0, 0]
    row = 2 * 2 * 14
    assert sent(text.replace("SIZE", "4"), "L.conv.output") == [0, 2 * row, 2 * row]
