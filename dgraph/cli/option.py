"""Options that commands share, and what follows from them.

In: option values. Out: configs and ranks. Promise: a job is started only once its config has been read without a fault.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import click

from dgraph.config import BACKENDS, Config, load_config
from dgraph.error import ConfigError
from dgraph.runtime.environment import launched
from dgraph.runtime.launch import launch

F = TypeVar("F", bound=Callable[..., Any])

config_argument = click.argument("config", type=click.Path())
ranks_option = click.option(
    "-n", "--ranks", type=click.IntRange(1), help="Number of ranks; the mesh must have as many."
)
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY.PATH=VALUE", help="Override a value of the config."
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as one JSON object on the last line."
)
confusion_option = click.option(
    "--confusion/--no-confusion",
    default=None,
    help="Count labels against predicted classes (default: of up to 100 classes).",
)
best_option = click.option(
    "--best", is_flag=True, help="The run's best checkpoint by validation instead of its newest."
)
rank_option = click.option("--rank", type=click.IntRange(0), help="Which rank.")


def backend_option(function: F) -> F:
    """`--backend NAME`, which is `--set backend=NAME`, of a command with `set_option`."""

    @click.option("--backend", type=click.Choice(BACKENDS), help="Whose kernels run, whatever the config says.")
    @wraps(function)
    def command(*arguments: Any, overrides: tuple[str, ...], backend: str | None, **options: Any) -> Any:
        chosen = (*overrides, f"backend={backend}") if backend else overrides
        return function(*arguments, overrides=chosen, **options)

    return cast(F, command)


def planned(function: F) -> F:
    """The options of commands that plan and run nothing."""
    return config_argument(ranks_option(set_option(backend_option(json_option(function)))))


def require_rank(rank: int, config_ranks: int) -> int:
    """A rank that the mesh has."""
    if rank >= config_ranks:
        raise ConfigError(f"--rank {rank}: the mesh has {config_ranks} ranks", f"ranks are 0 to {config_ranks - 1}")
    return rank


def start_ranks(config: str, overrides: Sequence[str], ranks: int | None, stoppable: bool = False) -> int | None:
    """Starts the job if this process is to: the exit status of the ranks. None where this process is a rank itself (or the only
    one)."""
    task = launched()
    if task is not None:
        if ranks is not None and ranks != task.size:
            raise ConfigError(
                f"-n {ranks}, but {task.by} started {task.size} ranks", "leave -n out, or make them equal"
            )
        return None
    wanted = mesh_ranks(load_config(config, overrides, ranks))
    return None if wanted == 1 else launch(wanted, sys.argv[1:], stoppable=stoppable)


def mesh_ranks(config: Config) -> int:
    """How many ranks the mesh has."""
    product = 1
    for size in config.mesh.values():
        product *= size
    return product
