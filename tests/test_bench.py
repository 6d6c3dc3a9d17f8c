"""The cases of tools/bench.py on small networks, each in one pair: what is measured runs, and rows say what they should."""

import json

import pytest

import bench_memory
import bench_reference
import bench_runtime
import bench_split
import bench_table
import bench_torch
import bench_untied
from bench_network import Network
from bench_row import CONFIGS, Options, Row, geometric_mean, row_of
from dgraph.config import load_config
from dgraph.program import compile_config
from dgraph.runtime.communicator import OneRank
from dgraph.runtime.thread import run_threads

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


def test_the_runtime_beside_bare_calls():
    rows = list(bench_runtime.run(ONCE, nodes=6))
    assert [(row.case, row.more["nodes"], row.goal) for row in rows] == [
        ("runtime.forward", 6, 3.0), ("runtime.step", 12, 3.0),
    ]  # fmt: skip
    assert len(bench_runtime.bare_calls(6, 4, gradient=True)) == 6 + 3 * 3 + 3 * 2


def test_untied_filters_beside_bare_products():
    layer = bench_untied.Layer(batch=3, given=2, extent=9, channels=2, tile=2, size=3, stride=2)
    assert (layer.places, layer.terms, layer.results) == (16, 18, 8)
    found = list(bench_untied.run(Options(("untied.forward", "untied.gradient"), pairs=1, seconds=0), layer))
    assert [(row.case, row.goal) for row in found] == [("untied.forward", 1.25), ("untied.gradient", 1.25)]


def test_memory_of_a_fresh_process():
    found = bench_memory.measured("dgraph", "lenet5", "numpy")
    program = compile_config(load_config(CONFIGS / "lenet5.yaml", ["data.batch=128"], 1))
    assert found["planned"] == program.schedule(program.plan(0)).peak_nbytes
    assert found["before"] < found["peak"]


def test_rows_of_memory():
    row = bench_memory.beside_torch(3 << 20, {"channels_first": 5 << 20, "channels_last": 4 << 20}, "numpy")
    assert (row.ratio, row.more["format"], row.unit) == (0.75, "channels_last", "bytes")
    small, large = (
        bench_memory.beside_plan(40 << 20, 10 << 20, "numpy"),
        bench_memory.beside_plan(2 << 30, 1 << 30, "numpy"),
    )
    assert (small.met, large.met) == (True, False)


def halves(communicator):
    network = Network("lenet5", 2)
    return bench_split.measured("split.lenet5", network, "numpy", ONCE, communicator)


def test_space_split_over_two_ranks_beside_two_copies():
    row, _ = run_threads(2, halves)
    assert (row.case, row.more["ranks"], row.least, row.goal) == ("split.lenet5", 2, True, 0.85)


def test_operations_of_a_schedule():
    program = compile_config(load_config(CONFIGS / "lenet5.yaml", ["data.batch=2"], 1))
    forward = 2 * 2 * (28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10)
    first = 2 * 2 * 28 * 28 * 6 * 25
    assert bench_reference.flops(program.schedule(program.plan(0))) == 3 * forward - first


def test_the_table_keeps_what_was_not_measured():
    rows = [
        Row("b.x", 0.5, 1.0, 0.5, 0.6, more={"backend": "numpy"}),
        Row("a.y", 2**20, 2**21, 0.5, 0.9, True, "bytes"),
    ]
    page = bench_table.updated(
        "before\n<!-- table -->\n<!-- end -->\nafter", [json.loads(r.line()) for r in rows], ["a", "b"]
    )
    again = bench_table.updated(page, [{"case": "a.y", "skipped": "no disk"}], ["a", "b"])
    assert page.splitlines()[4:6] == [
        "| a.y |  | 1 MiB | 2 MiB | 0.50 | ≥ 0.9 | **no** |",
        "| b.x | numpy | 500.0 ms | 1,000.0 ms | 0.50 | ≤ 0.6 | yes |",
    ]
    assert again.splitlines()[4:] == ["| a.y |  | no disk | | | | |", page.splitlines()[5], "<!-- end -->", "after"]
    with pytest.raises(ValueError, match="lacks"):
        bench_table.updated("nothing", [], [])
