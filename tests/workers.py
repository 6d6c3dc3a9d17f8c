"""A program at work in one process, its ranks as threads where there are several."""

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
