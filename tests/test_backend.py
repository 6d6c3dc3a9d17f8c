"""Backends: a run on one has the numbers of a run on another, and its checkpoints; no library is loaded that is not used."""

import subprocess
import sys

import pytest

from dgraph.cli.main import main
from dgraph.config import parse_config
from dgraph.program import compile_config
from dgraph.runtime.communicator import OneRank
from dgraph.train import Worker
from dgraph.verify import compare, one_rank, run_steps

TEXT = """
name: small
dtype: float64
mesh: {y: 2, x: 2}
data: {source: synthetic, shape: [3, 9, 8], classes: 4, batch: 6, samples: 30, split: {H: y, W: x}}
layers:
  - {name: A, conv: {channels: 4, size: 3, stride: 2, padding: [[1, 0], 2]}, norm: batch, nonlinearity: relu, split: {H: y, W: x}}
  - {name: B, conv: {channels: 6, size: 3, padding: 1, groups: 2}, nonlinearity: tanh, split: {N: y, C: x}}
  - {name: C, conv_transpose: {channels: 3, size: 2, stride: 2}, split: {O: x, H: y}}
  - {name: D, tiled: {channels: 2, tile: 1, size: 2, stride: 2}, split: {H: y}}
  - {name: E, linear: {features: 5}, split: {K: x, C: y}}
  - {name: out, softmax: {classes: 4, bias: true}}
train: {optimizer: {sgd: {rate: 0.1, momentum: 0.9}}, steps: 3}
"""


def config(*overrides):
    return parse_config(TEXT, overrides=overrides)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize(("dtype", "limit"), [("float64", 1e-9), ("float32", 1e-4)])
def test_both_have_the_same_numbers_on_any_mesh(dtype, limit, torch):
    other = run_steps(config("backend=torch", f"dtype={dtype}"), 2)
    assert compare(other, run_steps(one_rank(config(f"dtype={dtype}")), 2))["worst"] < limit


def test_a_checkpoint_goes_on_with_another_backend(tmp_path, torch):
    steps = {}
    for backend, start in (("numpy", None), ("torch", None), ("torch", "numpy"), ("numpy", "torch")):
        worker = Worker(compile_config(one_rank(config(f"backend={backend}"))), OneRank())
        if start is not None:
            worker.load(tmp_path / start, states=True)
        batches = worker.training_batches(shuffle=True)
        while worker.step < (1 if start is None else 3):
            worker.train_step(batches.indices(0, worker.step))
        if start is None:
            worker.save(tmp_path / backend, keep=1)
        else:
            steps[backend] = worker.metrics()
    assert steps["numpy"][0] == pytest.approx(steps["torch"][0], rel=1e-9)


def test_ranks_must_agree_on_it(torch):
    assert compile_config(config()).digest() != compile_config(config("backend=torch")).digest()


def test_a_run_loads_no_library_that_it_does_not_use(tmp_path):
    (tmp_path / "small.yaml").write_text(TEXT)
    run = f"main(['verify', {str(tmp_path / 'small.yaml')!r}, '--steps', '1'])"
    code = f"import sys\nfrom dgraph.__main__ import main\ntry: {run}\nfinally: sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL).returncode == 0


def test_what_the_library_allocates_is_in_the_peak(torch):
    """The largest result that is not written in place is that of C, float32 [6, 3, 8, 10]; it has filters [6, 3, 2, 2]."""
    nbytes = {}
    for backend in ("numpy", "torch"):
        program = compile_config(one_rank(config(f"backend={backend}", "dtype=float32")))
        schedule = program.schedule(program.plan(0))
        nbytes[backend] = schedule.library_nbytes
        assert schedule.peak_nbytes >= schedule.placement.nbytes + schedule.library_nbytes
    assert nbytes == {"numpy": 0, "torch": (6 * 3 * 8 * 10 + 6 * 3 * 2 * 2) * 4}


def test_it_is_told_which_library_does_an_op(tmp_path, capsys, torch):
    path = tmp_path / "small.yaml"
    path.write_text(TEXT)
    for command in (["summary"], ["plan"], ["show", "--stage", "schedule"]):
        for backend in ("numpy", "torch"):
            with pytest.raises(SystemExit) as exit_:
                main([*command, str(path), "--set", "dtype=float32", "--backend", backend])
            assert exit_.value.code == 0
            said = capsys.readouterr().out
            lines = [line for line in said.splitlines() if line.startswith("kernels: ") or " by " in line]
            assert lines
            assert any("torch" in line for line in lines) == (backend == "torch")
