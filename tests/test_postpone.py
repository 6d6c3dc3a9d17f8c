"""Updates put off into the next step: which, to where, when they are finished, and the same bits."""

from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest

from dgraph.error import ConfigError
from dgraph.program import plan_summary
from dgraph.schedule.check import check_progress, postings
from dgraph.schedule.lifetime import lives_of
from dgraph.schedule.overwrite import check_memory
from dgraph.schedule.step import Start, Update, Zero
from dgraph.schedule.touch import Touch
from dgraph.schedule.turn import Turn
from tests.networks import SPATIAL, config_text, program
from tests.workers import run

CONV = "{{name: C{}, conv: {{channels: 3, size: 3, padding: 1}}, {}nonlinearity: relu, split: {{N: [y, x]}}}}"
OUT = "{name: out, softmax: {classes: 3, bias: true}, loss_split: {N: [y, x]}}"
PLAIN = (CONV.format(0, ""), CONV.format(1, ""), OUT)
NORMED = (CONV.format(0, "norm: batch, "), CONV.format(1, "norm: batch, "), "{name: D, dropout: {rate: 0.3}}", OUT)
MOMENTUM = "optimizer: {sgd: {rate: 0.1, momentum: 0.5}}, schedule: {exponential: {decay: 0.5}}"


def network(layers, updates, mesh="{y: 2, x: 1}", train="", bucket=0, others=()):
    text = config_text(layers, mesh, batch=4, train=train)
    return program(text, [f"overlap={{updates: {updates}}}", f"messages.bucket={bucket}", *others])


def put_off(schedule):
    """What is put off, in order, each with what comes behind it that is not."""
    pairs = list(zip(schedule.steps, schedule.turns, strict=True))
    found = []
    for k, (step, turn) in enumerate(pairs):
        if turn is Turn.NEXT:
            reader = next((other.node for other, when in pairs[k:] if when is not Turn.NEXT), None)
            found.append((type(step).__name__, step.node, reader))
    return found


def test_a_gradient_is_waited_for_right_before_who_reads_its_parameter():
    made = network(PLAIN, "late")
    schedule = made.schedule(made.plan(0))
    found = put_off(schedule)
    assert found[:4] == [
        ("Wait", "C0.W.grad", "C0.conv"),
        ("Update", "update_C0.W", "C0.conv"),
        ("Wait", "C0.b.grad", "C0.convA"),
        ("Update", "update_C0.b", "C0.convA"),
    ]
    assert len(found) == 2 * len(made.graph.parameters)
    behind = schedule.steps[schedule.forward :]
    assert not any(isinstance(step, Update) for step in behind)
    starts = [step.node for step in behind if isinstance(step, Start) and step.node.endswith(("W.grad", "b.grad"))]
    assert starts.index("C1.W.grad") < starts.index("C0.W.grad")


def test_a_bucket_is_due_where_the_first_of_its_parameters_is():
    made = network(PLAIN, "late", bucket=1 << 20)
    found = put_off(made.schedule(made.plan(0)))
    assert [(kind, reader) for kind, _, reader in found if kind == "Wait"] == [("Wait", "C0.conv")]


def test_what_does_not_travel_is_updated_in_its_step():
    made = network(PLAIN, "late", "{y: 1, x: 1}")
    schedule = made.schedule(made.plan(0))
    assert not schedule.late
    assert any(isinstance(step, Update) for step in schedule.steps[schedule.forward :])


def test_updates_are_late_between_hosts_unless_all_gradients_are_needed_first():
    made = network(PLAIN, "auto")
    assert [made.schedule(made.plan(0), spread).late for spread in (False, True)] == [False, True]
    for word in ("overlap=false", "overlap={updates: step}", "train.clip=1"):
        other = network(PLAIN, "auto", others=[word])
        assert not other.schedule(other.plan(0), spread=True).late
    with pytest.raises(ConfigError, match="none can be late: norms of all gradients"):
        network(PLAIN, "late", others=["train.clip=1"])


def test_the_plan_says_when_updates_are_made_and_what_they_take():
    near, far = (plan_summary(network(PLAIN, word), [0]) for word in ("auto", "late"))
    assert near["updates"] == "in the step; between hosts late: each before the next step reads the parameter"
    assert far["updates"] == "late: each before the next step reads the parameter, its gradient under way until then"
    clipped = plan_summary(network(PLAIN, "auto", others=["train.clip=1"]), [0])
    assert clipped["updates"] == "in the step: norms of all gradients are needed before the first update"
    assert plan_summary(network(PLAIN, "step"), [0])["updates"] == "in the step: as asked for"
    (entry,) = near["ranks"]
    assert entry["spread_peak_nbytes"] == far["ranks"][0]["peak_nbytes"]


