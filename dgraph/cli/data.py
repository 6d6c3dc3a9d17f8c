"""`dgraph data`: samples as the network would get them, without a network: show them, or pack them into one file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import click
import numpy as np

from dgraph.block import blocks
from dgraph.cli.line import as_bytes, result_line
from dgraph.cli.option import json_option
from dgraph.config import Config, DataConfig, load_config, parse_data, to_yaml
from dgraph.data import OPENERS, SUBSETS, DataSpec, Description, Source, subset
from dgraph.data.pack import pack
from dgraph.data.source import describe, open_source
from dgraph.error import ConfigError, DataError
from dgraph.program import data_place, data_spec, section_spec

F = TypeVar("F", bound=Callable[..., Any])
KINDS = {
    ".npz": "npz", ".npy": "npy", ".csv": "csv", ".tsv": "csv", ".bin": "cifar", ".h5": "hdf5", ".hdf5": "hdf5",
    ".idx": "idx", ".gz": "idx",
}  # fmt: skip
"""What files are by their names."""
SHOWN = 8
LOOKED_AT = 100
"""How many samples the range of values is taken from; fewer where they are large, and of one that is larger than `MOST` a part."""
MOST = 1 << 24
"""Elements that are in memory for it."""


def sampled(function: F) -> F:
    """What says where samples are: a config, or a file or folder and options."""
    options = (
        click.argument("where", metavar="CONFIG|PATH", type=click.Path()),
        click.option(
            "--source", type=click.Choice(tuple(OPENERS)), help="What kind of files PATH is (default: by its name)."
        ),
        click.option("--labels", type=click.Path(), help="The file of labels, of npy and idx."),
        click.option(
            "--label", help="Which label: a column (csv), age, gender or race (utkface), fine or coarse (cifar)."
        ),
        click.option("--channels", type=click.Choice(["1", "3"]), help="Images as grey (1) or in colour (3)."),
        click.option(
            "--size", type=click.IntRange(1), nargs=2, metavar="HEIGHT WIDTH", help="Scale images to one size."
        ),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY.PATH=VALUE",
            help="Override a value, such as data.bounds=[10, 25].",
        ),
        json_option,
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.group(
    "data", no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
def command() -> None:
    """Samples of a CONFIG's data, or of a file or folder."""


@command.command("show")
@sampled
def show(where: str, overrides: Sequence[str], as_json: bool, **options: Any) -> None:
    """Print what samples there are: how many, their shape, labels, range, and the first of them."""
    spec, config = _spec(where, overrides, options)
    known, source = _opened(spec, config)
    result = _facts(spec, known, source)
    for key, value in result.items():
        if value not in (None, [], {}):
            print(f"{key.replace('_', ' '):<12} {value if not isinstance(value, dict) else _line(value)}")
    if as_json:
        result_line(result)


@command.command("pack")
@sampled
@click.argument("output", type=click.Path())
@click.option("--subset", type=click.Choice(["all", *SUBSETS]), default="all", show_default=True, help="Which samples.")
@click.option(
    "--compress",
    type=click.IntRange(0, 9),
    default=0,
    show_default=True,
    help="From 1 (fast) to 9 (small); 0: not at all.",
)
def pack_command(
    where: str, output: str, overrides: Sequence[str], as_json: bool, subset: str, compress: int, **options: Any
) -> None:
    """Write the samples of a CONFIG's data, or of a file or folder, into one HDF5 file OUTPUT, for source hdf5. Values are neither
    scaled nor augmented."""
    start = perf_counter()
    spec, config = _spec(where, overrides, options)
    spec = replace(spec, scale=1.0)
    known, source = _opened(spec, config)
    indices = _indices(spec, known, subset)
    if not len(indices):
        raise DataError(f"the subset {subset} has no samples", "see its share")
    done = pack(source, indices, Path(output), known.names, compress, _progress(len(indices)))
    labels = f"{done.classes} classes" if done.classes is not None else f"targets {list(done.label_shape)}"
    print(f"{done.samples} samples {list(done.shape)} of {done.dtype}, {labels}: {output}, {as_bytes(done.nbytes)}")
    print(f"data: {{source: hdf5, path: {output}}}")
    if as_json:
        result_line({"output": output, **asdict(done), "names": list(known.names), "seconds": perf_counter() - start})


