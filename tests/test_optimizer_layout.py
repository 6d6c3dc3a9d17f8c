"""Clipping, trust ratios and averages on any mesh: the numbers of one rank, few messages, going on, evaluation."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.cli.main import main
from dgraph.error import DataError
from dgraph.layout.assign import Layout, OpLayout
from dgraph.network import Network
from dgraph.onnx.values import stored_values
from dgraph.plan.check import check_plan
from dgraph.plan.paint import corners, paint
from dgraph.predict import predict
from dgraph.rect import Rect
from dgraph.runtime.communicator import OneRank
from dgraph.runtime.thread import run_threads
from dgraph.schedule.step import Measure
from dgraph.train import TrainOptions, Worker, train
from dgraph.verify import verify
from tests.networks import config_text, load, program
from tests.runs import apart, result, saved
from tests.strategies import fields, meshes

# Biases that all ranks update, filters that some repeat, tiles that two ranks have in common, parameters smaller than the mesh.
LAYERS = (
    "{name: C1, conv: {channels: 4, size: 5, padding: 2}, norm: batch, nonlinearity: {prelu: {spans: C}}, split: {H: y, W: x}}",
    "{name: P1, max_pool: {size: 3, stride: 2, padding: 1}}",
    "{name: T1, tiled: {channels: 3, tile: 2, size: 2, stride: 1}, nonlinearity: tanh, split: {H: y}}",
    "{name: C2, conv: {channels: 5, size: 2}, nonlinearity: leaky_relu, split: {N: y, O: x}}",
    "{name: out, softmax: {classes: 3, bias: true}, split: {C: x, H: y}, loss_split: {N: [y, x]}}",
)
MESHES = ("{y: 1, x: 2}", "{y: 3, x: 1}", "{y: 2, x: 2}")
RULES = (
    "{sgd: {rate: 0.1, momentum: 0.9, nesterov: true}}", "{lars: {rate: 10}}", "{lamb: {rate: 0.05}}",
    "{rmsprop: {rate: 0.01, centered: true, momentum: 0.9}}", "{adamw: {rate: 0.01, biases: true}}",
)  # fmt: skip


def text(rule, mesh="{y: 2, x: 2}", shard=False, clip="0.05", average="mean", more="", **others):
    train_text = f"optimizer: {rule}, clip: {clip}, average: {average}, shard: {str(shard).lower()}, steps: 7, {more}"
    return config_text(LAYERS, mesh, train="{" + train_text.rstrip(", ") + "}", **others)


def ranks_of(made, body):
    if made.ranks == 1:
        return [body(Worker(made, OneRank()))]
    return run_threads(made.ranks, lambda communicator: body(Worker(made, communicator)))


def silent(folder=None):
    return TrainOptions(folder, lambda entry: None)


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(RULES), st.sampled_from(MESHES), st.booleans(), st.sampled_from(["null", "0.05"]), st.integers(1, 2)
)
def test_any_mesh_trains_as_one_rank(rule, mesh, shard, clip, accumulate):
    penalty = "" if "lars" in rule else "penalty: {l1: 0.01, l2: 0.01, biases: true}, "
    more = penalty + f"schedule: {{cosine: {{per: step}}}}, warmup: {{steps: 2}}, accumulate: {accumulate}"
    found = verify(load(text(rule, mesh, shard, clip, "{mean: {from: 1, per: step}}", more)), 4)
    assert found["worst"] < 1e-11


@pytest.mark.parametrize("shard", [False, True])
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize(
    ("rule", "tensors"), [("{lars: {rate: 1}}", ["gradient"]), ("{lamb: {rate: 1}}", ["gradient", "step"])]
)
def test_norms_are_one_sum_a_step(mesh, shard, rule, tensors):
    made = program(text(rule, mesh, shard))
    for rank in range(made.ranks):
        transfers = made.plan(rank).transfers
        norms = {name: transfer for name, transfer in transfers.items() if name.endswith(".norms")}
        assert list(norms) == [f"{tensor}.norms" for tensor in tensors]
        assert {transfer.kind for transfer in norms.values()} == {"all_reduce"}


def test_replicas_send_no_norms():
    lines = ("{name: L, linear: {features: 5}, split: {N: y}}", "{name: out, softmax: {classes: 3}, split: {N: y}}")
    made = program(config_text(lines, "{y: 4}", train="{optimizer: {lamb: {rate: 1}}, clip: 1, steps: 1}"))
    assert all("norms" not in name for rank in range(4) for name in made.plan(rank).transfers)
    cut = program(config_text(lines, "{y: 4}", train="{optimizer: {lamb: {rate: 1}}, clip: 1, steps: 1, shard: true}"))
    assert [name for name in cut.plan(3).transfers if "norms" in name] == ["gradient.norms", "step.norms"]


# Of 4 ranks, the last has nothing of the tiles, whose number `a` the others update alike.
FEW = (
    "{name: C, conv: {channels: 2, size: 3, padding: 1}, split: {H: y}}",
    "{name: T, tiled: {channels: 2, tile: 2, size: 2, stride: 2}}",
    "{name: out, softmax: {classes: 3}, split: {N: y}}",
)


@pytest.mark.parametrize("shard", [False, True])
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("layers", [LAYERS, FEW])
def test_every_element_is_measured_once(layers, mesh, shard):
    mesh = "{y: 4, x: 1}" if layers is FEW else mesh
    rule = f"{{optimizer: {{lars: {{rate: 1}}}}, steps: 1, shard: {str(shard).lower()}}}"
    made = program(config_text(layers, mesh, shape="[1, 9, 9]", train=rule))
    pieces = {parameter.name: [] for parameter in made.graph.parameters}
    for rank in range(made.ranks):
        for step in made.schedule(made.plan(rank)).steps:
            if isinstance(step, Measure):
                pieces[step.update.parameter] += step.pieces
    for name, rects in pieces.items():
        counts, _ = paint(Rect.whole(made.graph.tensors[name].dim), corners(rects))
        assert (counts == 1).all(), name


def test_a_layout_that_measures_twice_is_found(monkeypatch):
    made = program(config_text(FEW, "{y: 4}", shape="[1, 9, 9]", train="{optimizer: {lars: {rate: 1}}, steps: 1}"))
    plans = [made.plan(rank) for rank in range(made.ranks)]
    assert not check_plan(made.layout, plans)
    layout = type(made.layout)
    monkeypatch.setattr(layout, "distinct", lambda self, op, port, place: (self.ops[op].fields[port].at(place),))
    found = check_plan(made.layout, plans)
    assert {finding.rule for finding in found} == {"tiling"}
    assert {finding.node for finding in found} == {"gradient_norm_T.a"}


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_ranks_share_out_what_they_have_in_common(data):
    mesh = data.draw(meshes())
    dim = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    field = data.draw(fields(mesh, dim))
    layout = Layout(None, mesh, {"op": OpLayout(None, None, {"port": field}, {})}, {})
    own, shared = np.zeros(dim, bool), np.zeros(dim, int)
    for place in product(*(range(n) if axis in field.axes() else (0,) for axis, n in enumerate(mesh.sizes))):
        own[field.at(place).slices()] = True
        for rect in layout.distinct("op", "port", place):
            assert rect in field.at(place)
            shared[rect.slices()] += 1
    assert (shared == own).all()


def test_state_and_norms_count_in_the_peak():
    plain, more = (
        program(text("{adam: {rate: 1}}", shard=True, **kind)) for kind in ({"clip": "null", "average": "null"}, {})
    )
    for rank in range(4):
        before, after = (made.schedule(made.plan(rank)) for made in (plain, more))
        assert after.state_nbytes * 2 == before.state_nbytes * 3
        buffers = [sum(buffer.nbytes for buffer in schedule.placement.buffers) for schedule in (before, after)]
        assert buffers[1] - buffers[0] == len(more.graph.parameters) * 8


@pytest.mark.parametrize("rule", ["{lamb: {rate: 0.05}}", "{lars: {rate: 5}}"])
@pytest.mark.parametrize("shard", [False, True])
def test_going_on_gives_the_same_bits(rule, shard, tmp_path):
    made = text(rule, shard=shard, average="{exponential: {decay: 0.6, from: 2, per: step}}", more="warmup: {steps: 5}")
    part = program(made, ["train.steps=3", "train.schedule={polynomial: {length: 7, per: step}}"])
    whole = program(made, ["train.schedule={polynomial: {length: 7, per: step}}"])
    ranks_of(whole, lambda worker: train(worker, silent(tmp_path / "whole")))
    ranks_of(part, lambda worker: train(worker, silent(tmp_path / "part")))

    def go_on(worker):
        worker.load(tmp_path / "part", states=True)
        return train(worker, silent(tmp_path / "part"))

    ranks_of(whole, go_on)
    ours, theirs = saved(tmp_path / "part"), saved(tmp_path / "whole")
    assert "C1.W:average" in theirs
    assert apart(ours, theirs) == 0.0


def test_another_mesh_goes_on(tmp_path):
    made = text("{lamb: {rate: 0.05}}", shard=True)
    ranks_of(program(made, ["train.steps=3"]), lambda worker: train(worker, silent(tmp_path / "part")))

    def go_on(worker):
        worker.load(tmp_path / "part", states=True)
        return train(worker, silent(tmp_path / f"on{worker.communicator.size}"))

    for mesh in ("{y: 1, x: 1}", "{y: 3, x: 1}"):
        ranks_of(program(made, [f"mesh={mesh}"]), go_on)
    assert apart(saved(tmp_path / "on1"), saved(tmp_path / "on3")) < 1e-9


def test_what_is_evaluated_is_the_average(tmp_path, capsys):
    made = program(text("{sgd: {rate: 0.5}}", average="{mean: {from: 2, per: step}}", shard=True))
    told, seen = [], {}

    def body(worker):
        told.append(train(worker, silent(tmp_path)))
        before = {name: array.copy() for name, array in worker.engine.store.states["C1.W"].items()}
        predicted = predict(worker, "test")
        assert np.array_equal(worker.engine.store.states["C1.W"]["average"], before["average"])
        if predicted is not None:
            seen["inside"] = predicted

    ranks_of(made, body)
    values = saved(tmp_path)
    assert not np.array_equal(values["C1.W"], values["C1.W:average"])

    def load_and_look(worker):
        worker.load(tmp_path, states=False)
        found = worker.evaluate("test").result(), predict(worker, "test")
        whole = worker.engine.value("C1.W")
        assert np.array_equal(whole, values["C1.W:average"])
        return found

    forward = Network(load(text("{sgd: {rate: 0.5}}", "{y: 1, x: 1}")))
    [(measured, predicted)] = ranks_of(forward.program, load_and_look)
    assert measured["loss"] == pytest.approx(told[0]["test"]["loss"], rel=1e-9)
    np.testing.assert_allclose(predicted["probability"], seen["inside"]["probability"], rtol=1e-9)
    exported = stored_values(forward.program.forward, tmp_path, "float64")
    assert np.array_equal(exported("C1.W"), values["C1.W:average"])
    assert np.array_equal(exported("C1.running_mean"), values["C1.running_mean"])
    config = tmp_path / "net.yaml"
    config.write_text(text("{sgd: {rate: 0.5}}", "{y: 1, x: 1}"))
    with pytest.raises(SystemExit):
        main(["evaluate", str(config), "--checkpoint", str(tmp_path), "--json"])
    assert result(capsys.readouterr().out)["loss"] == pytest.approx(told[0]["test"]["loss"], rel=1e-9)


def test_state_that_was_not_kept_is_named(tmp_path):
    plain = text("{sgd: {rate: 0.1}}", "{y: 1, x: 1}", average="null")
    Network(load(plain)).train(folder=tmp_path)
    for more, missing in (("{sgd: {rate: 0.1, momentum: 0.9}}", "velocity"), ("{sgd: {rate: 0.1}}", "average")):
        with pytest.raises(DataError, match=f"written without {missing}, which the optimizer keeps now"):
            Network(load(text(more, "{y: 1, x: 1}", average="null" if missing == "velocity" else "mean"))).train(
                resume=tmp_path
            )


def test_what_is_special_about_a_parameter_survives_the_node_form():
    lines = config_text(LAYERS, train="{optimizer: {adamw: {rate: 0.1}}, steps: 1}")
    made = program(lines + "parameters: {C1.W: {rate: 0.5, penalty: false}, C2.b: {penalty: true}}\n")
    plain = made.expanded()["parameters"]
    assert (plain["C1.W"]["rate"], plain["C1.W"]["penalty"], plain["C2.b"]["penalty"]) == (0.5, False, True)
    nodes = made.graph.ops
    recipes = {
        name: made.optimizer.recipe_of(nodes[f"update_{name}"].attributes)
        for name in ("C1.W", "C2.W", "C2.b", "C1.slope")
    }
    assert {name: recipe.numbers["decay"] for name, recipe in recipes.items()} == {
        "C1.W": 0,
        "C2.W": 0.01,
        "C2.b": 0.01,
        "C1.slope": 0,
    }
    assert (recipes["C1.W"].factor, recipes["C2.W"].factor) == (0.5, 1.0)
