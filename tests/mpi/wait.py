"""A script for real ranks: they listen to signals, and wait for a rank that never comes."""

import os
import time

from dgraph.runtime.connect import connected
from dgraph.runtime.stop import listening

with connected(lambda: "") as communicator, listening():
    os.write(1, f"{os.getpid()} {communicator.rank}\n".encode())  # in one piece: lines of ranks are not to mix
    if communicator.rank == communicator.size - 1:
        time.sleep(3600)
    communicator.barrier()
