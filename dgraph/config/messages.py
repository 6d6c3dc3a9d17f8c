"""Reader of the section `messages`.

In: a tree. Out: `MessagesConfig`. Promise: whatever is left out is as fast as it goes.
"""

from __future__ import annotations

from dgraph.config.reader import Key, boolean, choice, fault, items, record
from dgraph.config.schema import MessagesConfig
from dgraph.config.section import FROM_ZERO
from dgraph.config.source import Tree

LOWERED = ("all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast", "halo", "moments")
"""What messages of a tensor can be together."""


def _read_lower(tree: Tree, path: str) -> tuple[str, ...]:
    """`true`, `false`, or a list of kinds."""
    if isinstance(tree.value, bool):
        return LOWERED if tree.value else ()
    wanted = "true, false or a list of kinds"
    if not isinstance(tree.value, list):
        raise fault(tree, path, wanted, f"kinds are {', '.join(LOWERED)}")
    return items(choice(*LOWERED), wanted, least=0)(tree, path)


_KEYS = {
    "lower": Key(_read_lower, LOWERED),
    "window": Key(boolean, True),
    "bucket": Key(FROM_ZERO, MessagesConfig.bucket),
}
DIRECT = MessagesConfig(LOWERED)
"""What a config has that says nothing of messages."""


def read_messages(tree: Tree, path: str) -> MessagesConfig:
    """`{lower: [all_reduce], window: false, bucket: 65536}`; each of them may be left out."""
    return MessagesConfig(**record(tree, path, _KEYS))
