"""One op against PyTorch: forward and all gradients, in pieces cut at random.

In: an op's name and attributes as YAML has them, dims of its data inputs, and a torch function of the same operands. Out:
an AssertionError where they differ. Promise: the pieces are those that a layout may make (every letter of `Op.cuts`, one
or a pair of them, uneven or empty shares, groups as compound labels); each piece sees its own rects and NaN around them; results
that overlap are added up, whether by one rank or by several.

    @settings(max_examples=200, deadline=None)
    @given(st.data())
    def test_elu(data):
        alpha = data.draw(st.floats(0.1, 2))
        compare(data, "elu", {"alpha": alpha}, {"input": data.draw(dims())}, lambda input: F.elu(input, alpha))

    def test_batch_norm(data):                                # several outputs, given values, an operand left out
        compare(data, "batch_norm", {}, {"input": (4, 3, 5)}, lambda input, scale: {"output": ..., "mean": ...},
                values={"deviation": lambda random, dim: random.uniform(1, 2, dim)}, without=("shift",))

    def test_concat(data):                                    # a family of ports
        compare(data, "concat", {"axis": "C"}, {"input0": (2, 3), "input1": (2, 1)},
                lambda **inputs: torch.cat([*inputs.values()], 1))

torch is imported here and nowhere else in the tests: what imports this file is skipped where there is no torch.
"""

from dataclasses import dataclass
from itertools import pairwise, product
from math import prod

import numpy as np
import pytest
from hypothesis import strategies as st

from dgraph.layout.field import Interval
from dgraph.layout.share import compound_pieces
from dgraph.rect import Rect
from tests.problem import Problem

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

TOLERANCE = {"float64": 1e-9, "float32": 1e-4}
"""Largest error, of the largest value that is expected."""
LEAST = 0.05
"""The largest value expected counts as at least so much of one term: where all terms cancel, what is left is their rounding."""


@dataclass(frozen=True)
class Cut:
    """How an op is done: its pieces; the memory order of operands and the distance of their elements; and whether one rank does
    all pieces, adding up as it goes, or every piece a rank of its own."""

    pieces: tuple[Rect, ...]
    order: tuple[int, ...] = ()
    step: int = 1
    one_rank: bool = True


def dims(least=1, most=5, longest=5):
    """Dims of `least` to `most` dimensions, each 1 to `longest`."""
    return st.lists(st.integers(1, longest), min_size=least, max_size=most).map(tuple)


def cuts(op, access, most=6):
    """A `Cut` of an op along none, one or two of the letters that may be cut, into 2 to `most` shares each (some perhaps empty),
    by two letters into `2 * most` pieces. It hangs on one number: of what hypothesis draws one by one, most is small, and most
    cuts would leave one piece."""
    return st.integers(0, 2**32 - 1).map(lambda seed: _cut(op, access, most, np.random.default_rng(seed)))


