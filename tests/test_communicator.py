"""Communicators: one test body for all of them, here over threads and one rank; under MPI in `tests/mpi`."""

import threading
import time

import numpy as np
import pytest

from dgraph.error import RunError
from dgraph.runtime.communicator import Message, OneRank
from dgraph.runtime.thread import run_threads
from tests.mpi.bodies import BODIES


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_threads(body, size):
    run_threads(size, body)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_one_rank(body):
    body(OneRank())


def test_one_rank_has_no_peer():
    with pytest.raises(ValueError, match="nobody"):
        OneRank().exchange([Message(0, 0, np.zeros(1))], [])


def test_a_message_is_contiguous():
    with pytest.raises(ValueError, match="peer 1, tag 2 is not contiguous"):
        Message(1, 2, np.zeros((4, 4))[:, 1])


def test_a_send_is_not_done_before_its_receive():
    posted = threading.Event()

    def body(communicator):
        if communicator.rank == 0:
            exchange = communicator.exchange([Message(1, 0, np.ones(3))], [])
            exchange.start()
            early = exchange.test()
            posted.set()
            exchange.wait()
            return early
        posted.wait()
        exchange = communicator.exchange([], [Message(0, 0, np.zeros(3))])
        exchange.start()
        exchange.wait()
        return None

    assert run_threads(2, body)[0] is False


def test_two_sends_that_wait_for_each_other_are_found():
    def body(communicator):
        peer = 1 - communicator.rank
        for sends, receives in ((True, False), (False, True)):
            message = [Message(peer, 5, np.zeros(1))]
            exchange = communicator.exchange(message if sends else [], message if receives else [])
            exchange.start()
            exchange.wait()

    with pytest.raises(RunError, match=r"rank \d waited 0.2 s in vain for the message to rank \d, tag 5"):
        run_threads(2, body, deadline=0.2)


def test_an_error_wakes_the_others():
    def body(communicator):
        if communicator.rank == 2:
            raise ZeroDivisionError("mine")
        communicator.barrier()

    start = time.monotonic()
    with pytest.raises(ZeroDivisionError, match="mine"):
        run_threads(4, body)
    assert time.monotonic() - start < 5


def test_a_poll_has_a_deadline():
    def body(communicator):
        if communicator.rank == 0:
            exchange = communicator.exchange([], [Message(1, 7, np.zeros(1))])
            exchange.start()
            while not exchange.test():
                pass

    with pytest.raises(RunError, match="from rank 1, tag 7"):
        run_threads(2, body, deadline=0.2)


def test_sizes_that_differ_are_an_error():
    def body(communicator):
        message = [Message(1 - communicator.rank, 0, np.zeros(3 + communicator.rank))]
        exchange = communicator.exchange(*((message, []) if communicator.rank else ([], message)))
        exchange.start()
        exchange.wait()

    with pytest.raises(ValueError, match="rank 1 sends 32 bytes with tag 0, rank 0 expects 24"):
        run_threads(2, body)


def test_sums_in_different_order_are_an_error():
    def body(communicator):
        ranks = (0, 1)
        sums = [communicator.all_reduce(ranks, np.ones(2), tag) for tag in (1, 2)]
        for total in sums if communicator.rank else reversed(sums):
            total.start()
            total.wait()

    with pytest.raises(ValueError, match="came to the sum with tag"):
        run_threads(2, body)


def test_an_exchange_under_way_is_not_started_again():
    def body(communicator):
        if communicator.rank == 0:
            exchange = communicator.exchange([], [Message(1, 0, np.zeros(1))])
            exchange.start()
            exchange.start()

    with pytest.raises(ValueError, match="under way"):
        run_threads(2, body)
