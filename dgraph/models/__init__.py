"""Layers to nodes: what the short form of a network stands for."""

from __future__ import annotations

from dgraph.models.network import expand
from dgraph.models.place import place_of

__all__ = ["expand", "place_of"]
