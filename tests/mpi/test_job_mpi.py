"""Jobs of real ranks: the same numbers on any number of them, dumps and events from inside, on both MPIs."""

import json

import numpy as np
import pytest

from dgraph.config import load_config
from tests.mpi.launcher import FAMILIES, dgraph, finish, start_front
from tests.runs import CONFIGS, apart, entries, losses, result, saved, settings

pytestmark = pytest.mark.mpi

SMALL = settings(
    data__batch=8,
    data__classes=10,
    layers__L0__tiled__channels=2,
    layers__L1__tiled__channels=2,
    layers__classifier__softmax__classes=10,
    train__steps=1,
)
UNEVEN = settings(layers__uneven__split="{N: y, W: x}")
MIXED = {1: "{y: 1, x: 1}", 2: "{y: 1, x: 2}", 3: "{y: 3, x: 1}", 4: "{y: 2, x: 2}"}
VOLUME = {1: "{z: 1, y: 1}", 2: "{z: 2, y: 1}", 3: "{z: 1, y: 3}", 4: "{z: 2, y: 2}"}
NETS = {"mixed": (MIXED, UNEVEN), "volume": (VOLUME, [])}


def good(done):
    """A job that ended well and had nothing to complain of."""
    assert (done.status, done.error) == (0, ""), done.error
    return done


def test_a_search_on_parts_of_the_ranks_finds_what_one_rank_finds(tmp_path):
    rows = []
    for ranks, side in ((1, 1), (4, 2)):
        options = ("--side", side, "--run", tmp_path / str(ranks), "--json", "--no-pictures")
        keys = settings(
            tune="{trials: 4, rounds: 2, metric: train.loss, keys: {train.optimizer.sgd.rate: {uniform: [0.1, 2]}}}"
        )
        done = good(finish(start_front("tune", CONFIGS / "and.yaml", "-n", ranks, *options, *keys)))
        rows.append(json.loads(done.out.splitlines()[-1])["trials"])
    assert [row["values"] for row in rows[0]] == [row["values"] for row in rows[1]]
    np.testing.assert_allclose([row["score"] for row in rows[0]], [row["score"] for row in rows[1]], rtol=1e-5)


def test_a_running_job_dumps_what_trace_prints(tmp_path):
    config = CONFIGS / "reference.yaml"
    good(finish(start_front("train", config, "-n", 4, "--trace", "--run", tmp_path, *SMALL)))
    for rank in range(4):
        printed = good(finish(start_front("trace", config, "-n", 4, "--rank", rank, *SMALL))).out
        assert (tmp_path / f"trace-rank{rank}.txt").read_text() == printed


@pytest.mark.parametrize(
    ("mpi", "net", "counts"),
    [
        ("mpich", "mixed", (2, 3, 4)),
        ("mpich", "volume", (2, 3, 4)),
        ("openmpi", "mixed", (3, 4)),
        ("openmpi", "volume", (4,)),
    ],
)
def test_any_number_of_ranks_learns_the_same(mpi, net, counts, tmp_path):
    meshes, options = NETS[net]
    for ranks in (1, *counts):
        options_here = settings(dtype="float64", train__log_every=1, mesh=meshes[ranks]) + options
        good(dgraph(mpi, ranks, "train", CONFIGS / f"{net}.yaml", "--run", tmp_path / str(ranks), *options_here))
    curve, tensors = losses(tmp_path / "1"), saved(tmp_path / "1")
    assert len(curve) == 5
    for ranks in counts:
        run = tmp_path / str(ranks)
        np.testing.assert_allclose(losses(run), curve, rtol=1e-10)
        assert apart(saved(run), tensors) <= 1e-10


def test_the_digits_are_learnt_alike_on_1_to_4_ranks(tmp_path):
    options = settings(train__epochs=1, train__log_every=1)
    for ranks in (1, 2, 3, 4):
        run = tmp_path / str(ranks)
        good(finish(start_front("train", CONFIGS / "digits.yaml", "-n", ranks, "--run", run, *options)))
    curves = [losses(tmp_path / str(ranks)) for ranks in (1, 2, 3, 4)]
    assert curves[0][-1] < curves[0][0] / 2
    for curve in curves[1:]:
        np.testing.assert_allclose(curve, curves[0], atol=1e-3, rtol=0)


PREPARED = """
mesh: {p: auto}
dtype: float64
data: {source: digits, batch: 64, prepare: [{standardize: {per: channel}}, {pca: {components: 20, whiten: true}}], prefetch: true}
layers:
  - {name: hidden, linear: {features: 16}, nonlinearity: tanh, split: {K: p}}
  - {name: classifier, softmax: {classes: 10}, split: {N: p}}
train: {optimizer: {sgd: {rate: 0.5}}, epochs: 1, log_every: 1}
"""


def test_any_number_of_ranks_prepares_the_same(tmp_path):
    config = tmp_path / "prepared.yaml"
    config.write_text(PREPARED)
    for ranks in (1, 3):
        good(finish(start_front("train", config, "-n", ranks, "--run", tmp_path / str(ranks))))
    np.testing.assert_allclose(losses(tmp_path / "3"), losses(tmp_path / "1"), rtol=1e-8)
    assert apart(saved(tmp_path / "3"), saved(tmp_path / "1")) <= 1e-8
    done = good(
        finish(
            start_front("evaluate", config, "-n", 2, "--checkpoint", tmp_path / "3", "--subset", "validation", "--json")
        )
    )
    before = entries(tmp_path / "3", "epoch")[-1]["validation"]
    assert result(done.out)["loss"] == pytest.approx(before["loss"], rel=1e-10)


@pytest.mark.parametrize("mpi", FAMILIES)
def test_what_a_run_leaves(mpi, tmp_path):
    done = good(dgraph(mpi, 4, "train", CONFIGS / "volume.yaml", "--json", "--events", "--run", tmp_path))
    told = result(done.out)
    assert told["steps"] == 5
    assert done.out.count('"seconds"') == 1
    assert load_config(tmp_path / "config.yaml").resolved() == load_config(CONFIGS / "volume.yaml").resolved()
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert [entry["rank"] for entry in plan["ranks"]] == [0, 1, 2, 3]
    assert json.loads((tmp_path / "environment.json").read_text())["ranks"] == 4
    assert entries(tmp_path, "epoch")[-1]["train"] == told["train"]
    check_events(tmp_path, 4)


def check_events(run, ranks):
    """A line a node and step; times in order; all of them on the timeline."""
    count = 0
    for rank in range(ranks):
        lines = [json.loads(line) for line in (run / f"events-rank{rank}.jsonl").read_text().splitlines()]
        assert all({"node", "step", "start", "seconds", "bytes"} <= line.keys() for line in lines)
        assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
        assert {line["step"] for line in lines} == {1, 2, 3, 4, 5}
        assert {"first.conv", "first.conv.grad", "update_first.W"} <= {line["node"] for line in lines}
        assert all(line["seconds"] >= 0 for line in lines)
        assert any(line["bytes"] for line in lines)
        count += len(lines)
    events = json.loads((run / "timeline.json").read_text())["traceEvents"]
    assert len(events) == count
    assert {event["pid"] for event in events} == set(range(ranks))
