"""Where the time of a training step goes: by node and kind, beside what the machine can do.

In: a worker, a number of steps. Out: `profile`. Promise: what is measured is the loop as it trains; rates come from the rects of
the schedule and from clocks alone.
"""

from dgraph.profile.measure import Profile, profile

__all__ = ["Profile", "profile"]
