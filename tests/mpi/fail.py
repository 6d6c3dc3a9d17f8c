"""A script for real ranks that fail: how and on which ranks is in the arguments. The others wait in a barrier."""

import os
import signal
import sys
import threading
import time

from dgraph.error import DataError, RunError
from dgraph.runtime.connect import connected


def defect():
    raise ValueError("not what it\nshould be")


def loss():
    raise RunError("the loss is not finite", "node loss, step 12")


def data():
    raise DataError("no file digits.npz")


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def terminated():
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt():
    raise KeyboardInterrupt


def leave():
    sys.exit(7)


def thread():
    threading.Thread(target=defect).start()
    time.sleep(60)


def nothing():
    sys.exit(0)


def hang():
    os.write(1, f"{os.getpid()}\n".encode())  # in one piece: lines of ranks are not to mix
    time.sleep(60)


how, ranks = sys.argv[1], {int(r) for r in sys.argv[2].split(",")}
with connected(lambda: "step 12, node L1.filter") as communicator:
    communicator.barrier()
    if communicator.rank in ranks:
        globals()[how]()
    communicator.barrier()
