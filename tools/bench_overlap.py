"""How well communication hides behind computation, between two hosts.

python tools/bench.py --only overlap
python tools/bench_overlap.py overlap.halo --set overlap=false      one case alone
python tools/bench_overlap.py --mpiexec OTHER/bin/mpiexec           over another MPI than that of this environment

Two hosts are two network namespaces of this machine, joined by a link of 1 Gbit/s: it needs root, and `ip` and `tc` of iproute2;
both are gone afterwards. A rank on each trains with one thread. Steps (ours: one after the other, the first not counted) are timed
in turn with the computation of one alone (all of its actions but those of transfers) and its communication alone (all transfers,
started and waited for in the order of the step); theirs is the longer of the two. The network is made so large that communication
takes as long as computation.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic, perf_counter, sleep
from types import FrameType
from typing import NoReturn

from dgraph.runtime.environment import launched, set_threads

set_threads()

from bench_row import Options, Row, Skipped, row_of  # noqa: E402
from dgraph.config.load import parse_config  # noqa: E402
from dgraph.error import RunError  # noqa: E402
from dgraph.program import Program, compile_config  # noqa: E402
from dgraph.runtime.communicator import Communicator  # noqa: E402
from dgraph.runtime.connect import connected  # noqa: E402
from dgraph.runtime.launch import family, find_mpiexec, rank_environment  # noqa: E402
from dgraph.train import Worker  # noqa: E402

ROW = ("case", "ours_seconds", "theirs_seconds", "ratio", "goal", "met")
GOAL, PAIRS, WARM, STEPS = 1.15, 9, 2, 2
RATE = ("rate", "1gbit", "burst", "256kb", "latency", "50ms")
SECONDS = 240
"""After which the ranks of a case are ended."""
LINK_SECONDS = 5.0
HOSTS = tuple(f"dg{os.getpid()}{letter}" for letter in "ab")
ADDRESSES = ("10.77.77.1", "10.77.77.2")
NSH = """#!/bin/bash
# In place of ssh: a command on a "host", with a name, shared memory and semaphores of its own.
while [[ "$1" == -* ]]; do case "$1" in -o|-l|-p|-i) shift 2;; *) shift;; esac; done
host=${1#*@}; shift; export NSH_COMMAND="$*"
exec ip netns exec "$host" unshare --uts --ipc --mount --propagation private \\
  sh -c 'hostname '"$host"'; mount -t tmpfs none /dev/shm; eval "$NSH_COMMAND"'
"""

TRANSFERS = ("start", "look", "wait")
TRAIN = "train: {optimizer: {sgd: {rate: 0.001}}, steps: 1, log_every: 0, validate_every: 0, checkpoint_every: 0}"
# Convolutions, which compute, before linear layers, whose gradients travel.
DATA = f"""
mesh: {{p: 2}}
data: {{source: synthetic, shape: [4, 32, 32], classes: 10, batch: SCALE}}
layers:
  - {{name: conv0, conv: {{channels: 48, size: 3, padding: 1}}, nonlinearity: relu, split: {{N: p}}}}
  - {{name: conv1, conv: {{channels: 48, size: 3, padding: 1}}, nonlinearity: relu}}
  - {{name: conv2, conv: {{channels: 48, size: 3, padding: 1}}, nonlinearity: relu}}
  - {{name: conv3, conv: {{channels: 48, size: 3, padding: 1}}, nonlinearity: relu}}
  - {{name: pool, max_pool: {{size: 4, stride: 4}}}}
  - {{name: hidden1, linear: {{features: 1536}}, nonlinearity: relu}}
  - {{name: hidden2, linear: {{features: 1536}}, nonlinearity: relu}}
  - {{name: out, softmax: {{classes: 10}}}}
{TRAIN}
"""
# Convolutions over long rows, of which each rank has few: every layer waits for its neighbour's.
HALO = f"""
mesh: {{p: 2}}
data: {{source: synthetic, shape: [1, SCALE, 512], classes: 10, batch: 64}}
layers:
  - {{name: conv0, conv: {{channels: 8, size: [5, 1], padding: [2, 0]}}, nonlinearity: relu, split: {{H: p}}}}
  - {{name: conv1, conv: {{channels: 8, size: [5, 1], padding: [2, 0]}}, nonlinearity: relu}}
  - {{name: conv2, conv: {{channels: 8, size: [5, 1], padding: [2, 0]}}, nonlinearity: relu}}
  - {{name: conv3, conv: {{channels: 8, size: [5, 1], padding: [2, 0]}}, nonlinearity: relu}}
  - {{name: conv4, conv: {{channels: 8, size: [5, 1], padding: [2, 0]}}, nonlinearity: relu}}
  - {{name: conv5, conv: {{channels: 8, size: [5, 1], padding: [2, 0]}}, nonlinearity: relu}}
  - {{name: pool, max_pool: {{size: 4, stride: 4}}}}
  - {{name: out, softmax: {{classes: 10}}, split: {{C: p}}, loss_split: {{N: p}}}}
{TRAIN}
"""
CASES = {"overlap.data": DATA, "overlap.halo": HALO}
SHARES = {"overlap.data": 1.0, "overlap.halo": 1.0}
"""Communication over computation."""
SCALE, GRAIN, TRIALS = 64, 8, 3
"""Samples or rows of a first trial, from which the right number is found, a multiple of GRAIN."""
NAMES = ("step", "computation", "communication", "exposed", "hidden")


def network(case: str, scale: int, overrides: Sequence[str] = (), ranks: int | None = None) -> Program:
    """The network of a case, in so many samples (data) or rows (halo): computation grows with them, communication does not."""
    return compile_config(parse_config(CASES[case].replace("SCALE", str(scale)), f"{case}.yaml", overrides, ranks))


# --- a rank


def seconds_of(communicator: Communicator, action: Callable[[], object]) -> float:
    """Seconds from where all ranks begin to where all are done."""
    communicator.barrier()
    start = perf_counter()
    action()
    communicator.barrier()
    return perf_counter() - start


def timed(communicator: Communicator, program: Program, rounds: int) -> list[dict[str, float]]:
    """Seconds of a step, its computation and its communication in turn, and of the step what was exposed and hidden."""
    worker = Worker(program, communicator)
    batch = worker.training_batches(shuffle=False).indices(0, 0)
    for _ in range(WARM):
        worker.train_step(batch)
    worker.engine.finish()
    steps = worker.engine.actions_of_step()
    computing = [step.action for step in steps if step.verb not in TRANSFERS]
    moving = [step.action for step in steps if step.verb in ("start", "wait")]
    progress = worker.engine.progress
    found = []
    for _ in range(rounds):
        worker.train_step(batch)
        exposed, hidden = progress.exposed, progress.hidden
        step = seconds_of(communicator, lambda: [worker.train_step(batch) for _ in range(STEPS)]) / STEPS
        exposed, hidden = (progress.exposed - exposed) / STEPS, (progress.hidden - hidden) / STEPS
        worker.engine.finish()
        computation = seconds_of(communicator, lambda: [action() for action in computing])
        communication = seconds_of(communicator, lambda: [action() for action in moving])
        found.append(dict(zip(NAMES, (step, computation, communication, exposed, hidden), strict=True)))
    return found


def scale_of(communicator: Communicator, case: str, options: Options) -> int:
    """In how many samples or rows communication takes its share of the time of computation."""
    trials = timed(communicator, network(case, SCALE, options.overrides, communicator.size), TRIALS)
    share = median(trial["communication"] / trial["computation"] for trial in trials)
    wanted = GRAIN * max(1, round(SCALE * share / SHARES[case] / GRAIN))
    return int(communicator.broadcast(str(wanted).encode()))


def measure(communicator: Communicator, case: str, options: Options) -> Row:
    """The row of a case."""
    scale = scale_of(communicator, case, options)
    found = timed(communicator, network(case, scale, options.overrides, communicator.size), options.pairs)
    rounds = [(one["step"], max(one["computation"], one["communication"])) for one in found]
    more = {f"{name}_seconds": median(one[name] for one in found) for name in NAMES[1:]}
    return row_of(case, rounds, GOAL, {"pairs": len(rounds), "scale": scale, **more, "mpi": communicator.mpi})


def _keep_to_a_core(rank: int) -> None:
    """Hosts have cores of their own: a rank and its threads stay on one."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})


def be_a_rank(options: Options) -> int:
    """Measures what was asked for; rank 0 prints the rows."""
    with connected(lambda: "overlap") as communicator:
        _keep_to_a_core(communicator.rank)
        for case in CASES:
            if options.wants(case):
                row = measure(communicator, case, options)
                if communicator.rank == 0:
                    print(row.line(), flush=True)
    return 0


# --- two hosts


def refusal() -> str:
    """Why there can be no two hosts here; empty if there can."""
    if os.geteuid() != 0:
        return "two hosts are network namespaces, which need root"
    missing = [name for name in ("ip", "tc", "unshare") if shutil.which(name) is None]
    return f"{missing[0]} is missing (apt install iproute2 util-linux)" if missing else ""


def _call(*words: str) -> None:
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"{' '.join(words)} failed", done.stderr.strip())


