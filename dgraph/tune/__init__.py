"""Search: many trials of one config, at random from coarse to fine, or row by row of a table.

In: a config with the section `tune`. Out: every trial as a run folder, a table, the best config. Promise: what a trial tries is a
function of the section and of the trials before its round, so that a search that was stopped goes on as if it had not been.
"""

from dgraph.tune.inside import InsideRunner
from dgraph.tune.process import ProcessRunner
from dgraph.tune.search import Search, examine
from dgraph.tune.store import Store
from dgraph.tune.table import Table

__all__ = ["InsideRunner", "ProcessRunner", "Search", "Store", "Table", "examine"]
