"""The folder of a run: what was run, where, and how it went.

In: a path or a name; texts, metrics. Out: files in one folder. Promise: nothing is created until the first write; a text is
there whole or not at all; metrics.jsonl holds whole lines, also after a kill.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dgraph.durable import faults, replace

METRICS = "metrics.jsonl"
TAIL = 1 << 16


class RunFolder:
    """`path`, or without one a new folder `runs/<name>-<UTC time>`. Writes raise DataError where the disk refuses."""

    def __init__(self, path: Path | None, name: str) -> None:
        self._given = path is not None
        self.path = path if path is not None else _fresh(Path("runs"), f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
        self._made = False

    def write_text(self, name: str, text: str) -> None:
        """Put a text file in place of another, or of none, at once."""
        self._make()
        with faults(self.path / name):
            replace(self.path / name, text.encode())

    def holds_a_run(self) -> bool:
        """Whether there are metrics or checkpoints in it."""
        checkpoints = self.path / "checkpoints"
        with faults(self.path):
            return (self.path / METRICS).exists() or (checkpoints.is_dir() and any(checkpoints.iterdir()))

    def metrics(self) -> list[dict[str, Any]]:
        """The entries of metrics.jsonl; a half line that a kill left is none."""
        with faults(self.path / METRICS):
            if not (self.path / METRICS).exists():
                return []
            lines = (self.path / METRICS).read_bytes().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    def rewind_metrics(self, step: int, again: bool) -> None:
        """Drop the entries after `step`, and with `again` that of an epoch which ends there: the run does them once more."""

        def counts(entry: Mapping[str, Any]) -> bool:
            return bool(entry["step"] < step or (entry["step"] == step and not (again and entry["kind"] == "epoch")))

        entries = self.metrics()
        kept = [entry for entry in entries if counts(entry)]
        if len(kept) < len(entries):
            self.write_text(METRICS, "".join(json.dumps(entry) + "\n" for entry in kept))

    def append_metrics(self, entry: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl: a JSON object, with null for numbers that are not finite."""
        line = json.dumps(as_json(entry), allow_nan=False).encode() + b"\n"
        self._make()
        with faults(self.path / METRICS), (self.path / METRICS).open("a+b") as file:
            _drop_half_line(file)
            file.write(line)

    def _make(self) -> None:
        if not self._made:
            with faults(self.path):
                # A name of our own making must be new: two runs may have started within the same second.
                self.path.mkdir(parents=True, exist_ok=self._given)
            self._made = True


def _fresh(base: Path, name: str) -> Path:
    names = (name if i == 1 else f"{name}-{i}" for i in count(1))
    return next(base / name for name in names if not (base / name).exists())


def as_json(value: Any) -> Any:
    """The value as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return as_json(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _drop_half_line(file: BinaryIO) -> None:
    """Cut off what a kill left of a line, so that the next one starts a line of its own."""
    end = file.seek(0, os.SEEK_END)
    start = file.seek(max(end - TAIL, 0))
    tail = file.read()
    if not tail.endswith(b"\n"):
        file.truncate(start + tail.rfind(b"\n") + 1)


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Facts of this process: versions, host, cores that it may use, threads that numeric libraries were given."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "dgraph": _version(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": f"{blas['name']} {blas.get('version', '')}".strip(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": int(threads) if (threads := environ.get("OMP_NUM_THREADS", "")).isdecimal() else None,
        "command": sys.argv,
    }


def _version() -> str | None:
    try:
        return version("dgraph")
    except PackageNotFoundError:
        return None
