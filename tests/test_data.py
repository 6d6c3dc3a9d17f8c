"""Sources, subsets and batches: a rect of a batch has the values of the whole, and every faulty file is one line."""

import subprocess
import sys
from dataclasses import replace
from math import prod
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.data import Batches, DataSpec, Description, describe, fill, open_source, subset
from dgraph.error import ConfigError, DataError
from dgraph.rect import Rect
from tests.files import damaged

SYNTHETIC = DataSpec("synthetic", (3, 7, 6), 5, 40, scale=2.0, seed=11)
DIGITS = DataSpec("digits", scale=16.0, seed=3)
ONE = Rect.whole((1, 1, 1))
"""Where the one label of an image is."""


def written(folder, x, y, save=np.savez):
    path = folder / "data.npz"
    save(path, x=x, y=y)
    return DataSpec("npz", path=str(path))


def numbers(n=20, dtype=np.float32):
    values = np.random.default_rng(0).integers(0, 100, (n, 2, 4, 5)).astype(dtype)
    return values, np.arange(n) % 3


@st.composite
def rects(draw, dim):
    starts = tuple(draw(st.integers(0, n - 1)) for n in dim)
    return Rect(starts, tuple(draw(st.integers(1, n - a)) for n, a in zip(dim, starts, strict=True)))


@settings(max_examples=100, deadline=None)
@given(rects((12, 3, 7, 6)), st.permutations(range(4)), st.lists(st.integers(-1, 39), min_size=12, max_size=12))
def test_a_rect_of_a_batch_has_the_values_of_the_whole(rect, order, indices):
    source, indices = open_source(SYNTHETIC), np.array(indices)
    whole = np.full((12, 3, 7, 6), np.nan)
    labels = np.full((12, 1, 1, 1), 99)
    fill(source, indices, (whole, Rect.whole(whole.shape)), (labels, Rect.whole(labels.shape)))
    part = np.full([rect.size[d] for d in order], np.nan).transpose(np.argsort(order))
    some = np.full((rect.size[0], 1, 1, 1), 99)
    fill(source, indices, (part, rect), (some, Rect((rect.start[0], 0, 0, 0), some.shape)))
    assert (part == whole[rect.slices()]).all()
    assert (some == labels[rect.slices()[0]]).all()
    assert (whole[indices == -1] == 0).all()
    assert (labels[indices == -1] == -1).all()


def test_synthetic_values_have_a_pattern_a_class():
    source = open_source(replace(SYNTHETIC, samples=4000, scale=1.0))
    everything = np.arange(4000)
    values, labels = source.read(everything, Rect.whole(source.shape)), source.labels(everything, ONE).ravel()
    assert sorted(set(labels)) == [0, 1, 2, 3, 4]
    means = np.stack([values[labels == c].mean(0).ravel() for c in range(5)])
    nearest = ((values.reshape(4000, 1, -1) - means) ** 2).sum(-1).argmin(1)
    assert (nearest == labels).mean() > 0.99
    halved = open_source(replace(SYNTHETIC, samples=4000)).read(everything, Rect.whole(source.shape))
    assert np.array_equal(halved * 2, values)


def test_the_digits_are_what_is_known_of_them():
    source = open_source(DIGITS)
    assert Description(source.samples, source.shape, source.classes, source.label_shape) == describe(DIGITS)
    values = source.read(np.arange(1797), Rect.whole((1, 8, 8)))
    assert (values.min(), values.max(), values.dtype) == (0, 1, np.float32)
    assert set(source.labels(np.arange(1797), ONE).ravel()) == set(range(10))


