"""Timings, each against a yardstick measured in the same run: one JSON line a case.

python tools/bench.py                             all cases; those that cannot be measured here say why
python tools/bench.py --only eager --quick        a training step on one rank against PyTorch, in fewer pairs
python tools/bench.py --only eager.lenet5 --backend numpy
python tools/bench.py --only reference --set data.batch=32 -n 2

Every family of cases runs in processes of its own, with one thread a rank.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module

from dgraph.runtime.environment import THREAD_VARIABLES, launched

if launched() is None:
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))

from bench_row import PAIRS, QUICK_PAIRS, SECONDS, Options, Row, Skipped
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


def main() -> int:
    """Measures one family here, or each of several in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", action="append", default=[], metavar="CASE", help=f"of {', '.join(FAMILIES)}; or eager.lenet5"
    )
    parser.add_argument("--quick", action="store_true", help="fewer pairs")
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="may be given again (default: all)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="override a value of the config")
    parser.add_argument("-n", "--ranks", type=int)
    parser.add_argument("--steps", type=int)
    asked = parser.parse_args()
    only = tuple(asked.only)
    for name in (case.partition(".")[0] for case in only):
        if name not in FAMILIES:
            parser.error(f"no case {name!r}; there are {', '.join(FAMILIES)}")
    pairs, seconds = (QUICK_PAIRS, 0.0) if asked.quick else (PAIRS, SECONDS)
    backends = tuple(asked.backend or BACKENDS)
    options = Options(only, backends, pairs, seconds, tuple(asked.overrides), asked.steps)
    names = chosen(only)
    if len(names) == 1:
        return measure(names[0], options, asked.ranks)
    given = sys.argv[1:]
    status = 0
    for name in names:
        wanted = [case for case in only if case.partition(".")[0] == name] or [name]
        asking = [word for case in wanted for word in ("--only", case)]
        status |= subprocess.run([sys.executable, __file__, *_without_only(given), *asking], check=False).returncode
    return status


def _without_only(arguments: list[str]) -> list[str]:
    """The arguments but for `--only CASE`."""
    kept, skip = [], False
    for word in arguments:
        if not skip and word != "--only" and not word.startswith("--only="):
            kept.append(word)
        skip = word == "--only"
    return kept


if __name__ == "__main__":
    sys.exit(main())
