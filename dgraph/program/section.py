"""The section `data` as the data room takes it.

In: a config. Out: `DataSpec`, `Description`. Promise: what is wrong with the data is said where the config names it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

from dgraph.config import Config, DataConfig
from dgraph.data import DataSpec, Description, describe, require_samples, subset
from dgraph.error import DataError, DgraphError


def data_spec(config: Config) -> DataSpec:
    """The `data` section as the data room takes it."""
    return section_spec(config.data, config.seed, config.dtype)


def section_spec(data: DataConfig, seed: int, dtype: str = "float32") -> DataSpec:
    """A `data` section as the data room takes it: what has the same name in both, the seed, and the least type of values."""
    same = {entry.name: getattr(data, entry.name) for entry in fields(DataSpec) if hasattr(data, entry.name)}
    changed = {
        "shares": (data.shares.train, data.shares.validation, data.shares.test),
        "repeat": data.repeat or 1,
        "sets": data.sets or {},
        "prepare": tuple({step.kind: step.options} for step in data.prepare),
        "augment": tuple({step.kind: step.options} for step in data.augment),
        "seed": seed,
        "dtype": dtype,
    }
    return DataSpec(**(same | changed))


@contextmanager
def data_place(config: Config) -> Iterator[None]:
    """Gives errors of the data source the place of the key that is at fault, or where the config names the source."""
    try:
        yield
    except DgraphError as error:
        key = "path" if isinstance(error, DataError) and not error.key.startswith("sets.") else error.key
        raise error.at(config.place(f"data.{key}" if key else "data")) from None


def described(config: Config, training: bool) -> Description:
    """The numbers of the data; DataError where there is nothing to train on."""
    spec = data_spec(config)
    with data_place(config):
        data = describe(spec)
    samples = len(subset(spec, data, "train")) if training else 0
    if training and not samples:
        what = f"there is nothing to train on: a share of {spec.shares[0]:g} of {data.samples} samples"
        raise DataError(what, "data.shares.train", config.place("data.shares"))
    if training:
        with data_place(config):
            require_samples(spec.prepare, samples)
    return data


def require_subset(config: Config, data: Description, name: str) -> None:
    """Raises DataError, at its place, where a subset has no samples."""
    if not len(subset(data_spec(config), data, name)):
        raise DataError(f"the subset {name} has no samples", f"data.shares.{name}", config.place("data.shares"))


def steps_of_epoch(config: Config, data: Description) -> int:
    """How many steps an epoch has; 1 where there is nothing to train on."""
    samples = len(subset(data_spec(config), data, "train"))
    return max(1, -(-samples // (config.data.batch * config.train.accumulate)))
