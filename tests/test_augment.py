"""Augmentation: a rect of a batch has the values of the whole, labels move with their sample, any mesh trains alike."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.data import DataSpec, describe, fill, open_source, view
from dgraph.error import ConfigError
from dgraph.rect import Rect
from dgraph.runtime.communicator import OneRank
from dgraph.runtime.thread import run_threads
from dgraph.train import Worker
from tests.networks import config_text, program
from tests.test_source import parts

IMAGES = DataSpec("synthetic", (3, 7, 6), classes=5, samples=40, seed=11)
PLACES = replace(IMAGES, label_shape=(1, 7, 6))
FLIP = {"flip": {"axis": "W", "probability": 0.5}}
BOTH = {"flip": {"axis": "HW", "probability": 0.5}}
SHIFT = {"shift": {"H": 2, "W": 3}}
CROP = {"crop": {"H": 5, "W": 4}}
NORMAL = {"normalize": {"mean": (1.0, 2.0, 3.0), "deviation": (0.5, 1.0, 2.0)}}
CHAINS = {
    "flip": (FLIP,),
    "shift": (SHIFT,),
    "crop": (CROP,),
    "normalize": (NORMAL,),
    "all": (NORMAL, BOTH, CROP, SHIFT),
    "twice": (SHIFT, FLIP, NORMAL, FLIP),
}


def batch(spec, indices, epoch, rects=None):
    """Values and labels of some samples in an epoch."""
    known = describe(spec)
    dims = [(len(indices), *shape) for shape in (known.shape, known.label_shape)]
    rects = rects or [Rect.whole(dim) for dim in dims]
    arrays = [np.empty(rect.size) for rect in rects]
    fill(view(open_source(spec), spec, epoch), np.array(indices), *zip(arrays, rects, strict=True))
    return arrays


@settings(max_examples=150, deadline=None)
@given(
    st.data(),
    st.sampled_from(sorted(CHAINS)),
    st.sampled_from([IMAGES, PLACES]),
    st.lists(st.integers(-1, 39), min_size=6, max_size=6),
    st.sampled_from([None, 0, 3]),
)
def test_a_rect_of_a_batch_has_the_values_of_the_whole(data, name, spec, indices, epoch):
    spec = replace(spec, augment=CHAINS[name])
    whole, labels = batch(spec, indices, epoch)
    one, other = parts(data.draw, whole.shape), parts(data.draw, labels.shape)
    some, few = batch(spec, indices, epoch, [one, other])
    np.testing.assert_array_equal(some, whole[one.slices()])
    np.testing.assert_array_equal(few, labels[other.slices()])


def plain(spec, indices):
    return batch(replace(spec, augment=()), indices, None)


def test_half_of_the_samples_are_mirrored_in_training_alone():
    spec, indices = replace(PLACES, augment=(FLIP,), samples=400), range(400)
    before, labels = plain(spec, indices)
    epochs = []
    for epoch in (0, 1):
        after, moved = batch(spec, indices, epoch)
        mirrored = (after == before[..., ::-1]).all((1, 2, 3))
        np.testing.assert_array_equal(after[~mirrored], before[~mirrored])
        np.testing.assert_array_equal(moved[mirrored], labels[mirrored][..., ::-1])
        np.testing.assert_array_equal(moved[~mirrored], labels[~mirrored])
        assert 150 < mirrored.sum() < 250
        epochs.append(mirrored)
    assert (epochs[0] != epochs[1]).any()
    np.testing.assert_array_equal(batch(spec, indices, None)[0], before)


def test_a_shift_leaves_zeros_without_labels_behind():
    spec, indices = replace(PLACES, augment=(SHIFT,), samples=300), range(300)
    before, labels = plain(spec, indices)
    after, moved = batch(spec, indices, 0)
    seen = set()
    for sample in indices:
        matches = []
        for y in range(-2, 3):
            for x in range(-3, 4):
                expected = np.pad(before[sample], ((0, 0), (2, 2), (3, 3)))[:, 2 + y : 9 + y, 3 + x : 9 + x]
                if np.array_equal(after[sample], expected):
                    matches.append((y, x))
        ((y, x),) = matches
        places = np.pad(labels[sample], ((0, 0), (2, 2), (3, 3)), constant_values=-1)
        np.testing.assert_array_equal(moved[sample], places[:, 2 + y : 9 + y, 3 + x : 9 + x])
        seen.add((y, x))
    assert len(seen) == 35
    np.testing.assert_array_equal(batch(spec, indices, None)[0], before)


def test_a_crop_lies_anywhere_in_training_and_in_the_middle_elsewhere():
    spec, indices = replace(PLACES, augment=(CROP,), samples=200), range(200)
    assert describe(spec).shape == (3, 5, 4)
    assert describe(spec).label_shape == (1, 5, 4)
    before, labels = plain(spec, indices)
    after, moved = batch(spec, indices, 2)
    seen = set()
    for sample in indices:
        ((y, x),) = [
            (y, x)
            for y in range(3)
            for x in range(3)
            if np.array_equal(after[sample], before[sample, :, y : y + 5, x : x + 4])
        ]
        np.testing.assert_array_equal(moved[sample], labels[sample, :, y : y + 5, x : x + 4])
        seen.add((y, x))
    assert len(seen) == 9
    np.testing.assert_array_equal(batch(spec, indices, None)[0], before[:, :, 1:6, 1:5])


def test_normalize_is_by_channel_at_all_times():
    spec, indices = replace(IMAGES, augment=(NORMAL,)), range(40)
    expected = (plain(spec, indices)[0] - np.reshape([1, 2, 3], (3, 1, 1))) / np.reshape([0.5, 1, 2], (3, 1, 1))
    for epoch in (None, 1):
        np.testing.assert_allclose(batch(spec, indices, epoch)[0], expected, rtol=1e-6)


class Counted:
    """A source that counts the values that are read of it."""

    def __init__(self, source):
        self.source, self.values = source, 0

    def __getattr__(self, name):
        return getattr(self.source, name)

    def read(self, indices, rect):
        self.values += len(indices) * rect.volume
        return self.source.read(indices, rect)


@pytest.mark.parametrize("name", CHAINS)
def test_no_more_is_read_than_a_rect_needs(name):
    spec = replace(IMAGES, augment=CHAINS[name])
    source = Counted(open_source(spec))
    rect = Rect((0, 0, 1, 2), (10, 3, 3, 2))
    fill(view(source, spec, 0), np.arange(10), (np.empty(rect.size), rect), None)
    assert source.values <= rect.volume


def test_real_targets_of_places_that_came_in_are_missing():
    spec = replace(IMAGES, classes=None, label_shape=(2, 7, 6), augment=(SHIFT,))
    values, labels = batch(spec, range(40), 0)
    assert np.isnan(labels).any()
    assert np.array_equal(np.isnan(labels).all(1), (values == 0).all(1))


def test_one_hot_labels():
    spec = replace(PLACES, one_hot=True)
    known = describe(spec)
    assert (known.classes, known.label_shape) == (None, (5, 7, 6))
    numbers, hot = plain(PLACES, range(40))[1], plain(spec, [*range(40), -1])[1]
    assert np.isnan(hot[40]).all()
    assert set(np.unique(hot[:40])) == {0, 1}
    np.testing.assert_array_equal(hot[:40].argmax(1), numbers[:, 0])


@pytest.mark.parametrize(("spec", "line"), [
    (replace(IMAGES, augment=({"flip": {"axis": "D", "probability": 0.5}},)), "a sample has no axis D (its axes are H, W)"),
    (replace(IMAGES, shape=(9,), augment=(FLIP,)), "a sample has no axis W (it has no axes of space)"),
    (replace(IMAGES, label_shape=(1, 7, 4), augment=(FLIP,)), "flip along W: labels have 4 places, the sample 6"),
    (replace(IMAGES, augment=({"crop": {"H": 8}},)), "data.augment.0.crop.H: 8 of 7 places"),
    (replace(IMAGES, augment=(CROP, {"crop": {"H": 6}})), "data.augment.1.crop.H: 6 of 5 places"),
    (replace(IMAGES, augment=({"normalize": {"mean": (0.0,), "deviation": (1.0, 1.0, 1.0)}},)), "has 1 numbers, a sample has 3"),
    (replace(IMAGES, classes=None, label_shape=(2,), one_hot=True), "the data has real targets"),
    (replace(IMAGES, label_shape=(2, 7, 6), one_hot=True), "the data has 2 class numbers a place"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(spec, line):
    with pytest.raises(ConfigError) as caught:
        describe(spec)
    assert line in str(caught.value)
    assert caught.value.name == "data"


LAYERS = {
    "batch": [
        "{name: C1, conv: {channels: 4, size: 3, padding: 1}, nonlinearity: relu, split: {N: p}}",
        "{name: D1, dropout: {rate: 0.3}}",
        "{name: out, softmax: {classes: 3}, split: {N: p}}",
    ],
    "space": [
        "{name: C1, conv: {channels: 4, size: 3, padding: 1}, nonlinearity: relu, split: {H: p}}",
        "{name: D1, dropout: {rate: 0.3}}",
        "{name: out, softmax: {classes: 3}, split: {H: p}, loss_split: {N: p}}",
    ],
}
EPOCH = "{optimizer: {sgd: {rate: 0.1, momentum: 0.5}}, epochs: 1}"
CHANGES = "[{shift: {H: 2, W: 1}}, {crop: {H: 8, W: 8}}, {flip: {axis: W}}]"


def losses(kind, ranks):
    """The losses of two epochs with augmentation, dropout, shuffling and a partial batch at their ends."""
    text = config_text(LAYERS[kind], f"{{p: {ranks}}}", "[2, 10, 10]", batch=6, dtype="float32", train=EPOCH)
    made = program(
        text.replace("samples: 24", f"samples: 40, augment: {CHANGES}, split: {{{'N' if kind == 'batch' else 'H'}: p}}")
    )

    def body(communicator):
        worker = Worker(made, communicator)
        batches = worker.batches("train", shuffle=True)
        assert batches.samples % 6
        steps = [batches.indices(*divmod(step, batches.steps)) for step in range(2 * batches.steps)]
        return [worker.train_step(indices)[0] for indices in steps]

    return body(OneRank()) if ranks == 1 else run_threads(ranks, body)[0]


@pytest.mark.parametrize("kind", LAYERS)
def test_any_mesh_trains_alike(kind):
    alone = losses(kind, 1)
    assert len(set(alone)) == len(alone) == 10
    for ranks in (2, 3, 4, 6):
        np.testing.assert_allclose(losses(kind, ranks), alone, rtol=1e-4)
