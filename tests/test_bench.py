"""The cases of tools/bench.py on small networks, each in one pair: what is measured runs, and rows say what they should."""

import json

import pytest

import bench_runtime
import bench_torch
from bench_network import Network
from bench_row import Options, Row, geometric_mean, row_of
from dgraph.runtime.communicator import OneRank

ONCE = Options(pairs=1, seconds=0)


def test_a_ratio_is_the_median_of_those_of_pairs():
    row = row_of("a", [(1.0, 2.0), (9.0, 3.0), (3.0, 4.0)], 0.75, {"pairs": 3})
    assert json.loads(row.line()) == {
        "case": "a", "ours_seconds": 3.0, "theirs_seconds": 3.0, "ratio": 0.75, "goal": 0.75, "met": True, "pairs": 3,
    }  # fmt: skip
    assert Row("b", 1.0, 2.0, 0.5, 0.6, least=True).met is False
    assert Row("c", 1.0, 2.0, 0.5).met is None


def test_a_geometric_mean():
    mean = geometric_mean("mean", [Row("a", 1.0, 2.0, 0.5), Row("b", 4.0, 2.0, 2.0)], 0.9)
    assert (mean.ours, mean.theirs, mean.ratio, mean.met) == pytest.approx((2.0, 2.0, 1.0, False))


def test_cases_are_chosen_by_the_beginnings_of_their_names():
    options = Options(only=("eager.lenet5", "compiled"))
    wanted = {name: options.wants(name) for name in ("eager.lenet5", "eager.lenet", "compiled.unet3d", "eager.vgg_a")}
    assert wanted == {"eager.lenet5": True, "eager.lenet": False, "compiled.unet3d": True, "eager.vgg_a": False}
    assert Options().wants("eager.vgg_a")


def test_a_step_beside_that_of_pytorch():
    pytest.importorskip("torch")
    rows = bench_torch.rows("eager", "lenet5", Network("lenet5", 2), ONCE, OneRank())
    (row,) = rows
    assert (row.case, row.goal, row.more["backend"], row.more["pairs"]) == ("eager.lenet5", None, "numpy", 1)
    assert row.more["format"] in ("channels_first", "channels_last")
    assert row.ratio == row.ours / row.theirs


def test_a_peer_that_computes_something_else(capfd):
    pytest.importorskip("torch")
    with pytest.raises(RuntimeError, match="a peer has ended"):
        next(bench_torch.rows("eager", "resnet20", Network("lenet5", 2), ONCE, OneRank()))
    assert "ValueError: only one side has" in capfd.readouterr().err


def test_the_runtime_beside_bare_calls():
    rows = list(bench_runtime.run(ONCE, nodes=6))
    assert [(row.case, row.more["nodes"], row.goal) for row in rows] == [
        ("runtime.forward", 6, 3.0), ("runtime.step", 12, 3.0),
    ]  # fmt: skip
    assert len(bench_runtime.bare_calls(6, 4, gradient=True)) == 6 + 3 * 3 + 3 * 2
