"""Files of separated values (RFC 4180), UTF-8: a sample a line, numbers and a label or several.

In: a path, which columns. Out: a `Pair`. Promise: opening it reads it once, for where its lines start and for its labels; a
small file is then kept as numbers, of a larger one only the lines that are wanted are read. Every fault names the line.
"""

from __future__ import annotations

import csv
import difflib
import re
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from typing import BinaryIO

import numpy as np

from dgraph.data.compressed import Packed
from dgraph.data.reader.pair import Pair
from dgraph.data.spec import Array, Column, DataSpec
from dgraph.data.stored import Opened
from dgraph.data.values import Held, Values
from dgraph.durable import fault
from dgraph.error import DataError
from dgraph.rect import Rect

LONGEST = 64 << 20
"""How many bytes a line may have."""
LONGEST_NAME = 1000
KEPT = 256 << 20
"""How many bytes of numbers are kept in memory."""
SHOWN = 12
LONGEST_SHOWN = 40
WHOLE = re.compile(r"[-+]?[0-9]{1,18}")


def open_csv(path: str, labels: str | None, spec: DataSpec) -> Pair:
    """The columns of the sample, float64 [n, C], and those of labels: whole numbers, other numbers, or names of classes."""
    delimiter = spec.delimiter or ","
    csv.field_size_limit(LONGEST)
    records = _records(path, delimiter)
    first = next(records, None)
    if first is None:
        raise DataError(f"{path}: it has no lines")
    names = None if spec.header is False else [name.strip() for name in first.fields]
    count = len(first.fields)
    wanted = spec.label if isinstance(spec.label, tuple) else () if spec.label is None else (spec.label,)
    own = [_column(path, column, names, count) for column in wanted]
    chosen = [_column(path, column, names, count) for column in spec.columns or ()]
    told = sorted(set(own) & set(chosen))
    if told:
        name = repr(names[told[0]]) if names else str(told[0])
        raise DataError(
            f"{path}: column {name} is a label and of the sample", "a network would read what it is to find"
        )
    chosen = chosen or [k for k in range(count) if k not in own]
    if not chosen:
        raise DataError(f"{path}: it has no columns but those of labels", "label names what is no part of the sample")
    if spec.header is None and all(is_number(first.fields[k]) for k in chosen):
        raise DataError(
            f"{path}: line {first.line} has numbers, no names of columns", "say header: false if it is a sample"
        )
    return _scan(path, delimiter, records if names else chain([first], records), count, chosen, own)


def _scan(path: str, delimiter: str, records: Iterable[Record], count: int, chosen: list[int], own: list[int]) -> Pair:
    """Reads all lines once: where they are, and their labels."""
    places, lines = array("q"), array("q")
    cells: list[tuple[str, ...]] = []
    for record in records:
        if len(record.fields) != count:
            what = f"{path}: line {record.line} has {len(record.fields)} values, not {count}"
            raise DataError(what, f"separated by {delimiter!r}")
        places.extend((record.start, record.stop))
        lines.append(record.line)
        cells.append(tuple(sys.intern(record.fields[k].strip()) for k in own))
        if any(len(cell) > LONGEST_NAME for cell in cells[-1]):
            raise DataError(f"{path}: line {record.line} has a label of more than {LONGEST_NAME} characters")
    if not cells:
        raise DataError(f"{path}: it has no samples")
    numbers = np.array(lines)
    rows = Rows(path, np.array(places).reshape(-1, 2), numbers, np.array(chosen), delimiter)
    return Pair(rows.kept(), _labels(path, cells, numbers))


@dataclass(frozen=True)
class Record:
    """One line (quoted ones may span several): its number, and the bytes that it has in the file."""

    fields: list[str]
    line: int
    start: int
    stop: int


