"""Profiles: how much work a step counts as, by hand; what is put together of several ranks; a table, JSON and a timeline."""

import json

import pytest

from dgraph.cli.main import main
from dgraph.cli.profile import briefly
from dgraph.config import parse_config
from dgraph.profile import profile
from dgraph.profile.roof import Roof
from dgraph.profile.work import work_of
from dgraph.program import compile_config, plan_summary
from dgraph.runtime.thread import run_threads
from dgraph.train import Worker
from tests.runs import CONFIGS

CONV = """
mesh: {p: 1}
data: {source: synthetic, shape: [3, 8, 6], classes: 5, batch: 4}
layers:
  - {name: a, conv: {channels: 2, size: 3}, nonlinearity: relu}
  - {name: b, softmax: {classes: 5}}
train: {optimizer: {sgd: {rate: 0.1, momentum: 0.9}}, steps: 1}
"""
ROOF = Roof(2e9, 4e9)


def test_work_counted_by_hand():
    program = compile_config(parse_config(CONV, "conv.yaml"))
    found = work_of(program.schedule(program.plan(0)), len(program.optimizer.states), 4)
    batch, results, weights = 4, 2 * 6 * 4, 2 * 3 * 3 * 3
    conv, gradient = found["a.conv", "compute"], found["a.conv.grad", "compute"]
    assert (conv.kind, gradient.kind) == ("conv", "conv gradient")
    assert conv.flops == gradient.flops == 2 * batch * results * 3 * 3 * 3  # of the data no gradient is wanted
    assert conv.nbytes == 4 * (batch * 3 * 8 * 6 + weights + batch * results)
    linear = found["b.linear1.grad", "compute"]
    assert linear.flops == 2 * (2 * batch * results * 5)
    update = found["update_a.W", "update"]
    assert (update.kind, update.nbytes) == ("update", 5 * 4 * weights)


def test_the_roof_is_what_takes_longer():
    assert ROOF.seconds(2e9, 1e9) == 1.0
    assert ROOF.seconds(2e9, 8e9) == 2.0


def test_ranks_put_together():
    program = compile_config(parse_config((CONFIGS / "small.yaml").read_text(), "small.yaml"))
    found, *others = run_threads(4, lambda communicator: profile(Worker(program, communicator), 2, 0.001))
    assert others == [None] * 3
    result = found.result
    assert (result["ranks"], result["steps"], result["backend"]) == (4, 2, "numpy")
    assert [rank["rank"] for rank in result["per_rank"]] == [0, 1, 2, 3]
    nodes = {entry["node"]: entry for entry in result["nodes"]}
    assert nodes["conv.conv.grad"]["kind"] == "conv gradient"
    assert nodes["conv.conv.grad"]["ranks"] == 4
    assert all(entry["imbalance"] >= 1 for entry in result["nodes"])
    mean = sum(rank["compute_seconds"] for rank in result["per_rank"]) / 4
    assert sum(entry["seconds"] for entry in result["kinds"] if entry["ranks"] == 4) == pytest.approx(mean, rel=0.01)
    planned = plan_summary(program, range(4))
    sent = sum(entry["sent_nbytes"] for entry in planned["ranks"])
    assert sum(entry["nbytes"] for entry in result["transfers"]) == sent
    events = json.loads(found.timeline)["traceEvents"]
    assert {(event["pid"], event["step"]) for event in events} == {(rank, step) for rank in range(4) for step in (3, 4)}


def test_the_command(tmp_path, capsys):
    config, timeline = tmp_path / "conv.yaml", tmp_path / "timeline.json"
    config.write_text(CONV)
    with pytest.raises(SystemExit) as exit_:
        main(["profile", str(config), "--steps", "1", "--top", "2", "--timeline", str(timeline), "--json"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out.splitlines()
    assert json.loads(out[-1])["steps"] == 1
    assert out[0].startswith("conv: ")
    assert "nodes, the first 2 of " in "\n".join(out)
    assert json.loads(timeline.read_text())["traceEvents"]


@pytest.mark.parametrize(
    ("chain", "mark", "brief"),
    [
        ("relu gradient + add gradient", " ", "(relu + add) gradient"),
        ("a.sum.relu.grad + a.sum.add.grad + a.two.normalize.grad", ".", "a.(sum.relu + sum.add + two.normalize).grad"),
        ("a.conv + a.mean", ".", "a.(conv + mean)"),
        ("mean + variance", " ", "mean + variance"),
        ("a.conv.grad", ".", "a.conv.grad"),
        ("a.b + a.b.c", ".", "a.(b + b.c)"),
        ("conv + conv", " ", "conv + conv"),
    ],
)
def test_names_of_a_chain_are_brief(chain, mark, brief):
    assert briefly(chain, mark) == brief
