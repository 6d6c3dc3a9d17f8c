"""Ops that only move elements, by the library's copies and sums, which are quick where operands lie with gaps.

In: calls that NumPy's kernels of these ops know how to cut into views. Out: the same kernels with other moves. Promise: what is
repeated is summed by NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import torch

from dgraph.kernels.backend import Key
from dgraph.kernels.call import Action, Array, Kernel
from dgraph.kernels.numpy.block import in_sequence
from dgraph.kernels.numpy.chain import same_memory
from dgraph.kernels.numpy.join import AddGradient
from dgraph.kernels.numpy.remap import Remap, RemapGradient, moved


def moved_by_library(source: Array, target: Array, accumulate: bool, scratch: Array) -> Action:
    """`target (+)= source`; nothing where both are one."""
    if not (source.flags.writeable and source.size) or any(step < 0 for step in (*source.strides, *target.strides)):
        return moved(source, target, accumulate, scratch)
    if same_memory(source, target) and not accumulate:
        return in_sequence([])
    there, here = torch.from_numpy(target), torch.from_numpy(source)
    return in_sequence([partial(there.add_ if accumulate else there.copy_, here)])


KERNELS: Mapping[Key, Kernel] = MappingProxyType(
    {(name, False): Remap(moved_by_library) for name in ("concat", "slice", "crop", "pad")}
    | {(name, True): RemapGradient(moved_by_library) for name in ("concat", "slice", "crop", "pad")}
    | {("add", True): AddGradient(moved_by_library)}
)
