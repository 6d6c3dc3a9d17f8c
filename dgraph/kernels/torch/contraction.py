"""Sums of products: linear, conv in any number of dimensions, forward and both gradients."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dgraph.kernels.backend import Key
from dgraph.kernels.call import Fusion, Kernel

KERNELS: Mapping[Key, Kernel] = MappingProxyType({})
FUSIONS: Mapping[tuple[Key, ...], Fusion] = MappingProxyType({})
