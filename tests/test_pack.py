"""Packing: what is in the file is what was in the source, in its order; and the commands that show and pack samples."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dgraph.cli import data
from dgraph.cli.main import main
from dgraph.data import DataSpec, describe, open_source
from dgraph.data import pack as pack_room
from dgraph.data.pack import pack
from dgraph.error import DataError
from tests.test_readers import FACES, Image, csv_spec, h5py, save, write_idx_gz, write_npz
from tests.test_source import IMAGES, SOURCES, everything

X = np.random.default_rng(0).integers(0, 200, (9, 3, 5, 6)).astype(np.int16)
Y = np.arange(9) % 4
TRAINED = "layers: [{name: out, softmax: {classes: 10}}]\ntrain: {optimizer: {sgd: {rate: 1}}, steps: 1}\n"


def faces(folder):
    for k, name in enumerate(FACES):
        save(folder / "faces" / name, np.random.default_rng(k).integers(0, 256, (20, 15, 3)).astype(np.uint8))
    return DataSpec("utkface", path=str(folder / "faces"), label="age", size=(10, 8))


def named(folder):
    return csv_spec(folder, "a,b,k\n1,2.5,x\n3,4,é\n5,6,x\n", label="k")


PACKED = {
    "idx": lambda folder: write_idx_gz(folder, X, Y),
    "npz": lambda folder: replace(write_npz(folder, X, Y), classes=6),
    "faces": faces,
    "names": named,
    **{name: lambda folder, name=name: SOURCES[name] for name in ("targets", "classes of places", "table", "ring")},
    "iris": lambda folder: DataSpec("sklearn", name="iris"),
}


@pytest.mark.parametrize("compress", [0, 4])
@pytest.mark.parametrize("name", PACKED)
def test_a_packed_source_has_the_same_samples(tmp_path, monkeypatch, name, compress):
    monkeypatch.setattr(pack_room, "MOST_CHUNK", 40)
    monkeypatch.setattr(pack_room, "MOST", 200)
    spec = PACKED[name](tmp_path)
    source, known = open_source(spec), describe(spec)
    done = pack(source, np.arange(known.samples), tmp_path / "out.h5", known.names, compress)
    packed = DataSpec("hdf5", path=str(tmp_path / "out.h5"), scale=spec.scale if name in ("idx", "npz") else 1.0)
    assert describe(packed) == known
    for one, other in zip(everything(open_source(packed)), everything(source), strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    assert (done.samples, done.shape, done.classes) == (known.samples, known.shape, known.classes)
    assert done.nbytes == (tmp_path / "out.h5").stat().st_size
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["x"].dtype == {"idx": "i2", "npz": "i2", "faces": "u1"}.get(name, file["x"].dtype)
        assert (file["x"].chunks is None) == (not compress)
        assert not compress or np.prod(file["x"].chunks) <= 40


def test_samples_too_large_for_memory_are_packed_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(pack_room, "MOST_CHUNK", 1000)
    monkeypatch.setattr(pack_room, "MOST", 2000)
    spec = replace(IMAGES, shape=(2, 30, 50), label_shape=(1, 30, 50), classes=2, samples=3)
    source = open_source(spec)
    seen = []
    pack(source, np.array([2, 0]), tmp_path / "out.h5", report=seen.append)
    values, labels = everything(source)
    packed = everything(open_source(DataSpec("hdf5", path=str(tmp_path / "out.h5"))))
    assert np.array_equal(packed[0], values[[2, 0]])
    assert np.array_equal(packed[1], labels[[2, 0]])
    assert seen == [1] * 4 + [2] * 4


def test_what_cannot_be_read_leaves_what_was_there(tmp_path):
    (tmp_path / "out.h5").write_text("before")
    x = np.zeros((4, 1, 600, 600), np.float32)
    x[3, 0, 0, 0] = np.nan
    np.savez(tmp_path / "data.npz", x=x, y=np.zeros(4, int))
    with pytest.raises(DataError, match="sample 3"):
        pack(open_source(DataSpec("npz", path=str(tmp_path / "data.npz"))), np.arange(4), tmp_path / "out.h5")
    assert (tmp_path / "out.h5").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", "out.h5"]


# --- the commands


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a command in a folder with a set of pictures, one of faces, and a config: its status, result and line of error."""
    monkeypatch.chdir(tmp_path)
    faces(tmp_path)
    for k in range(5):
        save(Path("set") / "abc"[k % 3] / f"{k}.png", np.full((6, 7, 3), 10 * k, np.uint8))
    Path("digits.yaml").write_text("data: {source: digits, batch: 8, scale: 16}\n" + TRAINED)
    Path("gone.yaml").write_text("data: {source: npz, path: gone.npz, batch: 8}\n" + TRAINED)

    def call(line):
        with pytest.raises(SystemExit) as left:
            main(line.split())
        out, err = capsys.readouterr()
        return left.value.code, json.loads(out.splitlines()[-1]) if "--json" in line and out else out, err

    return call


