"""The table of ops: one record each, one file a family. Adding an op is one record there and its kernel."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dgraph.graph.node import Op
from dgraph.ops import (
    contraction,
    error,
    frame,
    join,
    loss,
    metric,
    nonlinearity,
    norm,
    pointwise,
    pool,
    reshape,
    response,
    shape,
)

OPS: Mapping[str, Op] = MappingProxyType(
    {
        op.name: op
        for family in (
            frame,
            contraction,
            pointwise,
            pool,
            response,
            join,
            reshape,
            shape,
            nonlinearity,
            norm,
            loss,
            error,
            metric,
        )
        for op in family.OPS
    }
)
ADDED = frozenset(op.name for op in (frame.INPUT, frame.UPDATE, frame.MEASURE, frame.ZERO_OP, frame.FOLLOW))
"""The ops that no config declares: training adds them, or a program that gives tensors by name."""
DECLARED: Mapping[str, Op] = MappingProxyType({name: op for name, op in OPS.items() if name not in ADDED})
