"""The reference network at its full 936,882,178 parameters on 4 ranks: minutes, and 12 GiB of memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "tools" / "bench.py"


@pytest.mark.heavy
@pytest.mark.mpi
def test_three_steps_at_full_size():
    command = [sys.executable, str(BENCH), "--only", "reference", "-n", "4", "--steps", "3"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True)
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["parameters"] == 936_882_178
    assert len(result["seconds_per_step"]) == 3
    assert result["peak_gib"] <= 14
