"""What every communicator must do: bodies that run on one rank, on threads and under MPI alike."""

import time

import numpy as np

from dgraph.runtime.communicator import Message


def octets(seed, n):
    return np.random.default_rng(seed).integers(0, 256, n, dtype=np.uint8)


def numbers_of_ranks(communicator):
    assert 0 <= communicator.rank < communicator.size
    assert communicator.host
    assert communicator.mpi


def ring(communicator):
    """A ring shift with many sizes and types, used again and again."""
    rank, size = communicator.rank, communicator.size
    if size == 1:
        return
    after, before = (rank + 1) % size, (rank - 1) % size
    for tag, n in enumerate((0, 1, 7, 4096, 300_001)):
        for dtype in (np.uint8, np.float32, np.float64, np.bool_):
            out, into = np.zeros(n, dtype), np.zeros((1, n), dtype)
            exchange = communicator.exchange([Message(after, tag, out)], [Message(before, tag, into)])
            for step in range(3):
                out[...] = octets((rank, step), n)
                exchange.start()
                exchange.wait()
                np.testing.assert_array_equal(into[0], octets((before, step), n).astype(dtype))


def everyone_with_everyone(communicator):
    """All pairs at once, waited for by polling."""
    rank, size = communicator.rank, communicator.size
    others = [r for r in range(size) if r != rank]
    if not others:
        return
    out = {r: octets((rank, r), 5000) for r in others}
    into = {r: np.zeros(5000, np.uint8) for r in others}
    exchange = communicator.exchange(
        [Message(r, 9, out[r]) for r in others], [Message(r, 9, into[r]) for r in reversed(others)]
    )
    exchange.start()
    while not exchange.test():
        pass
    exchange.wait()
    for r in others:
        np.testing.assert_array_equal(into[r], octets((r, rank), 5000))


def same_peer_same_tag_in_order(communicator):
    rank, size = communicator.rank, communicator.size
    if size == 1:
        return
    after, before = (rank + 1) % size, (rank - 1) % size
    out, into = octets(rank, 10).reshape(10, 1), np.zeros((10, 1), np.uint8)
    exchange = communicator.exchange(
        [Message(after, 3, part) for part in out], [Message(before, 3, part) for part in into]
    )
    exchange.start()
    exchange.wait()
    np.testing.assert_array_equal(into[:, 0], octets(before, 10))


def no_messages(communicator):
    exchange = communicator.exchange([], [])
    exchange.start()
    assert exchange.test()
    exchange.wait()


