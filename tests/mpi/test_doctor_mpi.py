"""The examination of real ranks."""

import json

import pytest

from tests.mpi.launcher import FAMILIES, run

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("mpi", FAMILIES)
def test_examination(mpi):
    done = run(mpi, 4, "examine.py")
    assert done.status == 0, done.error
    assert done.error == ""
    found = json.loads(done.out)
    assert {"mpich": "MPICH", "openmpi": "Open MPI"}[mpi] in found["mpi"]
    assert found["ranks"] == 4
    assert found["messages_intact"] is True
    assert found["shared_memory"] is True
    assert sorted(found["neighbours"]) == ["0-1", "1-2", "2-3"]
    assert all(speed > 0 for speed in found["sgemm"]["alone"])
    assert done.seconds < 15
