"""The section `train` as the optimizer takes it.

In: a config, how many steps an epoch has. Out: `Optimizer`, `Rate`, `Average`. Promise: epochs become steps here, and only here.
"""

from __future__ import annotations

from dgraph.average import Average
from dgraph.config import Config
from dgraph.kernels.numpy.update import Recipe
from dgraph.optimizer import Optimizer
from dgraph.rate import Rate


def optimizer_of(config: Config, epoch: int) -> Optimizer:
    """How parameters are updated; `epoch` is how many steps an epoch has."""
    train = config.train
    options, penalty = dict(train.optimizer.options), train.penalty
    recipe = Recipe(
        train.optimizer.kind,
        options,
        l1=penalty.l1 if penalty else 0.0,
        l2=penalty.l2 if penalty else 0.0,
        clip=train.clip,
        averaged=train.average is not None,
    )
    return Optimizer(
        recipe,
        rate_of(config, epoch),
        average_of(config, epoch),
        penalise_all=penalty is not None and penalty.biases,
        decay_all=options.get("biases", False),
    )


def rate_of(config: Config, epoch: int) -> Rate:
    """The rate of every step. A schedule of no said length is as long as the run, but for a warm-up that comes before it."""
    train = config.train
    options, warmup = dict(train.schedule.options), 0
    if train.warmup is not None:
        warmup = train.warmup.steps if train.warmup.steps is not None else (train.warmup.epochs or 0) * epoch
    unit = 1 if options.get("per") == "step" else epoch
    if "length" in options and options["length"] is None:
        steps = train.steps if train.steps is not None else (train.epochs or 0) * epoch
        before = warmup if train.warmup is None or train.warmup.shift else 0
        options["length"] = max(1, -(-(steps - before) // unit))
    return Rate(
        base=float(train.optimizer.options["rate"]),
        curve=train.schedule.kind,
        options=options,
        scale=1.0 if train.scale_rate is None else config.data.batch * train.accumulate / train.scale_rate,
        epoch=unit,
        warmup=warmup,
        start=0.0 if train.warmup is None else train.warmup.start,
        shift=train.warmup is None or train.warmup.shift,
    )


def average_of(config: Config, epoch: int) -> Average | None:
    """When weights go into their average."""
    if config.train.average is None:
        return None
    options = config.train.average.options
    begin = options["from"] * (epoch if options["per"] == "epoch" else 1)
    return Average(begin, epoch if options["every"] == "epoch" else 1, options.get("decay"))
