"""Initial values of parameters, by kind.

In: {kind: arguments}, a seed, the parameter's name, dim and fans, a rect of it. Out: the values of that rect. Promise: they are the
same whatever the rect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from types import MappingProxyType
from typing import Any

from dgraph.error import ConfigError
from dgraph.random.draw import fill_normal, fill_truncated_normal, fill_uniform
from dgraph.random.stream import Array
from dgraph.rect import Rect

INITIAL: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "zero": {},
        "constant": {"value": None},
        "normal": {"mean": 0.0, "deviation": 0.01},
        "truncated_normal": {"mean": 0.0, "deviation": 0.01, "low": -2.0, "high": 2.0},
        "uniform": {"low": None, "high": None},
        "xavier": {"gain": 1.0, "distribution": "uniform"},
        "he": {"gain": 1.0, "distribution": "normal", "fan": "in"},
        "lecun": {"gain": 1.0, "distribution": "normal"},
    }
)
"""The kinds of initial values, their arguments and the defaults (None: must be given)."""


def initial(
    init: Mapping[str, Mapping[str, Any]],
    seed: int,
    name: str,
    dim: Sequence[int],
    rect: Rect,
    fan_in: int,
    fan_out: int,
    out: Array,
) -> None:
    """Write the initial values of `rect` of the parameter `name` into `out` (the rect's shape, any strides).

    `init` is {kind: arguments} as in `INITIAL`. Variances are gain^2 times: xavier: 2 / (fan_in + fan_out) (Glorot and Bengio
    2010, eq. 12 and 16); he: 2 / fan, where fan is fan_in or fan_out (He et al. 2015, eq. 10 and 14); lecun: 1 / fan_in (LeCun
    et al. 1998, eq. 16). `distribution` is uniform or normal. Fans count elements. The bounds of truncated_normal count in
    deviations. Raises ConfigError for an unknown kind or other arguments than its own.
    """
    kind, given = _kind(init, name)
    where = (seed, f"initial {name}", 0, dim, rect)
    match kind:
        case "zero":
            out[...] = 0
        case "constant":
            out[...] = given["value"]
        case "uniform":
            fill_uniform(out, *where, given["low"], given["high"])
        case "normal":
            fill_normal(out, *where, given["mean"], given["deviation"])
        case "truncated_normal":
            fill_truncated_normal(out, *where, given["mean"], given["deviation"], given["low"], given["high"])
        case _:
            factor, fan = _factor_and_fan(kind, given, fan_in, fan_out)
            if given["distribution"] == "uniform":
                bound = given["gain"] * sqrt(3 * factor / fan)
                fill_uniform(out, *where, -bound, bound)
            else:
                fill_normal(out, *where, 0.0, given["gain"] * sqrt(factor / fan))


def _factor_and_fan(kind: str, given: Mapping[str, Any], fan_in: int, fan_out: int) -> tuple[int, int]:
    """The variance as a quotient."""
    match kind:
        case "xavier":
            return 2, fan_in + fan_out
        case "he":
            return 2, fan_out if given["fan"] == "out" else fan_in
        case _:
            return 1, fan_in


def _kind(init: Mapping[str, Mapping[str, Any]], name: str) -> tuple[str, dict[str, Any]]:
    if len(init) != 1:
        raise ConfigError(f"parameter {name} needs one kind of initial values, not {len(init)}", ", ".join(INITIAL))
    ((kind, arguments),) = init.items()
    if kind not in INITIAL:
        raise ConfigError(f"parameter {name} has unknown initial values {kind}", ", ".join(INITIAL))
    known = INITIAL[kind]
    wrong = [key for key in arguments if key not in known]
    missing = [key for key, value in known.items() if value is None and key not in arguments]
    if wrong or missing:
        fault = f"no {missing[0]}" if missing else f"an unknown {wrong[0]}"
        raise ConfigError(f"initial values {kind} of {name} have {fault}", f"it takes: {', '.join(known) or 'nothing'}")
    return kind, {key: value for key, value in {**known, **arguments}.items() if value is not None}
