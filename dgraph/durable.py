"""Files that survive a kill or a power cut.

In: paths and bytes. Out: files that are there whole or not at all. Promise: what was there before stays until the new
content is on the disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from dgraph.error import DataError


def fault(path: str | Path, error: OSError) -> DataError:
    """What the system says of a file that cannot be read or written (`path`, where the system names none)."""
    return DataError(f"{error.filename or path}: {error.strerror or error}")


@contextmanager
def faults(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file into a DataError that names it."""
    try:
        yield
    except OSError as error:
        raise fault(path, error) from error


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def synced(path: Path) -> Iterator[BinaryIO]:
    """A new file to write to, whose content, not yet its name, is on the disk at the end."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, content: bytes) -> None:
    """Put a file in the place of another, or of none: written beside it, synced, renamed."""
    beside = path.with_name(f"{path.name}.tmp")
    with synced(beside) as file:
        file.write(content)
    beside.replace(path)
    sync_folder(path.parent)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Another file to be written in place of `path`: synced and renamed at the end, or gone where the writing fails."""
    other = path.with_name(f"{path.name}.tmp")
    other.open("wb").close()
    try:
        yield other
        with other.open("rb") as file:
            os.fsync(file.fileno())
        other.replace(path)
        sync_folder(path.parent)
    finally:
        other.unlink(missing_ok=True)
