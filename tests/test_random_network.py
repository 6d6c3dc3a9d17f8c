"""Whatever is declared and however it is laid out gives the one-rank result: random networks of all kinds, ranks as threads.

Of each: the plan passes `check`; losses, gradients, parameters and states after some steps, and an evaluation with them, are
those of one rank; the node form is the same program; the resolved config is the same config. What is changed at random compiles,
or is refused in one line with its place.
"""

import pytest
from hypothesis import HealthCheck, given, settings

from dgraph.config import to_yaml
from dgraph.error import DgraphError, RunError
from dgraph.program import compile_config
from dgraph.verify import compare, one_rank, run_steps
from tests.networks import load
from tests.random_network import mutants, networks, with_shared_parameters

STEPS = 3
LIMIT = 1e-9
NUDGE = 1e-13


def failure(text):
    """What is wrong with a network; nothing if all is well."""
    config = load(text)
    program = compile_config(config)
    findings, _ = program.check()
    if findings:
        return f"finding: {findings[0]}"
    if load(to_yaml(config.resolved())) != config:
        return "the resolved config is another"
    if compile_config(load(to_yaml(program.expanded()))).digest() != program.digest():
        return "the node form is another program"
    shared = with_shared_parameters(program) if config.seed % 2 else None
    return difference(load(to_yaml(shared)) if shared else config)


def difference(config):
    """What differs from one rank's result, by more than a result changes that starts a little elsewhere."""
    try:
        theirs = run_steps(one_rank(config), STEPS)
    except RunError:
        return None
    result = compare(run_steps(config, STEPS), theirs)
    if result["worst"] <= LIMIT:
        return None
    elsewhere = compare(run_steps(one_rank(config), STEPS, NUDGE), theirs)
    if result["worst"] <= 100 * elsewhere["worst"]:
        return None
    return f"difference: {result}, sensitive by {elsewhere['worst']}"


def misbehaviour(text):
    """How a config that may be wrong fails to be refused properly; nothing if all is well."""
    try:
        program = compile_config(load(text))
        findings, _ = program.check()
    except DgraphError as error:
        told = str(error)
        return None if error.place and "\n" not in told else f"refused without its place: {told}"
    return f"finding: {findings[0]}" if findings else None


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(networks())
def test_random_networks_on_random_layouts(text):
    assert failure(text) is None, text


@pytest.mark.heavy
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks())
def test_many_random_networks_on_random_layouts(text):
    assert failure(text) is None, text


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(mutants())
def test_what_does_not_fit_is_refused_at_its_place(text):
    assert misbehaviour(text) is None, text
