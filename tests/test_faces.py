"""From files of faces to trained networks: the configs that need a folder of images, on one that is drawn."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dgraph.config import load_config, to_yaml
from dgraph.program import compile_config
from dgraph.runtime.communicator import OneRank
from dgraph.runtime.thread import run_threads
from dgraph.train import TrainOptions, Worker, train
from tests.runs import ALONE, CONFIGS

pytest.importorskip("PIL")
TOOL = Path(__file__).parent.parent / "tools" / "draw_faces.py"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path not in ALONE)
OPTIONS = TrainOptions(folder=None, report=lambda entry: None)
FEW = ("data.batch=16", "data.prepare=[{standardize: {}}, {pca: {components: 8, whiten: true}}]", "train.epochs=2")


def drawn(folder, count):
    subprocess.run([sys.executable, TOOL, folder, "--count", str(count)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """The override that names 60 faces."""
    return f"data.path={drawn(tmp_path_factory.mktemp('faces') / 'few', 60)}"


def trained(name, ranks, overrides):
    """The result, and the losses of the epochs."""
    program, losses = compile_config(load_config(CONFIGS / f"{name}.yaml", overrides, ranks)), []
    options = TrainOptions(None, lambda entry: losses.append(entry["train"]["loss"]))
    one = OPTIONS if ranks > 1 else options
    if ranks == 1:
        return train(Worker(program, OneRank()), one), losses
    found = run_threads(ranks, lambda c: train(Worker(program, c), options if c.rank == 0 else OPTIONS), 120.0)
    return found[0], losses


def test_there_are_configs_of_faces():
    assert NAMES == ["faces", "faces_race", "faces_tune"]


@pytest.mark.parametrize("name", NAMES)
def test_the_node_form_loads_back_to_the_same_program(name, faces, tmp_path):
    once = compile_config(load_config(CONFIGS / f"{name}.yaml", [faces, *FEW]))
    (tmp_path / "nodes.yaml").write_text(to_yaml(once.expanded()))
    assert compile_config(load_config(tmp_path / "nodes.yaml")).digest() == once.digest()


@pytest.mark.parametrize("name", ["faces", "faces_race"])
def test_several_ranks_learn_what_one_does(name, faces):
    overrides = (faces, *FEW, "dtype=float64")
    result, losses = trained(name, 1, overrides)
    other, others = trained(name, 3, overrides)
    np.testing.assert_allclose(others, losses, rtol=1e-6)
    assert other["test"]["loss"] == pytest.approx(result["test"]["loss"], rel=1e-6)


def test_what_was_read_may_be_kept(faces):
    """The same bits; a sample is read again only for another epoch's change."""
    kept = [trained("faces", 1, (faces, *FEW, f"data.keep={keep}")) for keep in ("true", "false")]
    assert kept[0][1] == kept[1][1]
    assert kept[0][0]["test"] == kept[1][0]["test"]
    worker = Worker(
        compile_config(load_config(CONFIGS / "faces.yaml", (faces, *FEW, "data.prefetch=false"))), OneRank()
    )
    read, source = [], worker.source.read
    object.__setattr__(worker.source, "read", lambda indices, rect: read.extend(indices) or source(indices, rect))
    worker.prepare()
    read.clear()
    train(worker, OPTIONS)
    assert sorted(read) == list(range(60))


def test_another_worker_takes_over_what_is_the_same(faces):
    def body(communicator):
        config = load_config(CONFIGS / "faces.yaml", (faces, *FEW), communicator.size)
        first = Worker(compile_config(config), communicator)
        train(first, OPTIONS)
        found = []
        for change in ("train.epochs=1", "seed=1", "layers.hidden.split={C: p}"):
            other = load_config(CONFIGS / "faces.yaml", (faces, *FEW, change), communicator.size)
            worker = Worker(compile_config(other), communicator)
            worker.take_over(first.ready)
            worker.prepare()
            found.append(worker.ready is first.ready)
        return found

    assert run_threads(2, body, 120.0) == [[True, False, False]] * 2


@pytest.mark.heavy
def test_the_homework(tmp_path):
    """JPEGs to a trained network by one command on 4 ranks; the tables by one search; zeros are no way to begin."""
    folder = drawn(tmp_path / "faces", 5000)

    def told(*words):
        command = [
            sys.executable,
            "-m",
            "dgraph",
            *map(str, words),
            "--set",
            f"data.path={folder}",
            "--json",
            "--no-pictures",
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
        return json.loads(done.stdout.splitlines()[-1])

    ages = np.array([int(path.name.split("_")[0]) for path in folder.iterdir()])
    assert told("train", CONFIGS / "faces.yaml", "-n", 4)["test"]["rmse"] < 0.7 * ages.std()
    race = told("train", CONFIGS / "faces_race.yaml", "-n", 4)["test"]
    assert race["accuracy"] > 0.7
    rows = {
        row["name"]: row["test"]["mean"]
        for row in told("tune", CONFIGS / "faces_tune.yaml", "-n", 4, "--side", 2)["trials"]
    }
    assert rows["init zero"] > 0.9 * ages.std()
    assert max(value for name, value in rows.items() if name != "init zero") < 0.7 * ages.std()
    assert len(rows) == 9
