"""Sources with labels of every shape: a rect of a batch has the labels of the whole, and they can be learned from the samples."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.data import DataSpec, Description, describe, fill, open_source
from dgraph.error import ConfigError
from dgraph.rect import Rect

IMAGES = DataSpec("synthetic", (3, 7, 6), samples=40, scale=2.0, seed=11)
RING = DataSpec("ring", samples=4000)
TABLE = DataSpec("table", rows=((0, 0), (0, 1), (1, 0), (1, 1)), labels=(0, 0, 0, 1))
SOURCES = {
    "classes": replace(IMAGES, classes=5),
    "targets": replace(IMAGES, label_shape=(4,)),
    "classes of places": replace(IMAGES, label_shape=(1, 7, 6), classes=4),
    "several classes of a place": replace(IMAGES, label_shape=(2, 7, 6), classes=2),
    "classes of inner places": replace(IMAGES, label_shape=(1, 4, 3), classes=2),
    "classes of places beyond": replace(IMAGES, label_shape=(1, 9, 6), classes=2),
    "targets of places": replace(IMAGES, label_shape=(2, 7, 6)),
    "classes of a vector": replace(IMAGES, shape=(9,), classes=3),
    "targets of a vector": replace(IMAGES, shape=(9,), label_shape=(3,)),
    "several classes of a vector": replace(IMAGES, shape=(9,), label_shape=(3,), classes=2),
    "ring": replace(RING, samples=40),
    "table": replace(TABLE, repeat=10),
    "table of targets": replace(TABLE, labels=((0.5, 1), (2, 3), (4, 5), (6, -7.5)), repeat=10),
    "table of images": DataSpec("table", (1, 2, 2), rows=((1, 2, 3, 4), (5, 6, 7, 8)), labels=(1, 0), repeat=20),
}


def parts(draw, dim):
    starts = tuple(draw(st.integers(0, n - 1)) for n in dim)
    return Rect(starts, tuple(draw(st.integers(1, n - a)) for n, a in zip(dim, starts, strict=True)))


def everything(source):
    """All samples and all labels."""
    chosen = np.arange(source.samples)
    return source.read(chosen, Rect.whole(source.shape)), source.labels(chosen, Rect.whole(source.label_shape))


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(sorted(SOURCES)), st.lists(st.integers(-1, 39), min_size=6, max_size=6))
def test_a_rect_of_a_batch_has_the_values_and_labels_of_the_whole(data, name, indices):
    source, indices = open_source(SOURCES[name]), np.array(indices)
    whole, labels = np.empty((6, *source.shape)), np.empty((6, *source.label_shape))
    fill(source, indices, (whole, Rect.whole(whole.shape)), (labels, Rect.whole(labels.shape)))
    one, other = parts(data.draw, whole.shape), parts(data.draw, labels.shape)
    some, few = np.empty(one.size), np.empty(other.size)
    fill(source, indices, (some, one), (few, other))
    np.testing.assert_array_equal(some, whole[one.slices()])
    np.testing.assert_array_equal(few, labels[other.slices()])
    gone = indices == -1
    assert (whole[gone] == 0).all()
    assert (labels[gone] == -1).all() if source.classes else np.isnan(labels[gone]).all()
    assert (labels[~gone] >= 0).all() if source.classes else np.isfinite(labels[~gone]).all()


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_is_what_its_description_says(name):
    source = open_source(SOURCES[name])
    assert describe(SOURCES[name]) == Description(source.samples, source.shape, source.classes, source.label_shape)
    assert len(source.label_shape) == len(source.shape)
    values, labels = everything(source)
    assert values.shape == (40, *source.shape)
    assert labels.shape == (40, *source.label_shape)
    assert labels.dtype == (np.int64 if source.classes else labels.dtype)
    assert not source.classes or set(np.unique(labels)) == set(range(source.classes))


def test_a_batch_is_the_same_in_many_bites():
    source = open_source(replace(IMAGES, shape=(1, 700, 800), label_shape=(1, 700, 800), classes=2, samples=5))
    labels = np.empty((5, 1, 700, 800), np.float32)
    fill(source, np.array([4, -1, 2, 1, 0]), None, (labels, Rect.whole(labels.shape)))
    assert (labels[1] == -1).all()
    assert np.array_equal(labels[2:3], source.labels(np.array([2]), Rect.whole(source.label_shape)))


# --- what can be learned


def test_synthetic_targets_are_a_function_of_the_sample():
    values, labels = everything(open_source(replace(IMAGES, label_shape=(4,), samples=1000)))
    samples, targets = values.reshape(1000, -1), labels.reshape(1000, 4)
    weights = np.linalg.lstsq(samples[:500], targets[:500], rcond=None)[0]
    error = samples[500:] @ weights - targets[500:]
    assert targets.std(0).min() > 0.5
    assert np.abs(error).mean() < 0.1


def test_classes_of_places_are_equally_likely_intervals_of_the_value_there():
    values, labels = everything(open_source(SOURCES["classes of places"]))
    assert np.abs(np.bincount(labels.ravel()) / labels.size - 0.25).max() < 0.03
    first = values[:, :1]
    for k in range(3):
        assert first[labels == k].max() < first[labels == k + 1].min()


@pytest.mark.parametrize(("name", "rows", "columns"), [
    ("classes of inner places", [1, 2, 3, 4], [1, 2, 3]),
    ("classes of places beyond", [0, 0, 1, 2, 3, 4, 5, 6, 6], [0, 1, 2, 3, 4, 5]),
    ("several classes of a place", range(7), range(6)),
])  # fmt: skip
def test_labels_and_sample_have_the_same_centre(name, rows, columns):
    values, labels = everything(open_source(SOURCES[name]))
    seen = values[:, : labels.shape[1], list(rows)][:, :, :, list(columns)]
    assert np.array_equal(labels, seen > 0)


def test_targets_of_places_are_the_sine_of_the_value_there():
    spec = SOURCES["targets of places"]
    values, labels = everything(open_source(replace(spec, scale=1.0)))
    np.testing.assert_array_equal(labels, np.sin(values[:, :2]))
    np.testing.assert_array_equal(labels, everything(open_source(spec))[1])


def test_a_ring_lies_around_its_disc():
    points, labels = everything(open_source(RING))
    radius = np.hypot(*points.T)
    inside = labels[:, 0] == 1
    assert 0.45 < inside.mean() < 0.55
    assert radius[inside].max() <= 0.5001
    assert radius[~inside].min() >= 0.9999
    assert radius.max() <= 1.5001
    assert np.abs(points.mean(0)).max() < 0.05
    assert abs((radius[inside] < 0.5 / np.sqrt(2)).mean() - 0.5) < 0.05
    assert np.array_equal(everything(open_source(replace(RING, scale=2.0)))[0] * 2, points)


# --- tables


def test_a_table_is_what_it_says_and_stands_there_so_many_times():
    values, labels = everything(open_source(replace(TABLE, repeat=3, scale=2.0)))
    assert np.array_equal(values * 2, np.tile(TABLE.rows, (3, 1)))
    assert np.array_equal(labels.ravel(), np.tile(TABLE.labels, 3))


@pytest.mark.parametrize(("change", "classes", "label_shape"), [
    ({}, 2, (1,)),
    ({"classes": 5}, 5, (1,)),
    ({"label_shape": (1,)}, None, (1,)),
    ({"labels": (0, 0, 0, 1.0)}, None, (1,)),
    ({"labels": ((0, 1),) * 4}, None, (2,)),
    ({"labels": ((0, 1),) * 4, "classes": 2}, 2, (2,)),
    ({"labels": (3, 0, 1, 0)}, 4, (1,)),
])  # fmt: skip
def test_labels_of_a_table_are_class_numbers_or_targets(change, classes, label_shape):
    assert describe(replace(TABLE, **change)) == Description(4, (2,), classes, label_shape)


@pytest.mark.parametrize("change", [
    {"rows": None},
    {"labels": None},
    {"labels": (0, 1)},
    {"labels": (0, 1, 2, 3), "classes": 3},
    {"labels": (0, 1, -1, 0)},
    {"labels": (0, 1, 0.5, 0), "classes": 2},
    {"labels": ((0,), (0, 1), (1,), (1,))},
    {"rows": ((0, 0), (1,), (0, 0), (1, 1))},
    {"shape": (3,)},
    {"shape": (1, 1)},
    {"label_shape": (1, 1)},
    {"label_shape": (2,)},
    {"samples": 5},
])  # fmt: skip
def test_a_table_at_fault_is_a_config_error(change):
    with pytest.raises(ConfigError):
        describe(replace(TABLE, **change))


@pytest.mark.parametrize("spec", [
    IMAGES,
    replace(IMAGES, classes=2, label_shape=(1, 7, 6, 1)),
    replace(RING, samples=None),
    replace(RING, shape=(3,)),
    replace(RING, classes=3),
    replace(RING, label_shape=(2,)),
])  # fmt: skip
def test_a_spec_at_fault_is_a_config_error(spec):
    with pytest.raises(ConfigError):
        describe(spec)


# --- archives


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("dtype", "given", "classes"), [
    ("float32", {}, None),
    ("float64", {"label_shape": (2, 5, 1)}, None),
    ("uint8", {}, 9),
    ("int16", {"classes": 12}, 12),
    ("int16", {"classes": 12, "label_shape": (2, 5)}, 12),
    ("int64", {"label_shape": (2, 5)}, None),
])  # fmt: skip
def test_an_archive_has_labels_of_any_shape(tmp_path, save, order, dtype, given, classes):
    draw = np.random.default_rng(0)
    x, y = draw.random((20, 3, 5, 4)), draw.integers(0, 9, (20, 2, 5)).astype(dtype)
    y[3, 1, 2] = 8
    path = tmp_path / "data.npz"
    save(path, x=x, y=np.asarray(y, order=order))
    spec = DataSpec("npz", path=str(path), **given)
    assert describe(spec) == Description(20, (3, 5, 4), classes, (2, 5, 1))
    source, chosen = open_source(spec), np.array([19, 0, 7, 7])
    labels = source.labels(chosen, Rect((1, 1, 0), (1, 3, 1)))
    assert np.array_equal(labels[..., 0], y[chosen][:, 1:2, 1:4])
    if classes:
        assert labels.dtype == np.int64
    else:
        assert labels.dtype == (np.float32 if dtype == "float32" else np.float64)


def test_an_archive_may_leave_out_the_one_channel_of_its_labels(tmp_path):
    x, y = np.zeros((5, 2, 4, 3)), np.arange(60).reshape(5, 4, 3) % 7
    np.savez(tmp_path / "data.npz", x=x, y=y)
    spec = DataSpec("npz", path=str(tmp_path / "data.npz"), label_shape=(1, 4, 3), classes=7)
    assert describe(spec) == Description(5, (2, 4, 3), 7, (1, 4, 3))
    assert np.array_equal(open_source(spec).labels(np.arange(5), Rect((0, 1, 0), (1, 3, 3)))[:, 0], y[:, 1:])
    assert describe(replace(spec, label_shape=None)).label_shape == (4, 3, 1)
