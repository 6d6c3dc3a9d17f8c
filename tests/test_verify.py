"""What `verify` takes for equal: what rounding does, and nothing more."""

from dataclasses import replace

import numpy as np

from dgraph import verify as room
from dgraph.verify import one_rank, verify
from tests.networks import SPATIAL, config_text, load

TIES = """
dtype: {dtype}
mesh: {{x: 2}}
data: {{source: table, shape: [5, 64], batch: 2, labels: [0, 1], classes: 2, rows: {rows}}}
layers:
  - {{name: C, conv: {{channels: 1, size: 1}}, affine: none, init: {{constant: {{value: 0.7}}}}, split: {{C: x}}}}
  - {{name: P, max_pool: {{size: 2}}}}
  - {{name: out, softmax: {{classes: 2}}}}
train: {{optimizer: {{sgd: {{rate: 0.1}}}}, steps: 1}}
"""


def test_a_smooth_network_is_equal_to_its_last_digits():
    result = verify(load(config_text(SPATIAL, "{y: 2, x: 2}")), 3)
    assert result["ok"]
    assert result["worst"] <= result["limit"] == 1e-10
    assert "rounding" not in result


def test_which_of_equal_values_is_the_largest_is_a_matter_of_rounding():
    """Both values of a window are the same sum in another order."""
    first = np.random.default_rng(2).normal(size=(2, 5, 32))
    rows = np.stack([first, first[:, ::-1]], axis=3).reshape(2, -1)
    for dtype in ("float32", "float64"):
        result = verify(load(TIES.format(dtype=dtype, rows=rows.tolist())), 1)
        assert result["ok"]
        assert result["worst"] > 0.1
        assert result["rounding"] > 0.1


def test_another_result_is_found(monkeypatch):
    config = load(config_text(SPATIAL, "{y: 2, x: 2}"))
    monkeypatch.setattr(room, "one_rank", lambda config: replace(one_rank(config), seed=1))
    result = verify(config, 1)
    assert not result["ok"]
    assert 0 < result["rounding"] < 1e-12 < result["worst"]
