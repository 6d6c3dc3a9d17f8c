"""Partial batches and steps of several batches: means over the samples that are there, whatever the layout."""

import numpy as np
import pytest

from dgraph.error import ConfigError
from dgraph.program import plan_summary
from dgraph.runtime.communicator import OneRank
from dgraph.train import Worker
from dgraph.verify import verify
from tests.networks import load, looked_at, program
from tests.peer import torch

# 11 samples in batches of 4: the last has 3. Every op that puts samples together is here: batch norm, losses, their metrics.
NORMED = """
dtype: float64
mesh: {p: 1}
data: {source: synthetic, shape: [2, 6, 5], classes: 3, batch: 4, samples: 11, shares: {train: 1}}
layers:
  - {name: one, conv: {channels: 4, size: 3, padding: 1}, norm: {batch: {momentum: 0.3}}, nonlinearity: relu, split: SPLIT}
  - {name: two, conv: {channels: 3, size: 3}, affine: {bias: C}, nonlinearity: tanh}
  - {name: flat, flatten: {}}
  - {name: norm, batch_norm: {}}
  - {name: out, softmax: {classes: 3, bias: true}}
train: {optimizer: {sgd: {rate: 0.2, momentum: 0.5}}, steps: 7}
"""
PLAIN = """
dtype: float64
mesh: {p: 1}
data: {source: synthetic, shape: [2, 6, 6], classes: 3, batch: 6, samples: 16, shares: {train: 1}}
layers:
  - {name: one, conv: {channels: 4, size: 3, padding: 1}, nonlinearity: relu, split: SPLIT}
  - {name: out, softmax: {classes: 3, bias: true}}
train: {optimizer: {adam: {rate: 0.05}}, steps: 7}
"""
SPLITS = {"batch": "{N: p}", "space": "{H: p}", "filters": "{O: p}", "channels": "{C: p}"}


def trained(text, *overrides):
    """A worker that has done the steps of a config, and the figures of each."""
    worker = Worker(program(text.replace("SPLIT", "{N: p}"), overrides), OneRank())
    batches = worker.training_batches(shuffle=True)
    figures = []
    while worker.step < worker.program.config.train.steps:
        metrics = worker.new_metrics()
        metrics.add(worker.train_step(batches.indices(*divmod(worker.step, batches.steps))))
        figures.append(metrics.result())
    return worker, figures


def parameters(worker):
    return {parameter.name: worker.engine.value(parameter.name).copy() for parameter in worker.program.graph.kept}


class Peer(torch.nn.Module):
    """NORMED by hand."""

    def __init__(self):
        super().__init__()
        self.one, self.two = torch.nn.Conv2d(2, 4, 3, padding=1, bias=False), torch.nn.Conv2d(4, 3, 3)
        self.first, self.second = torch.nn.BatchNorm2d(4, momentum=0.3), torch.nn.BatchNorm1d(36)
        self.out = torch.nn.Linear(36, 3)

    def forward(self, x):
        hidden = torch.tanh(self.two(torch.relu(self.first(self.one(x)))))
        return self.out(self.second(hidden.flatten(1)))

    def named(self):
        return {
            "one.W": self.one.weight,
            "one.scale": self.first.weight,
            "one.shift": self.first.bias,
            "one.running_mean": self.first.running_mean,
            "one.running_variance": self.first.running_var,
            "two.W": self.two.weight,
            "two.b": self.two.bias,
            "norm.scale": self.second.weight,
            "norm.shift": self.second.bias,
            "norm.running_mean": self.second.running_mean,
            "norm.running_variance": self.second.running_var,
            "out.weights1": self.out.weight,
            "out.bias1": self.out.bias,
        }


