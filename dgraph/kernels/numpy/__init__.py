"""Local arithmetic in NumPy. `KERNELS`: (op, whether its gradient) -> kernel; `FUSIONS`: chains of such keys -> fusion; that of
optimizers is in `update`."""

from collections.abc import Mapping
from types import MappingProxyType

from dgraph.kernels.call import Kernel
from dgraph.kernels.numpy import (
    contraction,
    dropout,
    error,
    global_pool,
    gradient_chain,
    join,
    loss,
    metric,
    nonlinearity,
    norm,
    pointwise,
    pool,
    remap,
    reshape,
    response,
    upsample,
)

KERNELS: Mapping[tuple[str, bool], Kernel] = MappingProxyType(
    {
        key: kernel
        for family in (
            contraction,
            pointwise,
            nonlinearity,
            pool,
            global_pool,
            response,
            join,
            remap,
            reshape,
            upsample,
            norm,
            dropout,
            loss,
            error,
            metric,
        )
        for key, kernel in family.KERNELS.items()
    }
)
FUSIONS = gradient_chain.FUSIONS

__all__ = ["FUSIONS", "KERNELS"]
