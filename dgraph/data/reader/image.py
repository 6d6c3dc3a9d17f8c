"""Images, one a file: in a folder a class, or with their labels in their names.

In: a folder. Out: a `Pair`. Promise: opening it reads names, and the size of the first image; the others are decoded when they
are read, and one that is damaged, of another size or beyond Pillow's limit is a DataError that names it. The order is that of
names, on any machine.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from dgraph.data.reader.pair import Pair
from dgraph.data.spec import Array, DataSpec
from dgraph.data.values import Held
from dgraph.durable import fault
from dgraph.error import ConfigError, DataError
from dgraph.rect import Rect

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"))
DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
"""Pillow's modes of grey images of more than 8 bits."""
NAME = re.compile(r"(?P<age>\d{1,4})_(?:(?P<gender>\d)_(?P<race>\d)_\d+|\d?_(?:\d?_)?\d{8,})\D*")
"""What UTKFace's names (Zhang, Song and Qi 2017) look like: [age]_[gender]_[race]_[date].jpg. A few of the set lack gender or race
(which of them, a name of three fields does not say): those have an age alone."""
CLASSES = {"gender": 2, "race": 5}


def open_folder(path: str, labels: str | None, spec: DataSpec) -> Pair:
    """Images in folders named after their classes, which are numbered in the order of their names."""
    files: list[str] = []
    classes: list[str] = []
    for folder in _folders(path):
        found = list(_images(folder))
        if not found:
            raise DataError(f"{folder}: it has no images", "every folder is a class")
        files += found
        classes += [os.path.basename(folder)] * len(found)
    if not files:
        raise DataError(f"{path}: it has no folders of images", "one a class; utkface has labels in names")
    return Pair(_opened(files, spec), Held(path, np.array(classes)))


def open_utkface(path: str, labels: str | None, spec: DataSpec) -> Pair:
    """Images whose names have an age, a gender and a race. Ages are real targets, or with `bounds` classes."""
    if spec.label not in ("age", *CLASSES):
        raise ConfigError("source utkface needs a label", "age, gender or race").about("data", "label")
    files = list(_images(path))
    if not files:
        raise DataError(f"{path}: it has no images")
    numbers = np.array([_number(file, str(spec.label)) for file in files])
    x = _opened(files, spec)
    if spec.label != "age":
        return Pair(x, Held(path, numbers), CLASSES[str(spec.label)])
    if spec.bounds is None:
        return Pair(x, Held(path, numbers.astype(np.float32)))
    return Pair(x, Held(path, np.searchsorted(spec.bounds, numbers, side="right")), len(spec.bounds) + 1)


def _number(file: str, label: str) -> int:
    match = NAME.match(os.path.basename(file))
    if match is None:
        raise DataError(f"{file}: its name is not [age]_[gender]_[race]_[date].jpg", "rename it, or move it elsewhere")
    if match[label] is None:
        raise DataError(
            f"{file}: its name has no {label}", "[age]_[gender]_[race]_[date].jpg; rename it, or move it elsewhere"
        )
    number = int(match[label])
    if number >= CLASSES.get(label, number + 1):
        raise DataError(f"{file}: {label} {number}", f"it is from 0 to {CLASSES[label] - 1}")
    return number


def _folders(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(entry.path for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise fault(path, error) from None


def _images(path: str) -> Iterator[str]:
    """The images in a folder and those below it, in the order of their names."""

    def refuse(error: OSError) -> None:
        raise fault(path, error) from None

    for folder, below, files in os.walk(path, onerror=refuse):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(files):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield os.path.join(folder, name)


def _opened(files: Sequence[str], spec: DataSpec) -> Images:
    """Images of the size and channels that the spec wants, or of the size of the first."""
    channels = spec.channels or (1 if spec.shape is not None and spec.shape[0] == 1 else 3)
    with _image(files[0]) as image:
        height, width = spec.size or (image.height, image.width)
        deep = image.mode in DEEP
    return Images(tuple(files), (channels, height, width), spec.size is not None, deep)


@dataclass(frozen=True)
class Images:
    """Image files as values [n, C, H, W]: bytes, or float32 where images are `deep`; `scaled` to that size, or of it."""

    files: tuple[str, ...]
    sample: tuple[int, int, int]
    scaled: bool
    deep: bool

    @property
    def path(self) -> str:
        return self.files[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.files), *self.sample)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32 if self.deep else np.uint8)

    def load(self) -> None:
        pass

    def where(self, index: int) -> str:
        return self.files[index]

    def read(self, indices: Array, rect: Rect) -> Array:
        values = np.empty((len(indices), *rect.size), self.dtype)
        for k, index in enumerate(indices.tolist()):
            values[k] = self._decoded(self.files[index])[rect.slices()]
        return values

    def _decoded(self, file: str) -> Array:
        """One image [C, H, W]."""
        channels, height, width = self.sample
        with _image(file) as image:
            if (image.mode in DEEP) != self.deep or (self.deep and channels != 1):
                hint = "all images of a source have 8 bits a channel, or all are grey with more"
                raise DataError(f"{file}: it has {'more than' if image.mode in DEEP else ''} 8 bits a channel", hint)
            if not self.scaled and image.size != (width, height):
                what = f"{file}: it is {image.height} x {image.width}, the first image {height} x {width}"
                raise DataError(what, f"size: [{height}, {width}] scales all to one size")
            image = image.convert("F" if self.deep else "L" if channels == 1 else "RGB")
            if image.size != (width, height):
                image = image.resize((width, height), _pillow().Resampling.BILINEAR)
            values: Array = np.asarray(image)
        return values[None] if channels == 1 else values.transpose(2, 0, 1)


@contextmanager
def _image(file: str) -> Iterator[Any]:
    """An open image; whatever goes wrong with it is a DataError that names it."""
    try:
        with _pillow().open(file) as image:
            yield image
    except DataError:
        raise
    except Exception as error:  # What a decoder raises when it meets a damaged file is written down nowhere.
        if isinstance(error, OSError) and error.strerror:
            raise fault(file, error) from None
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{file}: damaged, or no image", text.replace(f" {file!r}", "")) from None


def _pillow() -> ModuleType:
    """Pillow's module of images, which refuses those of more than MAX_IMAGE_PIXELS."""
    try:
        # Imported here: only images need it.
        from PIL import Image
    except ImportError:
        raise DataError("images need pillow", "pip install dgraph[data]") from None
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    return Image
