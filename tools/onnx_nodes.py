"""The ONNX project's own node tests, run by dgraph on one rank and on four.

    python tools/onnx_nodes.py            # one line a case: passed, or not supported and why; and how many there are
    python tools/onnx_nodes.py --failed   # failures alone
    python tools/onnx_nodes.py conv gemm  # cases whose names have one of these words

A case is a model of one op with inputs and outputs. Its inputs are fed by name; those that dgraph takes as values (weights,
running statistics, shapes) become initializers with the values of the test. On four ranks, threads of this process, the first
node is cut by every letter that may be cut, one after the other; where there is none, every rank does all. Outputs that are there
for training alone (masks, indices, statistics) are left out where dgraph does not have them. Exit status 1 where a case fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

from dgraph.error import ConfigError, DgraphError
from dgraph.graph.build import build_graph
from dgraph.graph.node import Dim, Graph, Split
from dgraph.graph.spec import NodeSpec
from dgraph.kernels.backend import NUMPY
from dgraph.kernels.call import Array
from dgraph.kernels.numpy.update import Recipe
from dgraph.layout import Layout, Mesh, assign_layout
from dgraph.onnx.reading.file import Input, model_of
from dgraph.onnx.reading.network import Network, read_network
from dgraph.ops import OPS
from dgraph.optimizer import Optimizer
from dgraph.plan.check import check_plan
from dgraph.plan.make import make_plan
from dgraph.rate import Rate
from dgraph.rect import Rect
from dgraph.runtime.communicator import Communicator, OneRank
from dgraph.runtime.engine import Engine
from dgraph.runtime.thread import run_threads
from dgraph.schedule.make import Demand, make_schedule

RANKS = 4
SECONDS = 60.0
PATH = Path("model")
Values = Mapping[str, Array]
Part = tuple[Rect, Array] | None


@dataclass(frozen=True)
class Verdict:
    """Of one case: whether it is supported, what is wrong if anything is, how it was cut on four ranks, outputs left out."""

    name: str
    supported: bool
    text: str = ""
    letters: str = ""
    without: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        return self.supported and bool(self.text)


def feed(one: Input, dim: Dim) -> tuple[NodeSpec, str]:
    """The node that gives an input of any dim."""
    name = f"input_{one.name}"
    return NodeSpec(name, "input", (), (), MappingProxyType({"dim": list(dim)})), "output"


def judge(case: TestCase) -> Verdict:
    """Runs one case."""
    model, sets = case.model, case.data_sets
    if model is None or not sets:
        return Verdict(case.name, False, "a case without a model or values")
    inputs, outputs = (list(map(plain, values)) for values in sets[0])
    names = [info.name for info in model.graph.input]
    if not all(isinstance(array, (np.ndarray, np.generic)) for array in (*inputs, *outputs)):
        return Verdict(case.name, False, "a sequence, map or optional value")
    given = {name: np.asarray(array) for name, array in zip(names, inputs, strict=True)}
    try:
        network = read(model, given)
        letters = ["", *cuttable(network)]
        for ranks, letter in [(1, ""), *((RANKS, letter) for letter in letters)]:
            found = run(network, given, ranks, letter)
            fault = difference(found, outputs, case)
            if fault:
                return Verdict(case.name, True, f"{ranks} ranks, cut by {letter or 'nothing'}: {fault}")
    except DgraphError as error:
        return Verdict(case.name, False, str(error).removeprefix("error: ").removeprefix(f"{PATH}: "))
    without = tuple(info.name for info in model.graph.output if info.name not in network.outputs)
    return Verdict(case.name, True, "", "".join(letters), without)


def plain(value: object) -> Any:
    """The array of a tensor of a type that NumPy does not have; any other value as it is."""
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def shown(verdict: Verdict) -> str:
    """What a verdict says behind the name."""
    if verdict.text:
        return verdict.text
    without = f", without output {' '.join(verdict.without)}" if verdict.without else ""
    return f"1 rank; {RANKS} ranks, cut by {verdict.letters or 'nothing'}{without}"


def read(proto: onnx.ModelProto, given: Values) -> Network:
    """The network of a case: all real inputs are fed, or if it does not take that, the first alone; all outputs are wanted, or the
    first alone."""
    real = [name for name, array in given.items() if array.dtype in (np.float32, np.float64)]
    error: DgraphError | None = None
    for free in (real, real[:1]):
        for outputs in dict.fromkeys((len(proto.graph.output), 1)):
            known = {name: array for name, array in given.items() if name not in free}
            try:
                return read_network(model_of(narrowed(proto, outputs), PATH), PATH, feed, 1, known)
            except DgraphError as fault:
                # A model that lacks an output is damaged by us.
                error = fault if error is None or isinstance(fault, ConfigError) else error
    raise error or DgraphError("it has no outputs")


def narrowed(proto: onnx.ModelProto, outputs: int) -> onnx.ModelProto:
    """A copy of a model, of a single op where it wants fewer outputs than there are."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    if outputs < len(copy.graph.output) and len(copy.graph.node) == 1:
        del copy.graph.output[outputs:]
        del copy.graph.node[0].output[outputs:]
    return copy


