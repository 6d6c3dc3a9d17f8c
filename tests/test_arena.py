"""Memory by lifetime: where buffers lie, that none is overwritten while it is needed, and that no number changes."""

from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgraph.schedule.arena import ALIGNMENT, arrange
from dgraph.schedule.lifetime import Life
from dgraph.schedule.overwrite import check_memory
from dgraph.schedule.step import Zero
from tests.fused import CHAINS, NORMED, backend
from tests.joined import text_of
from tests.networks import SPATIAL, config_text, program
from tests.workers import run


@st.composite
def lives(draw):
    count = draw(st.integers(0, 30))
    found = {}
    for k in range(count):
        first = draw(st.integers(0, 12))
        found[k] = Life(first, first + draw(st.integers(0, 6)), draw(st.integers(1, 500)))
    return found


@given(lives())
def test_what_is_needed_at_the_same_time_lies_apart(found):
    offsets, total = arrange(found)
    assert all(offset % ALIGNMENT == 0 for offset in offsets.values())
    assert total == max(
        (-(-(offsets[k] + life.nbytes) // ALIGNMENT) * ALIGNMENT for k, life in found.items()), default=0
    )
    for k, one in found.items():
        for other in range(k):
            two = found[other]
            if one.first <= two.last and two.first <= one.last:
                below, above = sorted([(offsets[k], one.nbytes), (offsets[other], two.nbytes)])
                assert below[0] + below[1] <= above[0]


def test_a_gap_that_fits_is_filled():
    """a and b one after the other; c is there all the while; d fits into the place of a."""
    found = {
        "c": Life(0, 9, 640),
        "a": Life(0, 3, 1280),
        "b": Life(4, 9, 1280),
        "d": Life(5, 6, 64),
        "e": Life(0, 1, 128),
    }
    offsets, total = arrange(found)
    assert offsets == {"a": 0, "b": 0, "c": 1280, "e": 1920, "d": 1920}
    assert total == 2048


TEXTS = {
    "encoder and decoder": text_of("encoder and decoder", 2),
    "shapes": text_of("shapes", 1),
    "spatial": config_text(SPATIAL, "{y: 2, x: 2}"),
    "accumulated": config_text(
        SPATIAL, "{y: 2, x: 1}", train="{optimizer: {lamb: {rate: 0.1}}, accumulate: 2, clip: 1, steps: 5}"
    ),
    "averaged": config_text(
        SPATIAL, "{y: 1, x: 1}", train="{optimizer: {sgd: {rate: 0.1}}, average: mean, shard: true, steps: 5}"
    ),
    "normed": config_text([line.replace("SPLIT", "{N: p}") for line in NORMED], "{p: 2}", batch=4),
}


def outcome(made, spoil):
    """Losses and parameters of some steps with an evaluation between; `spoil`: what does not last is NaN before each."""

    def body(worker):
        batches, losses = worker.training_batches(shuffle=True), []

        def begin():
            lasting = [worker.engine.store.buffers[n] for n in made_lasting(worker)]
            kept = [array.copy() for array in lasting]
            worker.engine.store.arena.view(worker.engine.store.dtype)[...] = np.nan if spoil else 0
            for array, values in zip(lasting, kept, strict=True):
                array[...] = values

        for k in range(3):
            begin()
            losses.append(worker.train_step(batches.indices(*divmod(k, batches.steps))))
            begin()
            with worker.engine.averaged():
                worker.forward(worker.batches("train", shuffle=False).indices(0, 0))
                losses.append(worker.metrics())
        return losses, {t.name: v for t in worker.program.graph.kept if (v := worker.engine.value(t.name)) is not None}

    return run(made, body)


def made_lasting(worker):
    placement = worker.engine.schedule.placement
    return [n for n in placement.numbers(placement.lasting) if n in placement.offsets]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("fused", [False, True])
def test_memory_that_serves_again_changes_no_bit(name, fused):
    ours, theirs = program(TEXTS[name]), program(TEXTS[name], ["memory.reuse=false"])
    if fused:
        ours, theirs = (replace(one, backend=backend(*CHAINS)) for one in (ours, theirs))
    for rank in range(ours.ranks):
        assert not check_memory(ours.schedule(ours.plan(rank)), ours.graph, ours.backend, ours.config.train.accumulate)
        assert peak(ours, rank) < peak(theirs, rank)
    for (losses, values), (others, kept) in zip(outcome(ours, True), outcome(theirs, False), strict=True):
        np.testing.assert_array_equal(
            np.concatenate([x for x in losses if x is not None]),
            np.concatenate([x for x in others if x is not None]),
        )
        for name in kept:
            np.testing.assert_array_equal(values[name], kept[name])


def peak(made, rank):
    return made.schedule(made.plan(rank)).peak_nbytes


def test_what_is_overwritten_too_early_is_found():
    made = program(TEXTS["averaged"])
    schedule = made.schedule(made.plan(0))
    places, offsets = schedule.placement.places, dict(schedule.placement.offsets)
    first, second = (places[name].write for name in ("C1.convNL.output", "C2.conv.output"))
    offsets[second] = offsets[first]
    wrong = replace(schedule, placement=replace(schedule.placement, offsets=MappingProxyType(offsets)))
    (finding,) = check_memory(wrong, made.graph, made.backend)
    assert finding.rule == "memory"
    assert finding.ranks == (0,)


def test_a_parameter_is_updated_as_soon_as_its_gradient_is_there():
    """On one rank no update waits for a message; with norms of gradients, all wait for the last."""
    nodes = steps(config_text(SPATIAL, ONE))
    assert nodes[nodes.index("out.linear1.grad") + 1] == "update_W1"
    assert nodes[nodes.index("C2.conv.grad") + 1] == "update_C2.W"
    late = steps(config_text(SPATIAL, ONE, train=CLIPPED))
    assert max(k for k, node in enumerate(late) if node.startswith("gradient_norm_")) < late.index("update_W1")


def test_gradients_that_are_gone_take_no_memory():
    """Three layers of as many weights: with norms, the gradients of all are there at once."""
    layers = [f"{{name: L{k}, linear: {{features: 256}}, nonlinearity: tanh}}" for k in range(3)]
    text = [*layers, "{name: out, softmax: {classes: 3}}"]
    ours, theirs = (program(config_text(text, ONE, train=train)) for train in ("", CLIPPED))
    starts = [
        [placement.offsets[placement.places[f"{name}.W.grad"].write] for name in ("L2", "L1")]
        for placement in (made.schedule(made.plan(0)).placement for made in (ours, theirs))
    ]
    assert starts[0][0] == starts[0][1]
    assert starts[1][0] != starts[1][1]


ONE = "{y: 1, x: 1}"
CLIPPED = "{optimizer: {sgd: {rate: 0.1}}, clip: 1, steps: 5}"


def steps(text):
    made = program(text)
    return [step.node for step in made.schedule(made.plan(0)).steps]


def zeroed(pieces):
    """The nodes that set something to zero, where a convolution of a network comes in pieces."""
    layers = [
        "{name: A, conv: {channels: 4, size: 3, padding: 1}, nonlinearity: tanh}",
        f"{{name: B, conv: {{channels: 4, size: 1}}, nonlinearity: tanh, pieces: {pieces}}}",
        "{name: out, softmax: {classes: 3}}",
    ]
    made = program(config_text(layers, ONE))
    return [step.node for step in made.schedule(made.plan(0)).steps if isinstance(step, Zero) and not step.idle]


def test_pieces_that_lie_side_by_side_need_no_zeroing():
    """Pieces of samples write their parts of the result and of the input's delta, and add up in those of parameters; pieces of
    output channels write their parts of the result and of the filters' delta, and add up in that of the input."""
    assert zeroed("{N: 1}") == []
    assert zeroed("{N: 3}") == ["B.W.grad.set_zero"]
    assert zeroed("{O: 2}") == ["A.convNL.output.grad.set_zero"]
