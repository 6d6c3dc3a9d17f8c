"""The command `dgraph`: a table of commands, each in a module of its own that is imported when it is called.

In: the command line. Out: an exit status. Promise: what the user can mend is one line on stderr and status 2 (4 for data); `--help`
imports nothing that only a command needs.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from dgraph.error import DgraphError
from dgraph.runtime.cause import PIPE_STATUS, status_of, tell

COMMANDS = {
    "train": "Train a network; start the ranks, or be one of them.",
    "tune": "Search: many trials of a network, at random from coarse to fine, or row by row of a table.",
    "evaluate": "Loss and accuracy of a checkpoint.",
    "predict": "Class probabilities of a checkpoint, into a file.",
    "export": "A network and its values as an ONNX model, or its values as safetensors.",
    "import": "An ONNX model as a config and a checkpoint.",
    "data": "Show samples, or pack many files of them into one.",
    "check": "Prove a plan for all ranks before anything runs.",
    "plan": "Messages, bytes and memory of every rank.",
    "trace": "Every node of one rank with its dims and rects.",
    "show": "A config, stage by stage: config, graph, layout, plan, schedule.",
    "summary": "Outputs, parameters and multiply-accumulates of every layer.",
    "profile": "Where the time of a training step goes: by node and kind, beside what the machine can do.",
    "verify": "Run a network on many ranks and on one, and compare.",
    "doctor": "What MPI, ranks, cores and BLAS this is, and whether they work.",
}


class Commands(click.Group):
    """Finds a command's module by its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"dgraph.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=Commands,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="dgraph")
def dgraph() -> None:
    """dgraph: networks in YAML, placed on ranks by rectangles, planned, proved, and trained under MPI."""


def main(arguments: list[str] | None = None) -> None:
    """Runs one command and exits with its status."""
    try:
        result: Any = dgraph.main(arguments, prog_name="dgraph", standalone_mode=False)
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        help_of = context.command_path if context else "dgraph"
        text = " ".join(error.format_message().split()).rstrip(".")
        print(f"error: {text} (see {help_of} --help)", file=sys.stderr)
        raise SystemExit(2) from None
    except click.Abort:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except DgraphError as error:
        tell(error)
        raise SystemExit(status_of(error)) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(PIPE_STATUS) from None
    raise SystemExit(result if isinstance(result, int) else 0)