def test_folders_and_faces_are_packed_by_a_command(run):
    status, result, _ = run("data pack set out.h5 --channels 1 --json")
    assert status == 0
    assert (result["samples"], result["shape"], result["classes"], result["names"]) == (
        5,
        [1, 6, 7],
        3,
        ["a", "b", "c"],
    )
    values, labels = everything(open_source(DataSpec("hdf5", path="out.h5")))
    assert values[:, 0, 0, 0].tolist() == [0, 30, 10, 40, 20]
    assert labels.ravel().tolist() == [0, 0, 1, 1, 2]
    status, said, _ = run("data pack faces ages.h5 --label age --size 4 5 --compress 9 --set data.bounds=[10,30]")
    assert status == 0
    assert said.startswith("4 samples [3, 4, 5] of uint8, 3 classes: ages.h5, ")
    assert everything(open_source(DataSpec("hdf5", path="ages.h5")))[1].ravel().tolist() == [0, 1, 2, 0]
    assert Image.open("faces/9_1_3_1.png").size == (15, 20)


def test_a_subset_of_a_config_is_packed_without_its_scale(run):
    status, result, _ = run("data pack digits.yaml out.h5 --subset validation --json")
    assert (status, result["samples"], result["shape"]) == (0, 180, [1, 8, 8])
    assert everything(open_source(DataSpec("hdf5", path="out.h5")))[0].max() == 16


def test_samples_are_shown(run):
    status, result, _ = run("data show set --json")
    assert status == 0
    assert result["subsets"] == {"train": 4, "validation": 0, "test": 1}
    assert (result["values"]["low"], result["values"]["high"]) == (0, 40)
    assert result["first_labels"] == [0, 0, 1, 1, 2]
    assert "names        ['a', 'b', 'c']" in run("data show set")[1]
    assert run("data show digits.yaml --json")[1]["values"]["high"] == 1


def test_of_large_samples_a_part_is_shown(run, monkeypatch):
    monkeypatch.setattr(data, "MOST", 100)
    x = np.arange(3 * 2 * 6 * 10.0).reshape(3, 2, 6, 10)
    np.savez("volumes.npz", x=x, y=np.zeros((3, 1, 6, 10), int))
    status, result, _ = run("data show volumes.npz --json")
    assert (status, result["samples"], result["values"]["of"]) == (0, 3, 1)
    assert (result["values"]["low"], result["values"]["high"]) == (0, 59)
    assert result["first_labels"] == [[0] * 8]


@pytest.mark.parametrize(("line", "status", "said"), [
    ("data", 2, "error: Missing command (see dgraph data --help)"),
    ("data pack none out.h5", 4, "error: none: No such file or directory"),
    ("data pack digits.yaml none/out.h5", 4, "error: none/out.h5.tmp: No such file or directory"),
    ("data pack digits.yaml out.h5 --label age", 2, "error: --label does not go with a config (--set data.label=... does)"),
    ("data pack faces out.h5 --source utkface", 2, "error: data needs the key label (with source utkface)"),
    ("data show set --set data.sizes=3", 2, "--set data.sizes:1:1: error: unknown key 'sizes' in data (did you mean size?)"),
    ("data show set --set data.shares=1", 2, "--set data.shares:1:1: error: data.shares must be a mapping"),
    ("data show out.dat", 4, "error: out.dat: No such file or directory"),
    ("data show gone.yaml", 4, "gone.yaml:1:27: error: "),
])  # fmt: skip
def test_a_bad_command_is_one_line_and_leaves_nothing(run, line, status, said):
    before = sorted(Path().rglob("*"))
    code, _, err = run(line)
    assert code == status
    assert err.startswith(said)
    assert err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
