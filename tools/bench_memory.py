"""The memory of training ResNet-50 with batches of 8 on one rank: its peak beside PyTorch's, and beside what the plan says.

In: fresh processes (`bench_memory_side.py`). Out: two rows a backend, in bytes. Promise: a peak is the largest resident set of a
process, with interpreter and libraries; beside the plan counts what comes on top of these: of what there was before the worker.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench_row import Options, Row, Skipped, missing

SIDE = Path(__file__).parent / "bench_memory_side.py"
PEAK, PLANNED, FLOOR = 1.0, 1.1, 32 << 20
FORMATS = ("channels_first", "channels_last")


def measured(*words: str) -> dict[str, Any]:
    """What a fresh process says of itself."""
    done = subprocess.run([sys.executable, str(SIDE), *words], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(options: Options, network: str = "resnet50") -> Iterator[Row | Skipped]:
    """The rows that were asked for."""
    if not (options.wants("memory.peak") or options.wants("memory.plan")):
        return
    without = missing("torch")
    theirs = {} if without else {name: measured("torch", network, name)["peak"] for name in FORMATS}
    for backend in options.backends:
        overrides = [word for override in options.overrides for word in ("--set", override)]
        ours = measured("dgraph", network, backend, *overrides)
        if options.wants("memory.peak"):
            yield beside_torch(ours["peak"], theirs, backend) if theirs else Skipped("memory.peak", without)
        if options.wants("memory.plan"):
            yield beside_plan(ours["peak"] - ours["before"], ours["planned"], backend)


def beside_torch(ours: int, theirs: dict[str, int], backend: str) -> Row:
    """Whole processes; of the two memory formats, the one that takes less."""
    name = min(theirs, key=lambda name: theirs[name])
    more = {"backend": backend, "format": name}
    return Row("memory.peak", ours, theirs[name], ours / theirs[name], PEAK, unit="bytes", more=more)


def beside_plan(ours: int, planned: int, backend: str) -> Row:
    """What a worker added; a small plan may be off by `FLOOR`, in either direction."""
    off = abs(ours - planned) / max(planned, FLOOR / (PLANNED - 1))
    return Row("memory.plan", ours, planned, 1 + off, PLANNED, unit="bytes", more={"backend": backend})
