"""What the runtime itself costs: 1,000 small nodes beside the bare kernel calls in a Python loop.

In: a chain of element-wise nodes on 16 numbers. Out: two rows, forward and a whole training step; their `ratio` is microseconds a
node over the bare calls, which are those that the formulas take, on arrays that are there, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

import numpy as np

from bench_row import Options, Row
from bench_turn import in_turn, timed
from dgraph.config import parse_config
from dgraph.kernels.call import Array
from dgraph.program import compile_config
from dgraph.runtime.communicator import OneRank
from dgraph.train import Worker

NODES, NUMBERS = 1000, 16
GOAL = 3.0
"""Microseconds a node."""
Call = Callable[[], object]
Bare = Callable[[Array, Array, Array], list[Call]]
"""The calls of a node: of its input (its result, for a gradient), the delta, and where the result goes."""


def _tanh(x: Array, delta: Array, out: Array) -> list[Call]:
    return [partial(np.tanh, x, out=out)]


def _tanh_gradient(y: Array, delta: Array, out: Array) -> list[Call]:
    square, rest = partial(np.multiply, y, y, out=out), partial(np.subtract, 1, out, out=out)
    return [square, rest, partial(np.multiply, out, delta, out=out)]


def _relu(x: Array, delta: Array, out: Array) -> list[Call]:
    return [partial(np.maximum, x, 0, out=out)]


def _relu_gradient(y: Array, delta: Array, out: Array) -> list[Call]:
    return [partial(np.greater, y, 0, out=out), partial(np.multiply, out, delta, out=out)]


OPS: dict[str, tuple[Bare, Bare]] = {"tanh": (_tanh, _tanh_gradient), "relu": (_relu, _relu_gradient)}
"""Nodes take turns."""


def config_text(nodes: int, numbers: int) -> str:
    """A bias, `nodes` element-wise nodes one behind the other, and a classifier."""
    names = [*OPS]
    chain = "".join(
        f"  - {{name: n{k}, op: {names[k % len(names)]}, inputs: {{input: {f'n{k - 1}' if k else 'start'}.output}}}}\n"
        for k in range(nodes)
    )
    return f"""
mesh: {{p: 1}}
data: {{source: synthetic, shape: [{numbers}], classes: 2, batch: 1, samples: 1, shares: {{train: 1}}, keep: true}}
nodes:
  - {{name: start, op: affine, attributes: {{bias: C}}, inputs: {{input: data.raw_output, b: start.b}}}}
{chain}
  - {{name: scores, op: linear, attributes: {{features: 2}}, inputs: {{input: n{nodes - 1}.output, weights: scores.W}}}}
  - {{name: loss, op: softmax, inputs: {{input: scores.output, labels: data.labels_output}}}}
parameters: {{start.b: {{init: zero}}, scores.W: {{init: xavier}}}}
train: {{optimizer: {{sgd: {{rate: 0.001}}}}, steps: 1}}
"""


def bare_calls(nodes: int, numbers: int, gradient: bool) -> list[Call]:
    """Those of all nodes, forward, and with `gradient` back again."""
    arrays = [np.zeros((1, numbers), np.float32) for _ in range(nodes + 1)]
    deltas = [np.zeros((1, numbers), np.float32) for _ in range(nodes + 1)]
    ops = [[*OPS.values()][k % len(OPS)] for k in range(nodes)]
    calls = [call for k, op in enumerate(ops) for call in op[0](arrays[k], deltas[k], arrays[k + 1])]
    if gradient:
        back = reversed([*enumerate(ops)])
        calls += [call for k, op in back for call in op[1](arrays[k + 1], deltas[k + 1], deltas[k])]
    return calls


def _each(calls: list[Call]) -> None:
    for call in calls:
        call()


def run(options: Options, nodes: int = NODES) -> Iterator[Row]:
    """The rows that were asked for."""
    for backend in options.backends:
        config = parse_config(f"backend: {backend}\n{config_text(nodes, NUMBERS)}", "nodes.yaml")
        worker = Worker(compile_config(config), OneRank())
        indices = worker.training_batches(shuffle=False).indices(0, 0)
        sides: dict[str, Call] = {
            "forward": partial(worker.forward, indices),
            "step": partial(worker.train_step, indices),
        }
        for name, ours in sides.items():
            case, calls = f"runtime.{name}", bare_calls(nodes, NUMBERS, name == "step")
            if not options.wants(case):
                continue
            theirs = partial(_each, calls)
            for side in (ours, theirs):
                side()
            rounds = in_turn((timed(ours), timed(theirs)), options)
            count = nodes if name == "forward" else 2 * nodes
            over = median(mine - other for mine, other in rounds) / count * 1e6
            mine, other = (median(side) for side in zip(*rounds, strict=True))
            more = {"unit": "microseconds a node", "nodes": count, "backend": backend, "pairs": len(rounds)}
            yield Row(case, mine, other, over, GOAL, more=more)