def _spec(where: str, overrides: Sequence[str], options: dict[str, Any]) -> tuple[DataSpec, Config | None]:
    """What a config, or a path and options, say; and the config."""
    if where.endswith((".yaml", ".yml")):
        given = [name for name, value in options.items() if value]
        if given:
            raise ConfigError(f"--{given[0]} does not go with a config", f"--set data.{given[0]}=... does")
        config = load_config(where, overrides)
        return data_spec(config), config
    return section_spec(_section(where, overrides, options), 0), None


def _section(where: str, overrides: Sequence[str], options: dict[str, Any]) -> DataConfig:
    """The section `data` that a path and options stand for."""
    label = options["label"]
    values = {
        "source": options["source"] or _kind(where, label),
        "path": os.path.abspath(where),
        "labels": options["labels"] and os.path.abspath(options["labels"]),
        "label": int(label) if label and label.lstrip("-").isdigit() else label,
        "channels": options["channels"] and int(options["channels"]),
        "size": list(options["size"] or ()),
        "batch": 1,
    }
    text = to_yaml({"data": {key: value for key, value in values.items() if value not in (None, [])}})
    try:
        return parse_data(text, "", overrides)
    except ConfigError as error:
        if error.place is not None and not error.place.file:
            error.place = None
        raise


def _kind(where: str, label: str | None) -> str:
    """What a path is, by its name."""
    if os.path.isdir(where):
        return "utkface" if label in ("age", "gender", "race") else "folder"
    kind = "idx" if where.endswith("-ubyte") else KINDS.get(os.path.splitext(where)[1].lower())
    if kind is None and not os.path.exists(where):
        raise DataError(f"{where}: No such file or directory")
    if kind is None:
        raise ConfigError(
            f"{where}: its name does not say what kind of data it is", f"give --source {', '.join(OPENERS)}"
        )
    return kind


def _opened(spec: DataSpec, config: Config | None) -> tuple[Description, Source]:
    """The source of a spec; its faults have their place in the config, if there is one."""
    with data_place(config) if config is not None else nullcontext():
        return describe(spec), open_source(spec)


def _indices(spec: DataSpec, known: Description, name: str) -> np.ndarray[Any, Any]:
    return np.arange(known.samples) if name == "all" else subset(spec, known, name)


def _facts(spec: DataSpec, known: Description, source: Source) -> dict[str, Any]:
    """What there is to say of a source."""
    first = np.arange(min(known.samples, LOOKED_AT, max(1, MOST // prod(known.shape))))
    values = source.read(first, next(blocks(source.shape, MOST)))
    few = first[:SHOWN]
    labels = source.labels(few, next(blocks(source.label_shape, MOST))).reshape(len(few), -1)
    return {
        "source": spec.source,
        "samples": known.samples,
        "subsets": {name: len(subset(spec, known, name)) for name in SUBSETS},
        "shape": list(known.shape),
        "label_shape": list(known.label_shape),
        "classes": known.classes,
        "names": list(known.names),
        "values": {
            "of": len(first),
            "low": float(values.min()),
            "high": float(values.max()),
            "mean": float(values.mean(dtype=np.float64)),
            "deviation": float(values.std(dtype=np.float64)),
        },
        "first_labels": (labels[:, 0] if labels.shape[1] == 1 else labels[:, :SHOWN]).tolist(),
    }


def _line(values: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value:.6g}" for name, value in values.items())


def _progress(samples: int) -> Callable[[int], None]:
    """Shows on a terminal how many samples are written."""

    def report(done: int) -> None:
        if sys.stdout.isatty():
            sys.stdout.write(f"\r\x1b[K{done}/{samples} samples" + ("\r\x1b[K" if done == samples else ""))
            sys.stdout.flush()

    return report
