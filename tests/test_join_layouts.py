"""Networks that join and reshape tensors: any layout gives the one-rank result, and sends no more than it must."""

import json
from math import prod

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgraph.ops import OPS
from dgraph.ops.letter import letters_of
from dgraph.program import compile_config
from dgraph.verify import compare, one_rank, run_steps
from tests.joined import MESHES, NETWORKS, SPATIAL, text_of
from tests.networks import config_text, load, program
from tests.test_equality import splits


@pytest.mark.parametrize("ranks", MESHES)
@pytest.mark.parametrize("name", NETWORKS)
def test_any_layout_gives_the_result_of_one_rank(name, ranks):
    config = load(text_of(name, ranks))
    result = compare(run_steps(config, 3), run_steps(one_rank(config), 3))
    assert result["worst"] <= 1e-10, result


@pytest.mark.parametrize("ranks", MESHES)
@pytest.mark.parametrize("name", NETWORKS)
def test_plans_pass(name, ranks):
    findings, _ = program(text_of(name, ranks)).check()
    assert findings == []


@st.composite
def changes(draw, dim):
    """(kind, attributes, dims of the inputs) of an op that reads a tensor of this dim."""
    letters = letters_of(len(dim))
    small = prod(dim) <= 600
    kinds = ["add", "multiply", "flatten", "reshape", "transpose", "slice", "crop"] + ["concat", "pad"] * small
    kind = draw(st.sampled_from(kinds + ["upsample"] * (small and 3 <= len(dim) <= 5)))
    inner = {letter: n for letter, n in zip(letters[1:], dim[1:], strict=True) if n > 1}
    if kind in ("slice", "crop", "pad") and not inner:
        kind = "add"
    attributes = {}
    if kind == "concat":
        attributes["axis"] = draw(st.sampled_from(letters))
    elif kind == "flatten":
        attributes["axis"] = draw(st.integers(0, len(dim)))
    elif kind == "reshape":
        attributes["shape"] = draw(st.permutations(dim)) + draw(st.lists(st.just(1), max_size=1))
    elif kind == "transpose":
        attributes["order"] = draw(st.permutations(range(len(dim))))
    elif kind == "upsample":
        attributes = {"scale": draw(st.integers(1, 3)), "mode": draw(st.sampled_from(["nearest", "linear"]))}
    elif kind in ("slice", "crop", "pad"):
        letter = draw(st.sampled_from(sorted(inner)))
        cut = draw(st.integers(0, inner[letter] - 1))
        rest = draw(st.integers(0, inner[letter] - 1 - cut))
        attributes[letter] = [cut, -rest or None, draw(st.integers(1, 3))] if kind == "slice" else [cut, rest]
    many = draw(st.integers(1, 3)) if OPS[kind].many else 0
    return kind, attributes, {f"input{k}": dim for k in range(many)} or {"input": dim}


@st.composite
def lines(draw, mesh, batch, ndim):
    """Shape of the data and layers of a network that reshapes what it learns, each with a split of its own or none. The batch is
    a factor of all that they give."""
    dim = (batch, draw(st.integers(1, 4)), *(draw(st.integers(2, 6)) for _ in range(ndim)))
    shape, channels = list(dim[1:]), draw(st.integers(1, 4))
    first = draw(splits(mesh, ["N", "O", "H" if ndim > 1 else "W"], {"N": batch, "O": channels}))
    found = [f"{{name: L0, conv: {{channels: {channels}, size: 1}}, nonlinearity: tanh, split: {first}}}"]
    name, dim = "L0", (batch, channels, *dim[2:])
    for number in range(1, draw(st.integers(2, 5))):
        kind, attributes, dims = draw(changes(dim))
        op, spatial = OPS[kind], len(dim) - 2
        read = {key: one.read(attributes.get(key, one.default), spatial) for key, one in op.attributes.items()}
        access = op.access(read, dims)
        if prod(access.dims["output"]) % batch:
            continue
        extents = dict(zip(access.space.labels, access.space.extents, strict=True))
        named = {letter: extents[label] for letter, label in op.cuts(access).items() if label not in op.uncut}
        split = f", split: {draw(splits(mesh, sorted(named), named))}" if draw(st.booleans()) else ""
        inputs = f", inputs: [{', '.join([name] * len(dims))}]" if op.many else ""
        name = f"L{number}"
        found.append(f"{{name: {name}, {kind}: {json.dumps(attributes)}{inputs}{split}}}")
        dim = access.dims["output"]
    ones = ", 1" * ndim
    found.append(f"{{name: Z, reshape: {{shape: [{batch}, -1{ones}]}}}}")
    return shape, [*found, "{name: out, softmax: {classes: 3}}"]


