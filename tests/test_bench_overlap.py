"""The case of two hosts, without them: rows of what ranks print, and one line where there can be no hosts."""

import json

import pytest

from bench_row import Options

bench = pytest.importorskip("bench_overlap")
PRINTED = {
    "case": "overlap.halo", "ours_seconds": 1.1, "theirs_seconds": 1.0, "ratio": 1.1, "goal": 1.15, "met": True,
    "pairs": 7, "computation_seconds": 1.0, "communication_seconds": 0.7, "exposed_seconds": 0.1, "hidden_seconds": 0.6,
    "mpi": "MPICH 5.0.2",
}  # fmt: skip


def test_what_ranks_print_becomes_rows(monkeypatch):
    asked = []

    def on_hosts(mpiexec, arguments):
        asked.append(arguments)
        yield json.dumps(PRINTED) + "\n"

    monkeypatch.setattr(bench, "refusal", lambda: "")
    monkeypatch.setattr(bench, "on_hosts", on_hosts)
    rows = list(bench.run(Options(("overlap.halo",), ("numpy", "torch"), pairs=7, overrides=("overlap=true",))))
    assert [json.loads(row.line()) for row in rows] == [{**PRINTED, "backend": name} for name in ("numpy", "torch")]
    wanted = ["--set", "overlap=true", "--set", "backend=torch"]
    assert asked[1] == ["overlap.halo", "--pairs", "7", *wanted]


def test_without_root_there_are_no_hosts(monkeypatch):
    monkeypatch.setattr(bench.os, "geteuid", lambda: 1000)
    (row,) = bench.run(Options())
    assert json.loads(row.line()) == {"case": "overlap", "skipped": "two hosts are network namespaces, which need root"}


@pytest.mark.parametrize("case", ["overlap.data", "overlap.halo"])
def test_its_networks_compile_and_what_is_cut_between_hosts(case):
    made = bench.network(case, 40)
    spread, near = (made.schedule(made.plan(0), spread) for spread in (True, False))
    convolutions = [[step.node for step in schedule.steps if ".conv" in step.node] for schedule in (spread, near)]
    assert (len(convolutions[0]) > len(convolutions[1])) == (case == "overlap.halo")