def sums(communicator):
    """Sums over all ranks, over the first ones and over each alone, under way together; the same bits everywhere."""
    rank, size = communicator.rank, communicator.size
    groups = [tuple(range(size)), tuple(range((size + 1) // 2)), (rank,)]
    for dtype in (np.float32, np.float64, np.int64):
        mine = [g for g in groups if rank in g]
        buffers = [np.zeros((3, 1001), dtype) for _ in mine]
        totals = [communicator.all_reduce(g, b, 0) for g, b in zip(mine, buffers, strict=True)]
        for step in range(3):
            for buffer in buffers:
                buffer[...] = value(rank, step).astype(dtype)
            for total in totals:
                total.start()
            for total in reversed(totals):
                total.wait()
            for group, buffer in zip(mine, buffers, strict=True):
                expected = sum(value(r, step).astype(dtype) for r in group)
                np.testing.assert_allclose(buffer, expected, rtol=1e-4, atol=1e-3)
        everyone = communicator.gather(buffers[0].tobytes())
        assert everyone is None or len(set(everyone)) == 1


def value(rank, step):
    return 1000 * np.random.default_rng((rank, step)).standard_normal((3, 1001))


def bytes_of_all(communicator):
    rank, size = communicator.rank, communicator.size
    own = octets(rank, 1000 * rank).tobytes()
    gathered = communicator.gather(own)
    expected = [octets(r, 1000 * r).tobytes() for r in range(size)]
    assert gathered == (expected if rank == 0 else None)
    for text in (b"", b"some text", octets(1, 100_000).tobytes()):
        assert communicator.broadcast(text if rank == 0 else None) == text
    communicator.barrier()


def parts_of_ranks(communicator):
    """Every third rank, and the others; twice, for each split is new."""
    rank, size = communicator.rank, communicator.size
    for shift in (0, 1):
        mine = [r for r in range(size) if (r + shift) % 3 // 2 == (rank + shift) % 3 // 2]
        part = communicator.split((rank + shift) % 3 // 2)
        assert (part.rank, part.size) == (mine.index(rank), len(mine))
        gathered = part.gather(bytes([rank]))
        assert gathered is None if part.rank else gathered == [bytes([r]) for r in mine]
        if part.size > 1:
            total = np.full(3, float(rank))
            exchange = part.all_reduce(tuple(range(part.size)), total, 0)
            exchange.start()
            exchange.wait()
            assert total.tolist() == [sum(mine)] * 3
        part.barrier()
        part.close()
    communicator.barrier()


def progress_beside(communicator):
    """What is under way arrives without this thread's help, where there is one that makes progress."""
    rank, size = communicator.rank, communicator.size
    if size == 1:
        return
    after, before = (rank + 1) % size, (rank - 1) % size
    out, into = octets(rank, 8 << 20), np.zeros(8 << 20, np.uint8)
    exchange = communicator.exchange([Message(after, 5, out)], [Message(before, 5, into)])
    pulse = communicator.pulse(exchange.test)
    if pulse is None:
        return
    for _ in range(2):
        into[...] = 0
        communicator.barrier()
        exchange.start()
        pulse.go()
        until = time.monotonic() + 30
        while not np.array_equal(into[-64:], octets(before, 8 << 20)[-64:]):
            assert time.monotonic() < until
            time.sleep(1e-3)
        pulse.rest()
        time.sleep(0.05)
        exchange.wait()
        np.testing.assert_array_equal(into, octets(before, 8 << 20))
        communicator.barrier()


def gathers(communicator):
    """Parts of all ranks, uneven and empty ones, of all and of some ranks, twice; and what one of them has."""
    rank, size = communicator.rank, communicator.size
    groups = [tuple(range(size)), tuple(range((size + 1) // 2)), (rank,)]
    for counts_of in (lambda r: 1000 * r, lambda r: 7, lambda r: 5000 if r == 0 else 0):
        for group in (g for g in groups if rank in g):
            counts = [counts_of(r) for r in group]
            whole = np.zeros(sum(counts), np.float32)
            exchange = communicator.all_gather(group, counts, whole, 4)
            for step in range(2):
                whole[...] = 0
                parts = np.split(whole, np.cumsum(counts)[:-1])
                parts[group.index(rank)][...] = 10 * rank + step
                exchange.start()
                exchange.wait()
                for r, part in zip(group, parts, strict=True):
                    assert (part == 10 * r + step).all()


def memory_of_a_host(communicator):
    """What each rank writes, the others read in place once they have met; twice, for each sharing is new."""
    rank, size = communicator.rank, communicator.size
    for nbytes in (0, 100_000):
        shared = communicator.share(nbytes, 3, bytes([rank]))
        if shared is None:
            assert size == 1
            return
        assert {r: shared.notes[r] for r in shared.blocks} == {r: bytes([r]) for r in range(size)}
        others = [r for r in range(size) if r != rank]
        there, taken = shared.meeting(0, others), shared.meeting(2, others)
        for step in range(5):
            shared.blocks[rank][:nbytes] = octets((rank, step), nbytes)
            there.start()
            while step % 2 and not there.test():
                pass
            there.wait()
            for r in others:
                np.testing.assert_array_equal(shared.blocks[r][:nbytes], octets((r, step), nbytes))
            taken.start()
            taken.wait()


BODIES = [
    numbers_of_ranks,
    ring,
    everyone_with_everyone,
    same_peer_same_tag_in_order,
    no_messages,
    sums,
    bytes_of_all,
    parts_of_ranks,
    progress_beside,
    gathers,
    memory_of_a_host,
]
