"""The search: what it draws, where it narrows, that it goes on, and what it says of what cannot be done."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from dgraph.cli.main import main
from dgraph.config import load_config, parse_config, to_yaml
from dgraph.runtime.communicator import OneRank
from dgraph.runtime.thread import run_threads
from dgraph.tune import InsideRunner, Search, Store, Table, examine
from dgraph.tune.space import Scale, points_of, rounds_of
from dgraph.tune.table import Row
from dgraph.tune.trial import Outcome, Point, Trial

NETWORK = """
name: ring
mesh: {p: auto}
data: {source: ring, samples: 60, batch: 20, shares: {train: 0.6, validation: 0.2, test: 0.2}}
layers:
  - {name: hidden, linear: {features: 3}, nonlinearity: tanh, split: {N: p}}
  - {name: second, linear: {features: 2}, nonlinearity: tanh, when: false}
  - {name: unit, linear: {features: 1}}
  - {name: loss, binary_cross_entropy: {logits: true}}
train: {optimizer: {adam: {rate: 0.1}}, epochs: 2, log_every: 0}
"""
WILD = NETWORK.replace("tanh", "relu")
KEYS = """\
    train.optimizer.adam.rate: {log_uniform: [1e-4, 1]}
    layers.hidden.linear.features: {integer: [1, 8]}
    layers.hidden.nonlinearity: {choice: [relu, tanh, {leaky_relu: {slope: 0.2}}]}
"""
RANDOM = (
    NETWORK
    + "tune:\n  {trials: TRIALS, rounds: ROUNDS, narrow: 0.25, seed: 3, seeds: SEEDS, keys: {\n"
    + (",\n".join(KEYS.strip().splitlines()) + "}}\n")
)
CASES = NETWORK + """
tune:
  metric: test.accuracy
  cases:
    one: {layers.second.when: false}
    two layers: {layers.second.when: true, layers.second.linear.features: 4}
  grid: {train.optimizer.adam.rate: [0.1, 0.01], layers.hidden.init: [zero, xavier]}
