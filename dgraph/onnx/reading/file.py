"""ONNX models from the disk, which nobody vouches for.

In: a path. Out: `Model`: nodes, and initializers as arrays. Promise: whatever is wrong is one DataError that names the file;
values outside the model are read only from plain files inside its own folder; nothing is allocated by what a size claims, only
by what is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from dgraph.durable import faults
from dgraph.error import ConfigError, DataError
from dgraph.kernels.call import Array
from dgraph.onnx.version import FIRST_OPSET

Dims = tuple[int | None, ...]
"""Extents; None where the model leaves one open."""
DTYPES: Mapping[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.BOOL: "bool",
}


@dataclass(frozen=True)
class Input:
    """A tensor that a model is given."""

    name: str
    dims: Dims
    dtype: str


@dataclass(frozen=True)
class Model:
    """A model that passed ONNX's checker. `initializers` are arrays (those outside the model mapped from their file)."""

    name: str
    origin: str
    opset: int
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    nodes: tuple[onnx.NodeProto, ...]
    functions: Mapping[str, onnx.FunctionProto]
    initializers: Mapping[str, Array]


def read_model(path: Path) -> Model:
    """The model in a file. Raises DataError for a file that is missing or damaged, ConfigError for one of another kind."""
    with faults(path):
        content = path.read_bytes()
    with _damage(path):
        proto = onnx.ModelProto.FromString(content)
    return model_of(proto, path)


def model_of(proto: onnx.ModelProto, path: Path) -> Model:
    """The model in memory; `path` is where it came from. Takes the initializers out of `proto`."""
    with _damage(path):
        _check_text(proto)
    opset = _opset(proto, path)
    graph = proto.graph
    if graph.sparse_initializer:
        raise ConfigError(f"{path}: sparse initializers are not supported")
    with _damage(path):
        arrays = {tensor.name: tensor_values(tensor, path) for tensor in graph.initializer}
        _name_initializers(graph)
        onnx.checker.check_model(proto)
    inputs = tuple(_input(info, path) for info in graph.input if info.name not in arrays)
    origin = " ".join(word for word in (proto.producer_name, proto.producer_version) if word)
    functions = {function.name: function for function in proto.functions}
    outputs = tuple(info.name for info in graph.output)
    return Model(graph.name, origin, opset, inputs, outputs, tuple(graph.node), functions, arrays)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """What the libraries say of a damaged model, in one line."""
    try:
        yield
    except (DecodeError, onnx.checker.ValidationError, ValueError, TypeError, RecursionError, OverflowError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise DataError(f"{path}: damaged, or no ONNX model", lines[0] if lines else "") from None


def _check_text(message: Any) -> None:
    """Raises ValueError for names that are no text, which a damaged file may have."""
    for field, value in message.ListFields():
        values = [value] if isinstance(value, (str, bytes)) or hasattr(value, "ListFields") else value
        if field.type == field.TYPE_MESSAGE:
            for one in values:
                _check_text(one)
        elif field.type == field.TYPE_STRING and any(isinstance(one, bytes) for one in values):
            raise ValueError(f"a {field.name} is no text")


def _opset(proto: onnx.ModelProto, path: Path) -> int:
    """The version of ONNX's own operators. Raises DataError where there is none, ConfigError where it is too old."""
    versions = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions and proto.opset_import and proto.HasField("graph"):
        raise ConfigError(f"{path}: operators of {proto.opset_import[0].domain} alone", "ONNX's own are supported")
    if not versions or not proto.HasField("graph"):
        raise DataError(f"{path}: damaged, or no ONNX model", "it names no operator set")
    newest = onnx.defs.onnx_opset_version()
    if not FIRST_OPSET <= versions[0] <= newest:
        raise ConfigError(f"{path}: operator set {versions[0]}", f"from {FIRST_OPSET} to {newest} is supported")
    return int(versions[0])


def _name_initializers(graph: onnx.GraphProto) -> None:
    """Makes the initializers inputs by name alone, so that the checker sees a whole graph without their values."""
    known = {info.name for info in graph.input}
    for tensor in graph.initializer:
        if tensor.name not in known:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    graph.ClearField("initializer")


def _input(info: onnx.ValueInfoProto, path: Path) -> Input:
    kind = info.type.tensor_type
    if not info.type.HasField("tensor_type") or kind.elem_type not in DTYPES:
        found = onnx.helper.tensor_dtype_to_string(kind.elem_type) if kind.elem_type else "no tensor"
        what = f"{path}: input {info.name} is {found.replace('TensorProto.', 'of type ')}"
        raise ConfigError(what, f"supported are {', '.join(DTYPES.values())}")
    if not kind.HasField("shape"):
        raise ConfigError(f"{path}: input {info.name} has no shape", "its number of dimensions must be known")
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
    return Input(info.name, dims, DTYPES[kind.elem_type])


def tensor_values(tensor: onnx.TensorProto, path: Path) -> Array:
    """The values of a tensor of a model. Raises ConfigError for types and places that are not supported, ValueError for damage."""
    if tensor.data_type not in DTYPES:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        raise ConfigError(f"{path}: tensor {tensor.name} of type {kind}", f"supported are {', '.join(DTYPES.values())}")
    if any(n < 0 for n in tensor.dims):
        raise ValueError(f"tensor {tensor.name} has dim {list(tensor.dims)}")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return _external(tensor, path)
    values: Array = onnx.numpy_helper.to_array(tensor)
    return values


def _external(tensor: onnx.TensorProto, path: Path) -> Array:
    """Values that stand in another file: one inside the model's folder, by a plain name without links."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    dtype, dim = np.dtype(DTYPES[tensor.data_type]).newbyteorder("<"), tuple(tensor.dims)
    offset, nbytes = int(entries.get("offset", "0")), prod(dim) * dtype.itemsize
    with faults(path):
        file = inside(path.parent, location)
    if file is None:
        what = f"{path}: the values of {tensor.name} are outside the model's folder"
        raise DataError(what, f"{location!r}: a name below that folder, without .. and links, is needed")
    with faults(file):
        facts = file.lstat()
        if not S_ISREG(facts.st_mode) or offset < 0 or offset + nbytes > facts.st_size:
            raise DataError(f"{file}: {tensor.name} lies beyond its end", "the file is damaged, or not the model's")
        if int(entries.get("length", nbytes)) != nbytes:
            raise DataError(
                f"{path}: {tensor.name} has another length than its dim {list(dim)}", "the model is damaged"
            )
        return np.memmap(file, dtype, "r", offset, dim) if nbytes else np.empty(dim, dtype)


def inside(folder: Path, location: str) -> Path | None:
    """The file of that name inside a folder; None for a name that leads out of it or over a link."""
    place = Path(location)
    if not place.parts or place.is_absolute() or ".." in place.parts or "\0" in location or "\\" in location:
        return None
    path = folder
    for part in place.parts:
        path = path / part
        if path.is_symlink():
            return None
    return path
