"""The commands: what they promise with --json, and what they do without."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dgraph.cli.line import result_line
from dgraph.cli.main import COMMANDS, main
from dgraph.config import load_config
from dgraph.layout.dump import dump
from dgraph.ops import OPS
from dgraph.program import compile_config
from tests.networks import SPATIAL, config_text
from tests.runs import ALONE, CONFIGS

GOLDEN = yaml.safe_load((Path(__file__).parent / "golden/seed_trace_rank3.yaml").read_text())
MEASURES = {"loss", "accuracy", "top5", "samples"}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "net.yaml"
    path.write_text(config_text(SPATIAL, train="{optimizer: {sgd: {rate: 0.1, momentum: 0.5}}, steps: 2}"))
    return path


@pytest.fixture
def one_rank(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(config_text(SPATIAL, "{y: 1, x: 1}", train="{optimizer: {adam: {rate: 0.1}}, steps: 2}"))
    return path


@pytest.fixture
def result(capsys):
    """Runs a command in this process; its last line as the object that it is."""

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main([*map(str, arguments), "--json"])
        out, error = capsys.readouterr()
        assert (exit_.value.code, error) == (0, "")
        return json.loads(out.splitlines()[-1])

    return call


def test_train_evaluate_predict(result, one_rank, tmp_path):
    run = tmp_path / "run"
    trained = result("train", one_rank, "--run", run)
    assert {"seconds", "steps", "train", "validation", "test", "run"} <= trained.keys()
    assert trained["steps"] == 2
    assert trained["train"].keys() == trained["validation"].keys() == MEASURES
    assert trained["test"].keys() == MEASURES | {"confusion"}
    measured = result("evaluate", one_rank, "--checkpoint", run)
    assert measured == {"subset": "test", **trained["test"]}
    told = result("predict", one_rank, "--checkpoint", run, "-o", tmp_path / "out.npz")
    assert told == {"output": str(tmp_path / "out.npz"), "samples": trained["test"]["samples"]}


def test_predict_into_a_folder_that_is_not_there(result, one_rank, tmp_path, capsys):
    result("train", one_rank, "--run", tmp_path / "run")
    with pytest.raises(SystemExit) as exit_:
        main(["predict", str(one_rank), "--checkpoint", str(tmp_path / "run"), "-o", str(tmp_path / "no/out.npz")])
    assert exit_.value.code == 4
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/no/out.npz")


def test_check(result, config):
    told = result("check", config)
    assert told["ok"] is True
    assert told["findings"] == []
    assert len(told["peak_nbytes"]) == told["ranks"] == 4


def test_plan(result, config):
    ranks = result("plan", config)["ranks"]
    assert [entry["rank"] for entry in ranks] == [0, 1, 2, 3]
    for entry in ranks:
        assert entry["peak_nbytes"] == sum(entry["memory"].values()) > 0
        assert entry["sent_nbytes"] == sum(tensor["sent_nbytes"] for tensor in entry["tensors"].values()) > 0
        assert entry["messages"] == sum(tensor["messages"] for tensor in entry["tensors"].values()) > 0
    assert result("plan", config, "--rank", 2)["ranks"] == [ranks[2]]


def test_verify(result, config):
    told = result("verify", config, "--steps", 2)
    assert told["ok"] is True
    assert told["worst"] <= told["limit"] == 1e-10


def test_doctor(result):
    assert {"mpi", "ranks", "threads", "blas", "messages_intact"} <= result("doctor").keys()


@pytest.mark.parametrize("stage", ["config", "graph", "layout", "plan", "schedule"])
def test_show(result, config, stage):
    assert result("show", config, "--stage", stage)


@pytest.mark.parametrize("name", [path.stem for path in ALONE])
def test_the_node_form_loads_back_to_the_same_program(name, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["show", str(CONFIGS / f"{name}.yaml"), "--stage", "graph"])
    (tmp_path / "nodes.yaml").write_text(capsys.readouterr().out)
    again, once = (compile_config(load_config(path)) for path in (tmp_path / "nodes.yaml", CONFIGS / f"{name}.yaml"))
    assert again.expanded() == once.expanded()
    assert again.digest() == once.digest()
    assert dump(again.layout, 0, OPS) == dump(once.layout, 0, OPS)


def test_trace_has_the_keys_of_the_reference(result):
    reference = CONFIGS / "reference.yaml"
    told = result("trace", reference, "--rank", 3)
    assert told.keys() == GOLDEN.keys()
    for part in ("ops", "tensors"):
        assert {name: set(node) for name, node in told[part].items()} == {
            name: set(node) for name, node in GOLDEN[part].items()
        }


def test_trace_prints_json(config, capsys):
    for extra in ([], ["-o", str(config.parent / "trace.json")]):
        with pytest.raises(SystemExit):
            main(["trace", str(config), "--format", "json", "--rank", "1", *extra])
    assert json.loads(capsys.readouterr().out) == json.loads((config.parent / "trace.json").read_text())


def imported(*arguments):
    """The modules that a command in a process of its own has loaded at its end."""
    code = (
        "import sys, atexit, json; atexit.register(lambda: print('\\n' + json.dumps(sorted(sys.modules))))\n"
        "import runpy; sys.argv[0] = 'dgraph'; runpy.run_module('dgraph', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("command", ["check", "plan", "trace", "show", "summary"])
def test_planning_loads_no_mpi(command, config):
    modules = imported(command, config)
    assert "mpi4py" not in modules
    assert "numpy" in modules


def test_help_loads_nothing_heavy():
    assert not {"numpy", "rich", "yaml", "mpi4py"} & imported("--help")


def test_a_rank_loads_nothing_that_only_plans_are_shown_with(one_rank, tmp_path):
    modules = imported("train", one_rank, "--run", tmp_path / "run")
    assert not {"rich", "mpi4py", "dgraph.layout.picture", "dgraph.verify"} & modules


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith(f"Usage: dgraph {command}")


@pytest.mark.parametrize("labels", ["classes: 3", "label_shape: [1]"])
def test_a_confusion_matrix_is_shown_where_there_is_one(labels, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loss = "squared_error: {}" if "shape" in labels else "cross_entropy: {}"
    text = f"""
