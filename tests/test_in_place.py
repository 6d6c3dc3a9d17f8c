"""Results written over operands: every kernel that may do so gives the same bits, networks do, and the proof refuses what no kernel
allows."""

from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest

from dgraph.kernels.call import InPlace
from dgraph.kernels.numpy import KERNELS
from dgraph.schedule.inplace import joined
from dgraph.schedule.lifetime import Life
from dgraph.schedule.overwrite import check_memory
from tests.fused import CHAINS, NORMED, backend
from tests.joined import NETWORKS, text_of
from tests.networks import SPATIAL, config_text, program
from tests.problem import Problem, bound, placed
from tests.workers import assert_same_bits

DIM = (2, 16, 40, 30)


def normed(*kept):
    return {"input": DIM, "mean": kept, "variance": kept}


TWO = {"input0": DIM, "input1": DIM}
CASES = [
    *(
        (op, {}, DIM)
        for op in ("identity", "logistic", "tanh", "relu", "leaky_relu", "elu", "softplus", "silu", "gelu")
    ),
    ("threshold", {"at": 0.5}, DIM),
    ("gelu", {"approximate": "tanh"}, DIM),
    ("leaky_relu", {"slope": 1.5}, DIM),
    ("affine", {"bias": "C", "scale": "C"}, DIM),
    ("affine", {"bias": "CHW"}, DIM),
    ("dropout", {"rate": 0.3}, DIM),
    ("normalize", {"over": "NHW", "spans": "C"}, normed(1, 16, 1, 1)),
    ("normalize", {"over": "HW", "spans": "CW"}, normed(2, 16, 1, 1)),
    ("add", {}, TWO),
    ("add", {}, TWO | {"input2": DIM}),
    ("multiply", {}, TWO | {"input2": (1, 16, 1, 1)}),
]
VALUES = {"variance": lambda random, dim: random.uniform(0.5, 2, dim)}
LAST = (0, 2, 3, 1)


def kernels_of(name):
    if name == "numpy":
        return {"float32": KERNELS, "float64": KERNELS}
    torch = pytest.importorskip("dgraph.kernels.torch")
    return {dtype: backend.kernels for dtype, backend in torch.BACKENDS.items()}


def results(problem, gradient, kernels, order, step, over=None):
    """What a kernel writes, with a result in the place of an operand."""
    call = problem.call(gradient, problem.access.space.whole, False)
    written = problem.writes(gradient)
    arrays = {
        port: placed(
            np.full(rect.size, np.nan, problem.dtype) if port in written else problem.values[port], order, step
        )
        for port, rect in call.rects.items()
    }
    if over is not None:
        arrays[over[0]] = arrays[over[1]]
    bound(call, arrays, kernels)()
    return {port: arrays[port] for port in written}


