"""What a network sees of a source: its labels in another form, its samples prepared and augmented.

In: a `DataSpec`. Out: the `Description` behind all of it; a `Source` behind labels, and for an epoch behind the rest. Promise:
shapes are known before anything is read or fitted.

    source -> one_hot -> prepare (fitted, then fixed) -> augment (by epoch)
"""

from __future__ import annotations

from dgraph.data.augment import augmented, augmented_description
from dgraph.data.label import OneHot, one_hot_description
from dgraph.data.prepare import prepared_description
from dgraph.data.source import describe as describe_source
from dgraph.data.source import open_source as open_raw
from dgraph.data.spec import DataSpec, Description, Source


def describe(spec: DataSpec) -> Description:
    """The numbers of what the network sees. Opens no more than the headers and the labels of a file, imports nothing heavy.

    Raises ConfigError for an unknown source, a spec that lacks something, or steps that do not fit, DataError for a file that is
    missing, damaged, or not what the spec says.
    """
    known = describe_source(spec)
    if spec.one_hot:
        known = one_hot_description(known)
    known = prepared_description(spec.prepare, known)
    return augmented_description(spec.augment, known)


def open_source(spec: DataSpec) -> Source:
    """The source of a spec, ready to be read, as it is before steps. A file is read once as a whole and checked: sums, finite
    values, labels. Raises as `describe`; DataError also where the digits are wanted and scikit-learn is not installed."""
    source = open_raw(spec)
    return OneHot(source, source.classes or 0) if spec.one_hot else source


def view(source: Source, spec: DataSpec, epoch: int | None) -> Source:
    """A prepared source as the network sees it in an epoch of training, or with None in evaluations."""
    return augmented(source, spec.augment, spec.seed, epoch)
