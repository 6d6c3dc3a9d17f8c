"""Local arithmetic in PyTorch, without autograd, on the CPU. `BACKENDS`: what a run on it uses, by dtype.

In: the arrays of a store, whose memory PyTorch's tensors share. Out: `BACKENDS`. Promise: the only room that imports torch, an
extra; who enters it without gets one line that says what to install. An op that no family here has is done by its NumPy kernel, on
the same memory.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from types import MappingProxyType, ModuleType

from dgraph.error import ConfigError
from dgraph.kernels.backend import Backend, Key
from dgraph.kernels.call import Fusion, Kernel
from dgraph.kernels.numpy import KERNELS as OTHERS

if find_spec("torch") is None:
    raise ConfigError("the backend torch needs the package torch", "pip install dgraph[torch]")

from dgraph.kernels.torch import (
    affine,
    average_pool,
    contraction,
    loss,
    norm,
    norm_chain,
    pointwise,
    pool,
    remap,
    statistic,
)
from dgraph.kernels.torch.process import prepare
from dgraph.kernels.torch.update import UPDATES

FAMILIES = (statistic, norm, affine, pointwise, pool, average_pool, remap, loss)
CHAINS = (norm_chain, affine)
SINGLE = (contraction,)
"""Those of float32 alone."""


def _backend(families: Sequence[ModuleType], chains: Sequence[ModuleType]) -> Backend:
    kernels: dict[Key, Kernel] = dict(OTHERS)
    fusions: dict[tuple[Key, ...], Fusion] = {}
    for family in families:
        kernels |= family.KERNELS
    for family in chains:
        fusions |= family.FUSIONS
    return Backend("torch", MappingProxyType(kernels), MappingProxyType(fusions), UPDATES, prepare)


BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {"float32": _backend((*SINGLE, *FAMILIES), (*CHAINS, *SINGLE)), "float64": _backend(FAMILIES, CHAINS)}
)
KERNELS = BACKENDS["float64"].kernels
"""Those that do either dtype."""

__all__ = ["BACKENDS", "KERNELS"]