data: {{source: synthetic, shape: [2], {labels}, batch: 4, samples: 12, shares: {{train: 0.5, test: 0.5}}}}
layers:
  - {{name: l, linear: {{features: {1 if "shape" in labels else 3}}}}}
  - {{name: out, {loss}}}
train: {{optimizer: {{sgd: {{rate: 0.1}}}}, steps: 2}}
"""
    Path("net.yaml").write_text(text)
    for words in (["train", "net.yaml", "--run", "run"], ["evaluate", "net.yaml", "--checkpoint", "run"]):
        with pytest.raises(SystemExit) as left:
            main([*words, "--confusion"])
        out = capsys.readouterr().out
        assert left.value.code == 0
        assert out.count("label \\ found  0  1  2") == (labels == "classes: 3")


@pytest.mark.parametrize("words", [["evaluate"], ["predict", "-o", "out.npz"]])
def test_a_subset_without_samples_is_not_measured(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.yaml").write_text("""
data: {source: synthetic, shape: [2], classes: 3, batch: 4, samples: 12, shares: {train: 1}}
layers: [{name: out, softmax: {classes: 3}}]
train: {optimizer: {sgd: {rate: 0.1}}, steps: 2}
""")
    for command, status in (
        (["train", "net.yaml", "--run", "run"], 0),
        ([*words, "net.yaml", "--checkpoint", "run"], 4),
    ):
        with pytest.raises(SystemExit) as left:
            main(command)
        assert left.value.code == status
    expected = "net.yaml:2:82: error: the subset test has no samples (data.shares.test)"
    assert capsys.readouterr().err.splitlines()[-1] == expected
    assert not Path("out.npz").exists()


def test_numbers_that_are_not_finite_are_null_in_a_result(capsys):
    result_line({"loss": float("nan"), "heads": {"a": {"r2": float("inf")}}, "samples": 3})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "loss": None, "heads": {"a": {"r2": None}}, "samples": 3,
    }  # fmt: skip


def test_output_that_is_read_no_further(one_rank, tmp_path):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "dgraph", "train", str(one_rank), "--run", str(tmp_path / "run")]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "nobody reads the output any more\n")
