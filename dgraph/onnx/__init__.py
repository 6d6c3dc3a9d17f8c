"""Networks in the format of other runtimes: ONNX models and safetensors files, out and in.

In: a config and a checkpoint, or a model's file. Out: the other. Promise: the only room that imports onnx and safetensors,
which are an extra; who enters it without them gets one line that says what to install.
"""

from __future__ import annotations

from importlib.util import find_spec

from dgraph.error import ConfigError

for _library in ("onnx", "safetensors"):
    if find_spec(_library) is None:
        raise ConfigError(f"this needs the package {_library}", "pip install dgraph[onnx]")
