"""A program at work in one process, its ranks as threads where there are several; what it gives, and that others give the same."""

import numpy as np

from dgraph.runtime.communicator import OneRank
from dgraph.runtime.thread import run_threads
from dgraph.train import TrainOptions, Worker


def silent(folder=None, **others):
    return TrainOptions(folder, lambda entry: None, **others)


def run(made, body):
    """What `body(worker)` gives on each rank of a program."""
    if made.ranks == 1:
        return [body(Worker(made, OneRank()))]
    return run_threads(made.ranks, lambda communicator: body(Worker(made, communicator)))


def outcome(made):
    """Losses of three steps and of an evaluation, and all parameters, of all ranks."""

    def body(worker):
        batches = worker.training_batches(shuffle=True)
        losses = [worker.train_step(batches.indices(*divmod(k, batches.steps))) for k in range(3)]
        worker.forward(worker.batches("train", shuffle=False).indices(0, 0))
        losses.append(worker.metrics())
        values = {t.name: worker.engine.value(t.name) for t in worker.program.graph.kept}
        return losses, {name: value for name, value in values.items() if value is not None}

    return run(made, body)


def assert_same_bits(ours, theirs):
    """Whether two programs have the same losses and parameters on every rank, to the bit."""
    for (losses, values), (others, kept) in zip(outcome(ours), outcome(theirs), strict=True):
        for one, other in zip(losses, others, strict=True):
            np.testing.assert_array_equal(one, other)
        assert values.keys() == kept.keys()
        for name in kept:
            np.testing.assert_array_equal(values[name], kept[name], err_msg=name)
