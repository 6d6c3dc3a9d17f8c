"""A script for real ranks: five steps of a config; in the third the node that the arguments name fails on rank 2, as they say."""

import os
import signal
import sys
import time

from dgraph.config import load_config
from dgraph.program import compile_config
from dgraph.runtime.connect import connected
from dgraph.train import Worker


def defect():
    raise ValueError("not what it should be")


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def break_node(worker, node, fail):
    """Has an action of the loop fail from step 3 on."""
    run = worker.engine.actions_of_batch()
    place = next(k for k, entry in enumerate(run.steps) if (entry.node, entry.verb) == (node, "compute"))
    whole = run.actions[place]

    def action():
        if worker.step == 3:
            print(time.time(), flush=True)  # from here on the job has seconds to end
            fail()
        whole()

    run.actions[place] = action


config, how, node = sys.argv[1:]
workers = []
with connected(lambda: workers[0].where() if workers else "planning") as communicator:
    workers.append(Worker(compile_config(load_config(config)), communicator))
    if communicator.rank == 2:
        break_node(workers[0], node, globals()[how])
    batch = workers[0].batches("train", shuffle=True).indices(0, 0)
    for _ in range(5):
        workers[0].train_step(batch)
