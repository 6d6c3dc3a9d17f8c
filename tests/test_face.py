"""What people see: tables on terminals of any width and in files, figures, a confusion matrix."""

import io

import pytest

from dgraph.cli.face import table
from dgraph.cli.line import confusion_text, measured_text

COLUMNS = ("layer", "kind", "output", "macs", "output bytes")
ROWS = [
    ("stage1.0.reduce", "local_response_norm", "[   1  512  100  100]", "118,013,952", "24.5 MiB"),
    ("total", "", "", "244,704,083,968", "1.0 GiB"),
]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_nothing_is_cut_off_on_a_terminal(width, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    table("title", COLUMNS, ROWS)
    shown = terminal.getvalue()
    assert "…" not in shown
    assert all(number in shown for number in ("[   1  512  100  100]", "118,013,952", "244,704,083,968", "24.5 MiB"))
    if width >= 100:
        assert all(word in shown for word in ("stage1.0.reduce", "local_response_norm"))


def test_a_file_gets_plain_lines(capsys):
    table("title", ("a", "bb"), [("1", "2"), ("333", "")])
    assert capsys.readouterr().out == "title\na    bb\n1    2\n333\n"


def test_all_figures_of_a_subset():
    head = {"loss": 0.5, "accuracy": 0.25, "top5": 1.0, "samples": 8}
    assert measured_text("test", head) == "test: loss 0.5000  accuracy 0.2500  top5 1.0000  (8 samples)"


def test_a_confusion_matrix_in_lines():
    assert confusion_text([[10, 0], [3, 4]]).splitlines() == [
        "label \\ found   0   1",
        "            0  10   0",
        "            1   3   4",
    ]
    assert confusion_text([[0] * 31] * 31) == "a confusion matrix of 31 classes: --json gives it"
