"""The examination: complete on one rank and on threads, and it notices a message that was harmed."""

import json

import numpy as np
import pytest

from dgraph.runtime import doctor
from dgraph.runtime.communicator import OneRank
from dgraph.runtime.doctor import examine
from dgraph.runtime.thread import ThreadCommunicator, run_threads


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, value in {"SGEMM_SECONDS": 0.01, "SGEMM_SIZE": 64, "BULK_NBYTES": 1000, "PINGS": 5}.items():
        monkeypatch.setattr(doctor, name, value)


def test_one_rank():
    found = examine(OneRank())
    assert json.loads(json.dumps(found)) == found
    assert found["ranks"] == 1
    assert found["messages_intact"] is True
    assert found["shared_memory"] is None
    assert found["neighbours"] == {}
    assert found["sgemm"]["alone"][0] > 0


@pytest.mark.parametrize("size", [2, 5])
def test_threads(size):
    found = run_threads(size, examine)
    assert all(f == found[0] for f in found)
    assert found[0]["messages_intact"] is True
    assert found[0]["shared_memory"] is True
    assert sorted(found[0]["neighbours"]) == [f"{r}-{r + 1}" for r in range(size - 1)]
    assert sum(found[0]["hosts"].values()) == size
    assert len(found[0]["sgemm"]["together"]) == size


def test_harm_is_noticed():
    class Harmful(ThreadCommunicator):
        def exchange(self, sends, receives):
            for message in sends:
                np.bitwise_xor(message.buffer, 1, out=message.buffer)
            return super().exchange(sends, receives)

    def body(communicator):
        return examine(Harmful(communicator._board, communicator.rank) if communicator.rank else communicator)

    assert run_threads(2, body)[0]["messages_intact"] is False
