"""Files that survive a kill or a power cut.

In: paths and bytes. Out: files that are there whole or not at all. Promise: what was there before stays until the new
content is on the disk.
"""

from __future__ import annotations

import os
from pathlib import Path

from dgraph.error import DataError


def fault(path: Path, error: OSError) -> DataError:
    """The DataError of a file that cannot be read or written."""
    return DataError(f"{path}: {error.strerror or error}")


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and bring its content, not yet its name, to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, content: bytes) -> None:
    """Put a file in the place of another, or of none: written beside it, synced, renamed."""
    beside = path.with_name(f"{path.name}.tmp")
    write_synced(beside, content)
    beside.replace(path)
    sync_folder(path.parent)
