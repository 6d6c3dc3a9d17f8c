"""Starting ranks: find an MPI launcher, give each MPI what it needs, pass signals on, return the exit status.

In: a number of ranks and the arguments of the command. Out: the exit status of the job. Promise: imports nothing heavy; a
rank never starts ranks; the ranks load the library of the MPI whose launcher starts them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from dgraph.error import DgraphError, RunError
from dgraph.runtime.environment import RANKS, die_with_parent

DGRAPH = (sys.executable, "-m", "dgraph")
_SONAMES = {"mpich": "libmpi.so.12", "intel": "libmpi.so.12", "openmpi": "libmpi.so.40"}
_NAMES = (("Open MPI", "openmpi"), ("OpenRTE", "openmpi"), ("Intel", "intel"), ("HYDRA", "mpich"), ("MPICH", "mpich"))
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_KILLED = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS)
"""Signals of which a rank cannot tell; launchers give their number, or 128 more, as the status."""
_BOX = b"-" * 70
_KNOWN = (b"MPI_ABORT was invoked", b'"abort"', b"Exit code:    75\n")
"""What ranks have told already, better: that one aborted, or that a run was asked to stop (`dgraph.runtime.stop`)."""


class LaunchError(DgraphError):
    """Ranks that cannot be started, or that were started in a way that cannot work."""


def find_mpiexec(executable: str = sys.executable) -> Path:
    """The MPI launcher: of the environment of this interpreter if it has one, else the one on PATH."""
    beside = os.fspath(Path(executable).parent)
    for path in (beside, None):
        for name in ("mpiexec", "mpirun"):
            found = shutil.which(name, path=path)
            if found:
                return Path(found)
    raise LaunchError("no MPI launcher (mpiexec, mpirun) found", "pip install mpich, or load your site's MPI")


def family(mpiexec: Path) -> str:
    """Which MPI a launcher belongs to: mpich, intel, openmpi or unknown."""
    try:
        done = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(f"{mpiexec} does not start", str(error)) from None
    return next((name for mark, name in _NAMES if mark in done.stdout + done.stderr), "unknown")


def library_path(mpi: str, prefix: Path) -> str | None:
    """Where mpi4py shall look for the library of an MPI installed under `prefix`: places in order, then the loader's own."""
    soname = _SONAMES.get(mpi)
    if soname is None or sys.platform != "linux":
        return None
    return os.pathsep.join([*(os.fspath(prefix / d / soname) for d in ("lib", "lib64")), soname, "libmpi.so"])


def rank_environment(mpi: str, mpiexec: Path, ranks: int, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for the ranks. What the user has set stays."""
    wanted = {}
    if mpi == "openmpi":
        wanted["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"  # Open MPI 5
        wanted["OMPI_MCA_rmaps_base_oversubscribe"] = "1"  # Open MPI 4
        if os.geteuid() == 0:
            wanted.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    library = library_path(mpi, mpiexec.parent.parent)
    if library and "MPI4PY_MPIABI" not in environ:
        wanted["MPI4PY_LIBMPI"] = library
    return {**wanted, **environ, RANKS: str(ranks)}


@contextmanager
def _signals_to(child: subprocess.Popen[bytes], polite: bool) -> Iterator[None]:
    """Pass signals on to the launcher, which gives them to the ranks or ends them; then this process ends with its status.

    `polite`: the first SIGTERM becomes a SIGUSR1. Open MPI's launcher passes that on, while a SIGTERM makes it kill the ranks.
    """
    first = polite

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal first
        asked, first = first and number == signal.SIGTERM, first and number != signal.SIGTERM
        child.send_signal(signal.SIGUSR1 if asked else number)

    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _relay(stream: IO[bytes], target: IO[bytes]) -> None:
    """Copy lines, without Open MPI's boxes about a rank that has told its cause, which shall be the last line."""
    box: list[bytes] = []
    for raw in stream:
        line = raw.replace(b"\0", b"")  # Open MPI ends its second box with one
        edge = line.startswith(_BOX)
        if edge or box:
            box.append(line)
        if not box:
            target.write(line)
        elif edge and len(box) > 1:
            if not any(note in b"".join(box) for note in _KNOWN):
                target.writelines(box)
            box = []
        target.flush()
    target.writelines(box)
    target.flush()


def launch(ranks: int, arguments: Sequence[str], mpiexec: Path | None = None, program: Sequence[str] = DGRAPH,
           stoppable: bool = False) -> int:  # fmt: skip
    """Run `program *arguments` on `ranks` ranks of this machine; the exit status of the job.

    `stoppable`: the ranks take SIGTERM and SIGUSR1 alike, as a wish to save and leave.
    Raises LaunchError where there is no MPI, or where this process is a rank already, and RunError where a rank was killed, for
    it could not tell.
    """
    if RANKS in os.environ:
        raise LaunchError("a rank cannot start ranks", f"{RANKS} is set: this process was started by dgraph")
    mpiexec = mpiexec or find_mpiexec()
    mpi = family(mpiexec)
    command = [os.fspath(mpiexec), "-n", str(ranks), *program, *arguments]
    child = subprocess.Popen(
        command,
        env=rank_environment(mpi, mpiexec, ranks, os.environ),
        stderr=subprocess.PIPE if mpi == "openmpi" else None,
        preexec_fn=die_with_parent,
    )
    with _signals_to(child, polite=stoppable and mpi == "openmpi"):
        if child.stderr is not None:
            _relay(child.stderr, sys.stderr.buffer)
        status = child.wait()
    killed = next((number for number in _KILLED if status in (number, 128 + number)), None)
    if killed is not None:
        raise RunError(f"a rank was ended by {killed.name}", "from outside, or because memory ran out")
    return status if status >= 0 else 128 - status
