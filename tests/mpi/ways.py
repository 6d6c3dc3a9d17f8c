"""A script for real ranks: three steps of a config, tensors going every way that there is; all have the same bits."""

import hashlib
import sys

from dgraph.config import load_config
from dgraph.program import compile_config
from dgraph.runtime.connect import connected
from dgraph.train import Worker

WAYS = (
    [],
    ["messages.window=false"],
    ["messages.lower=false"],
    ["messages.window=false", "messages.lower=[]", "messages.bucket=0"],
    ["overlap={updates: late}"],
    ["messages.window=false", "overlap={updates: late}", "progress=thread"],
    ["messages.window=false", "overlap={updates: late}", "messages.bucket=0"],
)


def bits_of(way, communicator):
    program = compile_config(load_config(sys.argv[1], way, communicator.size))
    worker = Worker(program, communicator)
    assert (worker.engine.window is None) == ("messages.window=false" in way)
    batches = worker.training_batches(shuffle=True)
    for _ in range(3):
        worker.train_step(batches.indices(*divmod(worker.step, batches.steps)))
    found = hashlib.sha256()
    for tensor in program.graph.kept:
        value = worker.engine.value(tensor.name)
        found.update(b"" if value is None else value.tobytes())
    return found.hexdigest()


with connected(lambda: "ways") as communicator:
    sys.modules[type(communicator).__module__].PART_NBYTES = 256  # of these tensors, too, several parts
    outcomes = [bits_of(way, communicator) for way in WAYS]
    assert len(set(outcomes)) == 1, outcomes
    sys.modules[type(communicator).__module__].SHARED_MEMORY = "nowhere"
    worker = Worker(compile_config(load_config(sys.argv[1], [], communicator.size)), communicator)
    assert worker.engine.window is None
    if communicator.rank == 0:
        print(f"{communicator.size} ranks: {len(WAYS)} ways")
