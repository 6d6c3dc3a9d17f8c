"""Untied filters: the layer L1 of the reference network on one rank, beside bare batched matrix products and PyTorch.

In: a tiled layer of full size, its operands 4 GiB. Out: three rows: forward and gradient (of input and filters) beside products of
the same shapes whose operands lie as they should, and forward beside PyTorch's unfold and einsum. Promise: a product a place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench_peer import Peer
from bench_rate import available_nbytes
from bench_row import Options, Row, Skipped, missing, row_of
from bench_turn import Timed, in_turn, timed
from dgraph.config import parse_config
from dgraph.kernels.call import Array
from dgraph.program import compile_config
from dgraph.runtime.communicator import OneRank
from dgraph.train import Worker

BARE, UNFOLD = 1.25, 0.2
PEER = "bench_unfold_peer.py"


@dataclass(frozen=True)
class Layer:
    """A square tiled layer: `extent` places each way, of which a window of `size` gives a tile of results every `stride`."""

    batch: int = 256
    given: int = 16
    extent: int = 64
    channels: int = 16
    tile: int = 4
    size: int = 10
    stride: int = 2

    @property
    def places(self) -> int:
        """How many windows there are."""
        return ((self.extent - self.size) // self.stride + 1) ** 2

    @property
    def terms(self) -> int:
        """Elements of a window."""
        return self.given * self.size**2

    @property
    def results(self) -> int:
        """Results of a window."""
        return self.channels * self.tile**2

    @property
    def nbytes(self) -> int:
        """What both sides keep: filters and their gradient, windows, results, of each."""
        return 4 * self.places * (6 * self.terms * self.results + 3 * self.batch * (self.terms + self.results))

    def text(self, backend: str) -> str:
        """A config; the bias before it makes it give a gradient of its input, as it does inside a network."""
        tiled = f"{{channels: {self.channels}, tile: {self.tile}, size: {self.size}, stride: {self.stride}}}"
        return f"""
mesh: {{p: 1}}
backend: {backend}
data:
  source: synthetic
  shape: [{self.given}, {self.extent}, {self.extent}]
  classes: 2
  batch: {self.batch}
  samples: {self.batch}
  shares: {{train: 1}}
layers:
  - {{name: before, affine: {{bias: C, scale: false}}}}
  - {{name: L1, tiled: {tiled}}}
  - {{name: mean, global_average_pool: {{}}}}
  - {{name: classifier, softmax: {{classes: 2}}}}
train: {{optimizer: {{sgd: {{rate: 0.001}}}}, steps: 1}}
"""


def products(layer: Layer) -> dict[str, Timed]:
    """Batched products of the shapes of a forward pass and of a gradient."""

    def some(*shape: int) -> Array:
        return np.random.default_rng(0).random(shape, dtype=np.float32)

    windows = some(layer.places, layer.batch, layer.terms)
    filters = some(layer.places, layer.terms, layer.results)
    results = some(layer.places, layer.batch, layer.results)

    def gradient() -> None:
        np.matmul(windows.transpose(0, 2, 1), results, out=filters)
        np.matmul(results, filters.transpose(0, 2, 1), out=windows)

    return {"forward": timed(lambda: np.matmul(windows, filters, out=results)), "gradient": timed(gradient)}


def kernels(layer: Layer, backend: str) -> dict[str, Timed]:
    """The layer's own actions in a step of training."""
    worker = Worker(compile_config(parse_config(layer.text(backend), "untied.yaml")), OneRank())
    worker.train_step(worker.training_batches(shuffle=False).indices(0, 0))
    found = {step.node: step.action for step in worker.engine.actions_of_batch().steps if step.verb == "compute"}
    return {"forward": timed(found["L1.filter"]), "gradient": timed(found["L1.filter.grad"])}


def run(options: Options, layer: Layer | None = None) -> Iterator[Row | Skipped]:
    """The rows that were asked for."""
    layer = layer or Layer()
    wanted = [name for name in ("forward", "gradient", "unfold") if options.wants(f"untied.{name}")]
    if wanted and layer.nbytes > available_nbytes():
        yield Skipped("untied", f"it needs {layer.nbytes / 2**30:.1f} GiB of memory")
        return
    for backend in options.backends if wanted else ():
        ours = kernels(layer, backend)
        more = {"backend": backend}
        bare = products(layer)
        for name in ("forward", "gradient"):
            if name in wanted:
                rounds = in_turn((ours[name], bare[name]), options)
                yield row_of(f"untied.{name}", rounds, BARE, more | {"pairs": len(rounds)})
        del bare
        if "unfold" in wanted:
            yield beside_unfold(layer, ours["forward"], options, more)


def beside_unfold(layer: Layer, ours: Timed, options: Options, more: dict[str, str]) -> Row | Skipped:
    """The forward pass beside PyTorch's."""
    if missing("torch"):
        return Skipped("untied.unfold", missing("torch"))
    names = ("batch", "given", "extent", "channels", "tile", "size", "stride")
    with Peer(PEER, [str(getattr(layer, name)) for name in names]) as peer:
        peer.step()
        rounds = in_turn((ours, peer.step), options)
    return row_of("untied.unfold", rounds, UNFOLD, more | {"pairs": len(rounds)})