def _wait_for_link(host: str) -> None:
    """A link is up some time after it was told to be."""
    until = monotonic() + LINK_SECONDS
    state = ["ip", "netns", "exec", host, "cat", "/sys/class/net/eth0/operstate"]
    while subprocess.run(state, check=True, capture_output=True).stdout != b"up\n" and monotonic() < until:
        sleep(0.05)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """Who is told to end leaves no namespaces behind."""
    raise SystemExit(128 + number)


@contextmanager
def two_hosts() -> Iterator[None]:
    """Two namespaces joined by a link of limited rate, each of which knows the other by name."""
    files = [Path("/etc/netns") / host / "hosts" for host in HOSTS]
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        for host, file in zip(HOSTS, files, strict=True):
            _call("ip", "netns", "add", host)
            _call("ip", "-n", host, "link", "set", "lo", "up")
            file.parent.mkdir(parents=True, exist_ok=True)
            known = [f"{address} {name}" for address, name in zip(ADDRESSES, HOSTS, strict=True)]
            file.write_text("\n".join(["127.0.0.1 localhost", *known, ""]))
        _call("ip", "link", "add", "eth0", "netns", HOSTS[0], "type", "veth", "peer", "name", "eth0", "netns", HOSTS[1])
        for host, address in zip(HOSTS, ADDRESSES, strict=True):
            _call("ip", "-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
            _call("ip", "-n", host, "link", "set", "eth0", "up")
            _call("ip", "netns", "exec", host, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *RATE)
        for host in HOSTS:
            _wait_for_link(host)
        yield
    finally:
        for host, file in zip(HOSTS, files, strict=True):
            subprocess.run(["ip", "netns", "del", host], check=False, capture_output=True)
            file.unlink(missing_ok=True)
            if file.parent.exists():
                file.parent.rmdir()
        signal.signal(signal.SIGTERM, before)


def on_hosts(mpiexec: Path, arguments: Sequence[str]) -> Iterator[str]:
    """Runs this program on a rank of each host: the lines that they print."""
    mpi = family(mpiexec)
    with two_hosts(), TemporaryDirectory() as folder:
        shell = Path(folder) / "nsh"
        shell.write_text(NSH)
        shell.chmod(0o755)
        if mpi == "openmpi":
            names = ",".join(f"{host}:1" for host in HOSTS)
            chosen = ["--prtemca", "plm_ssh_agent", os.fspath(shell), "--host", names, "-x", "MPI4PY_LIBMPI", "-n", "2"]
        else:
            names = ",".join(HOSTS)
            chosen = ["-launcher", "ssh", "-launcher-exec", os.fspath(shell), "-hosts", names, "-ppn", "1", "-n", "2"]
        environ = rank_environment(mpi, mpiexec, 2, os.environ)
        environ.pop("PRTE_MCA_rmaps_default_mapping_policy", None)
        rank = ["env", "OMP_NUM_THREADS=1", f"PYTHONPATH={Path(__file__).parent.parent}", sys.executable, __file__]
        command = ["ip", "netns", "exec", HOSTS[0], "timeout", "-k", "5", str(SECONDS), os.fspath(mpiexec)]
        with subprocess.Popen(
            [*command, *chosen, *rank, *arguments], env=environ, stdout=subprocess.PIPE, text=True
        ) as job:
            try:
                assert job.stdout is not None
                yield from job.stdout
            except BaseException:
                job.terminate()
                raise
        if job.returncode:
            raise SystemExit(job.returncode)


def run(options: Options, mpiexec: Path | None = None) -> Iterator[Row | Skipped]:
    """The rows that were asked for."""
    why = refusal()
    if why:
        yield Skipped("overlap", why)
        return
    for backend in options.backends:
        wanted = [word for setting in (*options.overrides, f"backend={backend}") for word in ("--set", setting)]
        for line in on_hosts(mpiexec or find_mpiexec(), [*options.only, "--pairs", str(options.pairs), *wanted]):
            values = json.loads(line)
            case, ours, theirs, ratio, goal, _ = (values.pop(key) for key in ROW)
            yield Row(case, ours, theirs, ratio, goal, more={"backend": backend, **values})


def main() -> int:
    """Makes the hosts and starts a rank on each, or is one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)} (default: all)")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--backend", action="append", default=[])
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--mpiexec", type=Path)
    asked = parser.parse_args()
    backends = tuple(asked.backend or ["numpy"])
    options = Options(tuple(asked.only), backends, pairs=asked.pairs, overrides=tuple(asked.overrides))
    if launched() is not None:
        return be_a_rank(options)
    for row in run(options, asked.mpiexec):
        print(row.line(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
