"""Entries of a run as event files that TensorBoard shows.

In: entries of metrics.jsonl. Out: one event file in a folder. Promise: the only room that imports tensorboardX, an extra; who
enters it without gets one line that says what to install. What came after the step at which a run goes on is hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dgraph.error import ConfigError

if find_spec("tensorboardX") is None:
    raise ConfigError("--tensorboard needs the package tensorboardX", "pip install dgraph[tensorboard]")

from tensorboardX import SummaryWriter

LEFT_OUT = ("step", "steps", "epoch", "samples", "seconds_left")


class Board:
    """The event file of one process, in `folder`; `step` is where the run begins or goes on."""

    def __init__(self, folder: Path, step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def add(self, entry: Mapping[str, Any]) -> None:
        """The numbers of a step, under `step/`; of the end of an epoch, under the name of the subset."""
        parts = {"step": entry} if entry["kind"] == "step" else {key: entry.get(key) for key in ("train", "validation")}
        for part, figures in parts.items():
            for name, value in (figures or {}).items():
                if isinstance(value, float | int) and name not in LEFT_OUT:
                    self._writer.add_scalar(f"{part}/{name}", value, entry["step"])
        self._writer.flush()