def _cut(op, access, most, random):
    extents = dict(zip(access.space.labels, access.space.extents, strict=True))
    targets = {name if isinstance(name, tuple) else (name,) for name in op.cuts(access).values()}
    free = sorted(names for names in targets if not {*names} & {*op.uncut})
    free = [names for names in free if prod(extents[name] for name in names) > 1] or free
    letters = [free[k] for k in random.permutation(len(free))[: random.choice([0, 1, 1, 2, 2, 2, 2, 2])]]
    if len(letters) == 2 and {*letters[0]} & {*letters[1]}:
        letters = letters[:1]
    boxes = [{}]
    for names in letters:
        count = random.integers(2, max(2, min(most, 2 * most // len(boxes))), endpoint=True)
        shares = shares_of(names, extents, int(count), random)
        boxes = [box | share for box, share in product(boxes, shares)]
    whole = access.space.box(access.space.whole)
    pieces = [Rect.of((whole | box).values()) for box in boxes]
    order = tuple(random.permutation(20).tolist())
    step, one_rank = random.integers(1, 2, endpoint=True), random.integers(0, 1, endpoint=True)
    return Cut(tuple(piece for piece in pieces if piece), order, int(step), bool(one_rank))


def shares_of(names, extents, count, random):
    """The shares of a letter, balanced or of any sizes: bounds by label, as the layout makes them of an interval of the letter."""
    total = prod(extents[name] for name in names)
    inner = [k * total // count for k in range(1, count)]
    if random.integers(0, 1, endpoint=True):
        inner = random.integers(0, total, count - 1, endpoint=True).tolist()
    shares = []
    for first, last in pairwise([0, *sorted(inner), total]):
        if len(names) == 1:
            shares.append({names[0]: (first, last)})
            continue
        pieces = compound_pieces(*names, extents[names[1]], Interval(np.array([first]), np.array([last])))
        shares += [{name: interval.at((0,)) for name, interval in piece.items()} for piece in pieces]
    return shares


def compare(data, name, attributes, dims, function, *, values=None, without=(), moment=None, tolerance=TOLERANCE):
    """Draws a dtype, random operands, a cut and which deltas are wanted, and checks the op against torch.

    dims: the dims of data inputs by port. function: gets every operand that is joined as a float64 tensor, by port, and returns
    the output as a tensor, or outputs by port (those that are to be compared; all that a gradient comes `by`). `values`: by port,
    an array, or a function (random, dim) of one; the others are random normal numbers (`labels`: classes, -1 where missing).
    `without`: ports joined to nothing. Returns the forward results by port.
    """
    dtype = data.draw(st.sampled_from(["float64", "float32"]))
    seed = data.draw(st.integers(0, 99))
    problem = Problem((name, attributes, dims), dtype, seed, values, without, moment)
    forward_cut = data.draw(cuts(problem.op, problem.access))
    results = summed(problem, False, forward_cut)
    if problem.op.gradient is None:
        check(results, outputs_of(function(**operands(problem, ()))), tolerance[dtype])
        return results
    problem.with_forward()
    problem.values |= results
    writes = problem.writes(True)
    unwanted = data.draw(st.sets(st.sampled_from(writes), max_size=len(writes) - 1))
    gradient_cut = data.draw(cuts(problem.op, problem.access))
    expected, deltas = expectation(problem, function)
    check(results, expected, tolerance[dtype])
    check(summed(problem, True, gradient_cut, tuple(unwanted)), deltas, tolerance[dtype], problem.access)
    return results


def summed(problem, gradient, cut, without=()):
    """The written ports after all pieces of a cut, whole."""
    if cut.one_rank:
        return problem.run(gradient, cut.pieces, True, 0.0, cut.order, without, cut.step)
    dim = problem.access.dims
    totals = {p: np.zeros(dim[p.removesuffix(".delta")], problem.dtype) for p in problem.writes(gradient)}
    totals = {port: total for port, total in totals.items() if port not in without}
    for piece in cut.pieces:
        gaps = problem.gaps(gradient, piece)
        for port, total in totals.items():
            others = (*without, *(other for other in totals if other != port))
            start = 0.0 if port in gaps else np.nan
            part = problem.run(gradient, [piece], gaps, start, cut.order, others, cut.step)[port]
            rect = problem.rect(port, piece).slices()
            total[rect] += part[rect]
    return totals


def operands(problem, differentiable):
    """The values of all input ports as float64 tensors."""
    return {
        port: torch.tensor(problem.values[port], dtype=torch.float64, requires_grad=port in differentiable)
        for port in problem.inputs
    }


def outputs_of(results):
    """By port what a torch function returned."""
    return results if isinstance(results, dict) else {"output": results}


def expectation(problem, function):
    """(outputs, deltas) by port, from torch."""
    wanted = [port.removesuffix(".delta") for port in problem.writes(True)]
    tensors = operands(problem, wanted)
    outputs = outputs_of(function(**tensors))
    if problem.op.loss:
        objective = outputs[problem.op.loss].sum()
    else:
        deltas = {port: torch.tensor(problem.values[f"{port}.delta"]) for port in problem.op.gradient.by}
        objective = sum((outputs[port] * delta).sum() for port, delta in deltas.items())
    inputs = [tensors[port] for port in wanted]
    gradients = torch.autograd.grad(objective, inputs, allow_unused=True, materialize_grads=True)
    return outputs, {f"{port}.delta": value for port, value in zip(wanted, gradients, strict=True)}


def check(results, expected, tolerance, access=None):
    """Every result that is expected is near it; a loss may be expected as a plain number. With the access of an op, results are
    its deltas: sums, each over a number of terms, which is as large as their root."""
    for port, value in results.items():
        if port not in expected:
            continue
        wanted = expected[port].detach().numpy().reshape(value.shape)
        terms = access.space.whole.volume / value.size if access else 1
        scale = max(LEAST * terms**0.5, np.abs(wanted).max(initial=0))
        error = np.abs(value - wanted).max(initial=0) / scale
        assert error <= tolerance, f"{port} is off by {error:.1e}: {value.tolist()}, expected {wanted.tolist()}"
