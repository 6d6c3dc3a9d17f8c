"""Samples for training: where they come from, and the part of a batch that a rank needs."""

from dgraph.data.batch import Batches, fill, subset, there
from dgraph.data.source import describe, open_source
from dgraph.data.spec import DataSpec, Description, Source

__all__ = ["Batches", "DataSpec", "Description", "Source", "describe", "fill", "open_source", "subset", "there"]
