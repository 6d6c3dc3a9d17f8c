"""`dgraph`, on a disk that takes its time: so that a kill finds a checkpoint half written."""

import os
import time

from dgraph.cli.main import main

fsync = os.fsync


def slow(handle):
    time.sleep(0.03)
    fsync(handle)


os.fsync = slow
main()
