"""Random values by global index: the same numbers on any mesh.

In: a seed, a purpose, a step, the dim of a tensor and a rect of it. Out: the values of that rect. Promise: a value is a
function of (seed, purpose, step, global linear index) alone. Uniform values are exact on every machine; normal ones are
as exact as the machine's log, sin and cos. Nothing is kept between calls, and scratch stays below 16 MB.
"""

from dgraph.random.draw import fill_normal, fill_truncated_normal, fill_uniform, normal, uniform
from dgraph.random.parameter import INITIAL, initial
from dgraph.random.stream import permutation, philox

__all__ = [
    "INITIAL",
    "fill_normal",
    "fill_truncated_normal",
    "fill_uniform",
    "initial",
    "normal",
    "permutation",
    "philox",
    "uniform",
]
