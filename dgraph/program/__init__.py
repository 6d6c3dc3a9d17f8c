"""A compiled configuration: graph, layout, plans and schedules, all without MPI and without data.

In: a config. Out: `Program`; `plan_summary`, what its plan costs. Promise: pure functions. This and `dgraph.train` are the places
that know every room.
"""

from dgraph.program.backend import backend_of, libraries
from dgraph.program.compile import compile_config, forward_graph
from dgraph.program.compiled import Program
from dgraph.program.section import data_place, data_spec, require_subset, section_spec
from dgraph.program.summary import plan_summary
from dgraph.program.updating import rate_of

__all__ = [
    "Program",
    "backend_of",
    "compile_config",
    "data_place",
    "data_spec",
    "forward_graph",
    "libraries",
    "plan_summary",
    "rate_of",
    "require_subset",
    "section_spec",
]
