"""Any layout gives the one-rank result: random networks, splits and meshes, ranks as threads."""

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgraph.verify import compare, one_rank, run_steps
from tests.networks import SPATIAL, config_text, load

SPATIAL_LETTERS = {1: "W", 2: "HW", 3: "DHW"}
LIMIT = {"float64": 1e-10, "float32": 1e-4}


def worst(text, steps=2, overrides=()):
    config = load(text, overrides)
    return compare(run_steps(config, steps, every=True), run_steps(one_rank(config), steps, every=True))


@st.composite
def splits(draw, mesh, letters, sizes):
    """A random split of some letters by disjoint axes, now and then with sizes of its own (zeros too)."""
    axes = draw(st.permutations(list(mesh)))
    entries = []
    for letter in draw(st.permutations(letters)):
        count = draw(st.integers(0, min(2, len(axes))))
        if not count:
            continue
        mine, axes = axes[:count], axes[count:]
        parts = 1
        for axis in mine:
            parts *= mesh[axis]
        if letter in sizes and draw(st.integers(0, 3)) == 0:
            cuts = sorted(draw(st.lists(st.integers(0, sizes[letter]), min_size=parts - 1, max_size=parts - 1)))
            bounds = [0, *cuts, sizes[letter]]
            own = [b - a for a, b in pairwise(bounds)]
            entries.append(f"{letter}: {{axes: [{', '.join(mine)}], sizes: {own}}}")
        else:
            entries.append(f"{letter}: [{', '.join(mine)}]")
    return "{" + ", ".join(entries) + "}"


def extents_of(extents, size, stride, padding, dilation):
    return [
        (n + a + b - d * (k - 1) - 1) // s + 1
        for n, k, s, (a, b), d in zip(extents, size, stride, padding, dilation, strict=True)
    ]


@st.composite
def windows(draw, extents, dilations=2, most=7):
    """(size, stride, padding, dilation) of a window that fits: even kernels, strides, lopsided padding."""
    size, stride, padding, dilation = [], [], [], []
    for n in extents:
        k = draw(st.integers(1, min(most, n)))
        before, after = draw(st.integers(0, k - 1)), draw(st.integers(0, k - 1))
        room = (n + before + after - 1) // (k - 1) if k > 1 else 1
        size.append(k)
        stride.append(draw(st.integers(1, 3)))
        padding.append([before, after])
        dilation.append(draw(st.integers(1, max(1, min(dilations, room)))))
    return size, stride, padding, dilation


@st.composite
def layers(draw, number, mesh, channels, extents, batch):
    """(line, channels, extents) of one layer that fits."""
    letters = SPATIAL_LETTERS[len(extents)]
    spatial = list(letters)
    kind = draw(st.sampled_from(["conv", "conv", "conv", "max_pool", "average_pool", "tiled", "affine", "linear"]))
    follow = draw(st.integers(0, 3)) == 0
    function = draw(st.sampled_from(["identity", "tanh", "relu", "logistic", "{leaky_relu: {slope: 0.2}}"]))
    name = f"L{number}"
    pieces = draw(st.sampled_from(["", ", pieces: {N: 2}", f", pieces: {{{spatial[0]}: 3}}"])) if kind == "conv" else ""
    if kind == "affine":
        bias = draw(st.sampled_from(["C", "".join(["C", *spatial]), "".join(["N", *spatial]), spatial[-1]]))
        split = draw(splits(mesh, ["N", "C", *spatial], {"N": batch, "C": channels}))
        body = f"affine: {{scale: true, bias: {bias}}}"
    elif kind == "linear":
        out = draw(st.integers(1, 5))
        split = draw(splits(mesh, ["N", "K", "C", *spatial], {"N": batch, "K": out, "C": channels}))
        body, channels, extents = f"linear: {{features: {out}}}", out, [1] * len(extents)
    elif kind == "tiled":
        size, stride, _, _ = draw(windows(extents, 1, 4))
        tile = [draw(st.integers(1, 3)) for _ in extents]
        counts = extents_of(extents, size, stride, [[0, 0]] * len(extents), [1] * len(extents))
        out = draw(st.integers(1, 3))
        cuts = ["N", "O", "C", *spatial, {1: "J", 2: "I", 3: "L"}[len(extents)]]
        split = draw(splits(mesh, cuts, {"N": batch, "O": out, spatial[0]: counts[0]}))
        body = f"tiled: {{channels: {out}, tile: {tile}, size: {size}, stride: {stride}}}"
        channels, extents = out, [n * t for n, t in zip(counts, tile, strict=True)]
    elif kind == "conv":
        size, stride, padding, dilation = draw(windows(extents))
        groups = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
        out = groups * draw(st.integers(1, 3))
        counts = extents_of(extents, size, stride, padding, dilation)
        cuts = ["N", "O", "C", *spatial, "J"]
        split = draw(splits(mesh, cuts, {"N": batch, "O": out, spatial[0]: counts[0]}))
        body = (
            f"conv: {{channels: {out}, size: {size}, stride: {stride}, padding: {padding}, "
            f"dilation: {dilation}, groups: {groups}}}"
        )
        channels, extents = out, counts
    else:
        size, stride, padding, _ = draw(windows(extents, 1, 4))
        counts = extents_of(extents, size, stride, padding, [1] * len(extents))
        split = draw(splits(mesh, ["N", "C", *spatial], {"N": batch, spatial[0]: counts[0]}))
        body, extents = f"{kind}: {{size: {size}, stride: {stride}, padding: {padding}}}", counts
    split = "" if follow else f", split: {split}"
    if follow or "{N" in split or f"{spatial[0]}:" in split or "N:" in split:
        pieces = ""
    return f"{{name: {name}, {body}, nonlinearity: {function}{split}{pieces}}}", channels, extents


