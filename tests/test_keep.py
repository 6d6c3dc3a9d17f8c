"""Samples that stay in memory: read once, whatever augmentation wants of them; the same values."""

from dataclasses import replace

import numpy as np
import pytest

from dgraph.data import DataSpec, Kept, open_source, reach, view
from dgraph.rect import Rect

IMAGES = DataSpec("synthetic", (3, 7, 6), classes=5, samples=40, seed=11)
PLACES = replace(IMAGES, label_shape=(1, 7, 6))
CHANGES = (
    {"shift": {"H": 2, "W": 3}},
    {"flip": {"axis": "HW", "probability": 0.5}},
    {"crop": {"H": 5}},
    {"normalize": {"mean": (1.0, 2.0, 3.0), "deviation": (0.5, 1.0, 2.0)}},
)


class Counted:
    """A source that counts how many values and labels are read of it."""

    def __init__(self, source):
        self._source, self.values, self.numbers = source, 0, 0

    def __getattr__(self, name):
        return getattr(self._source, name)

    def read(self, indices, rect):
        self.values += len(indices) * rect.volume
        return self._source.read(indices, rect)

    def labels(self, indices, rect):
        self.numbers += len(indices) * rect.volume
        return self._source.labels(indices, rect)


@pytest.mark.parametrize("spec", [IMAGES, PLACES])
@pytest.mark.parametrize("changes", [(), CHANGES])
def test_every_sample_is_read_once(spec, changes):
    spec = replace(spec, augment=changes)
    plain, counted = open_source(spec), Counted(open_source(spec))
    wanted = Rect((0, 1, 2), (2, 2, 4))
    wanted_labels = wanted.intersect(Rect.whole(plain.label_shape)) or Rect.whole(plain.label_shape)
    rect, label_rect = reach(changes, plain.shape, wanted), reach(changes, plain.label_shape, wanted_labels)
    kept = Kept(counted, rect, label_rect)
    indices = np.array([3, 0, 17, 39, 17])
    for epoch in (0, 1, 2, 3, None):
        ours, theirs = view(kept, spec, epoch), view(plain, spec, epoch)
        np.testing.assert_array_equal(ours.read(indices, wanted), theirs.read(indices, wanted))
        np.testing.assert_array_equal(ours.labels(indices, wanted_labels), theirs.labels(indices, wanted_labels))
    assert (counted.values, counted.numbers) == (4 * rect.volume, 4 * label_rect.volume)


def test_what_lies_outside_is_read_and_not_kept():
    counted = Counted(open_source(IMAGES))
    kept = Kept(counted, Rect((0, 0, 0), (3, 2, 6)), Rect.whole((1, 1, 1)))
    for _ in range(2):
        whole = kept.read(np.arange(2), Rect.whole((3, 7, 6)))
    np.testing.assert_array_equal(whole, open_source(IMAGES).read(np.arange(2), Rect.whole((3, 7, 6))))
    assert counted.values == 4 * 3 * 7 * 6
