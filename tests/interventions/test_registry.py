"""Interventions by name, and a user's own."""

import functools
from collections.abc import Iterator

import pytest
import torch

import latentprobe as lp
from latentprobe.edits import Context
from latentprobe.errors import PluginError, UnknownNameError
from latentprobe.interventions import intervention, interventions

HERE = Context("latent.hook_fed", None, ("slot", "d_model"), (3,), ("slot",), (0,))


@pytest.fixture
def halved() -> Iterator[object]:
    @intervention("tests-halve")
    def halve(activation, context):
        return activation / 2

    yield halve
    interventions.unregister("tests-halve")


def test_a_users_own_is_found_by_name_and_works_as_it_is(halved):
    made = interventions.get("tests-halve")()
    assert made is halved
    assert made(torch.tensor([[6.0]]), HERE).item() == 3.0
    assert lp.Edit("latent.hook_fed", where=lp.SLOTS, do=halved).do is halved


def test_a_removed_intervention_is_unknown_again(halved):
    interventions.register("tests-other", halved)
    interventions.unregister("tests-other")
    with pytest.raises(UnknownNameError, match="unknown intervention 'tests-other'"):
        interventions.get("tests-other")


@pytest.mark.parametrize("name", ["zero", "tests-halve"])
def test_a_taken_name_is_refused(halved, name: str):
    with pytest.raises(PluginError, match=f"intervention '{name}' is already registered"):
        intervention(name)(lambda activation, context: activation)


@pytest.mark.parametrize(
    ("function", "shown"),
    [
        (lambda activation: activation, r"<lambda>\(activation\) cannot be"),
        (lambda a, b, c: a, r"<lambda>\(a, b, c\) cannot be"),
        (lambda *, activation, context: activation, "cannot be"),
    ],
)
def test_a_function_that_cannot_be_called_with_two_arguments_is_refused(function, shown: str):
    with (
        pytest.raises(
            PluginError, match=rf"'tests-bad' is called as \(activation, context\), but {shown}"
        )
        if shown != "cannot be"
        else pytest.raises(PluginError, match=shown)
    ):
        intervention("tests-bad")(function)
    assert "tests-bad" not in interventions


@pytest.mark.parametrize(
    "function",
    [
        lambda activation, context, scale=2: activation,
        lambda *both: both[0],
        functools.partial(lambda scale, activation, context: activation, 2.0),
    ],
)
def test_more_arguments_are_fine_when_they_have_defaults(function):
    try:
        assert intervention("tests-fine")(function) is function
    finally:
        interventions.unregister("tests-fine")


def test_the_builtin_ones_are_made_by_name():
    made = interventions.get("noise")(0.0)
    assert torch.equal(made(torch.ones(1, 2), HERE), torch.zeros(1, 2))
    assert interventions.names() == ["mean", "noise", "patch", "resample", "zero"]
