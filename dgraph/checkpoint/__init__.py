"""Checkpoints keyed by tensor name and global rect: any mesh loads what any other wrote, by intersection.

In: shards (name, dim, rect, array) of every rank. Out: a folder with one file a rank and an index; from it, any rect of
any tensor. Promise: a checkpoint is there whole or not at all, and a kill at any moment leaves the newest committed one
as it was; no byte that is read goes unchecked; nothing of the size of an array is allocated.

    step-000120/           committed: it got this name when all that is in it was on the disk
      index.json           {"crc32":"...","index":{...}}: meta and all shards, with the crc32 of each
      rank-00000.bin       its shards one after the other, little-endian, C order
    step-000120.1/         the same step written once more (a run that went back)
    step-000140.tmp/       being written, or left over from a kill: cleared by the next write

`meta["best"]["step"]`, where it is there, names the step of another checkpoint (or of this one): the best so far. What one that is
kept names so is kept as well, so that the best never goes before another takes its place, and going back finds that of then.
"""

from dgraph.checkpoint.choice import choose_checkpoint, sound_checkpoint
from dgraph.checkpoint.form import Shard, committed
from dgraph.checkpoint.reading import Checkpoint, open_checkpoint, used
from dgraph.checkpoint.writing import write_checkpoint

__all__ = [
    "Checkpoint",
    "Shard",
    "choose_checkpoint",
    "committed",
    "open_checkpoint",
    "sound_checkpoint",
    "used",
    "write_checkpoint",
]
