"""Samples for training: where they come from, and the part of a batch that a rank needs."""

from dgraph.data.augment import reach
from dgraph.data.batch import Batch, Batches, fill, subset, there
from dgraph.data.files import OPENERS
from dgraph.data.keep import Kept
from dgraph.data.prefetch import Feeder, Places
from dgraph.data.prepare import require_samples
from dgraph.data.spec import SUBSETS, DataSpec, Description, Source
from dgraph.data.view import describe, open_source, view

__all__ = [
    "OPENERS",
    "SUBSETS",
    "Batch",
    "Batches",
    "DataSpec",
    "Description",
    "Feeder",
    "Kept",
    "Places",
    "Source",
    "describe",
    "fill",
    "open_source",
    "reach",
    "require_samples",
    "subset",
    "there",
    "view",
]