def test_the_proof_knows_the_next_step():
    made = network(PLAIN, "late")
    schedules = [made.schedule(made.plan(rank)) for rank in range(2)]
    found = [postings(schedule, late=True) for schedule in schedules]
    assert check_progress(found) == []
    uses = [posting.use for posting in found[0] if posting.tensor == "C0.W.grad"]
    assert uses == [0, 0, 1, 1]
    lacking = [posting for posting in found[1] if (posting.tensor, posting.use) != ("C0.W.grad", 1)]
    assert check_progress([found[0], lacking])[0].node == "C0.W.grad"


def test_the_proof_finds_what_spoils_a_gradient_under_way():
    made = network(PLAIN, "late")
    schedule = made.schedule(made.plan(0))
    assert check_memory(schedule, made.graph, made.backend) == []
    places = schedule.placement.places
    taken, between = places["C1.W.grad"].write, places["C0.conv.output"].write
    offsets = {**schedule.placement.offsets, between: schedule.placement.offsets[taken]}
    (finding,) = check_memory(
        replace(schedule, placement=replace(schedule.placement, offsets=MappingProxyType(offsets))),
        made.graph,
        made.backend,
    )
    assert finding.text.endswith("its memory serves for something else before this node has read it")
    again = Zero("again", taken, elided=False)
    written = replace(
        schedule,
        steps=(*schedule.steps, again),
        turns=(*schedule.turns, Turn.LAST),
        scratch=(*schedule.scratch, (0, 0)),
    )
    (finding,) = check_memory(written, made.graph, made.backend)
    assert finding.node == "again"
    assert finding.text == "C1.W.grad: this node writes it while it is under way"


def test_a_gradient_that_is_under_way_lives_into_the_next_run():
    nothing = frozenset[int]()
    touches = [Touch(frozenset({0}), nothing), Touch(nothing, frozenset({1})), Touch(nothing, frozenset({0}))]
    found = lives_of(touches, {0: 64, 1: 64}, (), (1,), late={0})
    assert found[0].spans[0] == (0, 0)
    assert found[0].spans[1][0] == 2
    assert (found[1].first, found[1].last) == (0, 3)


def outcome(made, look=True):
    """Losses of four steps, an evaluation in between, gradients and parameters at the end; and how often anybody waited."""

    def body(worker):
        batches = worker.training_batches(shuffle=False)
        losses = []
        for step in range(4):
            losses.append(worker.train_step(batches.indices(0, step % batches.steps)).tolist())
            if step == 1 and look:
                losses.append(worker.evaluate("train").result()["loss"])
        names = [*(p.name for p in made.graph.kept), *(f"{p.name}.grad" for p in made.graph.parameters)]
        found = {name: worker.engine.value(name) for name in names}
        return losses, {name: value.copy() for name, value in found.items() if value is not None}

    made = replace(made, shown=frozenset(f"{p.name}.grad" for p in made.graph.parameters))
    return run(made, body)


@pytest.mark.parametrize(
    ("layers", "mesh", "train", "others"),
    [
        (PLAIN, "{y: 2, x: 1}", "", ()),
        (NORMED, "{y: 2, x: 1}", f"{{{MOMENTUM}, steps: 4}}", ()),
        (NORMED, "{y: 2, x: 2}", f"{{{MOMENTUM}, accumulate: 2, steps: 4}}", ()),
        (PLAIN, "{y: 2, x: 1}", "{optimizer: {adam: {rate: 0.01}}, average: {exponential: {decay: 0.5}}, steps: 4}", ()),
        (PLAIN, "{y: 2, x: 1}", f"{{{MOMENTUM}, shard: true, steps: 4}}", ("messages.bucket=1048576",)),
        (SPATIAL, "{y: 2, x: 2}", "", ("messages.bucket=1048576",)),
        (SPATIAL, "{y: 2, x: 2}", "", ("messages.lower=false", "messages.window=false")),
        (PLAIN, "{y: 2, x: 1}", "", ("backend=torch",)),
    ],
)  # fmt: skip
def test_the_bits_are_those_of_updates_in_the_step(layers, mesh, train, others):
    if "backend=torch" in others:
        pytest.importorskip("torch")
    late, plain = (network(layers, word, mesh, train, others=others) for word in ("late", "step"))
    assert late.check()[0] == []
    assert late.schedule(late.plan(0)).late
    for (losses, values), (others_losses, theirs) in zip(outcome(late), outcome(plain), strict=True):
        assert losses == others_losses
        assert values.keys() == theirs.keys()
        for name, value in values.items():
            np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def test_a_run_without_a_look_ends_with_the_same_bits():
    late, plain = (network(PLAIN, word) for word in ("late", "step"))
    assert [losses for losses, _ in outcome(late, False)] == [losses for losses, _ in outcome(plain, False)]
