"""Sums of products: linear, and convolutions in any number of dimensions.

In: calls in float32. Out: kernels. Promise: as those of `dgraph.kernels.numpy.contraction`.

A linear op is NumPy's matrix product, whose BLAS is at least as fast as PyTorch's, with operands in the memory order of the
convolutions before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dgraph.kernels.backend import Borrowed, Key
from dgraph.kernels.call import Call, Fusion, Kernel
from dgraph.kernels.numpy import KERNELS as OTHERS
from dgraph.kernels.torch.biased import Biased
from dgraph.kernels.torch.convolution import FUNCTIONS, Convolution
from dgraph.kernels.torch.geometry import Roles
from dgraph.kernels.torch.memory import channels_last

_ROLES = {"conv": Roles("output", "input"), "conv_transpose": Roles("input", "output")}


def _order(call: Call, port: str) -> tuple[int, ...] | None:
    """Channels last: a sample and the weights of a feature are vectors in the same order."""
    return channels_last(len(call.access.dims[port.removesuffix(".delta")]))


KERNELS: Mapping[Key, Kernel] = MappingProxyType(
    {(op, gradient): Convolution(roles) for op, roles in _ROLES.items() for gradient in (False, True)}
    | {("linear", gradient): Borrowed(OTHERS["linear", gradient], _order) for gradient in (False, True)}
)
"""Of float32 alone: in float64, which is for proofs, these ops are NumPy's."""
FUSIONS: Mapping[tuple[Key, ...], Fusion] = MappingProxyType(
    {
        ((op, False), ("affine", False), *((function, False) for function in [name] if name)): Biased(
            Convolution(roles), name
        )
        for op, roles in _ROLES.items()
        for name in FUNCTIONS
    }
)