"""  # fmt: skip


def text_of(trials=6, rounds=2, seeds=1):
    return RANDOM.replace("TRIALS", str(trials)).replace("ROUNDS", str(rounds)).replace("SEEDS", str(seeds))


def written(folder, text, name="net.yaml"):
    path = Path(folder) / name
    path.write_text(text)
    return str(path)


def search(path, folder, communicator=None, side=1, resume=False, tell=lambda text: None):
    """A search inside of this process; its table."""
    communicator = communicator or OneRank()
    per = communicator.size // side

    def load(extra=()):
        return load_config(path, extra, per)

    config = load()
    tune = examine(config, load)
    if communicator.rank == 0:
        Store.begin(None if resume else Path(folder), Path(folder) if resume else None, config)
    communicator.barrier()
    store = Store(Path(folder))
    runner = InsideRunner(store, communicator, side, load, tell)
    return Search(tune, config.seed, store, runner, communicator, tell).run()


class Counting(OneRank):
    """Counts communicators that are split off and not closed yet."""

    open = 0
    most = 0

    def split(self, part):
        Counting.open += 1
        Counting.most = max(Counting.most, Counting.open)
        return Counting()

    def close(self):
        Counting.open -= 1


def tune_of(text):
    return parse_config(text, "net.yaml").tune


def test_what_a_trial_made_to_talk_goes_with_it(tmp_path):
    search(written(tmp_path, text_of(4, 2)), tmp_path / "search", Counting())
    assert (Counting.open, Counting.most) == (1, 2)  # that of the part, and one trial's


# --- what is tried


def test_the_section_comes_back_from_its_own_yaml():
    for text in (text_of(), CASES):
        config = parse_config(text, "net.yaml")
        again = parse_config(to_yaml(config.resolved()), "net.yaml")
        assert again.tune == config.tune is not None


def test_values_are_a_function_of_seed_and_number():
    few, many = tune_of(text_of(4, 1)), tune_of(text_of(40, 1))
    assert [p.values for p in points_of(few, 0, ())] == [p.values for p in points_of(many, 0, ())][:4]
    other = parse_config(text_of(4, 1), "net.yaml", ["tune.seed=4"]).tune
    assert [p.values for p in points_of(few, 0, ())] != [p.values for p in points_of(other, 0, ())]


def test_values_cover_their_ranges():
    points = points_of(tune_of(text_of(2000, 1)), 0, ())
    rates = np.log10([p.values["train.optimizer.adam.rate"] for p in points])
    np.testing.assert_allclose(np.histogram(rates, 4, (-4, 0))[0], 500, atol=90)
    widths = Counter(p.values["layers.hidden.linear.features"] for p in points)
    assert sorted(widths) == list(range(1, 9))
    np.testing.assert_allclose(list(widths.values()), 250, atol=70)
    kinds = Counter(str(p.values["layers.hidden.nonlinearity"]) for p in points)
    np.testing.assert_allclose(list(kinds.values()), 2000 / 3, atol=100)


def test_rounds_share_the_trials():
    assert rounds_of(tune_of(text_of(8, 3))) == [range(0, 3), range(3, 6), range(6, 8)]


def test_a_later_round_lies_around_the_best():
    tune = tune_of(text_of(30, 3))
    first = points_of(tune, 0, ())
    scored = [(point, float(rank)) for rank, point in enumerate(first)]
    best = first[0].values
    kept = [point.values["layers.hidden.nonlinearity"] for point in first[: -(-len(first) // 4)]]
    for number in (1, 2):
        for point in points_of(tune, number, scored):
            rate = np.log10(point.values["train.optimizer.adam.rate"])
            low = min(max(np.log10(best["train.optimizer.adam.rate"]) - 2 * 0.25**number, -4), -4 * 0.25**number)
            assert low - 1e-9 <= rate <= low + 4 * 0.25**number + 1e-9
            assert abs(point.values["layers.hidden.linear.features"] - best["layers.hidden.linear.features"]) <= 2
            assert point.values["layers.hidden.nonlinearity"] in kept


def test_a_narrower_range_stays_inside():
    scale = Scale.of("uniform", (0.0, 10.0))
    assert [scale.around(9.5, 0.5).at(share) for share in (0, 1)] == [5, 10]
    assert [scale.around(5.0, 0.5).at(share) for share in (0, 1)] == [2.5, 7.5]
    assert {Scale.of("log_integer", (1, 4)).at(share) for share in np.linspace(1e-9, 1 - 1e-9, 99)} == {1, 2, 3, 4}


def test_a_table_has_all_rows():
    points = points_of(tune_of(CASES), 0, ())
    assert [(p.number, p.name) for p in points] == [(k, "one" if k < 4 else "two layers") for k in range(8)]
    assert len({str(dict(p.values)) for p in points}) == 8
    assert points[5].values["layers.hidden.init"] == "xavier"


# --- what comes of it


def test_rows_are_means_over_seeds_and_failures_do_not_count():
    tune = parse_config(text_of(3, 1, 2), "net.yaml", ["tune.metric=validation.accuracy"]).tune

    def row(number, *found):
        outcomes = [
            Outcome(None, "why") if value is None else Outcome({"validation": {"accuracy": value}, "test": None}, None)
            for value in found
        ]
        return Row.of(Point(number, 0, "", MappingProxyType(dict.fromkeys(tune.keys, 1))), outcomes, tune)

    table = Table(tune, (row(0, 0.5, 0.7), row(1, 0.9, None), row(2, 0.7, 0.7)))
    assert [one.score for one in table.rows] == [pytest.approx(0.6), None, 0.7]
    assert table.best is table.rows[2]
    assert [text[-1] for text in table.texts()] == ["", "failed: why", "best"]
    assert Table(tune, table.rows[1:2]).best is None


def test_a_search_ends_with_a_table_and_a_config_to_run(tmp_path, monkeypatch, capsys):
    path = written(tmp_path, text_of(4, 2))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["tune", path, "--run", "found", "--json", "--no-pictures"])
    assert left.value.code == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    scores = [row["score"] for row in result["trials"]]
    assert len(scores) == 4
    assert result["best"]["score"] == min(scores)
    assert json.loads(Path("found/results.json").read_text()) == result
    with pytest.raises(SystemExit) as left:
        main(["train", "found/best.yaml", "--run", "again", "--json", "--no-pictures"])
    assert left.value.code == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["validation"]["loss"] == pytest.approx(min(scores), rel=1e-6)
    assert load_config("found/best.yaml", ranks=2).mesh == {"p": 2}


def test_parts_of_the_ranks_find_what_one_rank_finds(tmp_path):
    path = written(tmp_path, text_of(5, 2, 2))
    alone = search(path, tmp_path / "one")
    for ranks, side in ((4, 2), (3, 3)):
        folder = tmp_path / f"{ranks}-{side}"
        tables = run_threads(ranks, lambda communicator, f=folder, s=side: search(path, f, communicator, s))
        for table in tables:
            assert [row.point.values for row in table.rows] == [row.point.values for row in alone.rows]
            np.testing.assert_allclose([r.score for r in table.rows], [r.score for r in alone.rows], rtol=1e-4)
        assert len(list(folder.glob("trials/*.json"))) == 10


def test_what_is_done_is_not_done_again(tmp_path):
    path = written(tmp_path, text_of(6, 2))
    whole = search(path, tmp_path / "whole")

    def stop(text):
        if text.startswith("trial 0003"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(path, tmp_path / "parts", tell=stop)
    said = []
    table = search(path, tmp_path / "parts", resume=True, tell=said.append)
    assert said == [
        "round 1: 0 trials, 3 done before",
        "round 2: 2 trials, 1 done before",
        "trial 0004 done",
        "trial 0005 done",
    ]
    assert table.plain() == whole.plain()


@pytest.mark.parametrize(
    ("name", "goes_on"), [("step-000003", True), ("step-000003.1", True), ("step-000003.tmp", False)]
)
def test_a_trial_goes_on_from_what_is_committed(name, goes_on, tmp_path):
    trial = Trial(points_of(tune_of(text_of()), 0, ())[0], 0, 0, "0000")
    store = Store(tmp_path)
    (store.folder(trial) / "checkpoints" / name).mkdir(parents=True)
    assert store.clear(trial) == goes_on == store.folder(trial).exists()


def test_a_killed_search_goes_on(tmp_path):
    """Killed without a warning, time and again, wherever it was."""
    path = written(tmp_path, text_of(4, 2).replace("epochs: 2", "epochs: 10"))
    whole = search(path, tmp_path / "whole").plain()
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    folder, kills = tmp_path / "killed", 0
    while True:
        begun = (folder / "search.json").exists()
        where = ["--resume" if begun else "--run", str(folder)]
        command = [sys.executable, "-m", "dgraph", "tune", path, *where, "--json", "--no-pictures"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ, text=True)
        done = len(list(folder.glob("trials/*.json")))
        while kills < 3 and process.poll() is None:
            trials = list(folder.glob("trials/[0-9]*[0-9]"))
            if len(trials) > done + kills and list(folder.glob("trials/*/metrics.jsonl")):
                time.sleep(0.02 * kills)
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.005)
        out, said = process.communicate(timeout=120)
        if process.returncode != -signal.SIGKILL:
            break
    assert process.returncode == 0, said
    assert kills
    assert {key: value for key, value in json.loads(out.splitlines()[-1]).items() if key in whole} == whole


def test_jobs_of_their_own_find_the_same(tmp_path, monkeypatch, capfd):
    path = written(tmp_path, WILD + "tune: {grid: {train.optimizer: [{sgd: {rate: 1e38}}, {sgd: {rate: 0.1}}]}}\n")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["tune", path, "--jobs", "2", "--submit", "env DGRAPH_PICTURES=0", "--run", "jobs", "--json"])
    assert left.value.code == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    inside = search(path, tmp_path / "inside").plain()
    assert [row["score"] for row in result["trials"]] == [row["score"] for row in inside["trials"]]
    assert result["trials"][0]["score"] is None
    assert "is not finite at step" in result["trials"][0]["failures"][0]
    assert result["best"]["trial"] == 1


def test_no_trial_came_to_a_good_end(tmp_path, monkeypatch, capsys):
    path = written(tmp_path, WILD + "tune: {grid: {train.optimizer.adam.rate: [1e38]}}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["tune", path, "--run", "found"])
    assert left.value.code == 3
    assert capsys.readouterr().err == "error: no trial came to a good end (what failed is in found)\n"
    assert not Path("found/best.yaml").exists()


# --- what cannot be done

FAULTS = {
    "tune: {trials: 2, keys: {train.optimizer.adam.rat: {choice: [1]}}}": "12:27: error: tune.keys.train.optimizer.adam.rat: "
    "unknown key 'rat' in train.optimizer.adam (did you mean rate?)",
    "tune: {trials: 2, keys: {layers.hiden.linear.features: {choice: [1]}}}": "12:27: error: "
    "tune.keys.layers.hiden.linear.features: there is no list item 'hiden' (there are 4, counted from 0; or use a name)",
    "tune: {cases: {a: {layers.hidden.linear.features: 0}}}": "12:17: error: tune.cases.a: layers.hidden.linear.features must "
    "be an integer >= 1, not 0",
    "tune: {metric: validation.rmse, grid: {layers.hidden.linear.features: [1]}}": "12:16: error: tune.metric: the network has no "
    "rmse (it has loss, accuracy)",
}


@pytest.mark.parametrize("section", FAULTS)
def test_faults_are_found_before_the_first_trial(section, tmp_path, monkeypatch, capsys):
    written(tmp_path, NETWORK + section + "\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["tune", "net.yaml"])
    assert left.value.code == 2
    place, _, what = capsys.readouterr().err.strip().partition(": ")
    assert (place.split(":")[0], what) == ("net.yaml", FAULTS[section].partition(": ")[2])
    assert [path.name for path in tmp_path.iterdir()] == ["net.yaml"]


COMMANDS = {
    "tune plain.yaml": "plain.yaml:1:1: error: the config has no section tune "
    "(such as tune: {trials: 20, keys: {train.optimizer.sgd.rate: {log_uniform: [1e-4, 1]}}})",
    "tune net.yaml --resume none": "error: none: no search in it (name a folder that dgraph tune has made)",
    "tune net.yaml -n 3 --side 2": "error: --side 2 does not divide 3 ranks (every trial gets as many ranks as the others)",
    "tune net.yaml --run full": "error: full is not empty (--resume goes on with a search; or name another folder)",
    "tune net.yaml --run a --resume b": "error: --run names a new folder, --resume one to go on with (see dgraph tune --help)",
    "tune net.yaml --submit srun": "error: --submit goes with --jobs (see dgraph tune --help)",
}


@pytest.mark.parametrize("words", COMMANDS)
def test_faults_of_the_command_are_one_line(words, tmp_path, monkeypatch, capsys):
    written(tmp_path, NETWORK, "plain.yaml")
    written(tmp_path, text_of())
    (tmp_path / "full").mkdir()
    written(tmp_path / "full", "")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(words.split())
    assert left.value.code == (4 if "none" in words else 2)
    assert capsys.readouterr().err == COMMANDS[words] + "\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "net.yaml", "plain.yaml"]


def test_another_search_is_left_alone(tmp_path, monkeypatch, capsys):
    path = written(tmp_path, text_of(2, 1))
    search(path, tmp_path / "found")
    before = {file: file.read_bytes() for file in (tmp_path / "found").rglob("*") if file.is_file()}
    with pytest.raises(SystemExit) as left:
        main(["tune", path, "--set", "tune.trials=3", "--resume", str(tmp_path / "found")])
    assert left.value.code == 2
    assert "holds another search" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in (tmp_path / "found").rglob("*") if file.is_file()} == before


def test_the_picture_shows_every_key(tmp_path):
    pytest.importorskip("matplotlib")
    picture = import_module("dgraph.picture")
    table = search(written(tmp_path, CASES), tmp_path / "found")
    paths = tuple(table.tune.grid)
    figure = picture.draw_search(table.plain()["trials"], paths, table.logarithmic, "test.accuracy", "ring")
    assert [axes.get_xlabel() for axes in figure.axes] == ["name", *paths]
    assert all(len(axes.collections[-1].get_offsets()) == 8 for axes in figure.axes)