def cuttable(network: Network) -> list[str]:
    """The letters by which the first node that computes may be cut on four ranks."""
    first = next(spec for spec in network.specs if spec.inputs)
    graph = build_graph("case", network.specs, (), OPS)
    access, op = graph.ops[first.name].access, OPS[first.op]
    found = []
    for letter in op.cuts(access):
        try:
            placed(network, RANKS, letter)
        except DgraphError:
            continue
        found.append(letter)
    return found


def placed(network: Network, ranks: int, letter: str) -> Layout:
    """The layout of a network whose first computing node is cut by a letter, or by none."""
    specs = list(network.specs)
    if letter:
        k = next(k for k, spec in enumerate(specs) if spec.inputs)
        specs[k] = replace(specs[k], split=MappingProxyType({letter: Split(("p",))}))
    graph = build_graph("case", specs, (), OPS)
    return assign_layout(graph, Mesh.of({"p": ranks}), OPS)


def run(network: Network, given: Values, ranks: int, letter: str) -> list[Array]:
    """The outputs of a network."""
    layout = placed(network, ranks, letter)
    plans = [make_plan(layout, rank) for rank in range(ranks)]
    findings = check_plan(layout, plans)
    if findings:
        raise AssertionError(f"{letter}: {findings[0]}")

    def work(communicator: Communicator) -> list[Part]:
        parts = run_rank(network, given, layout, communicator)
        communicator.close()
        return parts

    parts = [work(OneRank())] if ranks == 1 else run_threads(ranks, work, SECONDS)
    return [whole(layout.graph, tensor, [own[k] for own in parts]) for k, tensor in enumerate(network.outputs.values())]


def run_rank(network: Network, given: Values, layout: Layout, communicator: Communicator) -> list[Part]:
    """One rank's parts of the outputs."""
    fed = {tensor: given[name].astype(network.dtype) for name, tensor in network.inputs.items()}

    def fill(node: str, places: Mapping[str, tuple[Array, Rect]]) -> None:
        for port, (array, rect) in places.items():
            array[...] = fed[dict(layout.graph.ops[node].outputs)[port]][rect.slices()]

    plan, demand = make_plan(layout, communicator.rank), Demand(shown=frozenset(layout.graph.tensors))
    schedule = make_schedule(layout, plan, NUMPY, network.dtype, demand)
    engine = Engine(schedule, layout, communicator, Optimizer(Recipe("sgd"), Rate(0.0)), NUMPY, fill)
    for tensor in layout.graph.kept:
        for found in (engine.store.reading(tensor.name), engine.store.writing(tensor.name)):
            if found is not None:
                found[1][...] = network.values[tensor.name][found[0].slices()]
    engine.forward()
    return [part(engine, layout, tensor, communicator.rank) for tensor in network.outputs.values()]


def part(engine: Engine, layout: Layout, tensor: str, rank: int) -> Part:
    """What a rank wrote of a tensor; None where it is a replica."""
    found, rect = engine.store.writing(tensor), layout.write_rect(tensor, rank)
    place = layout.mesh.coordinates(rank)
    if found is None or any(place[axis] for axis in layout.tensors[tensor].replicas):
        return None
    return rect, found[1][rect.slices(found[0].start)].copy()


def whole(graph: Graph, tensor: str, parts: Sequence[Part]) -> Array:
    """A tensor from what the ranks wrote, which adds up."""
    dim = graph.tensors[tensor].dim
    result = np.zeros(dim)
    for rect, values in filter(None, parts):
        result[rect.slices()] += values
    return result


def difference(found: Sequence[Array], wanted: Sequence[Array], case: TestCase) -> str:
    """What is wrong with the outputs, in one line; empty if nothing is."""
    for ours, theirs in zip(found, wanted, strict=False):
        if ours.shape != np.shape(theirs):
            return f"shape {ours.shape}, not {np.shape(theirs)}"
        if not np.allclose(ours, theirs, rtol=case.rtol, atol=max(case.atol, 1e-6), equal_nan=True):
            return f"off by {np.nanmax(np.abs(ours - theirs)):.2e}"
    return ""


def cases(words: Sequence[str]) -> Iterator[TestCase]:
    """The node tests, those with one of the words in their names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load_model_tests(kind="node")
    return (case for case in found if not words or any(word in case.name for word in words))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--failed", action="store_true")
    parser.add_argument("--json", action="store_true", help="print the counts as one JSON object on the last line")
    options = parser.parse_args()
    with np.errstate(all="ignore"):
        verdicts = [judge(case) for case in cases(options.words)]
    groups = {
        "not supported": [one for one in verdicts if not one.supported],
        "passed": [one for one in verdicts if one.supported and not one.text],
        "failed": [one for one in verdicts if one.failed],
    }
    for state, group in groups.items():
        for one in group if state == "failed" or not options.failed else ():
            print(f"{state}: {one.name}: {shown(one)}")
    print(", ".join(f"{len(group)} {state}" for state, group in groups.items()))
    if options.json:
        print(json.dumps({state: len(group) for state, group in groups.items()}))
    return 1 if groups["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
