"""What can go wrong, by whose fault, and with which exit status.

In: nothing. Out: the exceptions that the command line turns into one line on stderr. Promise: a `DgraphError`
carries all that its line needs; anything else that reaches the command line is a defect of dgraph and shows its traceback.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where in a configuration file something stands: file, line and column (both from 1)."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class DgraphError(Exception):
    """An error that the user can mend. `what` says what is wrong, `hint` why, or what to do."""

    status = 2

    def __init__(self, what: str, hint: str = "", place: Place | None = None) -> None:
        super().__init__(what)
        self.what, self.hint, self.place = what, hint, place
        self.name, self.key = "", ""

    def at(self, place: Place) -> DgraphError:
        """The same error with a place, unless it has one."""
        if self.place is None:
            self.place = place
        return self

    def about(self, name: str, key: str = "") -> DgraphError:
        """The same error with what it is about, unless it has it: a node or parameter, and a dotted key of its declaration such
        as `split.H`."""
        self.name = self.name or name
        self.key = self.key or key
        return self

    def within(self, origin: str) -> DgraphError:
        """The same error, its hint with what it stands in, if that is anything."""
        self.hint = "; ".join(part for part in (self.hint, origin) if part)
        return self

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}error: {self.what}{hint}"


class ConfigError(DgraphError):
    """A configuration that says something wrong: syntax, keys, types, shapes, splits, mesh."""


class DataError(DgraphError):
    """A data file or checkpoint that is missing, damaged or of the wrong shape."""

    status = 4


class CheckError(DgraphError):
    """A plan that `check` does not accept, or an op that a layout cannot express."""


class RunError(DgraphError):
    """A run that cannot go on: a non-finite loss, ranks that disagree, a launcher that started singletons."""

    status = 3
