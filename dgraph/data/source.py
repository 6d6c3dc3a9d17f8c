"""Sources of samples.

In: a `DataSpec`. Out: its `Description`, cheaply, and a `Source`. Promise: what a spec claims of a source is checked against
what the source says; a fault is a DataError, or a ConfigError where the spec itself is at fault.
"""

from __future__ import annotations

from dgraph.data.array import ArraySource
from dgraph.data.files import OPENERS, Files, open_files
from dgraph.data.form import shaped
from dgraph.data.reader.scikit import SETS, open_sklearn
from dgraph.data.ring import RingSource, describe_ring
from dgraph.data.spec import DataSpec, Description, Source
from dgraph.data.synthetic import open_synthetic
from dgraph.data.table import describe_table, open_table
from dgraph.error import ConfigError, DataError
from dgraph.ops.frame import padded


def describe(spec: DataSpec) -> Description:
    """The numbers of a source. Opens no more than the headers and the labels of files, imports nothing but what reads those.

    Raises ConfigError for an unknown source or a spec that lacks something, DataError for a file that is missing, damaged,
    or not what the spec says.
    """
    match spec.source:
        case "synthetic":
            return _synthetic(spec)
        case "ring":
            return _agreed(spec, describe_ring(_samples(spec)), "the ring has", ConfigError)
        case "table":
            return _agreed(spec, describe_table(spec), "the table has", ConfigError)
        case "digits" | "sklearn":
            name = _set(spec)
            return _agreed(spec, SETS[name], "the digits have" if name == "digits" else f"{name} has", ConfigError)
        case source if source in OPENERS:
            return _agreed_files(spec, open_files(spec))
        case _:
            known = ("synthetic", "ring", "table", "digits", "sklearn", *OPENERS)
            raise ConfigError(f"there is no data source {spec.source}", ", ".join(known))


def open_source(spec: DataSpec) -> Source:
    """The source of a spec, ready to be read. What can only be kept in memory is read and checked now; all else when it is wanted.

    Raises as `describe`; DataError also where a set of scikit-learn is wanted that is not installed.
    """
    if spec.source in OPENERS:
        files = open_files(spec)
        known = _agreed_files(spec, files)
        files.x.load()
        return ArraySource(files.x, files.y, known.classes, spec.scale, spec.dtype)
    known = describe(spec)
    match spec.source:
        case "synthetic":
            return open_synthetic(known, spec.scale, spec.seed)
        case "ring":
            return RingSource(known.samples, spec.scale, spec.seed)
        case "table":
            pair = open_table(spec, known)
        case _:
            pair = open_sklearn(_set(spec))
    y = shaped(pair.y, known.label_shape)
    return ArraySource(pair.x, y, known.classes, spec.scale, spec.dtype, known.samples // pair.x.shape[0])


def _set(spec: DataSpec) -> str:
    """The name of a set of scikit-learn."""
    name = "digits" if spec.source == "digits" else spec.name
    if name not in SETS:
        raise ConfigError(f"there is no set {name}", ", ".join(SETS)).about("data", "name")
    return name


def _agreed_files(spec: DataSpec, files: Files) -> Description:
    return _agreed(spec, files.known, f"{files.x.path}: it has", DataError)


def _samples(spec: DataSpec) -> int:
    if spec.samples is None:
        raise ConfigError(f"a {spec.source} source needs samples", "how many").about("data")
    return spec.samples


def _synthetic(spec: DataSpec) -> Description:
    if spec.shape is None:
        raise ConfigError("a synthetic source needs shape", "[channels, spatial ...] of one sample").about("data")
    if spec.classes is None and spec.label_shape is None:
        hint = "classes for class numbers, label_shape for real targets, both for class numbers at every place"
        raise ConfigError("a synthetic source needs classes or label_shape", hint).about("data")
    return Description(_samples(spec), spec.shape, spec.classes, padded(spec.label_shape or (1,), spec.shape))


def _agreed(spec: DataSpec, known: Description, who: str, error: type[ConfigError] | type[DataError]) -> Description:
    """What is known of a source, unless the spec claims something else."""
    claims = {"samples": spec.samples, "shape": spec.shape, "classes": spec.classes}
    if spec.label_shape is not None:
        claims["label_shape"] = padded(spec.label_shape, known.shape)
    for key, claim in claims.items():
        fact = getattr(known, key)
        if claim is not None and claim != fact:
            hint = f"leave {key} out of data, or correct it"
            raise error(f"{who} {key} {_text(fact)}, not {_text(claim)}", hint).about("data", key)
    return known


def _text(value: int | tuple[int, ...]) -> str:
    return str(value) if isinstance(value, int) else str(list(value))
