"""A residual network in one layout throughout sends only halos, statistics and parameter gradients: counted on all ranks' plans."""

import pytest

from dgraph.config import load_config
from dgraph.program import compile_config, plan_summary
from tests.runs import CONFIGS

ITEM = 4


def sent(name, extent):
    """Tensor -> elements that all four ranks of a spatial split send, and the program."""
    overrides = ("mesh={y: 2, x: 2}", "layers.conv.split={H: y, W: x}", f"data.shape=[3, {extent}, {extent}]")
    program = compile_config(load_config(CONFIGS / f"{name}.yaml", overrides))
    totals = {}
    for rank in plan_summary(program, range(4))["ranks"]:
        for tensor, entry in rank["tensors"].items():
            totals[tensor] = totals.get(tensor, 0) + entry["sent_nbytes"] // ITEM
    return {tensor: total for tensor, total in totals.items() if total}, program.graph


def kind_of(tensor, graph):
    """halo, statistics, parameter, or head: what has no places left."""
    node = graph.tensors[tensor]
    if node.role == "gradient" and graph.tensors[node.of].role == "parameter":
        return "parameter"
    if tensor.removesuffix(".grad").endswith((".mean.output", ".variance.output")):
        return "statistics"
    return "halo" if max(node.dim[2:]) > 1 else "head"


@pytest.mark.parametrize(("name", "extent"), [("resnet20_cifar", 32), ("resnet18", 224), ("resnet50", 224)])
def test_nothing_is_gathered(name, extent):
    totals, graph = sent(name, extent)
    kinds = {tensor: kind_of(tensor, graph) for tensor in totals}
    assert set(kinds.values()) == {"halo", "statistics", "parameter", "head"}
    for tensor, total in totals.items():
        n, c, *extents = dim = graph.tensors[tensor].dim
        if kinds[tensor] == "halo":
            # A window of 3 reaches 1 over each cut: two rows along it, and the corners.
            assert total <= n * c * (2 * sum(extents) + 4)
        elif kinds[tensor] == "statistics":
            assert dim == (1, c, 1, 1)
            assert total == 4 * c


def test_only_halos_grow_with_the_image():
    (small, graph), (large, _) = sent("resnet18", 224), sent("resnet18", 448)
    for tensor, total in small.items():
        grown = large[tensor] / total
        if kind_of(tensor, graph) == "halo":
            assert 1.8 < grown < 2
        else:
            assert grown == 1
