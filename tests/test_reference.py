"""The reference network: its trace on rank 3 of 4, line by line, and other meshes."""

import math
from pathlib import Path

import pytest
import yaml

from dgraph.autodiff import add_gradients
from dgraph.config import load_config
from dgraph.graph.build import build_graph
from dgraph.layout import Mesh, assign_layout
from dgraph.layout.dump import dump
from dgraph.models import expand
from dgraph.ops import OPS
from dgraph.plan.check import check_plan
from dgraph.plan.make import make_plan

ROOT = Path(__file__).parents[1]
GOLDEN = yaml.safe_load((ROOT / "tests/golden/seed_trace_rank3.yaml").read_text())


def training_graph():
    config = load_config(ROOT / "configs/reference.yaml")
    specs, parameters = expand(config, config.data.shape)
    return add_gradients(build_graph(config.name, specs, parameters, OPS), OPS)


@pytest.fixture(scope="module")
def graph():
    return training_graph()


@pytest.fixture(scope="module")
def traced(graph):
    return dump(assign_layout(graph, Mesh.of({"y": 2, "x": 2}), OPS), 3, OPS)


def test_it_has_936_882_178_parameters(graph):
    assert sum(math.prod(tensor.dim) for tensor in graph.parameters) == 936_882_178


def test_its_nodes_are_those_of_the_reference(traced):
    assert len(traced["ops"]) - 1 == 26
    assert len(traced["tensors"]) == 34
    assert len(traced["ops"]["set_zero_of"]) == 15
    assert traced["ops"].keys() == GOLDEN["ops"].keys()
    assert traced["tensors"].keys() == GOLDEN["tensors"].keys()
    assert set(traced["ops"]["set_zero_of"]) == set(GOLDEN["ops"]["set_zero_of"])


@pytest.mark.parametrize("name", [name for name in GOLDEN["ops"] if name != "set_zero_of"])
def test_op_equals_the_reference(traced, name):
    expected, found = GOLDEN["ops"][name], dict(traced["ops"][name])
    params = found["in"].get("params", [])
    found["in"] = {port: tensor for port, tensor in found["in"].items() if port != "params"}
    assert found == expected
    if name == "classifier.evaluate":
        assert params == ["L0.W", "L0.a", "L0.b", "L1.W", "L1.a", "L1.b", "classifier.weights1"]
    else:
        assert not params


@pytest.mark.parametrize("name", GOLDEN["tensors"])
def test_tensor_equals_the_reference(traced, name):
    assert traced["tensors"][name] == GOLDEN["tensors"][name]


def test_28_positions_over_3_columns_are_10_9_9(graph):
    layout = assign_layout(graph, Mesh.of({"y": 1, "x": 3}), OPS)
    widths = [layout.write_rect("L1.filter.output", rank).size[3] for rank in range(3)]
    assert widths == [40, 36, 36]


@pytest.mark.parametrize("mesh", [{"y": 2, "x": 1}, {"y": 1, "x": 3}, {"y": 2, "x": 3}, {"y": 3, "x": 5}])
def test_its_plan_is_sound_on_other_meshes(graph, mesh):
    layout = assign_layout(graph, Mesh.of(mesh), OPS)
    plans = [make_plan(layout, rank) for rank in range(layout.mesh.ranks)]
    assert check_plan(layout, plans) == []
