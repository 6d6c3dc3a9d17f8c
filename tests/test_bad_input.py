"""Whatever a user may get wrong gives one line on stderr, the right exit status, no traceback, and leaves nothing behind."""

import gzip
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dgraph.cli.main import main
from dgraph.runtime.launch import LaunchError, find_mpiexec
from tests.files import idx_bytes
from tests.test_config import BAD, arguments

CASES = sorted(path.stem for path in BAD.glob("*.yaml"))
# Sound data that the network of the config does not fit.
CONFIG_FAULTS = ("data_label_classes", "data_label_fraction", "data_many_dimensions")
SMALL = """\
name: small
mesh: {p: auto}
data: {source: synthetic, shape: [2, 4, 4], classes: 3, batch: 4, samples: 8, shares: {train: 0.5, test: 0.5}}
layers:
  - {name: l, linear: {features: 5}, nonlinearity: tanh, split: {N: p}}
  - {name: out, softmax: {classes: 3}}
train: {optimizer: {sgd: {rate: 0.1}}, steps: 2}
"""


def npz(**change):
    """The bytes of an archive of 12 samples [1, 4, 4] of 4 classes, with some arrays changed or, with None, left out."""
    arrays = {"x": np.linspace(0, 1, 192, dtype=np.float32).reshape(12, 1, 4, 4), "y": np.arange(12) % 4} | change
    stream = io.BytesIO()
    np.savez(stream, **{name: array for name, array in arrays.items() if array is not None})
    return stream.getvalue()


def at(value):
    """x with one value replaced."""
    x = np.zeros((12, 1, 4, 4), np.float32)
    x[5, 0, 2, 1] = value
    return x


def flipped():
    """A sound archive but for one bit in the middle of x."""
    content = bytearray(npz())
    content[500] ^= 1
    return bytes(content)


ARCHIVES = {
    "data_text": b"sepal length, sepal width\n",
    "data_truncated": npz()[:700],
    "data_flipped": flipped(),
    "data_pickled": npz(x=np.array([{}] * 12)),
    "data_without_y": npz(y=None),
    "data_lengths": npz(y=np.zeros(11, int)),
    "data_flat": npz(x=np.zeros(12)),
    "data_text_values": npz(x=np.array(["a", "b"])),
    "data_shape": npz(),
    "data_samples_nan": npz(x=at(np.nan)),
    "data_infinite": npz(x=at(-np.inf)),
    "data_label_negative": npz(y=np.arange(12) - 1),
    "data_label_beyond": npz(),
    "data_label_classes": npz(),
    "data_label_fraction": npz(y=np.zeros(12)),
    "data_label_fraction_of_classes": npz(y=np.zeros(12)),
    "data_label_infinite": npz(y=np.full(12, np.inf)),
    "data_label_shape": npz(y=np.zeros((12, 1, 4), int)),
    "data_label_dimensions": npz(y=np.zeros((12, 1, 1, 1, 1), int)),
    "data_no_samples": npz(x=np.zeros((0, 1, 4, 4)), y=np.zeros(0, int)),
    "data_many_dimensions": npz(x=np.zeros((12, 1, 2, 2, 2, 2))),
    "data_nothing_to_train": npz(),
}


