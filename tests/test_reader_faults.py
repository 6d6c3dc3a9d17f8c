"""Files that are damaged, hostile, or not what they are said to be: each is one line, and nothing is allocated."""

import gzip
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from dgraph.data import DataSpec, describe, open_source
from dgraph.error import ConfigError, DataError, DgraphError
from tests.files import damaged, idx_bytes
from tests.test_readers import (
    Image,
    csv_spec,
    h5py,
    save,
    write_hdf5,
    write_hdf5_gzip,
    write_idx,
    write_idx_gz,
    write_npy,
)
from tests.test_source import everything

X = np.arange(7 * 3 * 5 * 6, dtype=np.float32).reshape(7, 3, 5, 6)
Y = np.arange(7) % 3


def idx(folder, x, y=None):
    (folder / "x").write_bytes(x)
    (folder / "y").write_bytes(idx_bytes(Y.astype(np.uint8)) if y is None else y)
    return DataSpec("idx", path=str(folder / "x"), labels=str(folder / "y"))


def header(kind, *extents):
    return struct.pack(f">BBBB{len(extents)}I", 0, 0, kind, len(extents), *extents)


def cut(writer, part, name):
    """A sound file of which only a part is there."""

    def write(folder):
        spec = writer(folder, X, Y)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * part)])
        return spec

    return write


def cifar(content, label=None):
    def write(folder):
        (folder / "data.bin").write_bytes(content)
        return DataSpec("cifar", path=str(folder / "data.bin"), label=label)

    return write


def pictures(*content, **given):
    """A folder of two classes with these files, bytes or arrays."""

    def write(folder):
        for k, one in enumerate(content):
            path = folder / "set" / f"k{k}" / f"{k}.png"
            if isinstance(one, bytes):
                path.parent.mkdir(parents=True)
                path.write_bytes(one)
            else:
                save(path, one)
        return DataSpec("folder", path=str(folder / "set"), **given)

    return write


def face(name, label="age"):
    def write(folder):
        save(folder / name, np.zeros((4, 4, 3), np.uint8))
        return DataSpec("utkface", path=str(folder), label=label)

    return write


def separated(content, **given):
    return lambda folder: csv_spec(folder, content, **{"label": "k", **given})


def latin(folder):
    (folder / "data.csv").write_bytes(b"a,k\n1,\xff\n")
    return DataSpec("csv", path=str(folder / "data.csv"), label="k")