def test_an_epoch_with_a_partial_batch_is_that_of_pytorch():
    worker = Worker(looked_at(program(NORMED.replace("SPLIT", "{N: p}"))), OneRank())
    peer = Peer().double()
    with torch.no_grad():
        for name, value in peer.named().items():
            value.copy_(torch.from_numpy(worker.engine.value(name)).reshape(value.shape))
    rule, batches = torch.optim.SGD(peer.parameters(), lr=0.2, momentum=0.5), worker.training_batches(shuffle=True)
    fed = next(iter(worker.program.graph.ops.values()))
    for step in range(7):
        indices = batches.indices(*divmod(step, batches.steps))
        loss = worker.train_step(indices)[0]
        x, y = (torch.from_numpy(worker.engine.value(tensor)[indices >= 0]) for _, tensor in fed.outputs)
        rule.zero_grad()
        wanted = torch.nn.functional.cross_entropy(peer(x), y.flatten().long())
        wanted.backward()
        rule.step()
        assert loss == pytest.approx(wanted.item(), rel=1e-9)
    for name, value in peer.named().items():
        ours = worker.engine.value(name)
        np.testing.assert_allclose(ours, value.detach().numpy().reshape(ours.shape), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize("split", SPLITS)
def test_partial_batches_train_alike_on_any_mesh(ranks, split):
    found = verify(load(NORMED.replace("SPLIT", SPLITS[split]), [f"mesh.p={ranks}"]), 6)
    assert found["worst"] < 1e-10


def test_batches_of_a_step_add_up_to_one():
    whole, wanted = trained(PLAIN)
    for size, count in ((3, 2), (2, 3), (1, 6)):
        worker, figures = trained(PLAIN, f"data.batch={size}", f"train.accumulate={count}")
        for name, value in parameters(whole).items():
            np.testing.assert_allclose(parameters(worker)[name], value, rtol=1e-9, atol=1e-12)
        for ours, theirs in zip(figures, wanted, strict=True):
            assert ours == pytest.approx(theirs)


def test_figures_of_real_targets_add_up():
    text = PLAIN.replace("classes: 3, ", "label_shape: [2], ", 1).replace(
        "{name: out, softmax: {classes: 3, bias: true}}",
        "{name: l, linear: {features: 2}}\n  - {name: out, squared_error: {}}",
    )
    _, wanted = trained(text)
    _, figures = trained(text, "data.batch=2", "train.accumulate=3")
    for ours, theirs in zip(figures, wanted, strict=True):
        assert ours == pytest.approx(theirs)


@pytest.mark.parametrize("shard", ["true", "false"])
@pytest.mark.parametrize("split", SPLITS)
def test_steps_of_several_batches_train_alike_on_any_mesh(split, shard):
    text = NORMED.replace("SPLIT", SPLITS[split])
    overrides = ["mesh.p=3", "data.batch=3", "train.accumulate=2", f"train.shard={shard}"]
    assert verify(load(text, overrides), 5)["worst"] < 1e-10


def test_dropout_differs_from_batch_to_batch():
    text = PLAIN.replace("  - {name: out", "  - {name: drop, dropout: {rate: 0.5}}\n  - {name: out")
    worker = Worker(looked_at(program(text.replace("SPLIT", "{N: p}"), ["train.accumulate=2"])), OneRank())
    batches, mask = (
        worker.training_batches(shuffle=True),
        dict(worker.program.graph.ops["drop.dropout"].outputs)["mask"],
    )
    metrics, seen = worker.metrics, []

    def behind_a_batch():
        seen.append((worker.engine.moment.step, worker.engine.store.writing(mask)[1].tobytes()))
        return metrics()

    worker.metrics = behind_a_batch
    for epoch, step in ((0, 0), (0, 1), (1, 0)):
        worker.train_step(batches.indices(epoch, step))
    # 12 samples are two batches, the last 4 of the epoch are one.
    assert [number for number, _ in seen] == [1, 2, 3, 5, 6]
    assert len({kept for _, kept in seen}) == 5


def test_gradients_travel_once_a_step():
    text = PLAIN.replace("SPLIT", "{H: p}")
    once, often = (plan_summary(program(text, ["mesh.p=2", f"train.accumulate={n}"]), [0])["ranks"][0] for n in (1, 3))
    for name, entry in often["tensors"].items():
        times = 1 if name.endswith((".W.grad", ".b.grad", ".weights1.grad", ".bias1.grad")) else 3
        assert entry["messages"] == times * once["tensors"][name]["messages"], name
        assert entry["sent_nbytes"] == times * once["tensors"][name]["sent_nbytes"], name
    assert once["tensors"]["one.W.grad"]["sent_nbytes"]


def test_a_statistic_that_cannot_tell_samples_apart_is_refused():
    there, back = "{name: turn, transpose: {order: CNHW}}", "{name: back, transpose: {order: CNHW}}"
    turned = NORMED.replace(
        "  - {name: flat", f"  - {there}\n  - {{name: other, batch_norm: {{}}}}\n  - {back}\n  - {{name: flat"
    )
    with pytest.raises(
        ConfigError, match=r"node other\.mean: a statistic over N of turn\.transpose\.output, whose rows"
    ):
        program(turned.replace("SPLIT", "{N: p}"))
    program(turned.replace("SPLIT", "{N: p}"), ["data.samples=12"])
