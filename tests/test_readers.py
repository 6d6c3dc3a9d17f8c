"""Readers of files: any rect of any samples is that of the array that was written, and no more than it is read."""

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgraph.data import DataSpec, Description, describe, open_source
from dgraph.error import ConfigError, DataError
from dgraph.rect import Rect
from tests.test_source import everything, parts

h5py = pytest.importorskip("h5py")
Image = pytest.importorskip("PIL.Image")
datasets = pytest.importorskip("sklearn.datasets")
IDX = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(array):
    """An array as an IDX file has it."""
    code = IDX[array.dtype.str[1:]]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


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
