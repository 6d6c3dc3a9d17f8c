"""Fits 128 components of 20,000 samples of 120,000 features, and says what it took, as one line of JSON.

Samples are made as they are read: each a sum of patterns, of spectrum 1/k, that is a function of its index alone.
"""

import json
import resource
import sys
from time import perf_counter

import numpy as np

from dgraph.data import DataSpec
from dgraph.fit import Need, fit
from dgraph.rect import Rect
from dgraph.runtime.communicator import OneRank

SHAPE, PATTERNS, AT_ONCE = (3, 200, 200), 300, 6


class Patterns:
    """Each sample has a few of the patterns."""

    shape, label_shape, classes = SHAPE, (1, 1, 1), 10

    def __init__(self, samples):
        random = np.random.default_rng(0)
        self.samples = samples
        self._patterns = random.standard_normal((PATTERNS, *SHAPE), np.float32)
        self._patterns /= np.arange(1, PATTERNS + 1, dtype=np.float32)[:, None, None, None]

    def read(self, indices, rect):
        values = np.empty((len(indices), *rect.size), np.float32)
        for row, index in zip(values, indices.tolist(), strict=True):
            random = np.random.default_rng(index)
            few = random.integers(0, PATTERNS, AT_ONCE)
            row[...] = 1.0
            for k, factor in zip(few, random.standard_normal(AT_ONCE, np.float32), strict=True):
                row += factor * self._patterns[k][rect.slices()]
        return values


def main(samples):
    spec = DataSpec("npz", SHAPE, samples=samples, prepare=({"pca": {"components": 128, "whiten": False}},))
    source, start = Patterns(samples), perf_counter()
    made = fit(source, spec, np.arange(samples), Need(Rect.whole((128,)), "float32"), OneRank())
    seconds = perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    variance = made.needed[0]["variance"].array
    print(json.dumps({"seconds": seconds, "peak_gib": peak / 2**30, "variance": variance.tolist()}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
