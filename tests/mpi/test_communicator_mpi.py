"""The bodies of `tests/mpi/bodies.py` under real MPI: several in one start."""

import pytest

from tests.mpi.bodies import BODIES
from tests.mpi.launcher import run

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize(("mpi", "ranks"), [("mpich", 2), ("mpich", 3), ("mpich", 4), ("openmpi", 3)])
def test_bodies(mpi, ranks):
    done = run(mpi, ranks, "communicate.py")
    assert done.status == 0, done.error
    assert done.out == f"{ranks} ranks: {len(BODIES)} bodies passed\n"
    assert done.error == ""
