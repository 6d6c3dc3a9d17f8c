"""A training step beside PyTorch's: eager in the faster of its memory formats, compiled, and with DistributedDataParallel.

In: networks and their peers. Out: rows by peer, network and backend, and geometric means. Promise: both sides begin with the same
weights, take the same batch, which lies in memory, and give the same loss before any time is taken; a step of either is all of it:
gradients set to zero, forward, loss, backward, update. The peer has a process of its own for each rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from bench_network import NETWORKS, Network, Ours
from bench_peer import Peer
from bench_row import Options, Row, Skipped, geometric_mean, missing, row_of
from bench_turn import alone, in_turn, timed
from dgraph.runtime.communicator import Communicator

SCRIPT = "bench_torch_peer.py"
GOALS: Mapping[tuple[str, str], tuple[float | None, float | None]] = {
    ("eager", "torch"): (1.0, 0.9),
    ("compiled", "torch"): (None, 1.0),
    ("eager", "numpy"): (None, 1.8),
    ("compiled", "numpy"): (None, 1.8),
    ("ddp", "torch"): (None, 0.75),
}
"""Of each network, and of their mean, by peer and backend."""
SPLIT = ("lenet5", "resnet20", "vgg_a")
"""Networks whose batch is split over ranks."""


def beside(case: str, script: str, arguments: Sequence[str], ours: Ours, options: Options,
           goal: float | None, more: Mapping[str, object], size: int = 1,
           environment: Mapping[str, str] | None = None) -> Row:  # fmt: skip
    """Our step in turn with that of a peer of `size` processes, which the first rank starts. Collective."""
    communicator = ours.worker.communicator
    with ExitStack() as stack:
        peer = None
        if communicator.rank == 0:
            begun = ours.save(Path(stack.enter_context(TemporaryDirectory())))
            peer = stack.enter_context(Peer(script, [*arguments, str(begun)], size, environment))
        theirs = alone(None if peer is None else peer.step, communicator)
        sides = timed(ours.step, communicator), theirs
        rounds = in_turn(sides, options, communicator)
    return row_of(case, rounds, goal, {"pairs": len(rounds), **more, **({} if peer is None else peer.told)})


def rows(peer: str, name: str, network: Network, options: Options, communicator: Communicator) -> Iterator[Row]:
    """One network beside one peer, on every backend that was asked for. Collective."""
    arguments = [name, *(["--compiled"] if peer == "compiled" else [])]
    for backend in options.backends:
        ours = Ours(network, backend, communicator, options.overrides)
        goal = GOALS.get((peer, backend), (None, None))[0]
        more = {"backend": backend, "ranks": communicator.size}
        yield beside(f"{peer}.{name}", SCRIPT, arguments, ours, options, goal, more, communicator.size)


def run(options: Options, communicator: Communicator) -> Iterator[Row | Skipped]:
    """The rows that were asked for, each when it is done, and the geometric means of those that are complete. Collective."""
    for peer in ("ddp",) if communicator.size > 1 else ("eager", "compiled"):
        networks = SPLIT if peer == "ddp" else tuple(NETWORKS)
        wanted = [name for name in networks if options.wants(f"{peer}.{name}")]
        if wanted and missing("torch"):
            yield Skipped(peer, missing("torch"))
            continue
        done: list[Row] = []
        for name in wanted:
            for row in rows(peer, name, NETWORKS[name], options, communicator):
                done.append(row)
                yield row
        for backend in options.backends:
            mine = [row for row in done if row.more["backend"] == backend]
            goal = GOALS.get((peer, backend), (None, None))[1]
            if len(mine) == len(networks):
                yield geometric_mean(f"{peer}.mean", mine, goal, {"backend": backend})
