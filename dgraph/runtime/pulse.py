"""A thread that makes progress while a rank computes.

In: what is done at every beat. Out: `Pulse`. Promise: it sleeps while nothing is under way, and naps between two beats while
something is, so that the core belongs to those who compute.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import sleep

NAP_SECONDS = 1e-3


class Pulse(threading.Thread):
    """Calls `beat` again and again between `go` and `rest`, until `end`. Any number of calls of these, from one thread."""

    def __init__(self, beat: Callable[[], None]) -> None:
        # A daemon: a rank that fails does not wait for it.
        super().__init__(name="progress", daemon=True)
        self._beat = beat
        self._busy = threading.Event()
        self._ended = False
        self.go, self.rest = self._busy.set, self._busy.clear
        self.start()

    def run(self) -> None:
        while not self._ended:
            self._busy.wait()
            if not self._ended:
                self._beat()
                sleep(NAP_SECONDS)

    def end(self) -> None:
        """Return when the thread has ended."""
        self._ended = True
        self._busy.set()
        self.join()
