"""Reader of the section `train`.

In: a tree. Out: `TrainConfig`. Promise: whatever can be known without the graph and the data is checked here, at its place: which
options go with which optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dgraph.config.reader import (
    Key,
    Keys,
    Reader,
    boolean,
    choice,
    number,
    optional,
    record,
    variant,
)
from dgraph.config.schema import Choice, StopConfig, TrainConfig
from dgraph.config.section import COUNT, FRACTION, FROM_ZERO, POSITIVE
from dgraph.config.source import Tree
from dgraph.error import ConfigError

OPTIMIZERS: Mapping[str, Keys] = {
    "sgd": {"rate": Key(POSITIVE), "momentum": Key(FRACTION, 0.0)},
    "adam": {
        "rate": Key(POSITIVE),
        "beta1": Key(FRACTION, 0.9),
        "beta2": Key(FRACTION, 0.999),
        "epsilon": Key(POSITIVE, 1e-8),
    },
}


def _choice(kinds: Mapping[str, Keys]) -> Reader[Choice]:
    """Reads one of several kinds."""

    def read(tree: Tree, path: str) -> Choice:
        kind, values = variant(tree, path, kinds)
        return Choice(kind, MappingProxyType(values))

    return read


MEASURES = ("loss", "accuracy", "top5", "rmse", "mae", "r2")
"""The figures of a validation by which a run can be judged."""
_STOP = {
    "patience": Key(COUNT),
    "window": Key(COUNT, 1),
    "metric": Key(choice(*MEASURES), "loss"),
    "least": Key(number("a number >= 0", lambda value: value >= 0), 0.0),
}


def _read_stop(tree: Tree, path: str) -> StopConfig:
    return StopConfig(**record(tree, path, _STOP))


_TRAIN = {
    "optimizer": Key(_choice(OPTIMIZERS)),
    "steps": Key(optional(COUNT), None),
    "epochs": Key(optional(COUNT), None),
    "accumulate": Key(COUNT, 1),
    "shard": Key(boolean, False),
    "log_every": Key(FROM_ZERO, 10),
    "validate_every": Key(FROM_ZERO, 1),
    "checkpoint_every": Key(FROM_ZERO, 1),
    "checkpoint_steps": Key(FROM_ZERO, 0),
    "keep": Key(COUNT, 2),
    "best": Key(choice(*MEASURES, "none"), "loss"),
    "stop": Key(optional(_read_stop), None),
}


def read_train(tree: Tree, path: str) -> TrainConfig:
    """The section `train`."""
    train = TrainConfig(**record(tree, path, _TRAIN))
    if train.steps is not None and train.epochs is not None:
        raise ConfigError("train has both steps and epochs", "set one of them to null", tree.keys["epochs"])
    if train.steps is None and train.epochs is None:
        raise ConfigError("train needs steps or epochs", "such as epochs: 20", tree.place)
    if train.stop is not None and not train.validate_every:
        raise ConfigError("train.stop needs validations", "set validate_every to 1 or more", tree.keys["stop"])
    return train
