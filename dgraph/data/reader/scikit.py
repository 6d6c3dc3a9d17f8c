"""The sets that scikit-learn brings along.

In: a name. Out: their numbers, without scikit-learn; a `Pair`, with it.
"""

from __future__ import annotations

import importlib

import numpy as np

from dgraph.data.reader.pair import Pair
from dgraph.data.spec import Description
from dgraph.data.values import Held
from dgraph.error import DataError

SETS = {
    "breast_cancer": Description(569, (30,), 2, (1,), names=("malignant", "benign")),
    "diabetes": Description(442, (10,), None, (1,)),
    "digits": Description(1797, (1, 8, 8), 10, (1, 1, 1)),
    "iris": Description(150, (4,), 3, (1,), names=("setosa", "versicolor", "virginica")),
    "linnerud": Description(20, (3,), None, (3,)),
    "wine": Description(178, (13,), 3, (1,), names=("class_0", "class_1", "class_2")),
}
"""Digits: Alpaydin and Kaynak 1998; breast cancer: Street, Wolberg and Mangasarian 1993; diabetes: Efron, Hastie, Johnstone and
Tibshirani 2004; iris: Fisher 1936; linnerud: Tenenhaus 1998; wine: Aeberhard, Coomans and de Vel 1992."""


def open_sklearn(name: str) -> Pair:
    """Samples and labels; pixels of digits are float32, all other values float64. Raises DataError without scikit-learn."""
    try:
        # Imported here: it takes a second, and only this source needs it.
        sets = importlib.import_module("sklearn.datasets")
    except ImportError:
        raise DataError(f"the set {name} needs scikit-learn", "pip install dgraph[data]") from None
    known, content = SETS[name], getattr(sets, f"load_{name}")()
    x = content.data.reshape(known.samples, *known.shape).astype(np.float32 if name == "digits" else np.float64)
    y = content.target.astype(np.float64 if known.classes is None else np.int64)
    return Pair(Held(name, x), Held(name, y.reshape(known.samples, *known.label_shape)))
