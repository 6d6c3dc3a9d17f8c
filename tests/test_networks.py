"""Networks by name against the same networks in PyTorch: scores, loss, every gradient, running statistics, evaluation.

Weights are dgraph's own, copied by name; the other network sees the very batch that dgraph read.
"""

from dataclasses import dataclass, field

import numpy as np
import pytest

from dgraph.program import compile_config
from dgraph.runtime.communicator import OneRank
from dgraph.train import Worker
from dgraph.verify import difference
from tests.networks import looked_at
from tests.scaled import config_of, scaled

torch = pytest.importorskip("torch")
from peers.googlenet import GoogLeNet  # noqa: E402
from peers.inception import InceptionV3  # noqa: E402
from peers.lenet import LeNet5  # noqa: E402
from peers.resnet import ResNet20, ResNet50  # noqa: E402
from peers.unet import UNet3d  # noqa: E402
from peers.unit import named  # noqa: E402
from peers.vgg import VggA  # noqa: E402

torch.set_num_threads(1)
LIMIT = {"float64": 1e-9, "float32": 1e-4}


@dataclass(frozen=True)
class Case:
    """A config scaled down and its peer. `heads`: layer with scores -> weight of its loss."""

    config: str
    peer: object
    shape: tuple
    batch: int
    heads: dict = field(default_factory=lambda: {"classifier": 1.0})
    options: dict = field(default_factory=dict)

    def values(self, dtype):
        shift = 2 if dtype == "float32" else 0
        return scaled(self.config, self.shape, self.batch, dtype=dtype, dropout=0, shift=shift, **self.options)


AUXILIARY = ("layers.aux1.when=true", "layers.aux2.when=true")
CASES = {
    "lenet5": Case("lenet5", lambda: LeNet5(), (1, 28, 28), 6),
    "vgg_a": Case("vgg_a", lambda: VggA(64, 7, 8, 0), (3, 64, 64), 4, options={"divide": 8, "classes": 7}),
    "googlenet": Case(
        "googlenet",
        lambda: GoogLeNet(96, 7, 8, (0, 0)),
        (3, 96, 96),
        4,
        {"classifier": 1.0, "aux1.classifier": 0.3, "aux2.classifier": 0.3},
        {"divide": 8, "classes": 7, "overrides": AUXILIARY},
    ),
    "resnet50": Case("resnet50", lambda: ResNet50(7, 8), (3, 64, 64), 4, options={"divide": 8, "classes": 7}),
    "resnet20_cifar": Case("resnet20_cifar", lambda: ResNet20(10, 4), (3, 16, 16), 4, options={"divide": 4}),
    "inception_v3": Case(
        "inception_v3", lambda: InceptionV3(7, 16, 0, False), (3, 107, 107), 4, options={"divide": 16, "classes": 7}
    ),
    "inception_v3_aux": Case(
        "inception_v3_aux",
        lambda: InceptionV3(7, 16, 0, True, 1),
        (3, 107, 107),
        4,
        {"classifier": 1.0, "aux.classifier": 0.3},
        {"divide": 16, "classes": 7, "overrides": ["layers.aux.conv2.conv.size=1"]},
    ),
    "unet3d": Case("unet3d", lambda: UNet3d(3, 3, 8), (3, 16, 16, 16), 2, {"scores": 1.0}, {"divide": 8}),
}


@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize("name", CASES)
def test_one_step(name, dtype):
    case, limit = CASES[name], LIMIT[dtype]
    worker = Worker(looked_at(compile_config(config_of(case.values(dtype)))), OneRank())
    peer = case.peer().double()
    vary(worker, np.random.default_rng(5))
    follow(worker, peer)
    loss = worker.train_step(worker.batches("train", shuffle=True).indices(0, 0))[0]
    scores, wanted = objective(worker, peer, case.heads)
    assert loss == pytest.approx(wanted.item(), rel=limit)
    check(scores_of(worker, case.heads), scores, limit)
    wanted.backward()
    tensors = named(peer)
    check_all(gradients_of(worker), {t: p.grad for t, (p, trained) in tensors.items() if trained}, dtype)
    check_all(states_of(worker), {t: state for t, (state, trained) in tensors.items() if not trained}, dtype)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("lenet5", "vgg_a")])
