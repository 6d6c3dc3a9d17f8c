"""Arrays of a store as PyTorch's tensors, and as matrices.

In: arrays. Out: tensors and views of the same memory. Promise: nothing is copied.
"""

from __future__ import annotations

import torch
from numpy.lib.stride_tricks import as_strided
from torch import Tensor

from dgraph.kernels.call import Array
from dgraph.kernels.numpy.contraction.matrix import blas_strides, collapse


def tensor(array: Array) -> Tensor:
    """The tensor of an array whose strides are not negative."""
    return torch.from_numpy(array)


def channels_last(ndim: int) -> tuple[int, ...]:
    """The memory order of [n, c, spatial...] with c the fastest, slowest first."""
    return (0, *range(2, ndim), 1)


def is_channels_last(array: Array) -> bool:
    """Whether an array of [n, c, spatial...] lies without gaps, c the fastest."""
    return array.transpose(channels_last(array.ndim)).flags.c_contiguous


def rows_of(array: Array) -> Array | None:
    """[n, c, spatial...] as the matrix [n * spatial, c]; None where BLAS cannot read it as it lies."""
    order = array.transpose(channels_last(array.ndim))
    rows = collapse(order.shape[:-1], order.strides[:-1])
    strides = None if rows is None else blas_strides(rows, (order.shape[-1], order.strides[-1]), array.itemsize)
    return None if rows is None or strides is None else as_strided(order, (rows[0], order.shape[-1]), strides)