FILES = {
    "data_idx_labels": idx_bytes(np.arange(6, dtype=np.uint8) % 4),
    "data_idx_sound": idx_bytes(np.zeros((6, 5, 5), np.uint8)),
    "data_idx_magic": b"\x89PNG\r\n",
    "data_idx_gz": gzip.compress(idx_bytes(np.arange(150, dtype=np.uint8).reshape(6, 5, 5)))[:-20],
    "data_idx_count": idx_bytes(np.zeros((7, 5, 5), np.uint8)),
    "data_cifar_size": bytes(3073 * 3 + 17),
    "data_csv_cell": b"length,width,kind\n1,2,a\n3,wide,b\n5,6,a\n",
    "data_image_text/ant/1.png": b"not a picture",
    "data_image_empty/ant/notes.txt": b"not a picture",
    "data_face_name/24_0_20170116.jpg": b"not looked at",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The bad configs, a good one, and the archives that they name."""
    target = tmp_path_factory.mktemp("configs")
    for path in BAD.glob("*.yaml"):
        shutil.copy(path, target)
    for name, content in ARCHIVES.items():
        (target / f"{name}.npz").write_bytes(content)
    for name, content in FILES.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)
    (target / "data_folder.npz").mkdir()
    (target / "small.yaml").write_text(SMALL)
    (target / "square.yaml").write_text(SMALL.replace("p: auto", "p: 2, q: 2"))
    return target


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capfd):
    """Runs a command in an empty folder: its status and what it says on stderr, without the folder of the configs."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        with pytest.raises(SystemExit) as left:
            main([*words])
        return left.value.code, capfd.readouterr().err.replace(f"{folder}/", "").replace(str(folder), "{}")

    return call


def options(path):
    ranks, overrides = arguments(path)
    return [*(["-n", str(ranks)] if ranks else []), *(word for one in overrides for word in ("--set", one))]


@pytest.mark.parametrize("name", CASES)
def test_a_bad_config_gives_its_line_and_leaves_nothing(name, folder, run, tmp_path):
    command = "train" if name.startswith("data_") else "check"
    status, said = run(command, f"{folder}/{name}.yaml", *options(folder / f"{name}.yaml"))
    assert said == (BAD / f"{name}.txt").read_text()
    assert said.count("\n") == 1
    assert status == (4 if name.startswith("data_") and name not in CONFIG_FAULTS else 2)
    assert not list(tmp_path.iterdir())


# What stands in no config: faults of the command line and of checkpoints. {} is the folder of the configs.
COMMANDS = {
    "check {}/none.yaml": "none.yaml:1:1: error: cannot read the file (No such file or directory)",
    "train {}": "{}:1:1: error: cannot read the file (Is a directory)",
    "": "error: Missing command (see dgraph --help)",
    "trian {}/small.yaml": "error: No such command 'trian' (see dgraph --help)",
    "check": "error: Missing argument 'CONFIG' (see dgraph check --help)",
    "trace {}/small.yaml -n 4 --rank 9": "error: --rank 9: the mesh has 4 ranks (ranks are 0 to 3)",
    "check {}/square.yaml -n 3": "square.yaml:2:7: error: mesh 2 x 2 has 4 ranks, but 3 were started "
    "(start 4, or set an axis to auto)",
    "train {}/square.yaml -n 3": "square.yaml:2:7: error: mesh 2 x 2 has 4 ranks, but 3 were started "
    "(start 4, or set an axis to auto)",
    "check {}/small.yaml --set =": "--set :1:1: error: '' is not a dotted path (such as train.steps or layers.L0.split)",
    "check {}/small.yaml --set train.steps=[": "--set train.steps:2:1: error: not YAML "
    "(while parsing a flow node, did not find expected node content)",
}
NO_DATA = {
    "evaluate {}/small.yaml --checkpoint {}/none": "error: none: no such checkpoint",
    "train {}/small.yaml --resume {}/none": "error: none: no such checkpoint",
    "predict {}/small.yaml --checkpoint {}": "error: {}: no checkpoint in it "
    "(name a checkpoint, or a run that has committed one)",
    "trace {}/small.yaml -o {}/none/trace.txt": "error: none/trace.txt.tmp: No such file or directory",
    "train {}/small.yaml --run {}/small.yaml": "error: small.yaml: File exists",
}


@pytest.mark.parametrize("words", [*COMMANDS, *NO_DATA])
def test_a_bad_command_gives_its_line_and_leaves_nothing(words, folder, run, tmp_path):
    status, said = run(*words.replace("{}", str(folder)).split())
    assert said == {**COMMANDS, **NO_DATA}[words] + "\n"
    assert status == (4 if words in NO_DATA else 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words", ["check {}/small.yaml --rnak 1", "train {}/small.yaml -n 0", "plan {}/small.yaml -n x"]
)
def test_a_bad_option_gives_one_line(words, folder, run):
    status, said = run(*words.replace("{}", str(folder)).split())
    assert (status, said.count("\n")) == (2, 1)
    assert said.startswith("error: ")
    assert said.endswith(f" (see dgraph {words.split()[0]} --help)\n")


@pytest.fixture
def trained(folder, run):
    """A run folder, in the working directory, of two steps of small.yaml."""
    assert run("train", f"{folder}/small.yaml", "--run", "run") == (0, "")
    return Path("run")


BROKEN = {
    "a flipped bit": ("index.json", lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:]),
    "half an index": ("index.json", lambda content: content[: len(content) // 2]),
    "half a shard": ("rank-00000.bin", lambda content: content[: len(content) // 2]),
    "a wrong value": ("rank-00000.bin", lambda content: bytes([content[0] ^ 1]) + content[1:]),
}


COMMANDS_OF_A_CHECKPOINT = [
    "evaluate {} --checkpoint",
    "predict {} --checkpoint",
    "export {} out.onnx --checkpoint",
    "train {} --resume",
]


def damaged(run_folder, name):
    """Damages the newest checkpoint; the path of the file."""
    part, damage = BROKEN[name]
    path = max(run_folder.glob(f"checkpoints/*/{part}"))
    path.write_bytes(damage(path.read_bytes()))
    return path


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("command", COMMANDS_OF_A_CHECKPOINT)
def test_a_damaged_checkpoint_that_was_named_is_refused(name, command, trained, folder, run):
    path = damaged(trained, name)
    before = sorted(trained.rglob("*"))
    status, said = run(*command.replace("{}", f"{folder}/small.yaml").split(), str(path.parent))
    assert (status, said.count("\n")) == (4, 1)
    assert said.startswith(f"error: {path}")
    assert sorted(trained.rglob("*")) == before
    assert not Path("out.onnx").exists()


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("command", COMMANDS_OF_A_CHECKPOINT)
def test_of_a_run_the_one_before_the_damaged_is_used(name, command, trained, folder, run):
    path = damaged(trained, name)
    status, said = run(*command.replace("{}", f"{folder}/small.yaml").split(), "run")
    assert (status, said.count("\n")) == (0, 1)
    assert said.startswith(f"warning: {path}")
    assert said.endswith("; going by step-000001\n")


def test_a_run_of_which_nothing_is_sound_is_refused(trained, folder, run):
    path = damaged(trained, "half a shard")
    (trained / "checkpoints/step-000001/index.json").unlink()
    status, said = run("train", f"{folder}/small.yaml", "--resume", "run")
    assert (status, said.count("\n")) == (4, 1)
    assert said.startswith(f"error: {path}: ")
    assert said.endswith("none of the 2 checkpoints is sound)\n")


@pytest.mark.parametrize(("words", "status", "text"), [
    ("train {} --run run", 2, "error: run holds a run (--resume run goes on with it; or name another folder)"),
    ("train {} --run run --resume run --set seed=1", 4, "trained with another seed (when a run goes on, these may change: all of"),
    ("train {} --resume run --set data.batch=2", 4, "trained with another data.batch (when"),
    ("train {} --resume run --set layers.l.nonlinearity=relu", 4, "trained with another layers.l (when"),
    ("train {} --smoke --resume run", 2, "error: --smoke goes without --resume"),
    ("export {} out.onnx --best", 2, "error: --best goes with --checkpoint"),
    ("evaluate {} --checkpoint run --best", 4, "it names no best checkpoint (the best is told by validations; see train.best)"),
])  # fmt: skip
def test_what_does_not_go_with_a_run(words, status, text, trained, folder, run):
    before = sorted(trained.rglob("*"))
    left, said = run(*words.replace("{}", f"{folder}/small.yaml").split())
    assert (left, said.count("\n")) == (status, 1), said
    assert text in said
    assert sorted(trained.rglob("*")) == before


@pytest.mark.parametrize(("change", "text"), [
    ("layers.l.linear.features=6", "l.W has dim [5, 2, 4, 4], not [6, 2, 4, 4] (the network is not the one that was saved)"),
    ("layers.l.name=m", "no tensor m.W (the network is not the one that was saved)"),
    ("train.optimizer={adam: {rate: 1}}", "written with the optimizer sgd, not adam (resume with the same, or evaluate it)"),
])  # fmt: skip
def test_a_checkpoint_of_another_network_is_refused(change, text, trained, folder, run):
    command = ("evaluate", "--checkpoint") if change.startswith("layers") else ("train", "--resume")
    status, said = run(command[0], f"{folder}/small.yaml", command[1], "run", "--set", change)
    assert (status, said.count("\n")) == (4, 1)
    assert text in said


@pytest.fixture
def ranks():
    try:
        return find_mpiexec()
    except LaunchError:
        pytest.skip("there is no MPI launcher")


@pytest.mark.parametrize(("name", "status"), [("graph_groups", 2), ("data_truncated", 4), ("data_infinite", 4)])
def test_two_ranks_say_it_once(name, status, folder, tmp_path, ranks):
    command = [sys.executable, "-m", "dgraph", "train", f"{folder}/{name}.yaml", "-n", "2", "--set", "mesh={p: auto}"]
    environ = os.environ | {"PYTHONPATH": str(BAD.parent.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
    lines = done.stderr.replace(f"{folder}/", "").splitlines(True)
    assert [line for line in lines if "error" in line] == lines[-1:] == [(BAD / f"{name}.txt").read_text()]
    assert "Traceback" not in done.stderr
    assert done.returncode == status
    assert not list(tmp_path.iterdir())
