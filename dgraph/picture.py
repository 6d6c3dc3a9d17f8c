"""Pictures of a run: how it learned, and what it takes for what; of a search: what came of what.

In: entries of metrics.jsonl, a confusion matrix, rows of a search. Out: SVG or PNG files, by the suffix of the path. Promise: the
only room that imports matplotlib, an extra; who enters it without gets one line that says what to install. No display is needed, no
state is kept.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from dgraph.durable import faults, replace
from dgraph.error import ConfigError

if find_spec("matplotlib") is None:
    raise ConfigError("pictures need the package matplotlib", "pip install dgraph[plot]")

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Entries = Sequence[Mapping[str, Any]]
MEASURES = ("loss", "accuracy", "rmse")
TRAINING, VALIDATION, GREY = "tab:blue", "tab:orange", "0.45"
WIDE = 20
"""Losses that span more than this, times the least, are drawn on a logarithmic axis: late ones would lie on the ground."""
MOST_NUMBERS = 20
"""Classes up to which a confusion matrix shows its counts."""


def save(figure: Figure, path: Path) -> None:
    """Writes a figure, whole or not at all. Raises DataError where the disk refuses."""
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.removeprefix("."), dpi=150)
    with faults(path):
        replace(path, content.getvalue())


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_curves(entries: Entries, title: str) -> Figure | None:
    """Training and validation by epoch, one panel a figure, the best validation marked; what lies behind it, where validation does
    not get better any more, is shaded. None where no epoch has ended."""
    epochs = [entry for entry in entries if entry["kind"] == "epoch" and entry.get("train")]
    shown = [name for name in MEASURES if epochs and name in epochs[-1]["train"]]
    if not shown:
        return None
    figure = new_figure(6 * len(shown), 4)
    figure.suptitle(title)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, name in zip(panels, shown, strict=True):
        _draw_measure(axes, name, entries, epochs)
    return figure


def _draw_measure(axes: Axes, name: str, entries: Entries, epochs: Entries) -> None:
    """One panel: thin, the batches that were logged; thick, the epochs; dashed, the best of them."""
    per_epoch = max(epochs[0]["step"] / epochs[0]["epoch"], 1)
    steps = [entry for entry in entries if entry["kind"] == "step" and entry.get(name) is not None]
    axes.plot([entry["step"] / per_epoch for entry in steps], [entry[name] for entry in steps], color=TRAINING,
              alpha=0.25, linewidth=0.8, label="batch")  # fmt: skip
    for subset, color in (("train", TRAINING), ("validation", VALIDATION)):
        there = [entry for entry in epochs if entry.get(subset) and entry[subset].get(name) is not None]
        axes.plot([entry["epoch"] for entry in there], [entry[subset][name] for entry in there], color=color,
                  marker="o", markersize=3, label={"train": "training"}.get(subset, subset))  # fmt: skip
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    if name == "loss" and values.min() > 0 and values.max() > WIDE * values.min():
        axes.set_yscale("log")
    best = epochs[-1].get("best")
    if best:
        axes.axvline(best["epoch"], color=GREY, linestyle="--", label=f"best epoch: {best['epoch']}")
        if best["epoch"] < epochs[-1]["epoch"]:
            axes.axvspan(best["epoch"], epochs[-1]["epoch"], color=GREY, alpha=0.12, linewidth=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel(name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()


def draw_confusion(matrix: Sequence[Sequence[int]], title: str) -> Figure:
    """A confusion matrix, rows labels and columns what was found; coloured by the share of the row."""
    counts = np.asarray(matrix, dtype=np.int64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(3.5 + 0.35 * len(counts), 12)
    figure = new_figure(size + 0.8, size)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the label")
    axes.set_title(title)
    axes.set_xlabel("found")
    axes.set_ylabel("label")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    if len(counts) <= MOST_NUMBERS:
        axes.set_xticks(range(len(counts)))
        axes.set_yticks(range(len(counts)))
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
    return figure


def draw_search(rows: Entries, paths: Sequence[str], logarithmic: Sequence[str], metric: str, title: str) -> Figure:
    """The score of every row against each key that was tried, the later the round the darker; against the names of rows where these
    have any. Rows have `values`, `name`, `round`, `score` (None: failed) and, of the metric's subset, a `deviation`."""
    scored = [row for row in rows if row["score"] is not None]
    named = any(row["name"] for row in rows)
    panels = [*(["name"] if named else []), *paths]
    figure = new_figure(min(5 * len(panels), 25), 4)
    figure.suptitle(title)
    for axes, path in zip(figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels, strict=True):
        found = [row["name"] if path == "name" else row["values"][path] for row in scored]
        _draw_key(axes, found, scored, metric.partition(".")[0])
        axes.set_xlabel(path)
        if path in logarithmic:
            axes.set_xscale("log")
    figure.axes[0].set_ylabel(metric)
    return figure


def _draw_key(axes: Axes, values: Sequence[Any], rows: Entries, subset: str) -> None:
    """One panel; what is no number stands in a row of its own, in order of appearance."""
    scores = [row["score"] for row in rows]
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        words = list(dict.fromkeys(map(str, values)))
        values = [words.index(str(value)) for value in values]
        axes.set_xticks(range(len(words)), words, rotation=30, ha="right")
    spread = [row[subset]["deviation"] for row in rows]
    axes.errorbar(values, scores, yerr=spread if any(spread) else None, fmt="none", color=GREY, linewidth=0.8)
    axes.scatter(values, scores, c=[row["round"] for row in rows], cmap="Blues", edgecolors=GREY, vmin=0, zorder=2)
    axes.grid(alpha=0.3)
