"""Readers of files: any rect of any samples is that of the array that was written, and no more than it is read."""

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgraph.config import parse_config
from dgraph.data import DataSpec, Description, describe, open_source, subset
from dgraph.error import DataError
from dgraph.program import data_spec
from dgraph.rect import Rect
from tests.files import IDX, idx_bytes
from tests.test_source import everything, parts

h5py = pytest.importorskip("h5py")
Image = pytest.importorskip("PIL.Image")
datasets = pytest.importorskip("sklearn.datasets")


def write_idx(folder, x, y):
    (folder / "x").write_bytes(idx_bytes(x))
    (folder / "y.gz").write_bytes(gzip.compress(idx_bytes(y.astype(np.uint8))))
    return DataSpec("idx", path=str(folder / "x"), labels=str(folder / "y.gz"), shape=x.shape[1:])


def write_idx_gz(folder, x, y):
    (folder / "x.gz").write_bytes(gzip.compress(idx_bytes(x)))
    (folder / "y").write_bytes(idx_bytes(y.astype(np.int32)))
    return DataSpec("idx", path=str(folder / "x.gz"), labels=str(folder / "y"), shape=x.shape[1:])


def write_npy(folder, x, y):
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    return DataSpec("npy", path=str(folder / "x.npy"), labels=str(folder / "y.npy"))


def write_npy_fortran(folder, x, y):
    return write_npy(folder, np.asfortranarray(x), y)


def write_npy_parts(folder, x, y):
    paths = []
    for k, (some, few) in enumerate(zip(np.split(x, [1, 4]), np.split(y, [1, 4]), strict=True)):
        np.save(folder / f"x{k}.npy", some)
        np.save(folder / f"y{k}.npy", few)
        paths.append(str(folder / f"y{k}.npy"))
    return DataSpec("npy", path=str(folder / "x*.npy"), labels=tuple(paths))


def write_npz(folder, x, y):
    np.savez(folder / "data.npz", images=x, kinds=y)
    return DataSpec("npz", path=str(folder / "data.npz"), x="images", y="kinds")


