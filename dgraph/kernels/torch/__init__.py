"""Local arithmetic in PyTorch, without autograd, on the CPU. `BACKEND`: what a run on it uses.

In: the arrays of a store, whose memory PyTorch's tensors share. Out: `BACKEND`. Promise: the only room that imports torch, an
extra; who enters it without gets one line that says what to install. An op that no family here has is done by its NumPy kernel, on
the same memory.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType

from dgraph.error import ConfigError
from dgraph.kernels.backend import Backend, Key, Updates
from dgraph.kernels.call import Fusion, Kernel
from dgraph.kernels.numpy import KERNELS as OTHERS

if find_spec("torch") is None:
    raise ConfigError("the backend torch needs the package torch", "pip install dgraph[torch]")

from dgraph.kernels.torch import affine, contraction, norm, norm_chain, pointwise
from dgraph.kernels.torch.process import prepare

FAMILIES = (contraction, norm, affine, pointwise)
CHAINS = (contraction, norm_chain, affine)
KERNELS: Mapping[Key, Kernel] = MappingProxyType(
    {**OTHERS, **{key: kernel for family in FAMILIES for key, kernel in family.KERNELS.items()}}
)
FUSIONS: Mapping[tuple[Key, ...], Fusion] = MappingProxyType(
    {ops: fusion for family in CHAINS for ops, fusion in family.FUSIONS.items()}
)
BACKEND = Backend("torch", KERNELS, FUSIONS, Updates(), prepare)

__all__ = ["BACKEND"]