@st.composite
def networks(draw):
    """A whole config: 1 to 6 ranks, 1 to 3 spatial dimensions, 1 to 4 layers, every layer in a layout of its own."""
    sizes = draw(st.sampled_from([[1], [2], [3], [4], [6], [2, 2], [2, 3], [3, 2], [1, 4], [2, 1, 3], [2, 2, 1]]))
    mesh = dict(zip("zyx", sizes, strict=False))
    ndim = draw(st.sampled_from([1, 2, 2, 2, 3]))
    batch = draw(st.integers(1, 5))
    channels = draw(st.integers(1, 4))
    extents = [draw(st.integers(3, {1: 12, 2: 9, 3: 5}[ndim])) for _ in range(ndim)]
    shape = [channels, *extents]
    lines = []
    for number in range(draw(st.integers(1, 4))):
        if min(extents) < 1:
            break
        line, channels, extents = draw(layers(number, mesh, channels, extents, batch))
        lines.append(line)
    head = draw(splits(mesh, ["N", "K", "C", *SPATIAL_LETTERS[ndim]], {"N": batch, "C": channels}))
    loss = draw(splits(mesh, ["N"], {"N": batch}))
    bias = draw(st.sampled_from(["true", "false"]))
    loss = draw(st.sampled_from(["", f", loss_split: {loss}"]))
    lines.append(f"{{name: out, softmax: {{classes: 3, bias: {bias}}}, split: {head}{loss}}}")
    rule = draw(st.sampled_from(["{sgd: {rate: 0.1, momentum: 0.5}}", "{sgd: {rate: 0.1}}", "{adam: {rate: 0.01}}"]))
    shard = draw(st.sampled_from(["true", "false"]))
    mesh_text = "{" + ", ".join(f"{k}: {v}" for k, v in mesh.items()) + "}"
    read = draw(st.sampled_from(["rect", "same"]))
    text = config_text(
        lines, mesh_text, str(shape), 3, batch, "float64", f"{{optimizer: {rule}, steps: 2, shard: {shard}}}"
    )
    return text.replace("samples:", f"read: {read}, samples:")


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks())
def test_random_networks_on_random_layouts(text):
    result = worst(text)
    # Adam divides by the root of squares: a gradient that is zero but for rounding moves a parameter by its rate.
    limit = 1e-6 if "adam" in text else LIMIT["float64"]
    values = [result["loss"], *result["gradients"].values()]
    assert max(values if "adam" in text else [result["worst"]]) <= limit, (text, result)


