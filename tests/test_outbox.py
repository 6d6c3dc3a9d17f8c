"""Sends that take turns: which goes when."""

from dgraph.runtime.outbox import FLYING_NBYTES, PART_NBYTES, Outbox


class Sent:
    """A send that is done when it is told to be."""

    def __init__(self, name, log):
        self.name, self.log, self.done = name, log, False

    def Start(self):
        self.log.append(self.name)

    def Test(self):
        return self.done


def test_the_most_urgent_goes_first_and_no_more_fly_than_keep_a_link_busy():
    log, gone, outbox = [], [], Outbox()
    large = [Sent(f"large {k}", log) for k in range(6)]
    for send in large:
        outbox.put(9, send, PART_NBYTES, lambda: gone.append(9))
    outbox.pump()
    most = FLYING_NBYTES // PART_NBYTES
    assert log == [f"large {k}" for k in range(most)]
    assert gone == [9] * most
    urgent = Sent("urgent", log)
    outbox.put(2, urgent, 64, lambda: gone.append(2))
    outbox.pump()
    assert len(log) == most
    large[0].done = True
    outbox.pump()
    assert log[most:] == ["urgent", f"large {most}"]
    for send in (urgent, *large):
        send.done = True
        outbox.pump()
    assert log[most + 2 :] == [f"large {k}" for k in range(most + 1, 6)]
    assert len(gone) == 7


def test_more_flies_where_a_link_was_found_idle():
    log, outbox = [], Outbox()
    sends = [Sent(k, log) for k in range(30)]
    for send in sends:
        outbox.put(0, send, PART_NBYTES, lambda: None)
    outbox.pump()
    most = FLYING_NBYTES // PART_NBYTES
    for flying in (most, 2 * most, 4 * most):
        before = len(log) - flying
        assert log == list(range(len(log)))
        for send in sends[before : len(log)]:
            send.done = True
        outbox.pump()
    for send in sends:
        send.done = True
    outbox.pump()
    outbox.pump()
    assert log == list(range(30))
    again = [Sent(k, log) for k in range(10)]
    for send in again:
        outbox.put(0, send, PART_NBYTES, lambda: None)
    outbox.pump()
    assert len(log) == 30 + most