@pytest.mark.parametrize("name", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_a_kernel_that_writes_over_an_operand_gives_the_same_bits(name, dtype, case):
    kernels = kernels_of(name)[dtype]
    problem = Problem(case, dtype, values=VALUES).with_forward()
    for gradient in (False, True):
        kernel = kernels.get((case[0], gradient))
        if not isinstance(kernel, InPlace):
            continue
        call = problem.call(gradient, problem.access.space.whole, False)
        for result, operand in kernel.overwrites(call):
            if call.rects[result] != call.rects[operand]:
                continue
            for order, step in ((None, 2), (LAST, 0), (LAST, 1), ((1, 0, 2, 3), 2)):
                wanted = results(problem, gradient, kernels, order, step)
                found = results(problem, gradient, kernels, order, step, over=(result, operand))
                for port, value in wanted.items():
                    np.testing.assert_array_equal(found[port], value, err_msg=f"{port}: {result} over {operand}")


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_every_kernel_that_may_do_so_is_among_the_cases(name):
    kernels = {key: kernel for made in kernels_of(name).values() for key, kernel in made.items()}
    there = {op for (op, _), kernel in kernels.items() if isinstance(kernel, InPlace)}
    assert there <= {op for op, *_ in CASES}


# --- networks

TEXTS = {name: text_of(name, 2) for name in NETWORKS} | {
    "spatial": config_text(SPATIAL, "{y: 2, x: 2}"),
    "accumulated": config_text(
        SPATIAL, "{y: 2, x: 1}", train="{optimizer: {lamb: {rate: 0.1}}, accumulate: 2, clip: 1, steps: 5}"
    ),
    "normed": config_text([line.replace("SPLIT", "{N: p}") for line in NORMED], "{p: 2}", batch=4),
    "one": config_text([line.replace("SPLIT", "{N: p}") for line in NORMED], "{p: 1}", batch=4),
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("kernels", ["numpy", "torch", "fused"])
def test_networks_have_the_same_bits(name, kernels):
    text = TEXTS[name]
    chosen = [] if kernels == "fused" else [f"backend={kernels}"]
    if kernels == "torch":
        pytest.importorskip("torch")
    ours, theirs = program(text, chosen), program(text, [*chosen, "memory.in_place=false"])
    if kernels == "fused":
        ours, theirs = (replace(one, backend=backend(*CHAINS)) for one in (ours, theirs))
    assert not ours.check()[0]
    assert kernels == "fused" or any(over_of(ours, rank) for rank in range(ours.ranks))
    assert not any(over_of(theirs, rank) for rank in range(ours.ranks))
    assert_same_bits(ours, theirs)


def over_of(made, rank=0):
    """Which tensors lie over which on a rank."""
    placement = made.schedule(made.plan(rank)).placement
    return {placement.buffers[a].tensor: placement.buffers[b].tensor for a, b in placement.over.items()}


def test_what_lies_over_what():
    """A gradient reads the result of a tanh, or the input of a convolution: these last. All else is written where it comes from."""
    lines = [
        "{name: C, conv: {channels: 4, size: 3}, nonlinearity: tanh}",
        "{name: D, conv: {channels: 4, size: 3}, nonlinearity: relu}",
        "{name: out, softmax: {classes: 3}}",
    ]
    assert over_of(program(config_text(lines, "{p: 1}"))) == {
        "C.convA.output": "C.conv.output",
        "C.convNL.output": "C.convA.output",
        "D.convA.output": "D.conv.output",
        "D.convNL.output": "D.convA.output",
        "C.conv.output.grad": "C.convNL.output.grad",
        "D.conv.output.grad": "D.convNL.output.grad",
    }


def test_what_is_looked_at_is_not_written_over():
    text = config_text(SPATIAL, "{y: 1, x: 1}")
    made = replace(program(text), shown=frozenset(["C1.conv.output"]))
    assert "C1.conv.output" in over_of(program(text)).values()
    assert "C1.conv.output" not in over_of(made).values()


@pytest.mark.parametrize(
    ("result", "operand"),
    [("P1.pool.output", "C1.convNL.output"), ("C1.convNL.output.grad", "P1.pool.output.grad")],
)
def test_what_no_kernel_allows_is_found(result, operand):
    """A pool reads a window for each of its results."""
    made = program(config_text(SPATIAL, "{y: 1, x: 1}"))
    schedule = made.schedule(made.plan(0))
    places, offsets = schedule.placement.places, dict(schedule.placement.offsets)
    offsets[places[result].write] = offsets[places[operand].read]
    wrong = replace(schedule, placement=replace(schedule.placement, offsets=MappingProxyType(offsets)))
    (finding,) = check_memory(wrong, made.graph, made.backend)
    assert finding.rule == "memory"


def test_a_permission_without_a_place_is_found():
    """Half a buffer further is not in place."""
    made = program(config_text(SPATIAL, "{y: 1, x: 1}"))
    schedule = made.schedule(made.plan(0))
    places, offsets = schedule.placement.places, dict(schedule.placement.offsets)
    number = places["C1.convNL.output"].write
    offsets[number] += 64
    wrong = replace(schedule, placement=replace(schedule.placement, offsets=MappingProxyType(offsets)))
    (finding,) = check_memory(wrong, made.graph, made.backend)
    assert "written over" in str(finding)


def test_a_chain_may_be_of_any_length():
    length = 5000
    lives, over = {k: Life(k, k + 1, 4) for k in range(length)}, {k + 1: k for k in range(length - 1)}
    assert joined(lives, over) == ({0: Life(0, length, 4)}, dict.fromkeys(range(length), 0))
