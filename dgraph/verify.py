"""Equality of layouts: the same steps on many ranks and on one, side by side.

In: a config. Out: how far loss, gradients of parameters and parameters differ, and the loss of an evaluation with these parameters.
Promise: ranks are threads of this process that exchange messages by rendezvous, with nothing buffered; every rank runs the very
program that it runs under MPI.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from dgraph.config import Config
from dgraph.kernels.call import Array
from dgraph.program import Program, compile_config
from dgraph.rect import Rect
from dgraph.runtime.communicator import Communicator, OneRank
from dgraph.runtime.thread import run_threads
from dgraph.train import Worker

Part = tuple[Rect, Array]
SMALL = 1e-3
"""Tensors count as at least this share of the largest one of their kind."""


@dataclass(frozen=True)
class Outcome:
    """What some steps gave: the metrics of every step and of an evaluation after them, and, whole, the last gradients of parameters
    (and perhaps of all else) and the parameters."""

    metrics: list[Array | None]
    evaluation: Array | None
    gradients: Mapping[str, Array]
    parameters: Mapping[str, Array]


def run_steps(config: Config, steps: int, nudge: float = 0.0, every: bool = False) -> Outcome:
    """Trains `steps` steps on the mesh of `config`, its ranks as threads of this process.

    On one rank, a `nudge` moves every initial value by about so much of itself. With `every` there is room to keep every gradient,
    not those of parameters alone: another program, in which less is fused and nothing overwritten.
    """
    program = compile_config(replace(config, data=replace(config.data, prefetch=False)))
    parameters = [tensor.name for tensor in program.graph.kept]
    gradients = [
        t.name for t in program.graph.tensors.values() if t.role == "gradient" and (every or t.of in parameters)
    ]
    program = replace(program, shown=frozenset(gradients))
    if program.ranks == 1:
        parts = [_run_rank(program, OneRank(), steps, nudge)]
    else:
        parts = run_threads(program.ranks, lambda communicator: _run_rank(program, communicator, steps), 120.0)
    *metrics, evaluation = parts[0][0]
    return Outcome(
        metrics=metrics,
        evaluation=evaluation,
        gradients={name: _assemble(program, name, [found for _, found in parts]) for name in gradients},
        parameters={name: _assemble(program, name, [found for _, found in parts]) for name in parameters},
    )


def one_rank(config: Config) -> Config:
    """The same network on a mesh of one rank: no splits."""
    return replace(
        config,
        mesh=MappingProxyType(dict.fromkeys(config.mesh, 1)),
        data=replace(config.data, split=None),
        layers=tuple(replace(layer, split=None, loss_split=None, update_split=None) for layer in config.layers),
        nodes=tuple(replace(node, split=None) for node in config.nodes),
        parameters=tuple(replace(parameter, update_split=None) for parameter in config.parameters),
    )


def _run_rank(program: Program, communicator: Communicator, steps: int,
              nudge: float = 0.0) -> tuple[list[Array | None], dict[str, Part]]:  # fmt: skip
    """The metrics of the steps and of an evaluation of the first batch, and what this rank reads of gradients and parameters."""
    worker = Worker(program, communicator)
    if nudge:
        _move(worker, nudge)
    batches = worker.training_batches(shuffle=True)
    metrics = []
    for _ in range(steps):
        epoch, at = divmod(worker.step, batches.steps)
        metrics.append(worker.train_step(batches.indices(epoch, at)))
    found = {}
    for tensor in program.graph.tensors.values():
        looked_at = tensor.name in program.shown or tensor.role in ("parameter", "state")
        value = worker.engine.value(tensor.name) if looked_at else None
        if value is not None:
            found[tensor.name] = (program.layout.read_rect(tensor.name, communicator.rank), value.copy())
    with worker.engine.averaged():
        worker.forward(worker.batches("train", shuffle=True).indices(0, 0))
        metrics.append(worker.metrics())
    communicator.close()
    return metrics, found


def _move(worker: Worker, nudge: float) -> None:
    """Moves every parameter that this rank reads by about a share of itself."""
    random = np.random.default_rng(0)
    for parameter in worker.program.graph.parameters:
        value = worker.engine.value(parameter.name)
        if value is not None:
            value *= 1 + nudge * random.standard_normal(value.shape)


def _assemble(program: Program, tensor: str, ranks: list[dict[str, Part]]) -> Array:
    """The whole tensor from what ranks read of it; ranks that read the same elements must have the same bits there."""
    whole = np.full(program.graph.tensors[tensor].dim, np.nan, dtype=program.config.dtype)
    for parts in ranks:
        if tensor in parts:
            rect, value = parts[tensor]
            there = whole[rect.slices()]
            agreed = np.where(np.isnan(there), value, there)
            whole[rect.slices()] = np.where(agreed == value, value, np.inf)
    return whole


def difference(ours: Array, theirs: Array, gaps: bool = False, least: float = 0.0) -> float:
    """The largest difference of two arrays where either has a value, relative to the largest value, or to `least` if that is
    larger; infinity where only one has.

    `gaps`: theirs, of one rank, may have more: its bounding box also holds what lies between the windows of two ranks.
    """
    known = ~np.isnan(ours)
    lacking = np.isnan(theirs[known]).any() or known.any() != (~np.isnan(theirs)).any()
    if lacking or (not gaps and (known != ~np.isnan(theirs)).any()):
        return float("inf")
    if not known.any():
        return 0.0
    scale = max(float(np.abs(theirs[known]).max()), least)
    worst = float(np.abs(ours[known] - theirs[known]).max())
    return worst / scale if scale > 0 else worst


def compare(ours: Outcome, theirs: Outcome) -> dict[str, Any]:
    """Relative differences of two outcomes of one network: `loss`, `evaluation`, `gradients` and `parameters` by tensor, `worst`.

    A gradient counts as no smaller than a thousandth of the largest, and a parameter likewise: what is zero but for rounding, as
    the gradient of a bias before a norm, has no digits in common.
    """
    losses = [_loss_difference(a, b) for a, b in zip(ours.metrics, theirs.metrics, strict=True)]
    least = SMALL * _largest(theirs.gradients)
    gradients = {
        name: difference(ours.gradients[name], value, name.removesuffix(".grad") not in theirs.parameters, least)
        for name, value in theirs.gradients.items()
    }
    least = SMALL * _largest(theirs.parameters)
    parameters = {
        name: difference(ours.parameters[name], value, least=least) for name, value in theirs.parameters.items()
    }
    result: dict[str, Any] = {
        "loss": max(losses, default=0.0),
        "evaluation": _loss_difference(ours.evaluation, theirs.evaluation),
        "gradients": gradients,
        "parameters": parameters,
    }
    return result | {"worst": max([result["loss"], result["evaluation"], *gradients.values(), *parameters.values()])}


def _loss_difference(ours: Array | None, theirs: Array | None) -> float:
    """The relative difference of the losses in two arrays of metrics; 0 where there are none."""
    if ours is None or theirs is None:
        return 0.0
    return abs(float(ours[0]) - float(theirs[0])) / max(abs(float(theirs[0])), 1e-300)


def _largest(tensors: Mapping[str, Array]) -> float:
    """The largest value of all that are there."""
    return max(
        (float(np.nanmax(np.abs(tensor))) for tensor in tensors.values() if not np.isnan(tensor).all()), default=0.0
    )


LIMITS: Mapping[str, float] = MappingProxyType({"float32": 1e-4, "float64": 1e-10})
"""How far outcomes may be apart, by dtype, unless rounding alone does more."""
_SPARE = 10
_BITS = 4
"""So many units in the last place initial values are moved by, to see what rounding does."""


def verify(config: Config, steps: int) -> dict[str, Any]:
    """Trains on the mesh of `config` and on one rank; the result of `compare`, with `ok` and the `limit`.

    Where outcomes are farther apart than `LIMITS` has it, `rounding` is measured: deep networks of kinks and batch norms let a last
    bit grow a thousandfold a step, and which of equal values is the largest of a window hangs on it, whatever the layout. The
    limit is then so many times that.
    """
    theirs = run_steps(one_rank(config), steps)
    result = compare(run_steps(config, steps), theirs)
    limit = LIMITS[config.dtype]
    if result["worst"] > limit:
        result["rounding"] = rounding(config, theirs, steps)
        limit = max(limit, _SPARE * result["rounding"])
    return {"ok": bool(result["worst"] <= limit), "limit": limit, **result}


def rounding(config: Config, theirs: Outcome, steps: int) -> float:
    """How far rounding alone takes one rank: its outcome, and that of initial values that differ in their last bits."""
    nudge = _BITS * float(np.finfo(config.dtype).eps)
    return float(compare(run_steps(one_rank(config), steps, nudge), theirs)["worst"])
