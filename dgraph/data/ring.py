"""Points in the plane: a disc (class 1) inside a ring (class 0), with a gap between them.

In: how many points, a seed. Out: a `Source`. Promise: every point is a function of the seed and its index. No straight line
tells the classes apart, nor do two; three can: their triangle holds the disc, and its corners lie within the gap.

        ring      gap  disc  gap      ring
    |--------|--------|--+--|--------|--------|
   -1.5     -1      -0.5   0.5       1       1.5
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dgraph.data.spec import Array, Description
from dgraph.random import fill_uniform
from dgraph.rect import Rect

DISC = 0.5
"""The radius of the disc."""
RING = (1.0, 1.5)
"""The inner and outer radius of the ring."""


def describe_ring(samples: int) -> Description:
    """The numbers of so many points."""
    return Description(samples, (2,), 2, (1,))


@dataclass(frozen=True)
class RingSource:
    """Points [2]: either class is as likely, and either evenly spread over its area."""

    samples: int
    scale: float
    seed: int

    shape = (2,)
    classes = 2
    label_shape = (1,)

    def read(self, indices: Array, rect: Rect) -> Array:
        """As `Source.read`, float32."""
        inside, area, turn = self._drawn(indices).T
        inner, outer = (np.where(inside < 0.5, disc, ring) ** 2 for disc, ring in zip((0.0, DISC), RING, strict=True))
        radius, angle = np.sqrt(inner + area * (outer - inner)), 2 * np.pi * turn
        points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1) / self.scale
        return points[:, rect.slices()[0]].astype(np.float32)

    def labels(self, indices: Array, rect: Rect) -> Array:
        """As `Source.labels`."""
        return (self._drawn(indices)[:, rect.slices()[0]] < 0.5).astype(np.int64)

    def _drawn(self, indices: Array) -> Array:
        """Uniform numbers [n, 3] of each point: for its class, its area within the radius, its angle."""
        drawn: Array = np.empty((len(indices), 3))
        fill_uniform(drawn, self.seed, "ring", 0, (self.samples, 3), Rect((0, 0), (1, 3)), picks=indices)
        return drawn
