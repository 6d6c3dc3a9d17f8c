"""Updates of parameters by the library's fused optimizers, in one pass.

In: as `dgraph.kernels.numpy.update`. Out: `UPDATES`. Promise: every recipe is done; those that clip, penalise absolute values, need
norms or keep averages, and parameters that lie with gaps, are done as in NumPy. The formulas of both are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from dgraph.kernels.backend import Updates
from dgraph.kernels.call import Action, Array, Moment
from dgraph.kernels.numpy.blockwise import is_dense
from dgraph.kernels.numpy.update import Operands, Recipe, bind_update

_ADAM = {"adam": torch._fused_adam_, "adamw": torch._fused_adamw_}


def update(recipe: Recipe, operands: Operands, scratch: Array, moment: Moment) -> Action:
    """An action that does one step, as `bind_update`."""
    rule, arrays = recipe.made(), [operands.parameter, operands.gradient]
    arrays += operands.kept(rule)
    alike = all(one.strides == arrays[0].strides and is_dense(one) for one in arrays)
    plain = recipe.clip is None and not recipe.l1 and not recipe.averaged and not rule.stage
    make = _MAKERS.get(recipe.rule) if plain and alike else None
    step = None if make is None else make(recipe, [[torch.from_numpy(array)] for array in arrays])
    return bind_update(recipe, operands, scratch, moment) if step is None else partial(step, moment)


Step = Callable[[Moment], None]
Lists = list[list[torch.Tensor]]


def _sgd(recipe: Recipe, lists: Lists) -> Step:
    numbers = recipe.numbers
    momentum, dampening = float(numbers.get("momentum", 0)), float(numbers.get("dampening", 0))
    nesterov = bool(numbers.get("nesterov", False)) and momentum > 0
    parameter, gradient, *velocity = lists

    def step(moment: Moment) -> None:
        torch._fused_sgd_(
            parameter,
            gradient,
            *(velocity or [[]]),
            weight_decay=recipe.l2,
            momentum=momentum,
            lr=moment.rate * recipe.factor,
            dampening=0.0 if moment.update == 1 else dampening,
            nesterov=nesterov,
            maximize=False,
            is_first_step=False,
        )

    return step


def _adam(recipe: Recipe, lists: Lists) -> Step | None:
    """None where gradient and parameter decay at once, which the library's functions do not do."""
    numbers = recipe.numbers
    decay = float(numbers.get("decay", 0))
    if decay and recipe.l2:
        return None
    function: Any = _ADAM["adamw" if decay else "adam"]
    count = torch.zeros((), dtype=torch.float32)

    def step(moment: Moment) -> None:
        count.fill_(moment.update)
        function(
            *lists,
            [],
            [count],
            lr=moment.rate * recipe.factor,
            beta1=float(numbers["beta1"]),
            beta2=float(numbers["beta2"]),
            weight_decay=decay or recipe.l2,
            eps=float(numbers["epsilon"]),
            amsgrad=False,
            maximize=False,
        )

    return step


_MAKERS: dict[str, Callable[[Recipe, Lists], Step | None]] = {"sgd": _sgd, "adam": _adam, "adamw": _adam}
UPDATES = Updates(update=update)
