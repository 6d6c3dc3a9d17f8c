"""Layers to nodes: what the short form of a network stands for."""

from __future__ import annotations

from dgraph.models.network import expand

__all__ = ["expand"]
