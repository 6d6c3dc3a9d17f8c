"""What ranks find out together.

In: a program, its engine. Out: agreement that it is the same, the first node that went wrong, a tensor as a whole. Promise: all is
collective, and all ranks come to the same end.
"""

from __future__ import annotations

import json

import numpy as np

from dgraph.error import RunError
from dgraph.kernels.call import Array
from dgraph.ops import OPS
from dgraph.program import Program
from dgraph.runtime.communicator import Communicator
from dgraph.runtime.engine import Engine


def agree(program: Program, communicator: Communicator) -> None:
    """Ends the job unless the mesh fits, all ranks have the same program, and rank 0 finds nothing wrong with it. Collective."""
    if program.ranks != communicator.size:
        raise RunError(f"the mesh has {program.ranks} ranks, but {communicator.size} run")
    digests = communicator.gather(program.digest().encode())
    verdict = b""
    if digests is not None:
        odd = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
        verdict = json.dumps(odd).encode()
    odd = json.loads(communicator.broadcast(verdict or None))
    if odd:
        raise RunError(
            f"ranks {odd} planned something else than rank 0", "they read other configs or run other versions"
        )
    if communicator.rank == 0:
        program.require_checked(communicator.spread)
    communicator.barrier()


def non_finite(program: Program, engine: Engine, step: int) -> RunError:
    """What is said of a loss that is not finite: which node was the first, over all ranks, to write such a value. Collective."""
    communicator = engine.communicator
    found = engine.first_non_finite(program.evaluation(program.plan(communicator.rank)))
    gathered = communicator.gather(json.dumps(found).encode())
    first = b"null"
    if gathered is not None:
        entries = [(json.loads(entry), rank) for rank, entry in enumerate(gathered)]
        known = [(*entry, rank) for entry, rank in entries if entry is not None]
        first = json.dumps(min(known) if known else None).encode()
    culprit = json.loads(communicator.broadcast(first))
    if culprit is None:
        return RunError(f"the loss is not finite at step {step}", "no forward tensor holds the cause any more")
    _, node, tensor, rank = culprit
    domain = OPS[program.graph.ops[node].op].domain
    return RunError(
        f"the loss is not finite at step {step}: the first node with a NaN or infinity is {node}",
        f"tensor {tensor}, rank {rank}; {f'its input must hold {domain}' if domain else 'try a smaller rate'}",
    )


def gather_tensor(program: Program, engine: Engine, tensor: str) -> Array | None:
    """A forward tensor, whole, on rank 0 (None elsewhere): what ranks wrote, replicas once. Collective."""
    layout, rank = program.layout, engine.communicator.rank
    place, dtype = layout.mesh.coordinates(rank), np.dtype(program.config.dtype)
    found, rect = engine.store.writing(tensor), layout.write_rect(tensor, rank)
    first = all(place[axis] == 0 for axis in layout.tensors[tensor].replicas)
    part = b"" if found is None or not first else found[1][rect.slices(found[0].start)].tobytes()
    parts = engine.communicator.gather(part)
    if parts is None:
        return None
    whole = np.zeros(layout.graph.tensors[tensor].dim, dtype=dtype)
    for other, content in enumerate(parts):
        if content:
            target = layout.write_rect(tensor, other)
            whole[target.slices()] += np.frombuffer(content, dtype=dtype).reshape(target.size)
    return whole
