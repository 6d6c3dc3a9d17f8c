"""What a source of samples is.

In: nothing. Out: `DataSpec` (which source is wanted), `Description` (its numbers), `Source` (what can be read). Promise:
plain values; nothing is opened here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dgraph.rect import Rect

Array = np.ndarray[Any, np.dtype[Any]]
Cell = int | float | tuple[int | float, ...]
"""A label in a table: one number, or a list of them."""


@dataclass(frozen=True)
class DataSpec:
    """Which samples are wanted.

    Attributes
    ----------
    source: synthetic, digits, npz, table or ring.
    shape: [C, spatial...] of one sample; needed by synthetic, a claim to be checked for the others.
    classes: how many classes labels have; needed by synthetic, a claim to be checked for the others. Without it, `label_shape`
        asks for real targets.
    samples: how many; needed by synthetic and ring, a claim to be checked for the others.
    path: the file of an npz source.
    scale: what every value is divided by.
    shares: of the samples for training, validation and test; their sum is at most 1.
    shuffle: whether every epoch has an order of its own.
    seed: of synthetic values, of the subsets and of the orders.
    label_shape: of the labels of one sample, missing dimensions at its end are 1; a claim to be checked for npz.
    rows: the values of each sample of a table.
    labels: the label or labels of each sample of a table.
    repeat: how many times a table stands in its source.
    """

    source: str
    shape: tuple[int, ...] | None = None
    classes: int | None = None
    samples: int | None = None
    path: str | None = None
    scale: float = 1.0
    shares: tuple[float, float, float] = (1.0, 0.0, 0.0)
    shuffle: bool = True
    seed: int = 0
    label_shape: tuple[int, ...] | None = None
    rows: tuple[tuple[float, ...], ...] | None = None
    labels: tuple[Cell, ...] | None = None
    repeat: int = 1


@dataclass(frozen=True)
class Description:
    """The numbers of a source: how many samples, their shape [C, spatial...], how many classes (None: labels are real targets), and
    the shape of a sample's labels, of as many dimensions as the sample."""

    samples: int
    shape: tuple[int, ...]
    classes: int | None
    label_shape: tuple[int, ...]


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