def test_an_evaluation_behind_it(name):
    case = CASES[name]
    worker = Worker(looked_at(compile_config(config_of(case.values("float64")))), OneRank())
    peer = case.peer().double().eval()
    worker.train_step(worker.batches("train", shuffle=True).indices(0, 0))
    worker.engine.forward()
    follow(worker, peer)
    scores, _ = objective(worker, peer, case.heads)
    check(scores_of(worker, case.heads), scores, LIMIT["float64"])


def vary(worker, random):
    """Gives what begins as all 0 or all 1 values of its own."""
    for parameter in worker.program.graph.parameters:
        if parameter.name.endswith((".b", ".bias1", ".scale", ".shift")):
            value = worker.engine.value(parameter.name)
            value += random.uniform(-0.2, 0.2, value.shape)


def follow(worker, peer):
    """Gives the peer all of dgraph's parameters and running statistics."""
    theirs = named(peer)
    kept = {tensor.name: worker.engine.value(tensor.name) for tensor in worker.program.graph.kept}
    assert kept.keys() == theirs.keys()
    with torch.no_grad():
        for name, value in kept.items():
            theirs[name][0].copy_(torch.tensor(value).reshape(theirs[name][0].shape))


def objective(worker, peer, heads):
    """({layer: scores}, the loss of all heads) of the peer on the batch that dgraph read."""
    outputs = peer(torch.tensor(worker.engine.value("data.raw_output")).double())
    scores = dict(zip(heads, outputs if isinstance(outputs, tuple) else (outputs,), strict=True))
    labels = torch.tensor(worker.engine.value("data.labels_output")).long()
    losses = {
        head: torch.nn.functional.cross_entropy(found, labels_for(found, labels)) for head, found in scores.items()
    }
    return scores, sum(weight * losses[head] for head, weight in heads.items())


def labels_for(scores, labels):
    """Class numbers without the dimension of channels, [N] or [N, D, H, W]."""
    return labels[:, 0] if scores.ndim > 2 else labels.reshape(-1)


def scores_of(worker, heads):
    """Layer -> its scores."""
    return {head: worker.engine.value(f"{head}.{'convA' if head == 'scores' else 'linear1A'}.output") for head in heads}


def gradients_of(worker):
    """Parameter -> its gradient."""
    names = [parameter.name for parameter in worker.program.graph.parameters]
    return {name: worker.engine.value(f"{name}.grad") for name in names}


def states_of(worker):
    """Running statistics by name."""
    return {t.name: worker.engine.value(t.name) for t in worker.program.graph.kept if t.role == "state"}


def check(ours, theirs, limit):
    """Each array is near its peer's, relative to the largest value."""
    assert ours.keys() == theirs.keys()
    off = {name: difference(value, plain(theirs[name], value)) for name, value in ours.items()}
    assert max(off.values(), default=0) <= limit, off


def check_all(ours, theirs, dtype):
    """As `check`; in float32, all arrays together, relative to their length: some gradients are 0 but for rounding."""
    if dtype == "float64":
        return check(ours, theirs, LIMIT[dtype])
    assert ours.keys() == theirs.keys()
    both = [(value, plain(theirs[name], value)) for name, value in ours.items()]
    off = sum(np.square(mine - other).sum() for mine, other in both)
    assert off <= LIMIT[dtype] ** 2 * sum(np.square(other).sum() for _, other in both)


def plain(tensor, like):
    """A torch tensor as an array of a shape."""
    return tensor.detach().numpy().reshape(like.shape)
