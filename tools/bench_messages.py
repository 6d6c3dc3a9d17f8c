"""Every way in which tensors travel, beside the best that one writes by hand with mpi4py for the same bytes.

python tools/bench.py --only messages
python tools/bench_messages.py messages.halo_2d --ranks 4           some cases alone

Halos in 1, 2 and 3 dimensions, all-reduce, reduce-scatter, all-gather and all-to-all; 4 KiB, 1 MiB and 64 MiB (what goes to a
neighbour of a halo; what a rank has of the others before or after); 2 and 4 ranks. By hand: blocking and non-blocking
collectives, Sendrecv, non-blocking and persistent messages packed by NumPy, derived datatypes, windows of shared memory. All of
them are tried first, each in turn, and give the same values; then the best is measured in turn with ours. Both sides bring a
float32 array up to date.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

from dgraph.runtime.environment import die_with_parent, launched, set_threads

set_threads()

import numpy as np  # noqa: E402

from bench_row import PAIRS, Options, Row, row_of  # noqa: E402
from bench_turn import in_turn  # noqa: E402
from dgraph.graph.node import Graph, TensorNode  # noqa: E402
from dgraph.kernels.call import Array  # noqa: E402
from dgraph.layout.assign import Layout, TensorLayout  # noqa: E402
from dgraph.layout.field import Field, Interval, Mesh, cut, whole  # noqa: E402
from dgraph.plan.make import Plan, make_transfer  # noqa: E402
from dgraph.plan.transfer import Convoy, Transfer  # noqa: E402
from dgraph.rect import Rect  # noqa: E402
from dgraph.runtime.communicator import Communicator  # noqa: E402
from dgraph.runtime.connect import connected  # noqa: E402
from dgraph.runtime.convoy import Part  # noqa: E402
from dgraph.runtime.launch import family, find_mpiexec, rank_environment  # noqa: E402
from dgraph.runtime.store import Store  # noqa: E402
from dgraph.runtime.transfer import bind_convoy  # noqa: E402
from dgraph.runtime.window import open_window  # noqa: E402
from dgraph.schedule.buffer import place_tensors  # noqa: E402
from dgraph.schedule.step import Schedule, Start  # noqa: E402
from peers.exchange import (  # noqa: E402
    Memory,
    Side,
    Task,
    all_gather,
    all_reduce,
    all_to_all,
    by_messages,
    by_window,
    reduce_scatter,
)

GOAL = 1.10
ROW = ("case", "ours_seconds", "theirs_seconds", "ratio", "goal", "met")
SIZES = {"4KiB": 1 << 12, "1MiB": 1 << 20, "64MiB": 1 << 26}
RANKS = (2, 4)
SHORTEST = 2e-2
"""Seconds: shorter exchanges are done again and again for one measurement."""
TRIED = 5
MOST_SECONDS = 0.5
"""Of a case: there are many."""
WIDTH, EXTENT = 2, 8
"""Of a halo, and of a rank's part along dimensions that are cut."""


@dataclass(frozen=True)
class Case:
    """A tensor on a mesh: how it is written and read; `sums`: what ranks wrote of an element adds up."""

    mesh: Mesh
    write: Field
    read: Field
    sums: bool = False

    @property
    def tensor(self) -> TensorLayout:
        node = TensorNode("t", self.read.dim, "gradient" if self.sums else "activation")
        return TensorLayout(node, self.read, self.write, frozenset())


