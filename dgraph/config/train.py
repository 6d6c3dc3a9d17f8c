"""Reader of the section `train`.

In: a tree. Out: `TrainConfig`. Promise: whatever can be known without the graph and the data is checked here, at its place: which
options go with which optimizer, schedule and average, and with each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType

from dgraph.config.path import find
from dgraph.config.reader import (
    Key,
    Keys,
    Reader,
    boolean,
    choice,
    items,
    number,
    optional,
    record,
    variant,
)
from dgraph.config.schema import MEASURES, Choice, Penalty, StopConfig, TrainConfig, Warmup
from dgraph.config.section import COUNT, FRACTION, FROM_ZERO, POSITIVE
from dgraph.config.source import Tree
from dgraph.error import ConfigError

NOT_NEGATIVE = number("a number >= 0", lambda value: value >= 0)
SHARE = number("a number from 0 to 1", lambda value: 0 <= value <= 1)
_RATE = {"rate": Key(POSITIVE)}
_MOMENTS = {"beta1": Key(FRACTION, 0.9), "beta2": Key(FRACTION, 0.999)}
_BIASES = {"biases": Key(boolean, False)}
OPTIMIZERS: Mapping[str, Keys] = {
    "sgd": {
        **_RATE,
        "momentum": Key(FRACTION, 0.0),
        "dampening": Key(NOT_NEGATIVE, 0.0),
        "nesterov": Key(boolean, False),
    },
    "rmsprop": {
        **_RATE,
        "alpha": Key(FRACTION, 0.99),
        "epsilon": Key(POSITIVE, 1e-8),
        "momentum": Key(FRACTION, 0.0),
        "centered": Key(boolean, False),
    },
    "adam": {**_RATE, **_MOMENTS, "epsilon": Key(POSITIVE, 1e-8)},
    "adamw": {**_RATE, **_MOMENTS, "epsilon": Key(POSITIVE, 1e-8), "decay": Key(NOT_NEGATIVE, 0.01), **_BIASES},
    "lars": {
        **_RATE,
        "momentum": Key(FRACTION, 0.9),
        "decay": Key(NOT_NEGATIVE, 0.0005),
        "trust": Key(POSITIVE, 0.001),
        **_BIASES,
    },
    "lamb": {**_RATE, **_MOMENTS, "epsilon": Key(POSITIVE, 1e-6), "decay": Key(NOT_NEGATIVE, 0.01), **_BIASES},
}
_PER = {"per": Key(choice("epoch", "step"), "epoch")}
_AT = items(COUNT, "a list of integers >= 1")
_LENGTH = {"length": Key(optional(COUNT), None), "minimum": Key(NOT_NEGATIVE, 0.0), **_PER}
SCHEDULES: Mapping[str, Keys] = {
    "constant": {},
    "inverse": {"decay": Key(NOT_NEGATIVE), **_PER},
    "exponential": {"decay": Key(POSITIVE, 0.9), **_PER},
    "step": {"every": Key(optional(COUNT), None), "at": Key(optional(_AT), None), "factor": Key(POSITIVE, 0.1), **_PER},
    "piecewise": {"at": Key(_AT), "factors": Key(items(NOT_NEGATIVE, "a list of numbers >= 0")), **_PER},
    "polynomial": {"power": Key(POSITIVE, 1.0), **_LENGTH},
    "cosine": {"restart": Key(optional(COUNT), None), **_LENGTH},
}
_FROM = {"from": Key(FROM_ZERO, 0), **_PER, "every": Key(choice("step", "epoch"), "step")}
AVERAGES: Mapping[str, Keys] = {"exponential": {"decay": Key(FRACTION, 0.999), **_FROM}, "mean": _FROM}
_WARMUP = {
    "steps": Key(optional(COUNT), None),
    "epochs": Key(optional(COUNT), None),
    "from": Key(SHARE, 0.1),
    "shift": Key(boolean, True),
}
_PENALTY = {"l1": Key(NOT_NEGATIVE, 0.0), "l2": Key(NOT_NEGATIVE, 0.0), "biases": Key(boolean, False)}


def _choice(kinds: Mapping[str, Keys]) -> Reader[Choice]:
    """Reads one of several kinds."""

    def read(tree: Tree, path: str) -> Choice:
        kind, values = variant(tree, path, kinds)
        return Choice(kind, MappingProxyType(values))

    return read


_STOP = {
    "patience": Key(COUNT),
    "window": Key(COUNT, 1),
    "metric": Key(choice(*MEASURES), "loss"),
    "least": Key(NOT_NEGATIVE, 0.0),
}


def _read_stop(tree: Tree, path: str) -> StopConfig:
    return StopConfig(**record(tree, path, _STOP))


def read_optimizer(tree: Tree, path: str) -> Choice:
    """`{sgd: {rate: 0.1}}`, and so on."""
    found = _choice(OPTIMIZERS)(tree, path)
    if found.options.get("nesterov") and not (found.options["momentum"] and not found.options["dampening"]):
        raise ConfigError(f"{path}.sgd.nesterov needs momentum, and no dampening", "it looks ahead by it", tree.place)
    return found


def read_schedule(tree: Tree, path: str) -> Choice:
    """`constant`, `{cosine: {length: 20}}`, and so on."""
    found = _choice(SCHEDULES)(tree, path)
    options, where = found.options, f"{path}.{found.kind}"
    if found.kind == "step" and (options["every"] is None) == (options["at"] is None):
        raise ConfigError(f"{where} needs every or at, one of them", "such as every: 30", tree.place)
    at = options.get("at") or ()
    if any(first >= second for first, second in pairwise(at)):
        raise ConfigError(f"{where}.at must rise", f"it is {list(at)}", tree.place)
    if found.kind == "piecewise" and len(options["factors"]) != len(at):
        what = f"{where} has {len(options['factors'])} factors for {len(at)} places"
        raise ConfigError(what, "one from each on; before the first, 1", tree.place)
    if options.get("restart") is not None and options["length"] is None:
        raise ConfigError(f"{where}.restart needs length", "that of the first round", tree.place)
    return found


def read_warmup(tree: Tree, path: str) -> Warmup:
    """`{epochs: 5}` or `{steps: 100}`."""
    values = record(tree, path, _WARMUP)
    if (values["steps"] is None) == (values["epochs"] is None):
        raise ConfigError(f"{path} needs steps or epochs, one of them", "such as epochs: 5", tree.place)
    return Warmup(values["steps"], values["epochs"], values["from"], values["shift"])


_TRAIN = {
    "optimizer": Key(read_optimizer),
    "schedule": Key(read_schedule, Choice("constant")),
    "warmup": Key(optional(read_warmup), None),
    "scale_rate": Key(optional(COUNT), None),
    "penalty": Key(optional(lambda tree, path: Penalty(**record(tree, path, _PENALTY))), None),
    "clip": Key(optional(POSITIVE), None),
    "average": Key(optional(_choice(AVERAGES)), None),
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
    if train.optimizer.kind == "lars" and train.penalty is not None:
        raise ConfigError("train.penalty does not go with lars", "give lars its decay", tree.keys["penalty"])
    rate, minimum = train.optimizer.options["rate"], train.schedule.options.get("minimum", 0.0)
    if minimum > rate:
        what = f"train.schedule.{train.schedule.kind}.minimum is above the rate, {rate:g}"
        raise ConfigError(what, "a rate falls to its minimum", find(tree, f"schedule.{train.schedule.kind}.minimum")[1])
    if train.steps is not None and train.epochs is not None:
        raise ConfigError("train has both steps and epochs", "set one of them to null", tree.keys["epochs"])
    if train.steps is None and train.epochs is None:
        raise ConfigError("train needs steps or epochs", "such as epochs: 20", tree.place)
    if train.stop is not None and not train.validate_every:
        raise ConfigError("train.stop needs validations", "set validate_every to 1 or more", tree.keys["stop"])
    return train
