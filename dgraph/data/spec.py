"""What a source of samples is.

In: nothing. Out: `DataSpec` (which source is wanted), `Description` (its numbers), `Source` (what can be read), `Behind` (a
source made of another). Promise: plain values; nothing is opened here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from dgraph.rect import Rect

Array = np.ndarray[Any, np.dtype[Any]]
Cell = int | float | tuple[int | float, ...]
"""A label in a table: one number, or a list of them."""
Paths = str | tuple[str, ...]
"""One file or folder, or several, in the order of their samples; `*` and `?` stand for what is there, in the order of names."""
Column = str | int
"""A column of a table in a file, by its name or its number from 0 (from -1: counted from the last)."""
SUBSETS = ("train", "validation", "test")
Step = Mapping[str, Mapping[str, Any]]
"""One thing that is done to samples: {kind: arguments}."""


@dataclass(frozen=True)
class DataSpec:
    """Which samples are wanted.

    Attributes
    ----------
    source: synthetic, ring, table, digits, sklearn, or what kind the files are: npz, npy, hdf5, idx, cifar, csv, folder, utkface.
    shape: [C, spatial...] of one sample; needed by synthetic, a claim to be checked for the others. Of arrays in files it may
        also say where 1s are that the file leaves out, what is the shape of samples that are rows, and that every file is
        one sample.
    classes: how many classes labels have; needed by synthetic, a claim to be checked for the others. Without it, `label_shape`
        asks for real targets.
    samples: how many; needed by synthetic and ring, a claim to be checked for the others.
    path: the files, or folders of images.
    scale: what every value is divided by.
    shares: of the samples for training, validation and test; their sum is at most 1.
    shuffle: whether every epoch has an order of its own.
    seed: of synthetic values, of the subsets and of the orders.
    label_shape: of the labels of one sample, missing dimensions at its end are 1; a claim to be checked for files.
    rows: the values of each sample of a table.
    labels: the label or labels of each sample of a table; of npy and idx, the files of labels that belong to `path`.
    repeat: how many times a table stands in its source.
    name: which of scikit-learn's sets.
    x, y: the names of the arrays or datasets of npz and hdf5, "x" and "y" where not given.
    label: of csv, the column or columns of labels; of cifar, fine or coarse (CIFAR-100); of utkface, age, gender or race.
    columns: of csv, those of the sample; without it all that are no labels.
    header: of csv, whether its first line has names (default: yes).
    delimiter: of csv (default: a comma).
    bounds: of utkface, ages at which a class ends: class k is of ages below bounds[k]; without it, an age is a real target.
    channels: of images, 1 (grey) or 3 (red, green, blue; the default).
    size: of images, the [height, width] to which they are scaled; without it, all must be of the size of the first.
    channels_last: whether arrays in files have their channels last.
    sets: of validation and test, `path` and `labels` of files of their own; `shares` are then of the others.
    one_hot: whether class numbers become real targets of zeros and a one.
    prepare: steps that are fitted on training samples (see `dgraph.data.prepare`), each as {kind: arguments}.
    fit_batch: how many samples a fit holds at once.
    augment: random changes of training samples (see `dgraph.data.augment`), each as {kind: arguments}.
    dtype: float32, or float64 for values that are computed with in float64, whatever the type of what is stored.
    """

    source: str
    shape: tuple[int, ...] | None = None
    classes: int | None = None
    samples: int | None = None
    path: Paths | None = None
    scale: float = 1.0
    shares: tuple[float, float, float] = (1.0, 0.0, 0.0)
    shuffle: bool = True
    seed: int = 0
    label_shape: tuple[int, ...] | None = None
    rows: tuple[tuple[float, ...], ...] | None = None
    labels: tuple[Cell, ...] | Paths | None = None
    repeat: int = 1
    name: str | None = None
    x: str | None = None
    y: str | None = None
    label: Column | tuple[Column, ...] | None = None
    columns: tuple[Column, ...] | None = None
    header: bool | None = None
    delimiter: str | None = None
    bounds: tuple[float, ...] | None = None
    channels: int | None = None
    size: tuple[int, int] | None = None
    channels_last: bool | None = None
    sets: Mapping[str, Mapping[str, Paths]] = field(default_factory=dict)
    one_hot: bool = False
    prepare: tuple[Step, ...] = ()
    fit_batch: int = 1000
    augment: tuple[Step, ...] = ()
    dtype: str = "float32"


@dataclass(frozen=True)
class Description:
    """The numbers of a source: how many samples, their shape [C, spatial...], how many classes (None: labels are real targets), and
    the shape of a sample's labels, of as many dimensions as the sample.

    `own` is how many samples at the end lie in files of their own, for validation and, behind them, for test; `names` are those of
    the classes, where the source has names.
    """

    samples: int
    shape: tuple[int, ...]
    classes: int | None
    label_shape: tuple[int, ...]
    own: tuple[int, int] = (0, 0)
    names: tuple[str, ...] = ()


class Source(Protocol):
    """Samples and their labels, by index. A source gives the same values for the same index at all times."""

    @property
    def samples(self) -> int:
        """How many samples there are."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[C, spatial...] of one sample."""

    @property
    def classes(self) -> int | None:
        """How many classes there are; None: labels are real targets."""

    @property
    def label_shape(self) -> tuple[int, ...]:
        """The shape of a sample's labels, of as many dimensions as the sample."""

    def read(self, indices: Array, rect: Rect) -> Array:
        """Values of these samples (int64 [n], each in 0 .. samples - 1) within `rect` of [C, spatial...].

        Returns an array of floats [n, *rect.size]. Raises DataError if they cannot be read.
        """

    def labels(self, indices: Array, rect: Rect) -> Array:
        """The labels of these samples within `rect` of the label shape.

        Returns an array [n, *rect.size]: int64, each in 0 .. classes - 1, or floats. Raises DataError if they cannot be read.
        """


@dataclass(frozen=True)
class Behind:
    """A source that stands behind another and is like it, but for what its kinds change."""

    source: Source

    @property
    def samples(self) -> int:
        """As `Source.samples`."""
        return self.source.samples

    @property
    def shape(self) -> tuple[int, ...]:
        """As `Source.shape`."""
        return self.source.shape

    @property
    def classes(self) -> int | None:
        """As `Source.classes`."""
        return self.source.classes

    @property
    def label_shape(self) -> tuple[int, ...]:
        """As `Source.label_shape`."""
        return self.source.label_shape

    def read(self, indices: Array, rect: Rect) -> Array:
        """As `Source.read`."""
        return self.source.read(indices, rect)

    def labels(self, indices: Array, rect: Rect) -> Array:
        """As `Source.labels`."""
        return self.source.labels(indices, rect)
