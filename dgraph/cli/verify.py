"""`dgraph verify`: a network on many ranks and on one, side by side, in one process."""

from __future__ import annotations

from collections.abc import Sequence

import click

from dgraph.cli.face import table
from dgraph.cli.line import result_line
from dgraph.cli.option import planned
from dgraph.config import load_config
from dgraph.verify import verify


@click.command("verify")
@planned
@click.option("--steps", type=click.IntRange(1), default=5, show_default=True)
def command(config: str, ranks: int | None, overrides: Sequence[str], as_json: bool, steps: int) -> int:
    """Train CONFIG for some steps on its mesh (ranks are threads here) and on one rank; compare loss, gradients, parameters
    and an evaluation."""
    loaded = load_config(config, overrides, ranks)
    result = verify(loaded, steps)
    rows = [(name, f"{result[name]:.2e}") for name in ("loss", "evaluation")]
    rows += [(name, f"{value:.2e}") for name, value in {**result["gradients"], **result["parameters"]}.items()]
    table(f"{loaded.name}: largest relative difference to one rank after {steps} steps", ["value", "difference"], rows)
    verdict, why = "equal" if result["ok"] else "NOT EQUAL", f"limit {result['limit']:.0e} for {loaded.dtype}"
    if "rounding" in result:
        why += f"; rounding alone takes one rank as far as {result['rounding']:.0e}"
    print(f"{verdict}: worst {result['worst']:.2e}, {why}")
    if as_json:
        result_line(result)
    return 0 if result["ok"] else 1
