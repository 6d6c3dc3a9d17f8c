"""The quantile of the normal distribution.

In: probabilities. Out: the values below which a standard normal value lies with that probability, to about 1e-15. The rational
approximations are those of Wichura 1988, "Algorithm AS 241: The percentage points of the normal distribution", PPND16.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dgraph.random.stream import Array

CENTRE = 0.425
"""The distance from probability 1/2 up to which the first approximation is good."""
FAR = 5.0
"""The value of sqrt(-log p) from which on the third is."""
_MIDDLE = (
    (2.509080928730122672e3, 3.343057558358812810e4, 6.726577092700870085e4, 4.592195393154987145e4,
     1.373169376550946112e4, 1.971590950306551442e3, 1.331416678917843774e2, 3.387132872796366608e0),
    (5.226495278852854561e3, 2.872908573572194267e4, 3.930789580009271061e4, 2.121379430158659586e4,
     5.394196021424751107e3, 6.871870074920579083e2, 4.231333070160091125e1, 1.0),
)  # fmt: skip
_SIDE = (
    (7.745450142783414076e-4, 2.272384498926918458e-2, 2.417807251774506117e-1, 1.270458252452368382e0,
     3.647848324763204605e0, 5.769497221460691405e0, 4.630337846156545295e0, 1.423437110749683577e0),
    (1.050750071644416843e-9, 5.475938084995344946e-4, 1.519866656361645719e-2, 1.481039764274800745e-1,
     6.897673349851000045e-1, 1.676384830183803849e0, 2.053191626637758821e0, 1.0),
)  # fmt: skip
_TAIL = (
    (2.010334399292288132e-7, 2.711555568743487578e-5, 1.242660947388078438e-3, 2.653218952657612309e-2,
     2.965605718285048912e-1, 1.784826539917291335e0, 5.463784911164114369e0, 6.657904643501103777e0),
    (2.044263103389939785e-15, 1.421511758316445888e-7, 1.846318317510054681e-5, 7.868691311456132591e-4,
     1.487536129085061485e-2, 1.369298809227358053e-1, 5.998322065558879376e-1, 1.0),
)  # fmt: skip


def normal_quantile(probability: Array) -> Array:
    """The values of these probabilities (float64, any shape; each > 0 and < 1), as a new array."""
    offset = probability - 0.5
    values = offset * _ratio(CENTRE**2 - offset * offset, _MIDDLE)
    beside = np.abs(offset) > CENTRE
    near = probability[beside]
    root = np.sqrt(-np.log(np.minimum(near, 1 - near)))
    size = np.where(root <= FAR, _ratio(root - 1.6, _SIDE), _ratio(root - FAR, _TAIL))
    values[beside] = np.copysign(size, offset[beside])
    return values


def _ratio(x: Array, coefficients: tuple[Sequence[float], Sequence[float]]) -> Array:
    """The quotient of two polynomials, coefficients of the highest power first."""
    above, below = (np.polyval(polynomial, x) for polynomial in coefficients)
    above /= below
    return above
