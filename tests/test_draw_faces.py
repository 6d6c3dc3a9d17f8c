"""The faces that tools/draw_faces.py draws: names, reproduction, and folders that are whole."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")
TOOL = Path(__file__).parent.parent / "tools" / "draw_faces.py"
NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_\d{17}\.jpg")


def draw(folder, *options):
    return subprocess.run([sys.executable, TOOL, folder, *options], capture_output=True, text=True, check=False)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_names_pictures_and_the_same_by_seed(tmp_path):
    assert draw(tmp_path / "a", "--count", "60", "--processes", "3").stdout.endswith("60 faces\n")
    assert draw(tmp_path / "b", "--count", "60", "--processes", "1").returncode == 0
    assert draw(tmp_path / "c", "--count", "9", "--seed", "1").returncode == 0
    first = contents(tmp_path / "a")
    assert first == contents(tmp_path / "b")
    assert not first.keys() & contents(tmp_path / "c").keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]
    matches = [NAME.fullmatch(name) for name in first]
    assert all(matches)
    assert all(1 <= int(match[1]) <= 116 for match in matches)
    assert {match[2] for match in matches} == set("01")
    assert len({match[3] for match in matches}) >= 4
    assert len({int(match[1]) for match in matches}) > 20
    with Image.open(tmp_path / "a" / min(first)) as image:
        pixels = np.asarray(image)
    assert image.format == "JPEG"
    assert pixels.shape == (200, 200, 3)
    assert pixels.std() > 10


def test_what_is_there_stays(tmp_path):
    (tmp_path / "a").mkdir()
    done = draw(tmp_path / "a", "--count", "2")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not contents(tmp_path / "a")