def png(height, width):
    """A PNG of that size whose pixels are not there."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def half_picture():
    import io

    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)).save(stream, "png")
    return stream.getvalue()[:900]


def hollow(folder):
    """A dataset of a pebibyte of which nothing is written."""
    with h5py.File(folder / "data.h5", "w") as file:
        file.create_dataset("x", (2**20, 2**15, 2**15), np.uint8, chunks=(1, 2**10, 2**10))
        file["y"] = Y
    return DataSpec("hdf5", path=str(folder / "data.h5"))


def small(*shape):
    return np.zeros(shape, np.uint8)


FAULTS = {
    # IDX
    "no IDX file": lambda folder: idx(folder, b"PK\3\4 hello"),
    "it starts with nothing": lambda folder: idx(folder, b""),
    "it ends in its header": lambda folder: idx(folder, header(8, 3, 2)[:-2]),
    "0 bytes behind its header": lambda folder: idx(folder, header(8, 2**31, 2**31, 2**31)),
    "are not the 211 bytes": lambda folder: idx(folder, idx_bytes(small(7, 5, 6)) + b"1"),
    "end-of-stream": cut(write_idx_gz, 0.7, "x.gz"),
    "cannot hold": lambda folder: idx(folder, gzip.compress(header(8, 7, 2**20, 2**20) + bytes(1000))),
    "y [6]": lambda folder: idx(folder, idx_bytes(small(7, 5, 6)), idx_bytes(small(6))),
    "labels from -1 to": lambda folder: idx(folder, idx_bytes(small(7, 5, 6)), idx_bytes(Y.astype(np.int32) - 1)),
    "shorter than": lambda folder: idx(folder, gzip.compress(header(8, 7, 10, 10) + bytes(600))),
    "longer than": lambda folder: idx(folder, gzip.compress(header(8, 7, 10, 10) + bytes(701))),
    "x [0, 5, 6]": lambda folder: idx(folder, idx_bytes(small(0, 5, 6)), idx_bytes(small(0))),
    # npy
    "not of the size": cut(write_npy, 0.9, "x.npy"),
    "no npy file": cut(write_npy, 0.01, "x.npy"),
    "it has object": lambda folder: write_npy(folder, np.array([[{}]] * 7), Y),
    # CIFAR
    "not records of 3073": cifar(bytes(3073 * 2 + 1)),
    "label: fine or coarse": cifar(bytes(3074)),
    "not records of 3074": cifar(bytes(3073), "fine"),
    "0 bytes are not": cifar(b""),
    "labels from 0 to 10": cifar(bytes(3073) + b"\x0a" + bytes(3072)),
    "20 classes have": cifar(b"\x14" + bytes(3073), "coarse"),
    # separated values
    "line 3 has 3 values, not 2": separated("a,k\n1,2\n1,2,3\n"),
    "column 0 has 'one'": separated("a,k\n1,2\none,2\n"),
    "line 3: column 0 has ''": separated("a,k\n1,2\n,2\n"),
    "column 0 has '1_0'": separated("a,k\n1_0,2\n"),
    "line 3: x has values": separated("a,k\n1,2\nnan,2\n", columns=("a",)),
    "did you mean kind?": separated("a,kind\n1,2\n", label="kin"),
    "it has a, b": separated("a,b\n1,2\n"),
    "two columns 'k'": separated("k,k\n1,2\n"),
    "there is no column 7": separated("a,k\n1,2\n", label=7),
    "columns have numbers": separated("1,2\n", header=False),
    "header: false if it is a sample": separated("1,2,k\n3,4,b\n", label=2),
    "line 3: the labels are ''": separated("a,k\n1,b\n1,\n"),
    "line 2: the labels are '1', 'b'": separated("a,k,l\n0,1,b\n", label=("k", "l")),
    "no columns but those of labels": separated("k\n1\n"),
    "column 'k' is a label and of the sample": separated("a,k\n1,2\n", columns=("a", -1)),
    "it has no samples": separated("a,k\n"),
    "it has no lines": separated("\n"),
    "no UTF-8 text": latin,
    "unexpected end of data": separated('a,k\n1,"b\n'),
    "y is float64": separated("a,k\n1,2.5\n", classes=3),
    "more than 1000 characters": separated(f"a,k\n1,{'b' * 1001}\n"),
    # images
    "it is 4 x 5, the first image 4 x 4": pictures(small(4, 4), small(4, 5)),
    "no image (cannot identify": pictures(small(4, 4), b"not a picture"),
    "runcated": pictures(small(40, 40), half_picture()),
    "exceeds limit": pictures(png(2**15, 2**15)),
    "(1048576000 pixels)": pictures(small(4, 4), png(2**10 * 1000, 2**10), size=(4, 4)),
    "shape [3, 4, 4], not [3, 5, 4]": pictures(small(4, 4), shape=(3, 5, 4)),
    "no folders of images": lambda folder: DataSpec("folder", path=str(folder)),
    "it has no images": lambda folder: (folder / "ant").mkdir() or DataSpec("folder", path=str(folder)),
    "its name is not [age]": face("24-0-1-20170116220224657.jpg"),
    "its name has no race": face("24_0_20170116220224657.jpg", "race"),
    "race 7": face("24_0_7_20170116220224657.jpg", "race"),
    "gender 3": face("24_3_1_20170116220224657.jpg", "gender"),
    # HDF5
    "no HDF5 file": cut(write_hdf5_gzip, 0, "data.h5"),
    "truncated file": cut(write_hdf5, 0.5, "data.h5"),
    "no dataset in/values": lambda folder: DataSpec("hdf5", path=str(write_hdf5(folder, X, Y).path), x="in/values.", y="kinds"),
    "0 bytes for": hollow,
    # any
    "there is no such file": lambda folder: DataSpec("npz", path=str(folder / "*.npz")),
    "No such file or directory": lambda folder: DataSpec("hdf5", path=str(folder / "none.h5")),
    "Is a directory": lambda folder: DataSpec("csv", path=str(folder), label=0),
}  # fmt: skip


@pytest.mark.parametrize("said", FAULTS)
def test_a_faulty_file_is_one_line_and_needs_no_memory(tmp_path, said):
    spec = FAULTS[said](tmp_path)
    tracemalloc.start()
    with pytest.raises(DataError) as caught:
        everything(open_source(spec))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.status == 4
    assert peak < 32 << 20


@pytest.mark.parametrize("writer", [write_npy, write_idx, write_idx_gz])
def test_a_damaged_file_is_found_or_gives_numbers(tmp_path, writer):
    spec = writer(tmp_path, X, Y)
    path = tmp_path / spec.path.rpartition("/")[2]
    whole = path.read_bytes()
    draw = np.random.default_rng(5)
    found = 0
    for turn in range(150):
        path.write_bytes(damaged(whole, draw, turn))
        try:
            values, labels = everything(open_source(spec))
        except DgraphError:
            found += 1
            continue
        assert values.shape == X.shape
        assert labels.ravel().tolist() == Y.tolist()
    assert found >= 50


@pytest.mark.parametrize(("module", "spec"), [
    ("h5py", DataSpec("hdf5", path="data.h5")),
    ("PIL", DataSpec("folder", path="set")),
    ("sklearn.datasets", DataSpec("sklearn", name="iris")),
])  # fmt: skip
def test_a_missing_library_is_one_line(tmp_path, monkeypatch, module, spec):
    save(tmp_path / "set" / "k" / "0.png", small(2, 2))
    write_hdf5(tmp_path, X, Y)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(DataError, match=r"pip install dgraph\[data\]"):
        open_source(spec)


@pytest.mark.parametrize("spec", [
    DataSpec("npy", path="x.npy"),
    DataSpec("npy", path="x.npy", labels=("a.npy", "b.npy")),
    DataSpec("idx", path=("a", "b"), labels="c"),
    DataSpec("hdf5"),
    DataSpec("utkface", path="faces"),
    DataSpec("sklearn", name="california"),
    DataSpec("sklearn", name="iris", classes=4),
    DataSpec("sklearn", name="iris", shape=(5,)),
])  # fmt: skip
def test_a_spec_at_fault_is_a_config_error(spec):
    with pytest.raises(ConfigError):
        describe(spec)


def test_files_that_are_not_alike_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("x,k\n1,b\n")
    (tmp_path / "b.csv").write_text("x,k\n1,2\n")
    (tmp_path / "c.csv").write_text("x,z,k\n1,1,b\n")
    spec = csv_spec(tmp_path, "x,k\n1,a\n", label="k")
    for name, said in (("b", "labels are numbers"), ("c", "x [1, 2] is not like x [1, 1]")):
        with pytest.raises(DataError) as caught:
            describe(DataSpec("csv", path=(spec.path, str(tmp_path / f"{name}.csv")), label="k"))
        assert said in str(caught.value)
        assert f"{name}.csv" in str(caught.value)
        with pytest.raises(DataError) as caught:
            describe(DataSpec("csv", path=spec.path, label="k", sets={"test": {"path": str(tmp_path / f"{name}.csv")}}))
        assert caught.value.key == "sets.test.path"


def test_a_value_that_is_not_finite_names_its_sample(tmp_path):
    x = np.zeros((50, 1, 100, 100), np.float32)
    x[31, 0, 5, 7] = np.inf
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(50) % 2)
    source = open_source(DataSpec("npz", path=str(tmp_path / "data.npz")))
    with pytest.raises(DataError, match=r"data.npz: sample 31: x has values that are not finite"):
        everything(source)


def test_a_label_beyond_its_classes_names_its_sample(tmp_path):
    y = np.zeros((40, 1, 200, 200), np.uint8)
    y[17, 0, 3, 5] = 9
    np.save(tmp_path / "x.npy", np.zeros((40, 1, 200, 200), np.uint8))
    np.save(tmp_path / "y.npy", y)
    source = open_source(DataSpec("npy", path=str(tmp_path / "x.npy"), labels=str(tmp_path / "y.npy"), classes=4))
    with pytest.raises(DataError, match=r"y.npy: sample 17: y has the label 9 \(4 classes have labels 0 to 3\)"):
        everything(source)


def test_a_file_that_is_cut_while_it_is_read_is_one_line(tmp_path):
    spec = write_npy(tmp_path, np.zeros((9, 1, 50, 50)), np.zeros(9, int))
    source = open_source(spec)
    with open(spec.path, "r+b") as file:
        file.truncate(5000)
    with pytest.raises(DataError, match=r"x.npy: cut short"):
        everything(source)
