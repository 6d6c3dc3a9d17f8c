"""Peers in processes of their own, driven step by step.

In: a script of this folder and its arguments. Out: `Peer`, whose `step` gives the seconds that its slowest process took; `answer`,
the other end. Promise: a peer has its library's defaults and one thread a process, whatever a backend does to the process that it
is compared with, and no launcher's variables; its processes end with the one that drives them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from dgraph.runtime.environment import THREAD_VARIABLES

LAUNCHERS = ("PMI", "OMPI", "PRTE", "MPI", "HYD", "DGRAPH", "SLURM")
PATIENCE = 10.0


class Peer:
    """The processes of a peer. `told` is what the first of them said when it was ready."""

    def __init__(
        self, script: str, arguments: Sequence[str], size: int = 1, more: Mapping[str, str] | None = None
    ) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
        environment = {**kept, **dict.fromkeys(THREAD_VARIABLES, "1"), **(more or {})}
        path = os.fspath(Path(__file__).parent / script)
        self._processes = [
            subprocess.Popen(
                [sys.executable, path, *arguments, "--rank", str(rank), "--size", str(size)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                text=True,
            )
            for rank in range(size)
        ]
        self.told: dict[str, Any] = json.loads(self._lines()[0])

    def step(self) -> float:
        """Has all processes do one step; the seconds of the slowest."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("step\n")
            process.stdin.flush()
        return max(float(line) for line in self._lines())

    def close(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _lines(self) -> list[str]:
        """The next line of every process. Raises RuntimeError where one has ended; its last words are on stderr."""
        lines = [process.stdout.readline() for process in self._processes if process.stdout is not None]
        if not all(lines):
            self.close()
            raise RuntimeError("a peer has ended")
        return lines


def answer(step: Callable[[], object], told: Mapping[str, Any]) -> None:
    """The peer's end: says that it is ready, and does a step for every line that it reads."""
    print(json.dumps(told), flush=True)
    for _ in sys.stdin:
        start = perf_counter()
        step()
        print(perf_counter() - start, flush=True)