def halo(dimensions: int, elements: int, ranks: int) -> Case:
    """Channels and space; 4 ranks cut two dimensions of it, if there are two."""
    sizes = (ranks,) if ranks < 4 or dimensions == 1 else (2, ranks // 2)
    mesh = Mesh(tuple("yx"[: len(sizes)]), sizes)
    inner = WIDTH * EXTENT ** (dimensions - 1)
    cuts = [sizes[k] if k < len(sizes) else 1 for k in range(dimensions)]
    dim = (elements // inner, *(EXTENT * parts for parts in cuts))
    write = [whole(mesh, dim[0])]
    for d, parts in enumerate(cuts, start=1):
        write.append(cut(mesh, dim[d], (d - 1,)) if parts > 1 else whole(mesh, dim[d]))
    read = [
        Interval(np.maximum(one.start - WIDTH, 0), np.minimum(one.stop + WIDTH, n)) if one.axes() else one
        for one, n in zip(write, dim, strict=True)
    ]
    return Case(mesh, Field.of(dim, write), Field.of(dim, read))


def collective(kind: str, elements: int, ranks: int) -> Case:
    """An array cut in rows, in columns, or not at all, before and after."""
    mesh = Mesh(("p",), (ranks,))
    rows = 1 << ((elements.bit_length() - 1) // 2)
    dim = (rows, elements // rows)
    everywhere = Field.of(dim, (whole(mesh, n) for n in dim))
    in_rows = Field.of(dim, (cut(mesh, dim[0], (0,)), whole(mesh, dim[1])))
    in_columns = Field.of(dim, (whole(mesh, dim[0]), cut(mesh, dim[1], (0,))))
    write, read = {
        "all_reduce": (everywhere, everywhere),
        "reduce_scatter": (everywhere, in_rows),
        "all_gather": (in_rows, everywhere),
        "all_to_all": (in_rows, in_columns),
    }[kind]
    return Case(mesh, write, read, kind in ("all_reduce", "reduce_scatter"))


CASES = {
    **{f"halo_{d}d": partial(halo, d) for d in (1, 2, 3)},
    **{kind: partial(collective, kind) for kind in ("all_reduce", "reduce_scatter", "all_gather", "all_to_all")},
}


# --- ours


@dataclass(frozen=True, eq=False)
class Ends:
    """What a side works on: what this rank wrote and what it reads, and the exchange."""

    write: Array
    read: Array
    side: Side


def ours(case: Case, communicator: Communicator) -> Ends:
    """A convoy of one transfer, bound as a run binds it."""
    rank, tensor = communicator.rank, case.tensor
    transfer = make_transfer("t", 0, tensor, case.mesh, rank)
    if transfer is None:
        raise ValueError("nothing travels")
    plan = Plan(rank, {"t": transfer}, (Convoy((transfer,), 0, 1),))
    layout = Layout(Graph("bench", {}, {"t": tensor.node}), case.mesh, {}, {"t": tensor})
    placement = place_tensors(layout, plan, {"t": tuple(range(len(tensor.node.dim)))}, 4)
    steps = tuple(Start(convoy) for convoy in plan.convoys)
    schedule = Schedule(rank, "float32", placement, steps, (), 0, (), 0, 0, 0)
    window = open_window(schedule, 1, communicator)
    store, place = Store(schedule, (), window), placement.places["t"]
    if place.write is None or place.read is None:
        raise ValueError("a rank has nothing")
    write, read = store.view((place.write, transfer.write_rect)), store.view((place.read, transfer.read_rect))
    bound = bind_convoy(plan.convoys[0], [Part(transfer, write, read)], communicator, window)

    def side() -> None:
        bound.start()
        bound.wait()

    return Ends(write, read, side)


# --- theirs


@dataclass(frozen=True, eq=False)
class Bench:
    """A case on all ranks, laid out by hand: what each has written lies at the beginning of its part of a window."""

    case: Case
    transfers: Sequence[Transfer]
    rank: int

    @property
    def joint(self) -> bool:
        """Whether what is read is one array with what is written."""
        return not self.case.sums and self.transfers[0].kind != "all_to_all"

    def rect(self, rank: int) -> Rect:
        """What the array of a rank has."""
        transfer = self.transfers[rank]
        return transfer.read_rect.hull(transfer.write_rect) if self.joint else transfer.write_rect

    def array(self, memory: Memory, rank: int) -> Array:
        """The array of a rank."""
        rect = self.rect(rank)
        return memory.blocks[rank][: 4 * rect.volume].view(np.float32).reshape(rect.size)

    def slots(self, memory: Memory, rank: int, turn: int) -> dict[int, Array]:
        """Blocks behind the array of a rank, by the rank that they are for."""
        transfer = self.transfers[rank]
        at = 4 * (self.rect(rank).volume + turn * transfer.sends.elements)
        blocks = {}
        for peer, rect in transfer.sends:
            blocks[peer] = memory.blocks[rank][at : at + 4 * rect.volume].view(np.float32).reshape(rect.size)
            at += 4 * rect.volume
        return blocks

    @property
    def nbytes(self) -> int:
        """Bytes of the part of a window."""
        sent = [2 * t.sends.elements if t.kind != "all_reduce" else 2 * t.read_rect.volume for t in self.transfers]
        return 4 * max(self.rect(r).volume + sent[r] for r in range(len(sent)))


def theirs(bench: Bench, memory: Memory, crowded: bool) -> tuple[Array, Array, dict[str, Side]]:
    """What this rank wrote, what it reads, and everything that one would write by hand."""
    rank, transfer = bench.rank, bench.transfers[bench.rank]
    array, origin = bench.array(memory, rank), bench.rect(rank).start
    write = array[transfer.write_rect.slices(origin)]
    if transfer.kind == "all_reduce":
        return write, write, all_reduce(write.reshape(-1), memory, crowded)
    read = array[transfer.read_rect.slices(origin)] if bench.joint else np.zeros(transfer.read_rect.size, np.float32)
    start = transfer.read_rect.start
    own = transfer.write_rect.intersect(transfer.read_rect)
    takes = [
        (peer, read[rect.slices(start)], bench.array(memory, peer)[rect.slices(bench.rect(peer).start)])
        for peer, rect in transfer.receives
    ]
    sends = [(peer, array[rect.slices(origin)]) for peer, rect in transfer.sends]
    slots = [list(bench.slots(memory, rank, turn).values()) for turn in range(2)]
    peers = [[bench.slots(memory, peer, turn)[rank] for peer, _ in transfer.receives] for turn in range(2)]
    mine = None if bench.joint else (read[own.slices(start)], array[own.slices(origin)])
    paired = all(len(one.sends) == len(one.receives) == 1 for one in bench.transfers)
    task = Task(
        sends, takes, mine, bench.case.sums, paired, crowded, memory, (slots[0], slots[1]), (peers[0], peers[1])
    )
    sides = {**by_messages(task), **by_window(task)}
    parts = [t.read_rect.volume if bench.case.sums else t.write_rect.volume for t in bench.transfers]
    if transfer.kind == "reduce_scatter":
        sides |= reduce_scatter(array.reshape(-1), read.reshape(-1), parts, crowded)
    if transfer.kind == "all_gather":
        sides |= all_gather(array.reshape(-1), parts, crowded)
    if transfer.kind == "all_to_all":
        sides |= all_to_all(task)
    return write, read, sides


# --- measuring


def together(communicator: Communicator, value: float) -> float:
    """The largest value of all ranks, on all of them."""
    parts = communicator.gather(json.dumps(value).encode())
    found = json.dumps(max(map(json.loads, parts))).encode() if parts else None
    return float(json.loads(communicator.broadcast(found)))


def seconds_of(communicator: Communicator, side: Side, times: int) -> float:
    """How long a side takes once, if it is done several times; on the slowest rank."""
    communicator.barrier()
    start = perf_counter()
    for _ in range(times):
        side()
    return together(communicator, (perf_counter() - start) / times)


def times_of(communicator: Communicator, side: Side) -> int:
    """How often a side is to be done for one measurement."""
    side()
    return max(1, int(SHORTEST / seconds_of(communicator, side, 3)))


def require_equal(case: Case, mine: Ends, write: Array, read: Array, sides: dict[str, Side], rank: int) -> None:
    """All sides read the same; values are small integers, so that sums are exact."""
    values = np.random.default_rng(rank).integers(-9, 9, write.shape).astype(np.float32)
    mine.write[...] = values
    mine.side()
    for name, side in sides.items():
        write[...] = values
        side()
        if not np.array_equal(read, mine.read):
            raise ValueError(f"{name} reads something else")
    mine.write[...] = 0
    write[...] = 0


def best_of(communicator: Communicator, sides: dict[str, Side]) -> tuple[str, int]:
    """The fastest side, and how often it is to be done for one measurement."""
    times = {way: times_of(communicator, side) for way, side in sides.items()}
    tried = {
        way: median(seconds_of(communicator, side, times[way]) for _ in range(TRIED)) for way, side in sides.items()
    }
    best = min(tried, key=tried.__getitem__)
    return best, times[best]


def row(name: str, case: Case, communicator: Communicator, options: Options) -> Row:
    """One case. Collective."""
    rank, size = communicator.rank, communicator.size
    crowded = size > len(os.sched_getaffinity(0))
    transfers = [make_transfer("t", 0, case.tensor, case.mesh, r) for r in range(size)]
    bench = Bench(case, [transfer for transfer in transfers if transfer is not None], rank)
    memory = Memory(bench.nbytes, crowded)
    mine = ours(case, communicator)
    write, read, sides = theirs(bench, memory, crowded)
    require_equal(case, mine, write, read, sides, rank)
    best, again = best_of(communicator, sides)
    times = times_of(communicator, mine.side)
    turns = [
        partial(seconds_of, communicator, side, count) for side, count in ((mine.side, times), (sides[best], again))
    ]
    rounds = in_turn(turns, options, communicator)
    memory.close()
    return row_of(name, rounds, GOAL, {"ranks": size, "by_hand": best, "pairs": len(rounds)})


def be_a_rank(options: Options) -> int:
    """All cases of so many ranks."""
    with connected(lambda: "messages") as communicator:
        for kind, make in CASES.items():
            for size, nbytes in SIZES.items():
                name = f"messages.{kind}.{size}.{communicator.size}"
                if options.wants(name):
                    part = communicator.split(0)
                    found = row(name, make(nbytes // 4, communicator.size), part, options)
                    part.close()
                    if communicator.rank == 0:
                        print(found.line(), flush=True)
    return 0


def run(options: Options, mpiexec: Path | None = None, ranks: Sequence[int] = RANKS) -> Iterator[Row]:
    """The rows that were asked for, from ranks that are started here."""
    program = mpiexec or find_mpiexec()
    for count in ranks:
        environ = rank_environment(family(program), program, count, os.environ)
        command = [os.fspath(program), "-n", str(count), sys.executable, __file__]
        asked = [*options.only, "--pairs", str(options.pairs), "--seconds", str(min(options.seconds, MOST_SECONDS))]
        with subprocess.Popen(
            [*command, *asked], env=environ, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent
        ) as job:
            for line in job.stdout or ():
                values = json.loads(line)
                case, mine, other, ratio, goal, _ = (values.pop(key) for key in ROW)
                yield Row(case, mine, other, ratio, goal, more=values)
        if job.returncode:
            raise SystemExit(job.returncode)


def main() -> int:
    """Starts ranks, or is one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="*", metavar="CASE", help="such as messages.halo_2d.4KiB (default: all)")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--seconds", type=float, default=MOST_SECONDS)
    parser.add_argument("--ranks", type=int, action="append")
    parser.add_argument("--mpiexec", type=Path, help="of another MPI than that of this environment")
    asked = parser.parse_args()
    options = Options(tuple(asked.only), pairs=asked.pairs, seconds=asked.seconds)
    if launched() is not None:
        return be_a_rank(options)
    for found in run(options, asked.mpiexec, asked.ranks or RANKS):
        print(found.line(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
