"""Training with every optimizer, schedule, penalty, clipping and average against PyTorch, and against papers where it has none."""

import json
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.program import rate_of
from dgraph.runtime.communicator import OneRank
from dgraph.train import Worker
from tests.networks import load, looked_at, program
from tests.peer import torch

STEPS = 20
CONFIG = """
dtype: {dtype}
seed: {seed}
data: {{source: synthetic, shape: [6], classes: 4, batch: 5, samples: 20, shares: {{train: 1, validation: 0, test: 0}}}}
layers:
  - {{name: one, linear: {{features: 7}}, nonlinearity: {{prelu: {{spans: C}}}}}}
  - {{name: two, linear: {{features: 5}}, norm: layer, nonlinearity: tanh}}
  - {{name: out, softmax: {{classes: 4, bias: true}}}}
parameters: {{two.W: {{rate: {factor}, penalty: {special}}}}}
train: {train}
"""
WEIGHTS = ("one.W", "two.W", "out.weights1")
EPOCH = 4


Draft = namedtuple("Draft", "dtype seed factor special train")
OPTIMIZERS = {
    "sgd": {
        "rate": st.floats(0.01, 0.2),
        "momentum": st.sampled_from([0.0, 0.9]),
        "dampening": st.sampled_from([0.0, 0.3]),
        "nesterov": st.booleans(),
    },
    "rmsprop": {
        "rate": st.floats(1e-3, 0.02),
        "alpha": st.sampled_from([0.9, 0.99]),
        "epsilon": st.sampled_from([1e-3, 1e-2]),
        "momentum": st.sampled_from([0.0, 0.5]),
        "centered": st.booleans(),
    },
    "adam": {"rate": st.floats(1e-3, 0.02), "beta1": st.sampled_from([0.0, 0.9]), "epsilon": st.sampled_from([1e-3, 1e-2])},
    "adamw": {"rate": st.floats(1e-3, 0.02), "beta2": st.just(0.9), "epsilon": st.just(1e-3), "decay": st.floats(0, 0.1)},
    "lars": {"rate": st.floats(0.05, 0.5), "momentum": st.sampled_from([0.0, 0.9]), "decay": st.floats(0, 0.1),
             "trust": st.just(0.01)},
    "lamb": {"rate": st.floats(1e-3, 0.02), "epsilon": st.sampled_from([1e-3, 1e-2]), "decay": st.floats(0, 0.1)},
}  # fmt: skip
SCHEDULES = {
    "constant": {},
    "inverse": {"decay": st.floats(0, 0.5)},
    "exponential": {"decay": st.floats(0.5, 1)},
    "step": {"every": st.integers(1, 6), "factor": st.floats(0.1, 0.9)},
    "piecewise": {"at": st.just([2, 5]), "factors": st.just([0.5, 0.25])},
    "polynomial": {"length": st.integers(1, 30), "power": st.floats(0.5, 3)},
    "cosine": {"length": st.integers(1, 30), "minimum": st.floats(0, 1e-3), "restart": st.sampled_from([None, 1, 2])},
}


@st.composite
def schedules(draw):
    kind = draw(st.sampled_from(sorted(SCHEDULES)))
    options = {key: draw(value) for key, value in SCHEDULES[kind].items()}
    if kind != "constant":
        options["per"] = draw(st.sampled_from(["epoch", "step"]))
    return {kind: options}


@st.composite
def drafts(draw, kind):
    """A network, and how it is trained."""
    options = {key: draw(value) for key, value in OPTIMIZERS[kind].items()}
    if options.get("nesterov") and (not options["momentum"] or options["dampening"]):
        options["nesterov"] = False
    if kind in ("adamw", "lars", "lamb"):
        options["biases"] = draw(st.booleans())
    train = {"optimizer": {kind: options}, "schedule": draw(schedules()), "steps": STEPS}
    if draw(st.booleans()):
        train["warmup"] = {"steps": draw(st.integers(1, 6)), "from": draw(st.floats(0, 1)), "shift": True}
    if kind != "lars" and draw(st.booleans()):
        train["penalty"] = {
            "l1": draw(st.sampled_from([0.0, 0.001])),
            "l2": draw(st.floats(0, 0.1)),
            "biases": draw(st.booleans()),
        }
    if draw(st.booleans()):
        train["clip"] = draw(st.floats(0.05, 2))
    train["scale_rate"] = draw(st.sampled_from([None, 10]))
    kind, every = draw(st.sampled_from(["mean", "exponential"])), draw(st.sampled_from(["step", "epoch"]))
    train["average"] = {
        kind: {"from": draw(st.integers(0, 3)), "every": every} | ({"decay": 0.6} if kind == "exponential" else {})
    }
    dtype, seed = draw(st.sampled_from(["float32", "float64"])), draw(st.integers(0, 99))
    return Draft(
        dtype, seed, draw(st.sampled_from([1.0, 0.5])), draw(st.sampled_from(["true", "false", "null"])), train
    )


