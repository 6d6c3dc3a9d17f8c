"""A script for real ranks: all bodies, on communicators of several kinds."""

from bodies import BODIES

from dgraph.runtime.connect import connected

place = "start"

with connected(lambda: place) as world:
    for settings in ({"patient": True}, {"patient": False}, {"largest": 1000}):
        communicator = type(world)(**settings)
        for body in BODIES:
            place = f"{body.__name__} with {settings}"
            body(communicator)
        communicator.close()
    if world.rank == 0:
        print(f"{world.size} ranks: {len(BODIES)} bodies passed")
