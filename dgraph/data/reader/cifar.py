"""The binary files of CIFAR-10 and CIFAR-100 (Krizhevsky 2009): colour images [3, 32, 32] behind their labels.

In: a path. Out: a `Pair`. Promise: a file is read rect by rect.

    CIFAR-10:   label             red 32 x 32  green 32 x 32  blue 32 x 32
    CIFAR-100:  coarse fine       the same
"""

from __future__ import annotations

import numpy as np

from dgraph.data.reader.pair import Pair
from dgraph.data.spec import DataSpec
from dgraph.data.stored import Stored, size_of
from dgraph.error import DataError

SHAPE = (3, 32, 32)
NBYTES = 3 * 32 * 32
CLASSES = {None: 10, "coarse": 20, "fine": 100}


def open_cifar(path: str, labels: str | None, spec: DataSpec) -> Pair:
    """Images and labels; those of CIFAR-100 where the spec has a `label`, fine or coarse."""
    ahead = 1 if spec.label is None else 2
    record, nbytes = ahead + NBYTES, size_of(path)
    samples, rest = divmod(nbytes, record)
    if rest or not samples:
        kind = "CIFAR-10" if ahead == 1 else "CIFAR-100"
        other = "label: fine or coarse reads CIFAR-100" if ahead == 1 else "without label it is CIFAR-10"
        raise DataError(f"{path}: damaged, or not of {kind}", f"{nbytes} bytes are not records of {record}; {other}")
    byte = np.dtype(np.uint8)
    x = Stored(path, ahead, (samples, *SHAPE), byte, record)
    y = Stored(path, 1 if spec.label == "fine" else 0, (samples,), byte, record)
    return Pair(x, y, CLASSES[spec.label if isinstance(spec.label, str) else None])