class Ours:
    """The network as dgraph trains it, on one rank."""

    def __init__(self, draft):
        text = CONFIG.format(**draft._asdict() | {"train": json.dumps(draft.train)})
        self.worker = Worker(looked_at(program(text)), OneRank())
        self.names = [parameter.name for parameter in self.worker.program.graph.parameters]
        self.batches = self.worker.batches("train", shuffle=True)

    def values(self):
        return {name: self.worker.engine.value(name).copy() for name in self.names}

    def averages(self):
        with self.worker.engine.averaged():
            return self.values()

    def step(self):
        """One step; its batch, rate and gradients."""
        engine = self.worker.engine
        epoch, at = divmod(self.worker.step, self.batches.steps)
        self.worker.train_step(self.batches.indices(epoch, at))
        tensors = {port: engine.value(tensor).copy() for port, tensor in engine.graph.ops["data"].outputs}
        gradients = {name: engine.value(f"{name}.grad").copy() for name in self.names}
        return tensors["raw_data"], tensors["labels"], engine.moment.rate, gradients


class Theirs:
    """The same network in PyTorch."""

    def __init__(self, draft, values):
        self.draft, self.train = draft, draft.train
        self.values = {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}
        ((self.kind, self.options),) = self.train["optimizer"].items()
        self.optimizer = None if self.kind in ("lars", "lamb") else self._optimizer()
        self.states = {name: {} for name in values}
        self.step = 0

    def penalised(self, name, every):
        if name == "two.W" and self.draft.special != "null":
            return self.draft.special == "true"
        return every or name in WEIGHTS

    def factor(self, name):
        return self.draft.factor if name == "two.W" else 1.0

    def _optimizer(self):
        options = {key: value for key, value in self.options.items() if key not in ("biases", "rate")}
        penalty = self.train.get("penalty", {"l2": 0.0, "biases": False})
        names = {"beta1": "betas", "beta2": "betas", "epsilon": "eps", "decay": "weight_decay"}
        if self.kind in ("adam", "adamw"):
            options["beta1"] = (options.pop("beta1", 0.9), options.pop("beta2", 0.999))
        made = {names.get(key, key): value for key, value in options.items()}
        decay = made.pop("weight_decay", penalty["l2"])
        every = self.options["biases"] if self.kind == "adamw" else penalty["biases"]
        groups = [
            {"params": [value], "weight_decay": decay if self.penalised(name, every) else 0.0}
            for name, value in self.values.items()
        ]
        return {"sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop, "adam": torch.optim.Adam,
                "adamw": torch.optim.AdamW}[self.kind](groups, lr=1.0, **made)  # fmt: skip

    def loss(self, x, labels):
        v = {name.split(".", 1)[0] + "_" + name.rsplit(".", 1)[1]: value for name, value in self.values.items()}
        x = torch.nn.functional.prelu(
            torch.nn.functional.linear(x, v["one_W"].reshape(7, 6), v["one_b"].reshape(7)), v["one_slope"].reshape(7)
        )
        x = torch.nn.functional.linear(x, v["two_W"].reshape(5, 7))
        x = torch.tanh(torch.nn.functional.layer_norm(x, (5,), v["two_scale"].reshape(5), v["two_shift"].reshape(5)))
        x = torch.nn.functional.linear(x, v["out_weights1"].reshape(4, 5), v["out_bias1"].reshape(4))
        return torch.nn.functional.cross_entropy(x, torch.tensor(labels.reshape(-1).astype(int)))

    def one_step(self, x, labels, rate, gradients):
        """In float32 with our gradients: what rounding makes of them is not the optimizer's."""
        self.step += 1
        for name, value in self.values.items():
            value.grad = torch.tensor(gradients[name]) if self.draft.dtype == "float32" else None
        if self.draft.dtype == "float64":
            self.loss(torch.tensor(x.reshape(len(x), 6)), labels).backward()
        if "clip" in self.train:
            torch.nn.utils.clip_grad_norm_([*self.values.values()], self.train["clip"])
        self._penalise()
        if self.optimizer is None:
            with torch.no_grad():
                for name, value in self.values.items():
                    self._by_paper(name, value, rate * self.factor(name))
            return
        for name, group in zip(self.values, self.optimizer.param_groups, strict=True):
            group["lr"] = rate * self.factor(name)
        self.optimizer.step()

    def _penalise(self):
        """What PyTorch's optimizers do not add: l1; and l2 where weight_decay is the decoupled one."""
        penalty = self.train.get("penalty")
        for name, value in self.values.items():
            if penalty and self.penalised(name, penalty["biases"]):
                value.grad += penalty["l1"] * value.detach().sign()
                if self.kind in ("adamw", "lamb"):
                    value.grad += penalty["l2"] * value.detach()

    def _by_paper(self, name, w, rate):
        adapted, state, g = self.penalised(name, self.options["biases"]), self.states[name], w.grad
        decay = self.options["decay"] if adapted else 0.0
        if self.kind == "lars":
            ratio = self.options["trust"] * w.norm() / (g.norm() + decay * w.norm()) if adapted and w.norm() else 1.0
            v = state["v"] = self.options["momentum"] * state.get("v", 0.0) + rate * ratio * (g + decay * w)
            w -= v
            return
        m = state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
        v = state["v"] = 0.999 * state.get("v", 0.0) + 0.001 * g * g
        r = (m / (1 - 0.9**self.step)) / ((v / (1 - 0.999**self.step)).sqrt() + self.options["epsilon"]) + decay * w
        w -= rate * (w.norm() / r.norm() if adapted and w.norm() and r.norm() else 1.0) * r


