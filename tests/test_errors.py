"""The error tree: one base, the drawing in the docstring, messages that help."""

import copy
import inspect
import pickle

import pytest

from latentprobe import errors
from latentprobe.errors import LatentProbeError, UnknownNameError

CLASSES = [
    thing
    for _, thing in inspect.getmembers(errors, inspect.isclass)
    if issubclass(thing, BaseException)
]


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_every_error_derives_from_the_base_and_says_what_it_means(error: type):
    assert issubclass(error, LatentProbeError)
    assert inspect.getdoc(error)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.UnknownNameError, KeyError),
        (errors.PluginError, TypeError),
        (errors.ProblemError, ValueError),
        (errors.SubsetError, ValueError),
        (errors.EditError, ValueError),
        (errors.StatisticsError, ValueError),
    ],
)
def test_errors_are_also_the_builtin_error_a_caller_would_expect(error: type, builtin: type):
    assert issubclass(error, builtin)


def test_the_tree_drawn_in_the_docstring_is_the_tree():
    drawn, parents = {}, {}
    for line in (errors.__doc__ or "").splitlines():
        words = line.replace("│", " ").replace("├──", "   ").replace("└──", "   ")
        if words.strip() and words.split()[0].endswith("Error"):
            depth = (len(words) - len(words.lstrip())) // 4 - 1
            parents[depth] = words.split()[0]
            drawn[words.split()[0]] = parents.get(depth - 1)
    known = {error.__name__ for error in CLASSES}
    real = {
        error.__name__: next((base.__name__ for base in error.__bases__), None)
        for error in CLASSES
        if error is not LatentProbeError
    }
    assert drawn.pop("LatentProbeError") is None
    assert drawn == real
    assert set(drawn) | {"LatentProbeError"} == known


def test_an_unknown_name_lists_what_is_near_and_what_there_is():
    error = UnknownNameError("method", "monte", ["monet", "lvr", "mirage"])
    assert str(error) == (
        "unknown method 'monte'. Did you mean 'monet'? Available: lvr, mirage, monet."
    )
    assert (error.kind, error.name, error.nearest) == ("method", "monte", ("monet",))
    assert error.known == ("lvr", "mirage", "monet")


def test_an_unknown_name_far_from_all_offers_none():
    assert str(UnknownNameError("split", "zzz", ["train", "test"])) == (
        "unknown split 'zzz'. Available: test, train."
    )


def test_with_nothing_known_the_message_says_so():
    assert str(UnknownNameError("bank", "x", [])) == "unknown bank 'x'. Available: (none)."


def test_only_the_first_twenty_names_are_listed():
    known = [f"n{i:02}" for i in range(23)]
    message = str(UnknownNameError("point", "q", known))
    assert "n19 and 3 more." in message
    assert "n20" not in message
    assert "more" not in str(UnknownNameError("point", "q", known[:20]))


def test_advice_comes_last():
    error = UnknownNameError("method", "x", ["lvr"], advice="Pass method=.")
    assert str(error).endswith("Available: lvr. Pass method=.")


@pytest.mark.parametrize("copied", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
def test_an_unknown_name_survives_the_way_between_processes(copied):
    error = UnknownNameError("method", "monte", ["monet", "lvr"], advice="Pass method=.")
    again = copied(error)
    assert type(again) is UnknownNameError
    assert str(again) == str(error)
    assert (again.known, again.nearest) == (error.known, error.nearest)


def test_an_unknown_name_is_caught_as_a_key_error():
    with pytest.raises(KeyError, match="unknown method 'monte'"):
        raise UnknownNameError("method", "monte", ["monet"])
