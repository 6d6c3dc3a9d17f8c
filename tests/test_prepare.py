"""Preparation: scikit-learn's numbers, the same on any mesh, a rect as the whole, kept in checkpoints."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import dgraph.fit
from dgraph.checkpoint import open_checkpoint
from dgraph.data import DataSpec, describe, open_source
from dgraph.data.prepare import Prepared, require_samples, steps_of
from dgraph.error import ConfigError, DataError
from dgraph.fit import Need, fit
from dgraph.predict import predict
from dgraph.rect import Rect
from dgraph.runtime.communicator import OneRank
from dgraph.runtime.thread import run_threads
from dgraph.train import train
from tests.networks import config_text, program
from tests.test_source import parts
from tests.workers import run, silent

IMAGES = DataSpec("synthetic", (3, 7, 6), classes=5, samples=60, seed=11, fit_batch=16)
CHOSEN = np.sort(np.random.default_rng(0).permutation(60)[:50])
FEATURE, CHANNEL = ({"standardize": {"per": per}} for per in ("feature", "channel"))
RANGE = {"min_max": {"per": "feature", "low": -1.0, "high": 3.0}}
CHANNEL_RANGE = {"min_max": {"per": "channel", "low": 0.0, "high": 1.0}}


def pca(components=5, whiten=False):
    return {"pca": {"components": components, "whiten": whiten}}


CHAINS = {
    "feature": (FEATURE,),
    "channel": (CHANNEL,),
    "range": (RANGE,),
    "channel range": (CHANNEL_RANGE,),
    "pca": (pca(),),
    "whitened": (pca(whiten=True),),
    "chain": (CHANNEL, FEATURE, pca(8), RANGE),
    "pca of pca": (pca(9), pca(4, True)),
}


def whole(spec):
    return Rect.whole(steps_of(spec.prepare, spec.shape)[-1].result_shape)


def prepared(spec, ranks=1, source=None, rect=None, dtype="float64"):
    """The source behind the fitted steps, as each rank has it."""
    source = source or open_source(spec)
    need = Need(rect or whole(spec), dtype)

    def body(communicator):
        return fit(source, spec, CHOSEN, need, communicator).prepared(source)

    return [body(OneRank())] if ranks == 1 else run_threads(ranks, body)


def values(source, indices=range(60)):
    return source.read(np.array(indices), Rect.whole(source.shape)).reshape(len(indices), -1)


def signed(ours, theirs):
    """Columns with the signs of others."""
    return ours * np.sign((ours * theirs).sum(0))


@pytest.mark.parametrize(("name", "peer"), [
    ("feature", StandardScaler()), ("range", MinMaxScaler((-1, 3))), ("pca", PCA(5)), ("whitened", PCA(5, whiten=True)),
])  # fmt: skip
def test_scikit_learn_has_the_same(name, peer):
    spec = replace(IMAGES, prepare=CHAINS[name])
    before = values(open_source(spec)).astype(np.float64)
    theirs = peer.fit(before[CHOSEN]).transform(before)
    ours = values(prepared(spec)[0])
    np.testing.assert_allclose(signed(ours, theirs) if peer.__class__ is PCA else ours, theirs, rtol=1e-4, atol=1e-5)


def test_channels_have_one_mean_and_deviation():
    spec = replace(IMAGES, prepare=(CHANNEL,))
    before = open_source(spec).read(np.arange(60), Rect.whole(spec.shape)).astype(np.float64)
    seen = before[CHOSEN]
    theirs = (before - seen.mean((0, 2, 3), keepdims=True)) / seen.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(values(prepared(spec)[0]), theirs.reshape(60, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ranks", [2, 3, 4, 6, 9])
@pytest.mark.parametrize("name", CHAINS)
def test_any_mesh_fits_alike(name, ranks):
    spec = replace(IMAGES, prepare=CHAINS[name])
    alone = values(prepared(spec)[0])
    for source in prepared(spec, ranks):
        np.testing.assert_allclose(values(source), alone, rtol=1e-6, atol=1e-6)


def test_samples_that_are_not_read_whole_fit_alike(monkeypatch):
    spec = replace(IMAGES, prepare=CHAINS["chain"])
    alone = values(prepared(spec)[0])
    monkeypatch.setattr(dgraph.fit, "BITE", 20)
    for ranks in (1, 3):
        np.testing.assert_allclose(values(prepared(spec, ranks)[0]), alone, rtol=1e-6, atol=1e-6)


class Counted:
    """A source that remembers which samples were read."""

    def __init__(self, source):
        self.source, self.read_of = source, []

    def __getattr__(self, name):
        return getattr(self.source, name)

    def read(self, indices, rect):
        self.read_of += indices.tolist()
        return self.source.read(indices, rect)


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_fit_reads_every_training_sample_once_a_step(ranks):
    spec = replace(IMAGES, prepare=(FEATURE, pca()))
    source = Counted(open_source(spec))
    prepared(spec, ranks, source)
    assert sorted(source.read_of) == sorted(2 * CHOSEN.tolist())


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(sorted(CHAINS)))
def test_a_rect_has_the_values_of_the_whole(data, name):
    spec = replace(IMAGES, prepare=CHAINS[name])
    if name not in FOUND:
        FOUND[name] = prepared(spec)[0]
    rect = parts(data.draw, whole(spec).size)
    indices = np.array(data.draw(st.lists(st.integers(0, 59), max_size=5)), np.int64)
    some = prepared(spec, rect=rect)[0].read(indices, rect)
    expected = FOUND[name].read(indices, whole(spec))[:, *rect.slices()]
    np.testing.assert_allclose(some, expected, rtol=1e-6, atol=1e-6)


FOUND: dict[str, Prepared] = {}


class Array:
    """Samples in an array."""

    def __init__(self, x):
        self.x, self.samples, self.shape = x, len(x), x.shape[1:]
        self.classes, self.label_shape = None, (1,) * (x.ndim - 1)

    def read(self, indices, rect):
        return self.x[indices][:, *rect.slices()]


def of_array(x, *steps, ranks=1, batch=10):
    spec = DataSpec("npz", x.shape[1:], samples=len(x), prepare=steps, fit_batch=batch)
    source, chosen = Array(x), np.arange(len(x))

    def body(communicator):
        return fit(source, spec, chosen, Need(whole(spec), "float64"), communicator)

    made = body(OneRank()) if ranks == 1 else run_threads(ranks, body)[0]
    return made, made.prepared(source).read(chosen, whole(spec))


def test_features_without_spread_become_zero():
    random = np.random.default_rng(0)
    x = np.stack([np.full(50, 0.1), np.full(50, 1e9 / 3), np.zeros(50), random.normal(1e9, 1.0, 50)], 1)
    standard = of_array(x, FEATURE)[1]
    assert (standard[:, :3] == 0).all()
    np.testing.assert_allclose(standard[:, 3], StandardScaler().fit_transform(x[:, 3:])[:, 0], atol=1e-6)
    ranged = of_array(x, RANGE)[1]
    assert (ranged[:, :3] == -1).all()
    projected = of_array(x[:, :3], pca(3, True))[1]
    np.testing.assert_allclose(projected, 0, atol=1e-6)


def test_components_beyond_the_rank_of_the_samples_are_zero():
    random = np.random.default_rng(1)
    x = random.normal(size=(80, 3)) @ random.normal(size=(3, 20))
    made, projected = of_array(x, pca(6, True))
    assert (projected[:, 3:] == 0).all()
    np.testing.assert_allclose(projected[:, :3].std(0, ddof=1), 1, rtol=1e-9)
    assert (made.needed[0]["variance"].array[3:] == 0).all()


SPECTRA = {
    "slow": lambda n: n**-0.25,
    "inverse": lambda n: n**-0.5,
    "fast": lambda n: n**-1.0,
    "steep": lambda n: 0.7**n,
}


@pytest.mark.parametrize("dim", [(600, 300), (300, 700), (900, 60)])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_explained_variance_is_that_of_exact_components(spectrum, dim):
    random, features = np.random.default_rng(2), dim[1]
    deviation = SPECTRA[spectrum](np.arange(1.0, features + 1))
    turn = np.linalg.qr(random.normal(size=(features, features)))[0]
    x = (random.normal(size=dim) * deviation) @ turn + 3 * random.normal(size=features)
    made, projected = of_array(x, pca(12), batch=64)
    exact = PCA(12, svd_solver="full").fit(x)
    total = np.var(x, 0, ddof=1).sum()
    assert abs(np.var(projected, 0, ddof=1).sum() / total - exact.explained_variance_ratio_.sum()) < 1e-3
    np.testing.assert_allclose(made.needed[0]["variance"].array, exact.explained_variance_, rtol=2e-2)
    components = made.needed[0]["components"].array
    np.testing.assert_allclose(components @ components.T, np.eye(12), atol=1e-6)


def test_more_components_than_samples_or_features_are_refused():
    with pytest.raises(ConfigError, match="12 of 10 features"):
        describe(DataSpec("synthetic", (10,), 2, 60, prepare=(pca(12),)))
    with pytest.raises(ConfigError, match="50 of 50 samples for training"):
        require_samples((FEATURE, pca(50)), 50)
    with pytest.raises(ConfigError, match="lie at places of the sample"):
        describe(replace(IMAGES, label_shape=(1, 7, 6), prepare=(pca(),)))


# --- in a run

LAYERS = [
    "{name: F1, linear: {features: 6}, nonlinearity: tanh, split: {K: p}}",
    "{name: out, softmax: {classes: 3}, split: {N: p}}",
]
IMAGE_LAYERS = ["{name: C1, conv: {channels: 3, size: 3, padding: 1}, split: {H: p}}", *LAYERS]


def text(
    ranks=1, steps="[{standardize: {per: channel}}, {pca: {components: 7, whiten: true}}]", layers=LAYERS, more=""
):
    made = config_text(
        layers, f"{{p: {ranks}}}", "[2, 9, 8]", batch=6, train="{optimizer: {sgd: {rate: 0.1}}, epochs: 2}"
    )
    shares = "shares: {train: 0.6, validation: 0.2, test: 0.2}"
    return made.replace("samples: 24", f"samples: 60, {shares}, fit_batch: 10, prepare: {steps}{more}")


@pytest.mark.parametrize(("steps", "layers", "more"), [
    ("[{standardize: {per: channel}}, {pca: {components: 7, whiten: true}}]", LAYERS, ""),
    ("[standardize]", IMAGE_LAYERS, ", augment: [{flip: {axis: HW}}, {shift: {H: 2}}, {crop: {W: 6}}], prefetch: true"),
])  # fmt: skip
def test_any_mesh_trains_alike_and_takes_the_checkpoint(steps, layers, more, tmp_path):
    results = {}
    for ranks in (1, 2, 3):
        made = program(text(ranks, steps, layers, more))
        results[ranks] = run(made, lambda worker, f=tmp_path / str(ranks): train(worker, silent(f)))[0]
    for ranks in (2, 3):
        assert results[ranks]["test"]["loss"] == pytest.approx(results[1]["test"]["loss"], rel=1e-8)

    def evaluated(worker):
        worker.load(tmp_path / "3", states=False)
        return worker.evaluate("test").result()["loss"], predict(worker, "test")

    for ranks in (1, 2, 4):
        loss, predicted = run(program(text(ranks, steps, layers, more)), evaluated)[0]
        assert loss == pytest.approx(results[3]["test"]["loss"], rel=1e-10)
        assert len(predicted["index"]) == 12


def test_a_checkpoint_holds_every_fitted_number_once(tmp_path):
    made = program(text(3))
    run(made, lambda worker: train(worker, silent(tmp_path)))
    checkpoint = open_checkpoint(tmp_path)
    found = {name: tensor.dim for name, tensor in checkpoint.tensors.items() if name.startswith("data.prepare.")}
    assert found == {
        "data.prepare.0.mean": (2, 1, 1),
        "data.prepare.0.deviation": (2, 1, 1),
        "data.prepare.1.mean": (2, 9, 8),
        "data.prepare.1.components": (7, 2, 9, 8),
        "data.prepare.1.variance": (7,),
    }
    for name, dim in found.items():
        assert sum(shard.rect.volume for shard in checkpoint._shards[name]) == np.prod(dim)


def test_going_on_fits_nothing_again(tmp_path, monkeypatch):
    short = text(2).replace("epochs: 2", "steps: 4")
    run(program(text(2)), lambda worker: train(worker, silent(tmp_path / "whole")))
    run(program(short), lambda worker: train(worker, silent(tmp_path / "part")))
    monkeypatch.setattr("dgraph.train.worker.fit", None)

    def go_on(worker):
        worker.load(tmp_path / "part", states=True)
        return train(worker, silent(tmp_path / "part"))

    resumed = run(program(text(2)), go_on)[0]
    whole_run, part = (open_checkpoint(tmp_path / name) for name in ("whole", "part"))
    for name, tensor in whole_run.tensors.items():
        ours, theirs = np.empty(tensor.dim), np.empty(tensor.dim)
        part.read(name, Rect.whole(tensor.dim), ours)
        whole_run.read(name, Rect.whole(tensor.dim), theirs)
        np.testing.assert_array_equal(ours, theirs)
    assert resumed["steps"] == 12


@pytest.mark.parametrize("steps", ["[]", "[{standardize: {per: feature}}, {pca: {components: 7, whiten: true}}]"])
def test_a_checkpoint_of_another_preparation_is_refused(steps, tmp_path):
    run(program(text(1)), lambda worker: train(worker, silent(tmp_path)))
    with pytest.raises(DataError) as caught:
        run(program(text(1, steps)), lambda worker: worker.load(tmp_path, states=False))
    was = "[{standardize: {per: channel}}, {pca: {components: 7, whiten: true}}]"
    assert str(caught.value).endswith(
        f"written with the preparation {was}, not {steps} (data.prepare must be as it was in training)"
    )


def test_specs_are_plain():
    made = program(text(1))
    assert made.data.shape == (7,)
    assert isinstance(made.config.data.prepare[0].options, MappingProxyType)


@pytest.mark.heavy
def test_a_large_fit_keeps_to_its_memory():
    program_path = Path(__file__).with_name("large_fit.py")
    done = subprocess.run([sys.executable, str(program_path), "20000"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["peak_gib"] <= 3
    assert len(found["variance"]) == 128
    assert (np.diff(found["variance"]) <= 0).all()
