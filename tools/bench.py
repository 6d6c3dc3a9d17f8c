"""Timings, each against a yardstick measured in the same run: one JSON line a case.

python tools/bench.py                             all cases; those that cannot be measured here say why
python tools/bench.py --only eager --quick        a training step on one rank against PyTorch, in fewer pairs
python tools/bench.py --only eager.lenet5 --backend numpy
python tools/bench.py --table                     the same, written into docs/speed.md
python tools/bench.py --only reference --set data.batch=32

Every family of cases runs in processes of its own, with one thread a rank.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from dgraph.runtime.environment import THREAD_VARIABLES, launched

if launched() is None:
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))

from bench_row import PAIRS, QUICK_PAIRS, SECONDS, Options, Row, Skipped, missing
from bench_table import PAGE, write_table
from dgraph.runtime.connect import connected
from dgraph.runtime.launch import launch

BACKENDS = ("torch", "numpy")


@dataclass(frozen=True)
class Family:
    """Cases that one module measures: `run(options)` there, or with ranks `run(options, communicator)`; both give rows."""

    module: str
    ranks: int | None = None


FAMILIES = {
    "eager": Family("bench_torch", 1),
    "compiled": Family("bench_torch", 1),
    "ddp": Family("bench_torch", 2),
    "jax": Family("bench_jax", 2),
    "split": Family("bench_split", 2),
    "untied": Family("bench_untied"),
    "memory": Family("bench_memory"),
    "runtime": Family("bench_runtime"),
    "messages": Family("bench_messages"),
    "overlap": Family("bench_overlap"),
    "reference": Family("bench_reference", 4),
    "prefetch": Family("bench_prefetch", 1),
}


def rows_of(name: str, options: Options) -> Iterator[Row | Skipped]:
    """The rows of a family, on this rank of it."""
    family = FAMILIES[name]
    module = import_module(family.module)
    if family.ranks is None:
        yield from module.run(options)
        return
    with connected(lambda: name) as communicator:
        for row in module.run(options, communicator):
            if communicator.rank == 0:
                yield row


def measure(name: str, options: Options, ranks: int | None) -> int:
    """One family, in this process or on ranks that it starts; each row is printed when it is done."""
    wanted = ranks or FAMILIES[name].ranks or 1
    if launched() is None and wanted > 1:
        return launch(wanted, sys.argv[1:], program=(sys.executable, os.path.abspath(__file__)))
    for row in rows_of(name, options):
        print(row.line(), flush=True)
    return 0


def chosen(only: tuple[str, ...]) -> list[str]:
    """The families that have to do with what was asked for."""
    return [name for name in FAMILIES if not only or any(case.partition(".")[0] == name for case in only)]


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", action="append", default=[], metavar="CASE", help=f"of {', '.join(FAMILIES)}; or eager.lenet5"
    )
    parser.add_argument("--quick", action="store_true", help="fewer pairs")
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="may be given again (default: all)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="override a value of the config")
    parser.add_argument("-n", "--ranks", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--table", action="store_true", help=f"write what was measured into {PAGE.name} of the docs")
    asked = parser.parse_args()
    for name in (case.partition(".")[0] for case in asked.only):
        if name not in FAMILIES:
            parser.error(f"no case {name!r}; there are {', '.join(FAMILIES)}")
    return asked


def main() -> int:
    """Measures one family here, or each of several in a process of its own."""
    asked = parsed()
    only = tuple(asked.only)
    pairs, seconds = (QUICK_PAIRS, 0.0) if asked.quick else (PAIRS, SECONDS)
    backends = tuple(asked.backend or (name for name in BACKENDS if name != "torch" or not missing("torch")))
    options = Options(only, backends, pairs, seconds, tuple(asked.overrides), asked.steps)
    names = chosen(only)
    if len(names) == 1 and not asked.table:
        return measure(names[0], options, asked.ranks)
    status = 0
    for name in names:
        wanted = [case for case in only if case.partition(".")[0] == name] or [name]
        rows, ended = apart(wanted)
        status = status or ended
        if asked.table:
            write_table(rows, [*FAMILIES])
    return status


def apart(cases: Sequence[str]) -> tuple[list[dict[str, Any]], int]:
    """Cases of one family in a process of their own, whose lines are passed on: the rows, and how it ended."""
    asking = [word for case in cases for word in ("--only", case)]
    command = [sys.executable, __file__, *_without_only(sys.argv[1:]), *asking]
    rows = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            if line.startswith("{"):
                rows.append(json.loads(line))
    return rows, process.returncode


def _without_only(arguments: Sequence[str]) -> list[str]:
    """The arguments but for `--only CASE` and `--table`."""
    kept, skip = [], False
    for word in arguments:
        if not skip and word not in ("--only", "--table") and not word.startswith("--only="):
            kept.append(word)
        skip = word == "--only"
    return kept


if __name__ == "__main__":
    sys.exit(main())
