"""An ONNX model to a config and a checkpoint.

In: a model's file, and where to put them. Out: a config that loads, and the checkpoint that goes with it. Promise: nothing is
written before all has been read and checked, and nothing that is there already is touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dgraph.checkpoint import Shard, write_checkpoint
from dgraph.config import parse_config
from dgraph.durable import faults, replace
from dgraph.error import ConfigError
from dgraph.onnx.reading.config import config_text, feed_data, require_single
from dgraph.onnx.reading.file import read_model
from dgraph.onnx.reading.network import Network, read_network
from dgraph.program import forward_graph
from dgraph.rect import Rect


@dataclass(frozen=True)
class Adopted:
    """What was written: the config, the folder of checkpoints, and how many nodes and tensors with values there are."""

    config: str
    checkpoint: str
    nodes: int
    tensors: int


def adopt(path: Path, output: Path | None, batch: int) -> Adopted:
    """Reads a model and writes its config and checkpoint: into a folder, or where the name ends in .yaml, beside that file.

    Raises ConfigError for what dgraph does not have and for names that are taken, DataError for a damaged model.
    """
    model = read_model(path)
    require_single(model, path)
    network = read_network(model, path, feed_data, batch)
    folder, config = _targets(output or Path(path.stem))
    for taken in (config, folder / "checkpoints"):
        if taken.exists():
            raise ConfigError(f"{taken} is there already", "name another place with -o")
    text = config_text(network, model, path)
    forward_graph(parse_config(text, str(config)), training=False)
    _save(network, model.name, folder)
    with faults(config):
        replace(config, text.encode())
    return Adopted(str(config), str(folder), len(network.specs), len(network.values))


def _targets(output: Path) -> tuple[Path, Path]:
    """The folder that holds checkpoints, and the config."""
    if output.suffix in (".yaml", ".yml"):
        return output.with_suffix(""), output
    return output, output / "config.yaml"


def _save(network: Network, name: str, folder: Path) -> None:
    """A checkpoint before the first step."""
    shards = [Shard(tensor, one.shape, Rect.whole(one.shape), one) for tensor, one in network.values.items()]
    meta = {"network": name, "updates": 0, "optimizer": "sgd"}
    write_checkpoint(
        folder / "checkpoints", 0, shards, meta, rank=0, size=1, gather=lambda part: [part], barrier=lambda: None
    )
