"""Cheap results computed again instead of kept: the same bits, less memory, no further message."""

from dataclasses import replace

import pytest

from dgraph.config import load_config
from dgraph.config.schema import CHEAP
from dgraph.ops import OPS
from dgraph.program import compile_config
from dgraph.schedule.step import Compute, Fused, Start
from dgraph.trace import Recorder
from tests.fused import CHAINS, NORMED, backend
from tests.joined import NETWORKS, text_of
from tests.networks import SPATIAL, config_text, program
from tests.runs import CONFIGS
from tests.scaled import config_of, scaled
from tests.workers import assert_same_bits, run

ON = "memory.recompute=true"
DROPPED = (
    "{name: C, conv: {channels: 4, size: 3, padding: 1}, nonlinearity: tanh, split: {H: p}}",
    "{name: D, dropout: {rate: 0.5}}",
    "{name: P, max_pool: {size: 2}}",
    "{name: out, softmax: {classes: 3}}",
)
TEXTS = {name: text_of(name, 2) for name in NETWORKS} | {
    "spatial": config_text(SPATIAL, "{y: 2, x: 2}"),
    "dropped": config_text(DROPPED, "{p: 2}"),
    "accumulated": config_text(
        DROPPED, "{p: 1}", train="{optimizer: {lamb: {rate: 0.1}}, accumulate: 2, clip: 1, steps: 5}"
    ),
    "normed": config_text([line.replace("SPLIT", "{N: p}") for line in NORMED], "{p: 2}", batch=4),
    "cut": config_text([line.replace("SPLIT", "{H: p}") for line in NORMED], "{p: 2}", batch=4),
    "one": config_text([line.replace("SPLIT", "{N: p}") for line in NORMED], "{p: 1}", batch=4),
}


def again(made, rank=0):
    """The nodes that are done again."""
    parts = [
        part
        for step in made.schedule(made.plan(rank)).steps
        for part in (step.parts if isinstance(step, Fused) else [step] if isinstance(step, Compute) else [])
    ]
    return [part.node for part in parts if part.again]


def messages(made):
    return [
        [step.node for step in made.schedule(made.plan(r)).steps if isinstance(step, Start)] for r in range(made.ranks)
    ]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("kernels", ["numpy", "torch", "fused"])
def test_networks_have_the_same_bits(name, kernels):
    chosen = [] if kernels == "fused" else [f"backend={kernels}"]
    if kernels == "torch":
        pytest.importorskip("torch")
    ours, theirs = program(TEXTS[name], [*chosen, ON]), program(TEXTS[name], chosen)
    if kernels == "fused":
        ours, theirs = (replace(one, backend=backend(*CHAINS)) for one in (ours, theirs))
    assert not ours.check()[0]
    assert not again(theirs)
    assert messages(ours) == messages(theirs)
    assert_same_bits(ours, theirs)


def test_what_is_done_again():
    """A relu behind a batch norm is made from what the norm's gradient reads in any case. The sum S is read by its gradient and by
    that of the layer behind, which is the first, and made of C, which is then kept, and of D, which is kept as a convolution's
    result is not there any more."""
    made = program(TEXTS["one"], [ON])
    assert again(made) == ["S.add", "S.addNL"]
    alone = config_text(
        [
            "{name: C, conv: {channels: 4, size: 3}, norm: batch, nonlinearity: relu}",
            "{name: D, conv: {channels: 4, size: 3}, norm: batch, nonlinearity: relu}",
            "{name: out, softmax: {classes: 3}}",
        ],
        "{p: 1}",
    )
    nodes = [step.node for step in program(alone, [ON]).schedule(program(alone, [ON]).plan(0)).steps]
    assert again(program(alone, [ON])) == ["D.normalize", "D.convNL", "C.normalize", "C.convNL"]
    assert nodes[nodes.index("D.conv.grad") - 1] == "C.convNL"
    assert again(program(alone, ["memory.recompute=[relu]"])) == []
    assert again(program(alone, ["memory.recompute=[relu, normalize]"])) == again(program(alone, [ON]))


def test_a_mask_is_drawn_again():
    """Of a dropout its gradient reads the mask, and that of the pool the result; the pool's own is smaller, and made of that."""
    assert again(program(TEXTS["accumulated"], [ON])) == ["D.dropout"]


def test_what_a_message_brings_is_kept():
    """Rows of C are read with a halo by the next convolution, whose gradient reads them again."""
    lines = [
        "{name: C, conv: {channels: 4, size: 3, padding: 1}, norm: batch, nonlinearity: relu, split: {H: p}}",
        "{name: D, conv: {channels: 4, size: 3, padding: 1}, norm: batch, nonlinearity: relu}",
        "{name: out, softmax: {classes: 3}, split: {H: p}}",
    ]
    text = config_text(lines, "{p: 2}")
    assert again(program(text, [ON])) == ["D.normalize", "D.convNL"]


def test_what_is_looked_at_is_kept():
    made = program(TEXTS["one"], [ON])
    assert again(replace(made, shown=frozenset(["S.addNL.output"]))) == ["C.normalize", "C.convNL"]


NETS = {
    "resnet20_cifar": (["data.batch=128"], ((3, 16, 16), 4, 4), 0.72),
    "unet3d": (["data.batch=1"], ((3, 16, 16, 16), 1, 8), 0.88),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("kernels", ["numpy", "torch"])
def test_the_peak_falls_and_no_bit_changes(name, kernels):
    if kernels == "torch":
        pytest.importorskip("torch")
    overrides, small, most = NETS[name]
    ways = [[f"backend={kernels}", f"memory.recompute={word}"] for word in ("true", "false")]
    made = [compile_config(load_config(CONFIGS / f"{name}.yaml", [*overrides, *way], 1)) for way in ways]
    assert not made[0].check()[0]
    ours, theirs = (one.schedule(one.plan(0)).placement.arena_nbytes for one in made)
    assert ours < most * theirs
    assert_same_bits(*(compile_config(config_of(scaled(name, *small, overrides=way))) for way in ways))


def test_a_trace_tells():
    made = program(TEXTS["one"], [ON])
    (worker,) = run(made, lambda worker: worker)
    recorder = Recorder(0)
    worker.train_step(worker.training_batches(shuffle=True).indices(0, 0), recorder)
    assert [event["node"] for event in recorder.events() if event["verb"] == "recompute"] == again(made)


def test_every_cheap_op_is_an_op():
    assert set(CHEAP) <= OPS.keys()