def write_npz_large(folder, x, y):
    """An archive that is read rect by rect: the samples are repeated beyond what is kept whole."""
    times = -(-(2 << 20) // x.nbytes)
    np.savez(folder / "data.npz", x=np.concatenate([x] * times), y=np.concatenate([y] * times))
    return DataSpec("npz", path=str(folder / "data.npz"))


def write_hdf5(folder, x, y, **options):
    with h5py.File(folder / "data.h5", "w") as file:
        file.create_dataset("in/values", data=x, **options)
        file["kinds"] = y
    return DataSpec("hdf5", path=str(folder / "data.h5"), x="in/values", y="kinds")


def write_hdf5_chunks(folder, x, y):
    return write_hdf5(folder, x, y, chunks=(2, 2, 3, 2))


def write_hdf5_gzip(folder, x, y):
    return write_hdf5(folder, x, y, chunks=(1, 3, 2, 5), compression="gzip", shuffle=True, fletcher32=True)


def write_channels_last(folder, x, y):
    return replace(write_npy(folder, np.moveaxis(x, 1, -1), y), channels_last=True)


WRITERS = (
    write_idx, write_idx_gz, write_npy, write_npy_fortran, write_npy_parts, write_npz, write_npz_large, write_hdf5,
    write_hdf5_chunks, write_hdf5_gzip, write_channels_last,
)  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Every kind of file of every type, once: its spec and the arrays in it."""
    draw = np.random.default_rng(3)
    made = {}
    for writer in WRITERS:
        for kind in IDX:
            x = draw.integers(0, 100, (7, 3, 5, 6)).astype(kind)
            y = draw.permutation(7) % 3
            folder = tmp_path_factory.mktemp("data")
            made[writer.__name__, kind] = (writer(folder, x, y), x, y)
    return made


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(WRITERS), st.sampled_from(sorted(IDX)), st.lists(st.integers(0, 6), max_size=9))
def test_any_rect_of_any_samples_is_that_of_what_was_written(written, data, writer, kind, chosen):
    spec, x, y = written[writer.__name__, kind]
    source, rect, indices = open_source(spec), parts(data.draw, x.shape[1:]), np.array(chosen, np.int64)
    values = source.read(indices, rect)
    assert values.dtype == np.result_type(kind, np.float32)
    assert np.array_equal(values, x[indices][(slice(None), *rect.slices())])
    labels = source.labels(indices, Rect.whole((1, 1, 1)))
    assert labels.dtype == np.int64
    assert np.array_equal(labels.ravel(), y[indices])


@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_said_of_a_file_is_what_is_in_it(written, writer):
    spec, x, y = written[writer.__name__, "f4"]
    source = open_source(replace(spec, scale=4.0))
    known = describe(spec)
    assert known == Description(known.samples, (3, 5, 6), 3, (1, 1, 1))
    assert (source.samples, source.shape, source.classes, source.label_shape) == (
        known.samples,
        (3, 5, 6),
        3,
        (1, 1, 1),
    )
    values, labels = everything(source)
    times = known.samples // len(x)
    assert np.array_equal(values * 4, np.concatenate([x] * times))
    assert np.array_equal(labels.ravel(), np.tile(y, times))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["u1", "f4"])
def test_a_network_of_float64_has_samples_of_float64(tmp_path, dtype, kind):
    x = np.random.default_rng(8).integers(0, 256, (6, 1, 4, 3)).astype(kind)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(6) % 2)
    section = {"source": "npz", "path": str(tmp_path / "data.npz"), "batch": 2, "scale": 255}
    sections = {"dtype": dtype, "data": section, "layers": [{"name": "out", "softmax": {"classes": 2}}]}
    config = parse_config(yaml.safe_dump(sections | {"train": {"optimizer": {"sgd": {"rate": 0.1}}, "steps": 1}}))
    values, _ = everything(open_source(data_spec(config)))
    assert values.dtype == dtype
    assert np.array_equal(values, x.astype(dtype) / np.array(255, dtype))


def read_bytes():
    """How many bytes this process has asked the system for."""
    return int(Path("/proc/self/io").read_text().split()[1])


LAYOUTS = [
    Rect((0, 0, 0, 0), (1, 8, 64, 64)),
    Rect((0, 32, 0, 0), (1, 32, 32, 64)),
    Rect((0, 32, 32, 32), (1, 32, 32, 32)),
    Rect((0, 7, 9, 31), (1, 34, 20, 17)),
]


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not count bytes")
@pytest.mark.parametrize("rect", LAYOUTS, ids=str)
@pytest.mark.parametrize("writer", [write_npy, write_npz, write_idx, write_hdf5, "hdf5 chunks"])
def test_a_rank_reads_its_part_of_a_volume(tmp_path, writer, rect):
    x, y = np.random.default_rng(0).random((2, 1, 64, 64, 64), np.float32), np.arange(2)
    spec = write_hdf5(tmp_path, x, y, chunks=(1, 1, 16, 16, 16)) if writer == "hdf5 chunks" else writer(tmp_path, x, y)
    source = open_source(spec)
    source.read(np.array([0]), Rect((0, 0, 0, 0), (1, 1, 1, 1)))
    before = read_bytes()
    values = source.read(np.array([1]), rect)
    count = read_bytes() - before
    assert np.array_equal(values[0], x[1][rect.slices()])
    assert count <= 1.02 * values.nbytes + 8192


def test_compressed_chunks_are_read_once_each(tmp_path):
    x, y = np.random.default_rng(0).random((2, 1, 64, 64, 64), np.float32), np.arange(2)
    spec = write_hdf5(tmp_path, x, y, chunks=(1, 1, 16, 16, 16), compression="gzip", fletcher32=True)
    source = open_source(spec)
    source.read(np.array([0]), Rect((0, 0, 0, 0), (1, 1, 1, 1)))
    before = read_bytes()
    values = source.read(np.array([1]), Rect((0, 16, 32, 31), (1, 32, 32, 17)))
    assert read_bytes() - before <= 1.02 * 2 * 2 * 2 * 16**3 * 4
    assert np.array_equal(values[0], x[1, :, 16:48, 32:, 31:48])


# --- what else there is


def test_cifar_is_read_from_its_records(tmp_path):
    draw = np.random.default_rng(1)
    for name, ahead in (("ten", 1), ("hundred", 2)):
        records = draw.integers(0, 10, (12, ahead + 3072)).astype(np.uint8)
        for k in range(3):
            (tmp_path / f"{name}_{k + 1}.bin").write_bytes(records[4 * k : 4 * k + 4].tobytes())
        paths = str(tmp_path / f"{name}_*.bin")
        for label, column, classes in (("coarse", 0, 20), ("fine", 1, 100)) if ahead == 2 else ((None, 0, 10),):
            spec = DataSpec("cifar", path=paths, label=label)
            assert describe(spec) == Description(12, (3, 32, 32), classes, (1, 1, 1))
            values, labels = everything(open_source(spec))
            assert np.array_equal(values.reshape(12, -1), records[:, ahead:])
            assert np.array_equal(labels.ravel(), records[:, column])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not count bytes")
def test_half_of_the_rows_of_cifar_is_half_of_its_bytes(tmp_path):
    (tmp_path / "data.bin").write_bytes(bytes(100 * 3073))
    source = open_source(DataSpec("cifar", path=str(tmp_path / "data.bin")))
    source.read(np.arange(1), Rect.whole((3, 32, 32)))
    before = read_bytes()
    source.read(np.arange(100), Rect((0, 16, 0), (3, 16, 32)))
    assert read_bytes() - before <= 100 * 3072 // 2 + 1000


IRIS = """\
"length, in cm", width,kind
5.1,3.5,setosa

7.0,-3.2e0, virginica
6.4,3.2,"versi
color"
5,3,setosa
"""


def csv_spec(folder, content, **given):
    (folder / "data.csv").write_text(content)
    return DataSpec("csv", path=str(folder / "data.csv"), **given)


@pytest.mark.parametrize("limit", [256 << 20, 0])
def test_separated_values_are_numbers_and_names_of_classes(tmp_path, monkeypatch, limit):
    monkeypatch.setattr("dgraph.data.reader.delimited.KEPT", limit)
    spec = csv_spec(tmp_path, IRIS, label="kind")
    assert describe(spec) == Description(4, (2,), 3, (1,), names=("setosa", "versi\ncolor", "virginica"))
    values, labels = everything(open_source(spec))
    assert values.tolist() == [[5.1, 3.5], [7, -3.2], [6.4, 3.2], [5, 3]]
    assert labels.ravel().tolist() == [0, 2, 1, 0]
    chosen = open_source(spec).read(np.array([2, 2, 0]), Rect((1,), (1,)))
    assert chosen.tolist() == [[3.2], [3.2], [3.5]]


@pytest.mark.parametrize(("content", "given", "known", "x", "y"), [
    ("1;2;3\n4;5;6\n", {"header": False, "delimiter": ";", "label": -1}, (2, (2,), 7, (1,)), [[1, 2], [4, 5]], [[3], [6]]),
    ("1\t2\t0.5\n", {"header": False, "delimiter": "\t", "label": (1, 2)}, (1, (1,), None, (2,)), [[1]], [[2, 0.5]]),
    ("a,b,c\n1,2,3\n", {"label": "b", "columns": ("c",)}, (1, (1,), 3, (1,)), [[3]], [[2]]),
    ("a,b,c\n1,2,3\n", {"label": 0, "label_shape": (1,)}, (1, (2,), None, (1,)), [[2, 3]], [[1]]),
    ("7,b\n1,2\n", {"label": "b", "header": True, "classes": 5}, (1, (1,), 5, (1,)), [[1]], [[2]]),
    ("\ufeffa,b\r\n1,2\r\n", {"label": "b"}, (1, (1,), 3, (1,)), [[1]], [[2]]),
    ("a,b,c,d,k\n1,2,3,4,0\n", {"label": "k", "shape": (1, 2, 2)}, (1, (1, 2, 2), 1, (1, 1, 1)), [[[[1, 2], [3, 4]]]], [[[[0]]]]),
])  # fmt: skip
def test_columns_are_labels_or_samples(tmp_path, content, given, known, x, y):
    spec = csv_spec(tmp_path, content, **given)
    assert describe(spec) == Description(*known)
    values, labels = everything(open_source(spec))
    assert values.tolist() == x
    assert labels.tolist() == y


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


@pytest.fixture
def pictures(tmp_path):
    """Six pictures of three kinds in folders, and what they show [6, 3, 9, 7]."""
    shown = np.random.default_rng(2).integers(0, 256, (6, 9, 7, 3)).astype(np.uint8)
    names = ("ant/b.png", "ant/c.BMP", "bee/z.tiff", "bee/deep/a.png", "cat/1.ppm", "cat/2.png")
    for name, one in zip(names, shown, strict=True):
        save(tmp_path / "set" / name, one)
    (tmp_path / "set" / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / "set" / ".hidden").mkdir()
    return DataSpec("folder", path=str(tmp_path / "set")), shown.transpose(0, 3, 1, 2)


def test_folders_are_classes(pictures):
    spec, shown = pictures
    assert describe(spec) == Description(6, (3, 9, 7), 3, (1, 1, 1), names=("ant", "bee", "cat"))
    values, labels = everything(open_source(spec))
    assert np.array_equal(values, shown)
    assert labels.ravel().tolist() == [0, 0, 1, 1, 2, 2]
    part = open_source(spec).read(np.array([5, 1]), Rect((1, 2, 3), (2, 5, 2)))
    assert np.array_equal(part, shown[[5, 1], 1:, 2:7, 3:5])


@pytest.mark.parametrize(
    ("given", "mode"), [({"channels": 1}, "L"), ({"shape": (1, 9, 7)}, "L"), ({"channels": 3}, "RGB")]
)
@pytest.mark.parametrize("size", [None, (4, 5)])
def test_pictures_are_grey_or_scaled_as_pillow_does_it(pictures, given, mode, size):
    spec, shown = pictures
    if size is not None and "shape" in given:
        given = {"shape": (1, *size)}
    values, _ = everything(open_source(replace(spec, size=size, **given)))
    for value, one in zip(values, shown, strict=True):
        image = Image.fromarray(one.transpose(1, 2, 0)).convert(mode)
        wanted = np.asarray(image.resize((size or (9, 7))[::-1], Image.Resampling.BILINEAR) if size else image)
        assert np.array_equal(value, wanted[None] if mode == "L" else wanted.transpose(2, 0, 1))


def test_grey_pictures_of_16_bits_keep_them(tmp_path):
    shown = np.arange(2 * 300 * 7).reshape(2, 300, 7).astype(np.uint16) * 15
    for k in range(2):
        save(tmp_path / "set" / f"k{k}" / "a.png", shown[k])
    spec = DataSpec("folder", path=str(tmp_path / "set"), channels=1)
    assert np.array_equal(everything(open_source(spec))[0][:, 0], shown)
    with pytest.raises(DataError, match="more than 8 bits"):
        everything(open_source(replace(spec, channels=3)))


FACES = {"1_0_2_20161219140530307.jpg": 0, "26_1_0_2017.jpg.chip.jpg": 2, "65_0_4_1.jpg": 5, "9_1_3_1.png": 0}


@pytest.mark.parametrize(("given", "classes", "labels"), [
    ({"label": "age"}, None, [1, 26, 65, 9]),
    ({"label": "age", "bounds": (10, 25, 45, 65, 90)}, 6, [0, 2, 4, 0]),
    ({"label": "gender"}, 2, [0, 1, 0, 1]),
    ({"label": "race"}, 5, [2, 0, 4, 3]),
])  # fmt: skip
def test_names_of_faces_are_labels(tmp_path, given, classes, labels):
    for name in FACES:
        save(tmp_path / "faces" / name, np.zeros((6, 5, 3), np.uint8))
    spec = DataSpec("utkface", path=str(tmp_path / "faces"), **given)
    assert describe(spec) == Description(4, (3, 6, 5), classes, (1, 1, 1))
    found = everything(open_source(spec))[1]
    assert found.ravel().tolist() == labels
    assert found.dtype == (np.int64 if classes else np.float32)


def test_faces_without_gender_or_race_have_an_age(tmp_path):
    for name in ("39_1_20170116174525125.jpg.chip.jpg", "53__0_20170116184028385.jpg", "61_3_20170109150557335.jpg"):
        save(tmp_path / "faces" / name, np.zeros((6, 5, 3), np.uint8))
    spec = DataSpec("utkface", path=str(tmp_path / "faces"), label="age")
    assert everything(open_source(spec))[1].ravel().tolist() == [39, 53, 61]
    for label in ("gender", "race"):
        with pytest.raises(DataError, match=f"39_1_20170116174525125.jpg.chip.jpg: its name has no {label}"):
            open_source(replace(spec, label=label))


@pytest.mark.parametrize("name", ["breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine"])
def test_sets_of_scikit_learn_are_what_is_known_of_them(name):
    spec = DataSpec("sklearn", name=name)
    known, content = describe(spec), getattr(datasets, f"load_{name}")()
    source = open_source(spec)
    values, labels = everything(source)
    assert known.names == tuple(content.target_names if name in ("iris", "wine", "breast_cancer") else ())
    assert replace(known, names=()) == Description(source.samples, source.shape, source.classes, source.label_shape)
    assert np.array_equal(values.reshape(len(values), -1), content.data)
    assert np.array_equal(labels.reshape(content.target.shape), content.target)
    assert source.classes == (None if labels.dtype.kind == "f" else labels.max() + 1)


def test_subsets_may_have_files_of_their_own(tmp_path):
    sets = {}
    for k, (name, n) in enumerate({"main": 10, "test": 4, "validation": 3}.items()):
        np.savez(tmp_path / f"{name}.npz", x=np.full((n, 2), k), y=np.arange(n) % 3)
        sets[name] = {"path": str(tmp_path / f"{name}.npz")}
    spec = DataSpec("npz", path=sets.pop("main")["path"], sets=sets)
    known, source = describe(spec), open_source(spec)
    assert known == Description(17, (2,), 3, (1,), own=(3, 4))
    chosen = {name: subset(spec, known, name) for name in ("train", "validation", "test")}
    assert [indices.tolist() for indices in chosen.values()] == [list(range(10)), [10, 11, 12], [13, 14, 15, 16]]
    assert {name: set(source.read(indices, Rect.whole((2,))).ravel()) for name, indices in chosen.items()} == {
        "train": {0}, "validation": {2}, "test": {1},
    }  # fmt: skip
    one = replace(spec, sets={"test": sets["test"]}, shares=(0.8, 0.2, 0.0))
    chosen = {name: subset(one, describe(one), name) for name in ("train", "validation", "test")}
    assert [len(indices) for indices in chosen.values()] == [8, 2, 4]
    assert sorted(np.concatenate(list(chosen.values()))) == list(range(14))


def test_classes_by_name_are_those_of_all_files(tmp_path):
    (tmp_path / "a.csv").write_text("x,k\n1,b\n2,d\n")
    (tmp_path / "b.csv").write_text("x,k\n3,a\n4,d\n")
    spec = DataSpec("csv", path=str(tmp_path / "a.csv"), label="k", sets={"test": {"path": str(tmp_path / "b.csv")}})
    assert describe(spec) == Description(4, (1,), 3, (1,), own=(0, 2), names=("a", "b", "d"))
    assert everything(open_source(spec))[1].ravel().tolist() == [1, 2, 0, 2]


@pytest.mark.parametrize("writer", [write_npy, write_hdf5])
@pytest.mark.parametrize(("given", "classes"), [({}, 4), ({"classes": 7}, 7), ({"label_shape": (1, 40, 33)}, None)])
def test_labels_may_be_volumes(tmp_path, writer, given, classes):
    draw = np.random.default_rng(0)
    x, y = draw.random((3, 2, 40, 33)), draw.integers(0, 4, (3, 1, 40, 33))
    y[2, 0, 39, 32] = 3
    spec = replace(writer(tmp_path, x, np.repeat(y, 90, 0)[::90].astype(np.int32)), **given)
    assert describe(spec) == Description(3, (2, 40, 33), classes, (1, 40, 33))
    labels = open_source(spec).labels(np.array([2, 0]), Rect((0, 30, 1), (1, 10, 32)))
    assert np.array_equal(labels, y[[2, 0], :, 30:, 1:])


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("options", "y"), [({}, 3.5), ({"chunks": (2, 3, 2, 2)}, [3.5, 1, 2])])
def test_every_file_may_be_one_sample(tmp_path, options, y, last):
    volumes = np.random.default_rng(0).random((3, 4, 6, 5, 2), np.float32)
    for k, volume in enumerate(volumes):
        with h5py.File(tmp_path / f"{k}.h5", "w") as file:
            file.create_dataset("x", data=volume, **options)
            file["y"] = np.array(y) + k
    wanted = np.moveaxis(volumes, -1, 1) if last else volumes
    spec = DataSpec("hdf5", wanted.shape[1:], path=str(tmp_path / "*.h5"), channels_last=last or None)
    assert describe(spec) == Description(3, wanted.shape[1:], None, (np.size(y), 1, 1, 1))
    source, rect = open_source(spec), Rect((1, 1, 1, 1), (1, 3, 4, 1))
    assert np.array_equal(source.read(np.array([2, 0, 2]), rect), wanted[[2, 0, 2]][(slice(None), *rect.slices())])
    labels = source.labels(np.array([1, 2]), Rect.whole(source.label_shape))
    assert np.array_equal(labels.reshape(2, -1), np.array([1, 2])[:, None] + np.reshape(y, (1, -1)))