def test_the_digits_are_described_without_scikit_learn():
    code = "import sys, dgraph.data as d; d.describe(d.DataSpec('digits')); sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_missing_scikit_learn_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError) as caught:
        open_source(DIGITS)
    assert "pip install dgraph[data]" in str(caught.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["uint8", "float16", ">f4", "float64", "bool"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_archive_gives_what_was_saved(tmp_path, save, dtype, order):
    x, y = numbers(dtype=dtype)
    spec = replace(written(tmp_path, np.asarray(x, order=order), y, save), scale=4.0)
    assert describe(spec) == Description(20, (2, 4, 5), 3, (1, 1, 1))
    source, chosen, rect = open_source(spec), np.array([19, 0, 7, 7]), Rect((1, 0, 2), (1, 4, 3))
    values = source.read(chosen, rect)
    assert np.array_equal(values, x[chosen][:, 1:2, :, 2:5].astype(np.float64) / 4)
    assert values.dtype == ("float64" if dtype == "float64" else "float32")
    assert np.array_equal(source.labels(chosen, ONE).ravel(), y[chosen])


def test_a_large_archive_is_described_at_once(tmp_path):
    spec = replace(written(tmp_path, np.zeros((200_000, 1, 10, 10), np.uint8), np.zeros(200_000, np.int64)), classes=2)
    start = perf_counter()
    assert describe(spec) == Description(200_000, (1, 10, 10), 2, (1, 1, 1))
    assert perf_counter() - start < 0.1


def faulty():
    x, y = numbers()
    holed = x.copy()
    holed[3, 1, 2, 2] = np.nan
    return {
        "not finite": (holed, y, None),
        "do not fit": (x, y[:-1], None),
        "x [n, C": (x[:, 0, 0, 0], y, None),
        "x is object": (np.array([{}] * 20), y, None),
        "y is float64": (x, y.astype(float), {"classes": 3}),
        "y has values that are not finite": (x, np.full(20, np.inf), None),
        "y [20, 1, 1, 1, 1]": (x, y.reshape(20, 1, 1, 1, 1), None),
        "label_shape [1, 4, 5], not [1, 1, 1]": (x, np.zeros((20, 1, 4, 5), int), {"label_shape": (1,)}),
        "from -1": (x, y - 1, None),
        "0 to 1": (x, y, {"classes": 2}),
        "shape [2, 4, 5], not [1, 4, 5]": (x, y, {"shape": (1, 4, 5)}),
        "samples 20, not 21": (x, y, {"samples": 21}),
        "[0, 2, 4, 5]": (x[:0], y[:0], None),
    }


@pytest.mark.parametrize("said", faulty())
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_faulty_archive_is_one_line(tmp_path, said, save):
    x, y, claims = faulty()[said]
    spec = replace(written(tmp_path, x, y, save), **(claims or {}))
    with pytest.raises(DataError) as caught:
        open_source(spec)
    assert said in str(caught.value)
    assert spec.path in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.status == 4


def test_an_archive_that_is_not_there_or_none_is_one_line(tmp_path):
    path = tmp_path / "data.npz"
    with pytest.raises(DataError, match="No such file"):
        describe(DataSpec("npz", path=str(path)))
    for content in (b"", b"hello", np.arange(9).tobytes()):
        path.write_bytes(content)
        with pytest.raises(DataError, match="no npz archive"):
            describe(DataSpec("npz", path=str(path)))
    np.savez(path, x=np.zeros((2, 3)))
    with pytest.raises(DataError, match="no array y"):
        describe(DataSpec("npz", path=str(path)))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_archive_is_found_or_gives_what_was_saved(tmp_path, save):
    x, y = numbers()
    spec = written(tmp_path, x, y, save)
    path = tmp_path / "data.npz"
    whole = path.read_bytes()
    draw = np.random.default_rng(5)
    found = 0
    for turn in range(300):
        path.write_bytes(damaged(whole, draw, turn))
        try:
            source = open_source(spec)
        except DataError:
            found += 1
            continue
        chosen = np.arange(len(y))
        assert np.array_equal(source.read(chosen, Rect.whole(source.shape)), x)
        assert np.array_equal(source.labels(chosen, ONE).ravel(), y)
    assert found > 200


@pytest.mark.parametrize(
    "spec",
    [
        DataSpec("mnist"),
        DataSpec("npz"),
        replace(SYNTHETIC, shape=None),
        replace(SYNTHETIC, classes=None),
        replace(SYNTHETIC, samples=None),
        replace(DIGITS, shape=(1, 28, 28)),
    ],
)
def test_a_spec_at_fault_is_a_config_error(spec):
    with pytest.raises(ConfigError):
        describe(spec)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.tuples(*[st.floats(0, 1)] * 3), st.integers(0, 9))
def test_subsets_are_disjoint_and_have_their_shares(samples, shares, seed):
    total = max(sum(shares), 1)
    spec = replace(SYNTHETIC, shares=tuple(s / total for s in shares), seed=seed)
    parts = [subset(spec, Description(samples, (1,), 1, (1,)), name) for name in ("train", "validation", "test")]
    together = np.concatenate(parts)
    assert len(set(together)) == len(together)
    assert set(together) <= set(range(samples))
    for part, share in zip(parts, spec.shares, strict=True):
        assert abs(len(part) - samples * share) <= 1


def test_shares_that_sum_to_one_take_all():
    parts = [subset(DIGITS, describe(DIGITS), name) for name in ("train", "validation", "test")]
    assert [len(p) for p in parts] == [1797, 0, 0]
    parts = [
        subset(replace(DIGITS, shares=(0.7, 0.1, 0.2)), describe(DIGITS), name)
        for name in ("train", "validation", "test")
    ]
    assert [len(p) for p in parts] == [1258, 180, 359]
    with pytest.raises(ConfigError):
        subset(replace(DIGITS, shares=(0.9, 0.2, 0.0)), describe(DIGITS), "train")
    with pytest.raises(ValueError):
        subset(DIGITS, describe(DIGITS), "valid")


@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_takes_every_sample_once(shuffle):
    chosen = np.arange(50, 73)
    batches = Batches(chosen, 5, shuffle, 4)
    assert (batches.samples, batches.steps) == (23, 5)
    epochs = [np.concatenate([batches.indices(e, s) for s in range(5)]) for e in (0, 1)]
    for epoch in epochs:
        assert sorted(epoch) == [-1, -1, *chosen]
        assert list(epoch[-2:]) == [-1, -1]
    assert np.array_equal(*epochs) is not shuffle
    assert np.array_equal(Batches(chosen, 5, shuffle, 4).indices(1, 3), batches.indices(1, 3))
    assert batches.indices(0, 0).dtype == np.int64
    with pytest.raises(ValueError):
        batches.indices(0, 5)
    assert Batches(chosen[:0], 5, shuffle, 4).steps == 0


def test_a_rect_that_does_not_fit_is_refused():
    source, indices = open_source(SYNTHETIC), np.arange(4)
    for shape, rect in (((4, 3, 7, 5), Rect.whole((4, 3, 7, 6))), ((5, 3, 7, 6), Rect.whole((5, 3, 7, 6)))):
        with pytest.raises(ValueError):
            fill(source, indices, (np.empty(shape), rect), None)
    with pytest.raises(ValueError):
        fill(source, indices, None, (np.empty(5), Rect.whole((5,))))
    fill(source, indices, (np.empty((0, 0, 0, 0)), Rect.empty(4)), (np.empty(0), Rect.empty(1)))
    fill(source, indices, None, None)


def test_a_batch_in_many_bites_is_the_same():
    source = open_source(DataSpec("synthetic", (2, 500, 400), 3, 9))
    whole = np.empty((9, 2, 500, 400), np.float32)
    assert whole.size > 2 * prod((2, 500, 400))
    fill(source, np.arange(9), (whole, Rect.whole(whole.shape)), None)
    assert np.array_equal(whole[7:8], source.read(np.array([7]), Rect.whole(source.shape)))