def torch_rates(train, base, count):
    """The rates of so many steps as PyTorch's schedulers have them, an epoch of EPOCH steps."""
    ((kind, options),) = train["schedule"].items()
    every = EPOCH if options.get("per") == "epoch" else 1
    scale = 5 / train["scale_rate"] if train["scale_rate"] else 1.0
    warmup = train.get("warmup", {"steps": 0, "from": 1.0})
    make = {
        "constant": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1.0),
        "inverse": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + options["decay"] * t)),
        "exponential": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, options["decay"]),
        "step": lambda o: torch.optim.lr_scheduler.StepLR(o, options["every"], options["factor"]),
        "piecewise": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1.0 if t < 2 else 0.5 if t < 5 else 0.25),
        "polynomial": lambda o: torch.optim.lr_scheduler.PolynomialLR(o, options["length"], options["power"]),
        "cosine": lambda o: (
            torch.optim.lr_scheduler.CosineAnnealingLR(o, options["length"], options["minimum"])
            if options["restart"] is None
            else torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
                o, options["length"], options["restart"], options["minimum"]
            )
        ),
    }
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=base)
    scheduler, rates = make[kind](optimizer), []
    first = optimizer.param_groups[0]["lr"]
    for step in range(count):
        behind = step - warmup["steps"]
        if behind < 0:
            rates.append(scale * first * (warmup["from"] + (1 - warmup["from"]) * step / warmup["steps"]))
            continue
        if behind and behind % every == 0:
            optimizer.step()
            scheduler.step()
        rates.append(scale * optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
def test_twenty_steps_are_those_of_pytorch(kind):
    @settings(max_examples=15, deadline=None)
    @given(drafts(kind))
    def compared(draft):
        ours = Ours(draft)
        theirs, limit = Theirs(draft, ours.values()), 1e-12 if draft.dtype == "float64" else 1e-6
        rates = torch_rates(draft.train, draft.train["optimizer"][kind]["rate"], STEPS)
        average, taken = None, 0
        ((averaging, how),) = draft.train["average"].items()
        for step in range(STEPS):
            x, labels, rate, gradients = ours.step()
            assert rate == pytest.approx(rates[step], rel=1e-12)
            theirs.one_step(x, labels, rates[step], gradients)
            if step >= how["from"] * EPOCH and (how["every"] == "step" or (step + 1) % EPOCH == 0):
                taken += 1
                share = 1 / taken if averaging == "mean" or taken == 1 else 0.4
                values = {name: value.detach().double().numpy().copy() for name, value in theirs.values.items()}
                average = {
                    n: v if average is None else average[n] + share * (v - average[n]) for n, v in values.items()
                }
        expected = {name: value.detach().numpy() for name, value in theirs.values.items()}
        for found, wanted in ((ours.values(), expected), (ours.averages(), average or expected)):
            for name, value in found.items():
                np.testing.assert_allclose(value, wanted[name], rtol=limit, atol=limit, err_msg=name)

    compared()


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=100, deadline=None)
@given(schedules(), st.integers(0, 9), st.floats(0, 1), st.sampled_from([None, 10, 3]))
def test_sixty_rates_are_those_of_pytorch(schedule, warmup, start, scale):
    train = {"optimizer": {"sgd": {"rate": 0.3}}, "schedule": schedule, "scale_rate": scale, "steps": 60}
    if warmup:
        train["warmup"] = {"steps": warmup, "from": start}
    config = load(CONFIG.format(dtype="float64", seed=0, factor=1.0, special="null", train=json.dumps(train)))
    rate = rate_of(config, EPOCH)
    np.testing.assert_allclose([rate(step) for step in range(60)], torch_rates(train, 0.3, 60), rtol=1e-12, atol=1e-15)
