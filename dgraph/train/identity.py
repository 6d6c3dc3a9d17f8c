"""What makes two configs the same run: what must not change when training goes on.

In: a config, a checkpoint's meta. Out: digests by key. Promise: placement (mesh, splits, pieces, sharding) and all of `train`
may change but for `accumulate` and the kind of optimizer; what decides the numbers of a sample, a layer or a step may not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from dgraph.checkpoint import Checkpoint
from dgraph.config import Config
from dgraph.error import DataError

PLACEMENT = ("split", "loss_split", "update_split", "pieces", "shard")
MAY_CHANGE = "all of train but accumulate and the kind of optimizer, backend, mesh, splits, pieces, where the data lies"
OF_DATA = (*PLACEMENT, "path", "read", "prefetch", "keep", "fit_batch", "sets")


def identity(config: Config) -> dict[str, str]:
    """A digest of each part that may not change, by its name in the config."""
    plain = config.resolved()
    data = {f"data.{key}": value for key, value in plain["data"].items() if key not in OF_DATA}
    if plain["data"]["source"] != "table":  # of others, labels are files
        data.pop("data.labels", None)
    layers = {f"layers.{entry['name']}": _unplaced(entry) for entry in plain.get("layers", ())}
    nodes = {f"nodes.{entry['name']}": _unplaced(entry) for entry in plain.get("nodes", ())}
    parts = {"seed": plain["seed"], "dtype": plain["dtype"], **data, **layers, **nodes}
    parts["train.accumulate"] = plain["train"]["accumulate"]
    return {name: _digest(value) for name, value in parts.items()}


def _unplaced(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of layers or nodes without where it runs and how its parameters began."""
    return {key: value for key, value in entry.items() if key not in (*PLACEMENT, "init")}


def _digest(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def require_same_run(config: Config, checkpoint: Checkpoint) -> None:
    """Raises DataError where the config differs from the one that the checkpoint was trained with in what may not change."""
    before, now = checkpoint.meta.get("identity"), identity(config)
    if not isinstance(before, Mapping):
        return
    other = [name for name in {**now, **before} if now.get(name) != before.get(name)]
    if other:
        more = f" and {len(other) - 1} more" if len(other) > 1 else ""
        what = f"{checkpoint.path}: trained with another {other[0]}{more}"
        raise DataError(what, f"when a run goes on, these may change: {MAY_CHANGE}")
