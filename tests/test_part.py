"""Readers of one tensor in layouts that have little in common: what they read, send, and give."""

import pytest

from dgraph.program import plan_summary
from dgraph.verify import compare, one_rank, run_steps
from tests.networks import config_text, load, program

SKIP = (
    "{name: C1, conv: {channels: 8, size: 3, padding: 1}, nonlinearity: relu, split: {H: p}}",
    "{name: C2, conv: {channels: 8, size: 3, padding: 1}, nonlinearity: relu, split: {H: p}}",
    "{name: C3, conv: {channels: 8, size: 3, padding: 1}, split: {N: p}}",
    "{name: J, add: {}, inputs: [C3, C1], nonlinearity: relu}",
    "{name: K, concat: {}, inputs: [J, C2], split: {C: p}}",
    "{name: out, softmax: {classes: 3, bias: true}}",
)


def text(mesh="{p: 4}", layers=SKIP):
    return config_text(layers, mesh, "[2, 16, 8]", batch=8)


def test_a_reader_elsewhere_reads_a_copy_and_no_rank_reads_all():
    made = program(text())
    copies = [name for name in made.graph.ops if ".copy" in name and made.graph.ops[name].kind == "forward"]
    assert copies == ["C1.convNL.output.copy1", "C2.convNL.output.copy1", "C2.convNL.output.copy2"]
    for tensor in made.graph.tensors.values():
        if tensor.role in ("activation", "gradient") and len(tensor.dim) == 4 and tensor.dim[2:] == (16, 8):
            whole = tensor.dim[0] * tensor.dim[1] * 16 * 8
            assert all(made.layout.read_rect(tensor.name, rank).volume <= whole / 2 for rank in range(4))
            assert all(made.layout.write_rect(tensor.name, rank).volume <= whole / 2 for rank in range(4))


def test_a_skip_into_another_layout_sends_what_changes_hands_and_no_more():
    made = program(text())
    tensors = plan_summary(made, [1])["ranks"][0]["tensors"]
    moved = tensors["C1.convNL.output.copy1.output"]
    assert (
        moved["received_nbytes"] == 8 * (2 * 8 * 16 * 8) * 3 // 4
    )  # float64; two samples, three quarters of their rows


def test_copies_change_no_value():
    for mesh in ("{p: 2}", "{p: 3}", "{p: 4}", "{p: 6}"):
        config = load(text(mesh))
        assert compare(run_steps(config, 3), run_steps(one_rank(config), 3))["worst"] < 1e-12


def test_one_layout_throughout_needs_no_copies():
    layers = [line.replace("{N: p}", "{H: p}").replace(", split: {C: p}", "") for line in SKIP]
    assert not [name for name in program(text(layers=layers)).graph.ops if ".copy" in name]


@pytest.mark.parametrize("more", [(), ("{name: other, softmax: {classes: 3}, input: J}",)])
def test_the_expanded_form_gives_the_same_graph(more):
    made = program(text(layers=(*SKIP, *more)))
    again = program_of(made)
    assert made.expanded() == again.expanded()
    assert made.digest() == again.digest()


def program_of(made):
    """The program of the node form of a program."""
    from dgraph.config.plain import to_yaml

    return program(to_yaml(made.expanded()))
