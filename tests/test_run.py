"""The run folder: nothing before the first write, whole texts, whole lines."""

import json
import re

import numpy as np
import pytest

from dgraph.error import DataError
from dgraph.run import RunFolder, environment


def lines(folder):
    return [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]


def test_nothing_is_created_until_the_first_write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(None, "digits")
    assert re.fullmatch(r"runs/digits-\d{8}T\d{6}Z", str(folder.path))
    assert not list(tmp_path.iterdir())
    folder.write_text("config.yaml", "name: digits\n")
    assert (folder.path / "config.yaml").read_text() == "name: digits\n"
    assert [path.name for path in folder.path.iterdir()] == ["config.yaml"]


def test_every_run_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(3):
        RunFolder(None, "digits").write_text("a", "")
    assert len(list((tmp_path / "runs").iterdir())) == 3


def test_a_name_taken_in_the_meantime_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(None, "digits")
    folder.path.mkdir(parents=True)
    with pytest.raises(DataError, match="File exists"):
        folder.write_text("a", "")


def test_a_given_path_is_gone_on_with(tmp_path):
    for text in ("one", "two"):
        RunFolder(tmp_path / "here" / "run", "x").write_text("a", text)
    assert (tmp_path / "here" / "run" / "a").read_text() == "two"


def test_metrics_are_one_object_a_line(tmp_path):
    folder = RunFolder(tmp_path, "x")
    folder.append_metrics({"step": np.int64(1), "loss": np.float32(0.5), "test": {"accuracy": 1}})
    folder.append_metrics({"step": 2, "loss": float("nan"), "list": [float("inf"), (1, 2)]})
    assert lines(folder) == [
        {"step": 1, "loss": 0.5, "test": {"accuracy": 1}},
        {"step": 2, "loss": None, "list": [None, [1, 2]]},
    ]


@pytest.mark.parametrize("left", [b"", b'{"step": 1}\n', b'{"step": 1}\n{"st', b'{"st', b'{"step": 1}\n' * 9000 + b"{"])
def test_half_a_line_left_by_a_kill_is_dropped(tmp_path, left):
    (tmp_path / "metrics.jsonl").write_bytes(left)
    folder = RunFolder(tmp_path, "x")
    folder.append_metrics({"step": 2})
    assert lines(folder) == [{"step": 1}] * left.count(b"\n") + [{"step": 2}]


def test_a_disk_that_refuses_is_a_data_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file"):
        RunFolder(tmp_path / "file" / "run", "x").write_text("a", "")
    with pytest.raises(DataError, match="file"):
        RunFolder(tmp_path / "file", "x").append_metrics({})


def test_environment_is_plain():
    facts = environment({"OMP_NUM_THREADS": "3"})
    assert facts["threads"] == 3
    assert environment({})["threads"] is None
    assert {"python", "numpy", "platform", "host", "cores"} <= facts.keys()
    assert json.loads(json.dumps(facts)) == facts
