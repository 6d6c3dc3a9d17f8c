"""Models and weights on the disk.

In: a model without initializers, the draft that it came from, values. Out: a file, and for large networks a second one beside
it with the values (ONNX's external data). Promise: written beside, synced, renamed; values are read one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from safetensors.numpy import save

from dgraph.durable import faults, replace, sync_folder, synced
from dgraph.graph.node import TensorNode
from dgraph.kernels.call import Array
from dgraph.onnx.values import Values
from dgraph.onnx.writing.draft import Draft, Kept

EXTERNAL_NBYTES = 1 << 30
"""From here on values stand in a file of their own: one protobuf message holds less than 2 GiB."""
LEAST_NBYTES = 1 << 10
"""Smaller ones stay in the model all the same: shapes must be known without the other file."""
ALIGNMENT = 64


def write_model(path: Path, model: onnx.ModelProto, draft: Draft, values: Values) -> None:
    """Puts a model in place of another, or of none. Raises DataError where the disk refuses."""
    with faults(path):
        if draft.nbytes < EXTERNAL_NBYTES:
            _embed(model, draft, values)
            replace(path, model.SerializeToString(deterministic=True))
            return
        beside = path.with_name(f"{path.name}.data")
        pending = beside.with_name(f"{beside.name}.tmp")
        with synced(pending) as file:
            for name, kept in draft.initializers.items():
                array = _array(kept, values)
                if array.nbytes < LEAST_NBYTES:
                    model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
                    continue
                file.write(b"\0" * (-file.tell() % ALIGNMENT))
                model.graph.initializer.append(_external(name, array, beside.name, file.tell()))
                file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).data)
        pending.replace(beside)
        sync_folder(beside.parent)
        replace(path, model.SerializeToString(deterministic=True))


def _array(kept: Kept, values: Values) -> Array:
    array = values(kept.tensor) if kept.values is None else kept.values
    return np.ascontiguousarray(array).reshape(kept.dim)


def _embed(model: onnx.ModelProto, draft: Draft, values: Values) -> None:
    for name, kept in draft.initializers.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(_array(kept, values), name))


def _external(name: str, array: Array, file: str, offset: int) -> onnx.TensorProto:
    """An initializer whose values stand in another file, at an offset in bytes."""
    tensor = onnx.TensorProto(name=name, dims=array.shape, data_location=onnx.TensorProto.EXTERNAL)
    tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    for key, value in (("location", file), ("offset", offset), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def write_weights(path: Path, tensors: Iterable[TensorNode], values: Values) -> None:
    """Puts the values of parameters and states into a safetensors file, by name. Raises DataError where the disk refuses."""
    arrays = {tensor.name: values(tensor.name) for tensor in tensors}
    with faults(path):
        replace(path, save(arrays))
