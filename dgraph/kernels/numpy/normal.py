"""The normal distribution: its density and its distribution function, relatively exact far out on both sides.

In: arrays. Out: the same shape, of the same dtype. Promise: nothing is allocated; relative errors stay below 1e-15 in float64 (down
to where results leave the normal floats) and 1e-6 in float32.

With z = |x| / sqrt(2), the part of the distribution beyond |x| is

    Q(|x|) = erfc(z) / 2 = exp(-z^2) / (1 + 2 z) * S(t) / 2,      S(t) = (1 + 2 z) exp(z^2) erfc(z),   t = (z - 3.75) / (z + 3.75)

where S is smooth on all of [-1, 1] and given by its Chebyshev series (Shepherd and Laframboise 1981, "Chebyshev approximation of
(1 + 2x) exp(x^2) erfc x in 0 <= x < infinity", Math. Comp. 36, table 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from types import MappingProxyType

import numpy as np
from numpy.polynomial.chebyshev import cheb2poly

from dgraph.kernels.call import Array

SERIES = (
    1.1775789345674017541,
    -0.0045900545806464773309,
    -0.084249133366517915584,
    0.059209939998191890498,
    -0.026658668435305752277,
    0.0090749976707052650939,
    -0.0024131635404176081909,
    0.00049077583652580863229,
    -0.000069169733025012063671,
    4.1390279860730101675e-6,
    7.7403830661984906686e-7,
    -2.1886401049234395662e-7,
    1.0764999465670910377e-8,
    4.521959811218286898e-9,
    -7.7544002088313511012e-10,
    -6.3180883408866844042e-11,
    2.8687950109306700138e-11,
    1.9455868545777472897e-13,
    -9.654696748433427019e-13,
    3.2525481481488360396e-14,
    3.3478119482868660915e-14,
    -1.8645628804191416665e-15,
    -1.25079505306915121e-15,
)
"""The coefficients of S: those behind the last are below 1e-16."""
TERMS: Mapping[str, int] = MappingProxyType({"float32": 12, "float64": len(SERIES)})
_POWERS = {dtype: tuple(float(c) for c in cheb2poly(SERIES[:terms])) for dtype, terms in TERMS.items()}
_MIDDLE = 3.75 * sqrt(2)
_FAR = 40.0
"""Beyond it the density is 0 in float64."""


def normal(x: Array, cdf: Array, density: Array, a: Array, b: Array) -> None:
    """`cdf = P(X <= x)` and `density = exp(-x^2 / 2)`, without its factor 1 / sqrt(2 pi), for a standard normal X.

    `a` and `b` are arrays of the same shape to work in.
    """
    _density(x, density, a, b)
    np.subtract(a, _MIDDLE, out=b)
    np.add(a, _MIDDLE, out=cdf)
    np.divide(b, cdf, out=b)
    first, *others = reversed(_POWERS[str(x.dtype)])
    cdf.fill(first)
    for coefficient in others:
        np.multiply(cdf, b, out=cdf)
        np.add(cdf, coefficient, out=cdf)
    np.multiply(cdf, density, out=cdf)
    np.multiply(a, 2 * sqrt(2), out=a)
    np.add(a, 2, out=a)
    np.divide(cdf, a, out=cdf)
    np.greater_equal(x, 0, out=a)
    np.subtract(a, cdf, out=cdf)
    np.abs(cdf, out=cdf)


def _density(x: Array, out: Array, a: Array, b: Array) -> None:
    """`out = exp(-a^2 / 2)`, where `a = min(|x|, 40)` is left behind.

    With b = a in whole sixteenths, a^2 = b^2 + (a - b) (a + b): b^2 is exact, the rest so small that its rounding does not show
    (Cody 1969, "Rational Chebyshev approximations for the error function", Math. Comp. 23, and his program CALERF).
    """
    np.abs(x, out=a)
    np.minimum(a, _FAR, out=a)
    np.multiply(a, 16, out=b)
    np.floor(b, out=b)
    np.divide(b, 16, out=b)
    np.subtract(a, b, out=out)
    np.add(a, b, out=a)
    np.multiply(out, a, out=out)
    np.multiply(out, -0.5, out=out)
    np.exp(out, out=out)
    np.subtract(a, b, out=a)
    np.multiply(b, b, out=b)
    np.multiply(b, -0.5, out=b)
    np.exp(b, out=b)
    np.multiply(out, b, out=out)
