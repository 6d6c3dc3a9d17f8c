"""Every way that tensors can go, under real MPI; and that nothing of the memory that ranks shared is left when one is killed."""

import os
from pathlib import Path

import pytest

from tests.mpi.launcher import FAMILIES, ROOT, run

pytestmark = pytest.mark.mpi
MIXED = ROOT / "configs" / "mixed.yaml"
SHARED = Path("/dev/shm")
OWN = ("mpich_shm_", "sm_segment.", "vader_segment.")
"""What MPIs themselves leave of their messages."""


@pytest.mark.parametrize("mpi", FAMILIES)
def test_every_way_has_the_same_bits(mpi):
    done = run(mpi, 4, "ways.py", MIXED)
    assert done.status == 0, done.error
    assert done.out == "4 ranks: 7 ways\n"
    (line,) = done.error.splitlines()
    assert line.startswith("warning: ")
    assert line.endswith(": too little shared memory in nowhere; ranks there exchange messages instead")


@pytest.mark.parametrize("mpi", FAMILIES)
def test_a_killed_rank_leaves_no_memory(mpi):
    before = set(os.listdir(SHARED))
    done = run(mpi, 4, "step.py", MIXED, "killed", "space.conv")
    assert done.status != 0
    left = set(os.listdir(SHARED)) - before
    assert [name for name in left if not name.startswith(OWN)] == []
