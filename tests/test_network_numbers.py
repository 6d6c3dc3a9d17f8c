"""Networks by name: as many parameters as published, and as many multiply-accumulates.

Parameters: 1000 classes (LeNet-5: 10), one head unless the name says otherwise. Multiply-accumulates: 1e9 a sample, of
convolutions and linear layers.
"""

import pytest

from dgraph.config import load_config
from dgraph.program import forward_graph
from dgraph.summary import summarize
from tests.runs import CONFIGS

PARAMETERS = {
    "lenet5": 61_706,
    "alexnet": 60_965_224,
    "vgg_a": 132_863_336,
    "vgg_a_lrn": 132_863_336,
    "vgg_b": 133_047_848,
    "vgg_c": 133_638_952,
    "vgg_d": 138_357_544,
    "vgg_e": 143_667_240,
    "googlenet": 6_998_552,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "inception_v3": 23_834_568,
    "inception_v3_aux": 27_161_264,
    "inception_v4": 42_679_816,
}
GMACS = {
    "vgg_a": 7.6,
    "vgg_d": 15.5,
    "vgg_e": 19.6,
    "resnet50": 4.09,
    "resnet152": 11.5,
    "inception_v3": 5.7,
}
FEATURES_OF_THE_UNET = 2_336
"""Channels behind the 14 convolutions that batch norms follow."""


def summary(name, overrides=()):
    return summarize(load_config(CONFIGS / f"{name}.yaml", overrides))


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    assert summary(name).parameters == PARAMETERS[name]


@pytest.mark.parametrize("name", GMACS)
def test_multiply_accumulates(name):
    assert summary(name).macs == pytest.approx(GMACS[name] * 1e9, rel=0.01)


def test_resnet50_has_161_parameter_tensors():
    *_, graph = forward_graph(load_config(CONFIGS / "resnet50.yaml"))
    assert len(graph.parameters) == 161


def test_auxiliary_heads_can_be_turned_on():
    one = 528 * 128 + 128 + 2048 * 1024 + 1024 + 1024 * 1000 + 1000
    other = one - (528 - 512) * 128
    on = ("layers.aux1.when=true", "layers.aux2.when=true")
    assert summary("googlenet", on).parameters == PARAMETERS["googlenet"] + one + other


def test_resnet20_has_the_270_thousand_of_its_paper():
    assert round(summary("resnet20_cifar").parameters, -4) == 270_000


def test_cosmoflow_has_the_9_44_million_of_its_paper():
    assert round(summary("cosmoflow").parameters, -4) == 9_440_000


def test_the_unet_has_the_parameters_of_its_paper():
    """There, 19,069,955: convolutions with a bias, batch norms without scale and shift, transposed convolutions without a bias."""
    norms, biases, transposed = 2 * FEATURES_OF_THE_UNET, FEATURES_OF_THE_UNET, 512 + 256 + 128
    assert summary("unet3d").parameters - norms + biases - transposed == 19_069_955
