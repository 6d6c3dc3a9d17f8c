"""Chains of ops done as one: which are found, what they leave out, and that they change no number."""

from dataclasses import replace

import numpy as np
import pytest

from dgraph.config.schema import MemoryConfig
from dgraph.kernels.backend import NUMPY
from dgraph.schedule.step import Fused
from dgraph.trace import Recorder
from tests.fused import CHAINS, NORMED, backend
from tests.networks import config_text, program
from tests.workers import run


def made(split, mesh, *overrides, pieces=""):
    lines = [line.replace("SPLIT", split + pieces) for line in NORMED]
    return program(config_text(lines, mesh, batch=4), overrides)


def fused(made, rank=0):
    return [step for step in made.schedule(made.plan(rank)).steps if isinstance(step, Fused)]


def placed(made):
    """The tensors that rank 0 writes into memory."""
    return {name for name, place in made.schedule(made.plan(0)).placement.places.items() if place.write is not None}


def nbytes_of(made):
    """Bytes of all buffers of rank 0 without its scratch."""
    schedule = made.schedule(made.plan(0))
    return schedule.placement.nbytes - schedule.workspace_nbytes


def outcome(made):
    """Losses of three steps and of an evaluation, and all parameters, of all ranks."""

    def body(worker):
        batches = worker.training_batches(shuffle=True)
        losses = [worker.train_step(batches.indices(0, k)) for k in range(3)]
        worker.forward(batches.indices(0, 0))
        losses.append(worker.metrics())
        values = {tensor.name: worker.engine.value(tensor.name) for tensor in worker.program.graph.kept}
        return losses, {name: value for name, value in values.items() if value is not None}

    return run(made, body)


def test_the_longest_chain_is_taken():
    ours = replace(made("{N: p}", "{p: 1}"), backend=backend(*CHAINS))
    assert [step.node for step in fused(ours)] == [
        "C.conv + C.mean + C.variance + C.normalize + C.convNL",
        "D.conv + D.convA + D.convNL",
        "S.add + S.addNL",
        "S.addNL.grad + S.add.grad",
        "D.convNL.grad + D.convA.grad",
        "C.convNL.grad + C.normalize.grad + C.variance.grad + C.mean.grad",
    ]


def test_what_lies_between_has_no_memory():
    ours = replace(made("{N: p}", "{p: 1}"), backend=backend(*CHAINS))
    conv, dense, join, *_ = fused(ours)
    inner = [
        [(k, dict(ours.graph.ops[step.parts[k].node].outputs)[port]) for k, port in sorted(step.chain.inner)]
        for step in (conv, dense, join)
    ]
    # The gradient of a norm reads its input, that of a tanh or relu its output.
    assert inner == [[(3, "C.normalize.output")], [(0, "D.conv.output"), (1, "D.convA.output")], [(0, "S.add.output")]]
    assert [dict(link) for link in join.chain.links] == [{}, {"input": (0, "output")}]
    plain = replace(made("{N: p}", "{p: 1}", "fusion=false"), backend=ours.backend)
    lost = placed(plain) - placed(ours)
    joined = ["C.normalize.output", "D.convA.output", "S.add.output"]
    statistics = {"C.mean.output.grad", "C.variance.output.grad"}
    assert lost == {"D.conv.output", *joined, *(f"{name}.grad" for name in joined), *statistics}
    nbytes = 4 * 4 * 8 * 8 * 8
    ours, plain = (replace(one, config=replace(one.config, memory=MemoryConfig(reuse=False))) for one in (ours, plain))
    assert nbytes_of(plain) - nbytes_of(ours) == 7 * nbytes + 2 * 64


def test_a_sum_into_a_result_of_the_chain_is_a_link():
    ours = replace(made("{N: p}", "{p: 1}"), backend=backend("relu.grad normalize.grad variance.grad mean.grad"))
    (step,) = fused(ours)
    assert step.chain.links[2]["input.delta"] == (1, "input.delta")
    assert step.chain.links[3]["input.delta"] == (2, "input.delta")
    assert step.chain.links[3]["output.delta"] == (1, "mean.delta")


def test_a_result_that_is_looked_at_is_there():
    names = frozenset(["C.normalize.output", "S.add.output"])
    ours = replace(made("{N: p}", "{p: 1}"), backend=backend(*CHAINS), shown=names)
    (worker,) = run(ours, lambda worker: worker)
    worker.train_step(worker.training_batches(shuffle=True).indices(0, 0))
    plain = replace(ours, backend=NUMPY)
    (other,) = run(plain, lambda worker: worker)
    other.train_step(other.training_batches(shuffle=True).indices(0, 0))
    for name in names:
        np.testing.assert_array_equal(worker.engine.value(name), other.engine.value(name))
    with pytest.raises(ValueError, match=r"D\.conv\.output does not last"):
        worker.engine.value("D.conv.output")


def test_a_transfer_or_zeroing_parts_a_chain():
    """Cut over rows, the convolution's result is read with a halo by the next; cut over channels, it is a sum."""
    split = replace(made("{C: p}", "{p: 2}"), backend=backend("conv affine", "affine tanh", "conv affine tanh"))
    nodes = [step.node for step in fused(split)]
    assert nodes == ["D.conv + D.convA + D.convNL"]


@pytest.mark.parametrize("split", ["{N: p}", "{H: p}", "{O: p}", "{C: p}"])
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("pieces", ["", ", pieces: {N: 2}"])
def test_fused_or_not_gives_the_same_numbers(split, ranks, pieces):
    ours = replace(made(split, f"{{p: {ranks}}}", pieces=pieces), backend=backend(*CHAINS))
    assert fused(ours)
    off = replace(made(split, f"{{p: {ranks}}}", "fusion=false", pieces=pieces), backend=backend(*CHAINS))
    assert not fused(off)
    for (losses, values), (plain, theirs) in zip(outcome(ours), outcome(off), strict=True):
        np.testing.assert_allclose(losses, plain, rtol=1e-11)
        for name in theirs:
            np.testing.assert_allclose(values[name], theirs[name], rtol=1e-9, atol=1e-12)


def test_the_trace_names_all_nodes():
    ours = replace(made("{N: p}", "{p: 1}"), backend=backend("add relu"))
    (worker,) = run(ours, lambda worker: worker)
    recorder = Recorder(0)
    worker.train_step(worker.training_batches(shuffle=True).indices(0, 0), recorder)
    assert "S.add + S.addNL" in [event["node"] for event in recorder.events() if event["verb"] == "compute"]
