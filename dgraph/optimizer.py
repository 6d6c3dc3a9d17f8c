"""How a network is updated: the recipe of every parameter, the rate and the average of every step.

In: a recipe for weights, and what is different for other parameters. Out: `Optimizer`. Promise: pure functions, the same on every
rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dgraph.average import Average
from dgraph.graph.node import Attributes
from dgraph.kernels.numpy.update import Recipe
from dgraph.rate import Rate


@dataclass(frozen=True)
class Optimizer:
    """`recipe` is that of weights. `penalise_all`: biases and the like have the penalty, too; `decay_all`: they have the rule's own
    decay and trust ratio."""

    recipe: Recipe
    rate: Rate
    average: Average | None = None
    penalise_all: bool = False
    decay_all: bool = False

    @property
    def name(self) -> str:
        """The rule's name."""
        return self.recipe.rule

    @property
    def states(self) -> tuple[str, ...]:
        """The names of the arrays that are kept of every parameter."""
        return self.recipe.states

    @property
    def norms(self) -> Mapping[str, int]:
        """What has to be measured, see `Recipe.stages`."""
        return self.recipe.stages

    def recipe_of(self, attributes: Attributes) -> Recipe:
        """The recipe of an update node with these attributes: `rate`, `weight`, `penalty`."""
        chosen = attributes["penalty"]
        penalised, decayed = (
            attributes["weight"] or every if chosen is None else chosen for every in (self.penalise_all, self.decay_all)
        )
        numbers = self.recipe.numbers if decayed else {**self.recipe.numbers, "decay": 0.0, "trust": 0.0}
        l1, l2 = (self.recipe.l1, self.recipe.l2) if penalised else (0.0, 0.0)
        return replace(self.recipe, numbers=numbers, factor=float(attributes["rate"]), l1=l1, l2=l2)

    def averages(self, step: int) -> bool:
        """Whether there is an average of the weights after so many steps."""
        return self.average is not None and self.average.taken(step) > 0

    def share(self, step: int) -> float:
        """The share of the weights after a step (from 1) that goes into their average."""
        return 0.0 if self.average is None else self.average.share(step)