MIXED = {
    "batch": [
        "{name: C1, conv: {channels: 4, size: 3, padding: 1}, nonlinearity: relu, split: {N: [y, x]}}",
        "{name: out, softmax: {classes: 3}, split: {N: [y, x]}}",
    ],
    "spatial": [
        "{name: C1, conv: {channels: 4, size: 5, padding: 2}, nonlinearity: relu, split: {H: y, W: x}}",
        "{name: C2, conv: {channels: 4, size: 3, stride: 2}, nonlinearity: tanh, split: {H: y, W: x}}",
        "{name: out, softmax: {classes: 3}, split: {H: y, W: x}, loss_split: {N: [y, x]}}",
    ],
    "filter": [
        "{name: C1, conv: {channels: 5, size: 3}, nonlinearity: relu, split: {O: [y, x]}}",
        "{name: F1, linear: {features: 7}, nonlinearity: tanh, split: {K: [y, x]}}",
        "{name: out, softmax: {classes: 3}, split: {K: y}}",
    ],
    "channel": [
        "{name: C1, conv: {channels: 5, size: 3}, nonlinearity: relu, split: {C: y, N: x}}",
        "{name: F1, linear: {features: 7}, nonlinearity: tanh, split: {C: [y, x]}}",
        "{name: out, softmax: {classes: 3}, split: {C: x}, loss_split: {N: y}}",
    ],
    "changing": list(SPATIAL),
    "tiled": [
        "{name: L0, tiled: {channels: 3, tile: 2, size: 3, stride: 2}, nonlinearity: tanh, split: {H: y, W: x}}",
        "{name: L1, tiled: {channels: 2, tile: 1, size: 4, stride: 1}, nonlinearity: tanh, split: {H: [y, x]}}",
        "{name: out, softmax: {classes: 3}, split: {H: y, W: x}, loss_split: {N: [y, x]}}",
    ],
}
MESHES = {1: "{y: 1, x: 1}", 2: "{y: 2, x: 1}", 3: "{y: 1, x: 3}", 4: "{y: 2, x: 2}", 6: "{y: 3, x: 2}"}


@pytest.mark.parametrize("ranks", MESHES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shard", ["false", "true"])
@pytest.mark.parametrize("name", MIXED)
def test_mixed_layouts_after_five_steps(name, shard, dtype, ranks):
    rule = f"{{optimizer: {{sgd: {{rate: 0.1, momentum: 0.9}}}}, steps: 5, shard: {shard}}}"
    result = worst(config_text(MIXED[name], MESHES[ranks], dtype=dtype, train=rule), steps=5)
    assert result["worst"] <= LIMIT[dtype], result


@pytest.mark.parametrize(
    "line",
    [
        "{name: C, conv: {channels: 2, size: 7, padding: 3}, split: {H: [y, x]}}",
        "{name: C, conv: {channels: 2, size: 3, stride: 2}, split: {H: [y, x]}}",
        "{name: C, conv: {channels: 2, size: 4, padding: [[2, 1], [0, 3]]}, split: {H: y, W: x}}",
        "{name: C, conv: {channels: 2, size: 3, padding: 0, dilation: 3}, split: {H: y, W: x}}",
        "{name: C, max_pool: {size: 3, stride: 1, padding: 1}, split: {H: y, W: x}}",
        "{name: C, average_pool: {size: 3, stride: 2, padding: 1}, split: {H: y, W: x}}",
        "{name: C, conv: {channels: 2, size: 1, stride: 3}, split: {H: [y, x]}}",
        "{name: C, conv: {channels: 2, size: 3}, split: {H: {axes: [y, x], sizes: [0, 6, 0, 1]}}}",
        "{name: C, conv: {channels: 4, size: 3, groups: 2}, split: {O: [y, x]}}",
        "{name: C, conv: {channels: 6, size: 3, groups: 2}, split: {C: y, O: x}}",
        "{name: C, conv: {channels: 2, size: 5, padding: 2}, split: {I: y, J: x}}",
        "{name: C, conv: {channels: 2, size: 3}, split: {N: [y, x]}, pieces: {H: 3, O: 2}}",
    ],
)
def test_where_others_fail(line):
    mesh = "{y: 2, x: 2}"
    text = config_text([line, "{name: out, softmax: {classes: 3}, split: {N: y}}"], mesh, "[4, 9, 9]", batch=3)
    assert worst(text, steps=3)["worst"] <= LIMIT["float64"]


def test_three_split_axes_with_their_corners():
    lines = [
        "{name: C, conv: {channels: 2, size: 3, padding: 1}, nonlinearity: tanh, split: {D: z, H: y, W: x}}",
        "{name: E, conv: {channels: 2, size: 4, padding: 2}, nonlinearity: tanh, split: {D: z, H: y, W: x}}",
        "{name: out, softmax: {classes: 3}, split: {D: z, H: y, W: x}}",
    ]
    text = config_text(lines, "{z: 2, y: 2, x: 2}", "[1, 5, 6, 7]", batch=2)
    assert worst(text)["worst"] <= LIMIT["float64"]
