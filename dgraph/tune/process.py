"""Trials as jobs of their own: `dgraph train` as a process, some of them at a time.

In: trials. Out: outcomes in the store. Promise: processes that were started are ended with this one; a trial that was stopped
goes on from its last checkpoint. Only one rank has this runner.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dgraph.error import DgraphError, RunError
from dgraph.runtime.environment import die_with_parent
from dgraph.runtime.launch import DGRAPH
from dgraph.tune.store import Store
from dgraph.tune.trial import Outcome, Trial

POLL_SECONDS = 0.05
FAILED = (2, 3)
"""Exit statuses of a trial that cannot be done: values that do not fit, a loss that is not finite. With others the search ends."""


class JobError(DgraphError):
    """A job that ended in a way in which none should."""

    def __init__(self, what: str, hint: str, status: int) -> None:
        super().__init__(what, hint)
        self.status = status


@dataclass(frozen=True)
class Job:
    """A trial under way. `output` has what it prints, `log` what it says of faults."""

    trial: Trial
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    log: Path


@dataclass(frozen=True)
class ProcessRunner:
    """Runs `jobs` trials at a time, each on `ranks` ranks, by itself or through a command such as `srun -n 4`."""

    store: Store
    config: str
    overrides: Sequence[str]
    ranks: int
    jobs: int
    submit: Sequence[str]
    tell: Callable[[str], None]

    def run(self, trials: Sequence[Trial]) -> None:
        """See `Runner.run`."""
        waiting, running = list(trials), list[Job]()
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    running.append(self._start(waiting.pop(0)))
                done = [job for job in running if job.process.poll() is not None]
                for job in done:
                    running.remove(job)
                    self._finish(job)
                if not done:
                    time.sleep(POLL_SECONDS)
        finally:
            for job in running:
                job.process.terminate()
            for job in running:
                job.process.wait()
                job.output.close()

    def _start(self, trial: Trial) -> Job:
        folder = str(self.store.folder(trial))
        where = ["--resume", folder] if self.store.clear(trial) else ["--run", folder]
        ranks = [] if self.submit else ["-n", str(self.ranks)]
        given = [word for one in (*self.overrides, *trial.overrides()) for word in ("--set", one)]
        command = [*self.submit, *DGRAPH, "train", self.config, *ranks, *where, "--json", "--no-pictures", *given]
        log = self.store.folder(trial).with_name(f"{trial.label}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        output = log.with_suffix(".out").open("w+b")
        cores = max(1, len(os.sched_getaffinity(0)) // (self.jobs * self.ranks))
        environ = {"OMP_NUM_THREADS": str(cores), **_asked(os.environ)}
        try:
            with log.open("wb") as faults:
                process = subprocess.Popen(
                    command, stdout=output, stderr=faults, env=environ, preexec_fn=die_with_parent
                )
        except OSError as error:
            output.close()
            raise RunError(f"{command[0]} does not start", error.strerror or str(error)) from None
        return Job(trial, process, output, log)

    def _finish(self, job: Job) -> None:
        status = job.process.returncode
        with job.output:
            job.output.seek(0)
            last = (job.output.read().splitlines() or [b""])[-1]
        said = (job.log.read_text(errors="replace").strip().splitlines() or [""])[-1]
        if status == 0:
            self.store.record(job.trial, Outcome(json.loads(last), None))
        elif status in FAILED:
            self.store.record(job.trial, Outcome(None, said.partition("error: ")[2] or said))
        else:
            what = f"trial {job.trial.label} ended with status {status}: {said.partition('error: ')[2] or said}"
            raise JobError(what, f"all that it said is in {job.log}", status if status in (1, 4) else 3)
        job.log.with_suffix(".out").unlink()
        self.tell(f"trial {job.trial.label} {'done' if status == 0 else 'failed'}")


def _asked(environ: os._Environ[str]) -> dict[str, str]:
    """This process's environment without the numbers of threads that dgraph itself has set."""
    own = environ.get("DGRAPH_THREADS", "").split()
    return {name: value for name, value in environ.items() if name not in own and name != "DGRAPH_THREADS"}
