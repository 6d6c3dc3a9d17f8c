"""What a run left behind, as values: losses, metrics, parameters."""

import json
from pathlib import Path

import numpy as np

from dgraph.checkpoint import open_checkpoint
from dgraph.rect import Rect
from dgraph.verify import difference

CONFIGS = Path(__file__).parents[1] / "configs"
ALONE = sorted(path for path in CONFIGS.glob("*.yaml") if "source: utkface" not in path.read_text())
"""The configs that bring their data; `tests/test_faces.py` has the others."""


def entries(run, kind):
    """The lines of metrics.jsonl of one kind."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def losses(run):
    """The loss of every step that was logged."""
    return np.array([line["loss"] for line in entries(run, "step")])


def saved(run):
    """Every tensor of the newest checkpoint, whole: parameters and the optimizer's state."""
    checkpoint = open_checkpoint(run)
    tensors = {name: np.empty(tensor.dim, tensor.dtype) for name, tensor in checkpoint.tensors.items()}
    for name, array in tensors.items():
        checkpoint.read(name, Rect.whole(array.shape), array)
    return tensors


def apart(ours, theirs):
    """The largest relative difference of two sets of tensors."""
    assert ours.keys() == theirs.keys()
    return max(difference(ours[name], theirs[name]) for name in theirs)


def settings(**values):
    """--set options; a double underscore stands for the dot of a path."""
    return [part for key, value in values.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]


def result(out):
    """The last line of stdout as the object that it is."""
    return json.loads(out.splitlines()[-1])