@st.composite
def networks(draw):
    """A whole config on 1 to 6 ranks."""
    sizes = draw(st.sampled_from([[1], [2], [3], [4], [6], [2, 2], [2, 3], [3, 2], [2, 1, 3]]))
    mesh = dict(zip("zyx", sizes, strict=False))
    batch = draw(st.integers(1, 4))
    shape, layers = draw(lines(mesh, batch, draw(st.integers(1, 3))))
    axes = "{" + ", ".join(f"{axis}: {n}" for axis, n in mesh.items()) + "}"
    return config_text(layers, axes, str(shape), batch=batch)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks())
def test_random_networks_on_random_layouts(text):
    config = load(text)
    assert compile_config(config).check()[0] == []
    result = compare(run_steps(config, 2), run_steps(one_rank(config), 2))
    assert result["worst"] <= 1e-10, (text, result)


def sent(text):
    """Elements that ranks send, by tensor, without all-reduces (parameter gradients, the loss and its metrics)."""
    made = program(text)
    found = {}
    for rank in range(made.ranks):
        for name, transfer in made.plan(rank).transfers.items():
            if transfer.kind != "all_reduce":
                found[name] = found.get(name, 0) + transfer.sends.elements
    return found


def test_residual_net_in_one_layout_sends_halos_alone():
    """On 2 x 2 ranks with 4 x 4 pixels each, 4 channels and 6 samples, a rank sends 4 + 4 + 1 pixels."""
    halo = 4 * (4 + 4 + 1) * 4 * 6
    scores = 6 * 3 * 3
    assert sent(text_of("residual", 4)) == {
        "A.convNL.output": halo,
        "A.convNL.output.grad": halo,
        "sum.addNL.output": halo,
        "sum.addNL.output.grad": halo,
        "out.linear1.output": scores,
        "out.linear1.output.grad": scores,
    }


def test_what_follows_its_input_sends_nothing():
    lines = [
        f"{{name: A, conv: {{channels: 4, size: 3, padding: 1}}, nonlinearity: tanh, {SPATIAL}}}",
        "{name: P, pad: {padding: [[1, 2], 3]}}",
        "{name: U, upsample: {scale: 2}}",
        "{name: S, slice: {H: [3, -3, 2], W: [4, 18]}}",
        "{name: T, transpose: {order: NHWC}}",
        "{name: V, transpose: {order: NWCH}}",
        "{name: B, crop: {margin: [[1, 0], [0, 1]]}}",
        "{name: J, concat: {}, inputs: [B, B]}",
        "{name: M, multiply: {}, inputs: [J, J]}",
        "{name: R, reshape: {shape: [0, 2, 4, 7, 13]}}",
        "{name: Q, reshape: {shape: [0, -1, 7, 13]}}",
        "{name: D, add: {}, inputs: [M, Q]}",
        "{name: out, linear: {features: 3}, split: {N: [y, x]}}",
        "{name: loss, softmax: {classes: 3}}",
    ]
    assert {*sent(config_text(lines, MESHES[4]))} == {"D.add.output", "D.add.output.grad"}


def test_concatenation_along_a_cut_dimension_is_shared_out():
    lines = [
        "{name: A, conv: {channels: 4, size: 1}, split: {O: p}}",
        "{name: J, concat: {}, inputs: [A, A, A]}",
        "{name: out, softmax: {classes: 3}}",
    ]
    made = program(config_text(lines, "{p: 4}"))
    shares = [made.layout.write_rect("J.concat.output", rank) for rank in range(4)]
    assert [(rect.start[1], rect.size[1]) for rect in shares] == [(0, 3), (3, 3), (6, 3), (9, 3)]


def test_a_sum_follows_what_it_does_not_repeat():
    lines = [
        f"{{name: A, conv: {{channels: 4, size: 1}}, {SPATIAL}}}",
        "{name: G, linear: {features: 4}, split: {N: [y, x]}}",
        "{name: S, add: {}, inputs: [G, A]}",
        "{name: out, softmax: {classes: 3}}",
    ]
    made = program(config_text(lines, MESHES[4]))
    for rank in range(4):
        assert made.layout.write_rect("S.add.output", rank) == made.layout.write_rect("A.conv.output", rank)
