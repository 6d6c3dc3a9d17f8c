"""Steps of whole networks on the numpy backend, with their batches: no array of more than 4 KiB is new from the third one on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dgraph.config import load_config
from dgraph.program import compile_config
from dgraph.runtime.communicator import OneRank
from dgraph.runtime.thread import run_threads
from dgraph.train import Worker
from tests.allocation import LARGE, large_arrays

CONFIGS = Path(__file__).parents[1] / "configs"
SMALL_VOLUME = ("data.shape=[3,16,8,8]", "data.label_shape=[1,16,8,8]", "data.batch=2", "data.samples=8")
ADAM = (
    "train.optimizer={adam: {rate: 0.01}}",
    "train.clip=1",
    "train.average=mean",
    "train.penalty={l1: 0.1, l2: 0.1}",
    "data.prefetch=true",
)
LAMB = ("train.optimizer={lamb: {rate: 0.01}}", "train.shard=true", "data.keep=true")
CASES = {
    "tanh and average pools": ("lenet5", 1, ("data.batch=32",)),
    "clipped adam in two batches": ("lenet5", 2, ("data.batch=32", "train.accumulate=2", *ADAM)),
    "sharded lamb on kept samples": ("lenet5", 4, ("data.batch=32", *LAMB)),
    "float64, mirrored": ("lenet5", 2, ("data.batch=32", "dtype=float64", "data.augment=[{flip: {axis: W}}]")),
    "batch norm and cut shortcuts": ("resnet20_cifar", 1, ("data.batch=8",)),
    "batch norm over ranks": ("resnet20_cifar", 2, ("data.batch=8",)),
    "rows of samples from files": ("residual", 4, ("data.batch=16", "data.keep=true")),
    "volumes and concatenation": ("unet3d", 2, SMALL_VOLUME),
    "dropout": ("vgg_a", 1, ("data.shape=[3,32,32]", "data.batch=4")),
    "real targets, cut in space": ("cosmoflow", 4, ("data.shape=[4,16,16,16]",)),
    "tiled filters": ("small", 4, ("data.batch=16",)),
    "tensor parallel": ("mixed", 4, ("data.batch=16",)),
}


def test_what_is_counted():
    """Temporaries count, views and small arrays do not."""
    with large_arrays() as found:
        x = np.zeros(2048, np.float32)
        (x + 1).sum()
        x[1:].reshape(1, -1)
        np.empty(LARGE, np.uint8)
    assert sorted(nbytes for _, nbytes in found.elements()) == [8192, 8192]


def counted(made):
    """The arrays that all ranks of a program allocate in their third and fourth step."""

    def body(communicator):
        worker = Worker(made, communicator)
        batches = worker.training_batches(shuffle=False)
        steps = [batches.indices(0, step % batches.steps) for step in range(4)]
        for indices in steps[:2]:
            worker.train_step(indices)
        communicator.barrier()
        if communicator.rank:
            last(worker, steps[2:])
            return None
        with large_arrays() as found:
            last(worker, steps[2:])
        return found

    def last(worker, steps):
        worker.communicator.barrier()
        for indices in steps:
            worker.train_step(indices)
        worker.communicator.barrier()

    return body(OneRank()) if made.ranks == 1 else run_threads(made.ranks, body)[0]


@pytest.mark.parametrize("case", CASES)
def test_a_step_allocates_no_array(case):
    name, ranks, overrides = CASES[case]
    config = load_config(CONFIGS / f"{name}.yaml", ["backend=numpy", *overrides], ranks)
    assert not counted(compile_config(config))
