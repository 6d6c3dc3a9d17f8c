"""Which rank does which piece, and which rects it reads and writes."""

from __future__ import annotations

from dgraph.layout.assign import Layout, OpLayout, TensorLayout, assign_layout
from dgraph.layout.field import Field, Mesh
from dgraph.layout.part import part_readers

__all__ = ["Field", "Layout", "Mesh", "OpLayout", "TensorLayout", "assign_layout", "part_readers"]
