"""What a run shows and leaves at its end: lines, pictures, event files; and the rehearsal of all of it."""

import json
import os
import sys
from pathlib import Path

import pytest

from dgraph.cli.line import Progress, as_speed, as_time
from dgraph.cli.main import main
from dgraph.picture import draw_confusion, draw_curves, save
from dgraph.run import RunFolder
from tests.test_bad_input import SMALL

STEP = {
    "kind": "step", "step": 20, "steps": 100, "epoch": 2, "loss": 0.51234, "accuracy": 0.75, "seconds": 3.0,
    "seconds_left": 3725.0, "samples_per_second": 1234.5, "communication": 0.125,
}  # fmt: skip
EPOCH = {"kind": "epoch", "epoch": 2, "step": 20, "train": {"loss": 0.5}, "validation": {"loss": 0.625}}


def overfitting(epochs=6, best=3):
    """Entries of a run whose validation is the best in one epoch, and worse from there on."""
    for epoch in range(1, epochs + 1):
        validation = {"loss": 0.3 + 0.1 * abs(epoch - best), "accuracy": 0.9}
        entry = {"kind": "epoch", "epoch": epoch, "step": 10 * epoch, "train": {"loss": 1 / epoch, "accuracy": 0.5}}
        yield {**STEP, "step": 10 * epoch, "loss": 1.1 / epoch}
        yield entry | {"validation": validation, "best": {"epoch": min(epoch, best), "step": 10 * min(epoch, best)}}


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Runs a command on small.yaml in an empty folder: its status and its output."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)

    def call(*words):
        with pytest.raises(SystemExit) as left:
            main([words[0], "small.yaml", *words[1:]])
        return left.value.code, capfd.readouterr()

    return call


def test_a_terminal_has_one_line_that_is_written_over(capsys):
    progress = Progress(live=True)
    for entry in (STEP, STEP, EPOCH):
        progress(entry)
    line = "step 20/100  epoch 2  loss 0.5123  accuracy 0.7500  1,234 samples/s  1:02:05 left  communication 12%"
    epoch = "epoch 2  step 20  train loss 0.5000  validation loss 0.6250\n"
    cut = f"\r\x1b[K\x1b[?7l{line}\x1b[?7h"
    assert capsys.readouterr().out == f"{cut}{cut}\r\x1b[K{epoch}"


def test_a_file_has_a_line_an_epoch_and_a_step_now_and_then(capsys):
    progress = Progress(live=False)
    progress(STEP)
    assert capsys.readouterr().out == ""
    progress(EPOCH)
    progress._last -= 11
    progress(STEP)
    progress(STEP)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["epoch", "step"]


def test_speeds_have_no_exponents():
    assert [as_speed(samples) for samples in (0.0123, 1.5, 99.96, 100, 12345.6)] == [
        "0.0123",
        "1.5",
        "100",
        "100",
        "12,346",
    ]


def test_times_are_short():
    assert [as_time(seconds) for seconds in (0.4, 59.6, 3599, 3600)] == ["0:00", "1:00", "59:59", "1:00:00"]


def test_the_curves_show_overfitting():
    figure = draw_curves([*overfitting()], "net")
    loss, accuracy = figure.axes
    curves = {line.get_label(): line.get_xydata() for line in loss.lines}
    assert curves["training"][:, 1].tolist() == pytest.approx([1 / epoch for epoch in range(1, 7)])
    assert curves["validation"][:, 1].tolist() == pytest.approx([0.5, 0.4, 0.3, 0.4, 0.5, 0.6])
    assert curves["batch"][:, 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert curves["best epoch: 3"][:, 0].tolist() == [3, 3]
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss", "accuracy")
    (shade,) = loss.patches
    assert (shade.get_x(), shade.get_width()) == (3, 3)


def test_no_epoch_no_curves():
    assert draw_curves([STEP], "net") is None


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_confusion_matrix_has_its_counts(suffix, tmp_path):
    figure = draw_confusion([[5, 1], [0, 7]], "net: test")
    assert [text.get_text() for text in figure.axes[0].texts] == ["5", "1", "7"]
    assert len(draw_confusion([[0] * 30] * 30, "large").axes[0].texts) == 0
    save(figure, tmp_path / f"confusion{suffix}")
    content = (tmp_path / f"confusion{suffix}").read_bytes()
    assert content.startswith(b"\x89PNG") or b"<svg" in content


def test_a_run_ends_with_pictures_and_event_files(run):
    status, said = run("train", "--run", "run", "--tensorboard", "--set", "train.log_every=1", "--json")
    assert (status, said.err) == (0, "")
    assert {"curves.png", "confusion.png"} <= set(os.listdir("run"))
    (events,) = os.listdir("run/tensorboard")
    content = Path("run/tensorboard", events).read_bytes()
    assert all(tag in content for tag in (b"step/loss", b"step/samples_per_second", b"train/accuracy"))
    assert json.loads(said.out.splitlines()[-1])["stopped"] is None


@pytest.mark.parametrize(
    ("library", "options", "status"),
    [("matplotlib", (), 0), ("tensorboardX", ("--tensorboard",), 2), ("torch", ("--backend", "torch"), 2)],
)
def test_what_is_not_installed_is_one_line(library, options, status, run, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == library or name in ROOMS]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    left, said = run("train", "--run", "run", *options)
    assert left == status
    told = said.err if status else said.out
    assert [line for line in told.splitlines() if library in line and "pip install dgraph[" in line]
    assert os.path.exists("run/checkpoints") == (status == 0)


ROOMS = ("dgraph.picture", "dgraph.tensorboard", "dgraph.kernels.torch")


@pytest.mark.parametrize("folder", [(), ("--run", "run"), ("--run", "a/b/run")])
def test_a_rehearsal_leaves_nothing(folder, run):
    status, said = run("train", "--smoke", "--json", *folder)
    assert (status, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0].startswith("smoke: ok: 3 steps, validation, evaluation, a checkpoint of ")
    assert "resumed with the same bits; drew curves.png and confusion.png; " in lines[0]
    assert json.loads(lines[1])["made"] == ["curves.png", "confusion.png"]
    assert os.listdir() == ["small.yaml"]


def test_a_rehearsal_finds_what_a_run_would_meet(run):
    wild = ("--set", "train.optimizer={sgd: {rate: 1e38}}", "--set", "layers.l.nonlinearity=relu")
    status, said = run("train", "--smoke", *wild)
    assert status == 3
    assert "the loss is not finite at step " in said.err
    assert os.listdir() == ["small.yaml"]
    Path("runs").touch()
    status, said = run("train", "--smoke")
    assert (status, said.err) == (4, "error: runs: File exists\n")


def test_entries_after_a_step_are_dropped(tmp_path):
    folder = RunFolder(tmp_path, "x")
    folder.rewind_metrics(3, True)
    assert not folder.holds_a_run()
    kinds = [("step", 2), ("step", 3), ("epoch", 3), ("step", 4), ("epoch", 6)]
    for kind, step in kinds:
        folder.append_metrics({"kind": kind, "step": step})
    folder.rewind_metrics(9, False)
    assert [(entry["kind"], entry["step"]) for entry in folder.metrics()] == kinds
    folder.rewind_metrics(3, False)
    assert [(entry["kind"], entry["step"]) for entry in folder.metrics()] == kinds[:3]
    folder.rewind_metrics(3, True)
    assert [(entry["kind"], entry["step"]) for entry in folder.metrics()] == kinds[:2]
    assert folder.holds_a_run()
