"""What a rank keeps in a checkpoint, and how it gets it back.

In: a program, its engine; a checkpoint. Out: this rank's shards; the engine's arrays filled. Promise: every element is written by
one rank, and read by intersection of rects, so that any mesh goes on from what any other wrote.
"""

from __future__ import annotations

from dgraph.checkpoint import Checkpoint, Shard, used
from dgraph.error import DataError
from dgraph.kernels.numpy.update import AVERAGE
from dgraph.program import Program
from dgraph.runtime.engine import Engine


def owned(program: Program, engine: Engine) -> list[Shard]:
    """What this rank writes: parameters and optimizer state on its update rects, unless a rank before it has the same one."""
    place = program.layout.mesh.coordinates(engine.schedule.rank)
    result = []
    for name, rect in engine.store.updated.items():
        depends = program.layout.tensors[name].write.axes()
        if any(c for axis, c in enumerate(place) if axis not in depends):
            continue
        dim = program.graph.tensors[name].dim
        found = engine.store.writing(name)
        if found is not None:
            result.append(Shard(name, dim, rect, found[1][rect.slices(found[0].start)]))
        for state, array in engine.store.states[name].items():
            result.append(Shard(f"{name}:{state}", dim, rect, array))
    return result


def restore(program: Program, engine: Engine, checkpoint: Checkpoint, states: bool) -> None:
    """Reads parameters: with `states` those of training, and the optimizer's states; without, those to be used, which are averages
    where training keeps some. Local. Raises DataError where the checkpoint is of another network or optimizer, or damaged."""
    if states and checkpoint.meta.get("optimizer") != program.optimizer.name:
        names = f"{checkpoint.meta.get('optimizer')}, not {program.optimizer.name}"
        raise DataError(
            f"{checkpoint.path}: written with the optimizer {names}", "resume with the same, or evaluate it"
        )
    store = engine.store
    for parameter in program.graph.kept:
        if checkpoint.dim(parameter.name) != parameter.dim:
            what = f"{checkpoint.path}: {parameter.name} has dim {list(checkpoint.dim(parameter.name))}"
            raise DataError(f"{what}, not {list(parameter.dim)}", "the network is not the one that was saved")
        name = parameter.name if states else used(checkpoint, parameter.name)
        for found in (store.reading(parameter.name), store.writing(parameter.name)):
            if found is not None:
                checkpoint.read(name, found[0], found[1])
        kept = store.states.get(parameter.name, {})
        for state, array in kept.items() if states else ():
            if f"{parameter.name}:{state}" not in checkpoint.tensors:
                what = f"{checkpoint.path}: written without {state}, which the optimizer keeps now"
                raise DataError(what, "resume with the same options, or evaluate it")
            checkpoint.read(f"{parameter.name}:{state}", store.updated[parameter.name], array)
        if not states and AVERAGE in kept:
            checkpoint.read(name, store.updated[parameter.name], kept[AVERAGE])
