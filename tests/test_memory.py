"""The memory of a whole process that trains: what the operating system counts, beside the same network in PyTorch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = """
import resource
from dgraph.config import load_config
from dgraph.program import compile_config
from dgraph.runtime.communicator import OneRank
from dgraph.train import Worker

program = compile_config(load_config("configs/resnet50.yaml", ["backend={backend}"], 1))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
worker = Worker(program, OneRank())
batches = worker.training_batches(shuffle=True)
for step in range(2):
    worker.train_step(batches.indices(0, step))
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, worker.engine.schedule.peak_nbytes)
"""
THEIRS = """
import resource
import torch
from peers.resnet import ResNet50

torch.set_num_threads(1)
network = ResNet50().to(memory_format=torch.channels_last)
optimizer = torch.optim.SGD(network.parameters(), lr=0.003, momentum=0.9)
x, labels = torch.randn(8, 3, 224, 224).to(memory_format=torch.channels_last), torch.randint(0, 1000, (8,))
for _ in range(2):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(network(x).reshape(8, -1), labels).backward()
    optimizer.step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def figures(script):
    """What a script prints in a process of its own."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tools")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


@pytest.mark.heavy
def test_resnet50_takes_no_more_memory_than_in_pytorch_and_what_is_planned():
    pytest.importorskip("torch")
    (theirs,) = figures(THEIRS)
    for backend in ("numpy", "torch"):
        before, ours, planned = figures(OURS.format(backend=backend))
        assert planned < ours <= theirs
        assert ours - before <= 1.1 * planned