class _Lines:
    """The lines of a file as csv.reader takes them, one by one, and where the last one ended."""

    def __init__(self, path: str, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self.line, self.place = 0, 0

    def __iter__(self) -> Iterator[str]:
        while content := self._file.readline(LONGEST):
            self.line += 1
            self.place += len(content)
            if len(content) == LONGEST:
                raise DataError(f"{self._path}: line {self.line} is longer than {LONGEST} bytes")
            try:
                yield content.decode("utf-8-sig" if self.line == 1 else "utf-8")
            except UnicodeDecodeError:
                raise DataError(f"{self._path}: line {self.line} is no UTF-8 text") from None


def _records(path: str, delimiter: str) -> Iterator[Record]:
    """The lines of a file that are not empty."""
    try:
        with open(path, "rb") as file:
            lines = _Lines(path, file)
            texts = iter(lines)
            line, start = 1, 0
            for text in texts:
                fields = _fields(text, texts, delimiter)
                if fields:
                    yield Record(fields, line, start, lines.place)
                line, start = lines.line + 1, lines.place
    except OSError as error:
        raise fault(path, error) from None
    except csv.Error as error:
        raise DataError(f"{path}: line {lines.line}: {error}") from None


def _fields(text: str, rest: Iterator[str], delimiter: str) -> list[str]:
    """The values of a line, and of those of the rest that a quoted value takes in; none of an empty line."""
    if '"' in text or delimiter == " ":
        return next(csv.reader(chain([text], rest), delimiter=delimiter, skipinitialspace=True, strict=True), [])
    return text.rstrip("\r\n").split(delimiter) if text.strip() else []  # The same, ten times as fast.


def _column(path: str, column: Column, names: Sequence[str] | None, count: int) -> int:
    """The number of a column."""
    if isinstance(column, int):
        if not -count <= column < count:
            raise DataError(f"{path}: there is no column {column}", f"it has {count}")
        return column % count
    if names is None:
        raise DataError(f"{path}: there is no column {column!r}", "without a header, columns have numbers")
    if names.count(column) != 1:
        close = difflib.get_close_matches(column, names, 1)
        known = f"did you mean {close[0]}?" if close else f"it has {', '.join(names[:SHOWN])}"
        raise DataError(f"{path}: there {'are two columns' if column in names else 'is no column'} {column!r}", known)
    return names.index(column)


def _labels(path: str, cells: list[tuple[str, ...]], lines: Array) -> Values:
    """Labels as what all of them are: whole numbers, numbers, or names; of one column, [n]."""
    table = np.array(cells) if len(cells[0]) > 1 else np.array([cell for (cell,) in cells])
    flat = {cell for row in cells for cell in row}
    if all(WHOLE.fullmatch(cell) for cell in flat):
        return Held(path, table.astype(np.int64))
    if all(is_number(cell) for cell in flat):
        return Held(path, table.astype(np.float64))
    if table.ndim > 1 or "" in flat:
        k = next(k for k, row in enumerate(cells) if not all(map(is_number, row)) and (table.ndim > 1 or "" in row))
        what = f"{path}: line {lines[k]}: the labels are {', '.join(map(repr, cells[k]))}"
        raise DataError(what, "they need numbers, or in one column names of classes")
    return Held(path, table)


def is_number(cell: str) -> bool:
    """Whether a cell holds a number, which has no underscores."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


@dataclass(frozen=True, eq=False)
class Rows:
    """The lines of a file as values [n, columns]; `places` has the bytes [n, 2] of each line."""

    path: str
    places: Array
    lines: Array
    columns: Array
    delimiter: str

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.lines), len(self.columns))

    dtype = np.dtype(np.float64)

    def kept(self) -> Values:
        """The same, kept in memory if they are few."""
        if np.prod(self.shape) * self.dtype.itemsize > KEPT:
            return self
        unpack = partial(self.read, np.arange(len(self.lines)), Rect.whole(self.shape[1:]))
        return Packed(self.path, self.shape, self.dtype, unpack, place=self.where)

    def load(self) -> None:
        pass

    def where(self, index: int) -> str:
        return f"{self.path}: line {self.lines[index]}"

    def read(self, indices: Array, rect: Rect) -> Array:
        chosen = self.columns[rect.slices()[0]].tolist()
        values = np.empty((len(indices), len(chosen)))
        for k, index in enumerate(indices.tolist()):
            start, stop = self.places[index].tolist()
            line = bytearray(stop - start)
            self._file.fill(memoryview(line), start)
            values[k] = self._numbers(index, line, chosen)
        return values

    @cached_property
    def _file(self) -> Opened:
        return Opened(self.path)

    def _numbers(self, index: int, line: bytearray, chosen: list[int]) -> list[float]:
        try:
            fields = _fields(line.decode("utf-8-sig"), iter(()), self.delimiter)
            cells = [fields[k] for k in chosen]
        except (csv.Error, UnicodeDecodeError, IndexError):
            raise DataError(f"{self.where(index)}: damaged", "the file has changed since it was opened") from None
        try:
            if b"_" not in line or all(map(is_number, cells)):
                return [float(cell) for cell in cells]
        except ValueError:
            pass
        k, cell = next((k, cell) for k, cell in zip(chosen, cells, strict=True) if not is_number(cell))
        raise DataError(f"{self.where(index)}: column {k} has {cell[:LONGEST_SHOWN]!r}", "it needs a number")
