"""Registries: lazy targets, plug-ins through entry points, entries of the right shape only."""

import sys
import types
from importlib.metadata import EntryPoint

import pytest

import latentprobe.registry
from latentprobe.architectures import architectures
from latentprobe.backends import backends
from latentprobe.benchmarks import benchmarks
from latentprobe.errors import PluginError, UnknownNameError
from latentprobe.interventions import interventions
from latentprobe.methods import MethodSpec, methods
from latentprobe.registry import Registry

GROUP = "tests.numbers"


def a_number(entry: object) -> str | None:
    return None if isinstance(entry, int) else "a number is an int"


@pytest.fixture
def numbers(monkeypatch) -> Registry:
    """A registry of ints with one lazy built-in, and its module."""
    monkeypatch.setitem(sys.modules, "some_numbers", types.SimpleNamespace(ONE=1, WORD="one"))
    return Registry("number", group=GROUP, check=a_number, builtin={"one": "some_numbers:ONE"})


@pytest.fixture
def plug(monkeypatch):
    """Install plug-ins: `plug(name=target, ...)` or a list of pairs."""

    def install(*pairs: tuple[str, str]) -> None:
        def found(*, group: str) -> list[EntryPoint]:
            points = [EntryPoint(name, target, GROUP) for name, target in pairs]
            return [point for point in points if point.group == group]

        monkeypatch.setattr(latentprobe.registry, "entry_points", found)

    return install


def test_listing_names_imports_nothing(numbers: Registry, monkeypatch):
    monkeypatch.delitem(sys.modules, "some_numbers")
    assert numbers.names() == ["one"]
    assert list(numbers) == ["one"]
    assert "one" in numbers
    assert "two" not in numbers
    with pytest.raises(PluginError, match="some_numbers"):
        numbers.get("one")


def test_a_target_is_imported_when_first_asked_for_and_kept(numbers: Registry, monkeypatch):
    assert numbers.get("one") == 1
    monkeypatch.setattr(sys.modules["some_numbers"], "ONE", 100)
    assert numbers.get("one") == 1


def test_a_registered_entry_is_found_and_can_be_removed(numbers: Registry):
    assert numbers.register("two", 2) == 2
    assert numbers.names() == ["one", "two"]
    assert numbers.get("two") == 2
    numbers.unregister("two")
    assert numbers.names() == ["one"]


def test_registering_the_same_object_again_is_harmless(numbers: Registry):
    big = 10**20
    numbers.register("big", big)
    assert numbers.register("big", big) is big


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_taken_name_is_refused(numbers: Registry, name: str):
    numbers.register("two", 2)
    with pytest.raises(PluginError, match=f"number '{name}' is already registered; choose another"):
        numbers.register(name, 3)
    assert numbers.get("two") == 2


def test_an_entry_of_the_wrong_shape_is_refused_with_its_definition(numbers: Registry):
    with pytest.raises(
        PluginError, match=r"number 'word' cannot be registered: a number is an int \(got 'one'\)"
    ):
        numbers.register("word", "one")
    assert "word" not in numbers


def test_an_unknown_name_offers_the_nearest(numbers: Registry):
    numbers.register("eleven", 11)
    with pytest.raises(
        UnknownNameError, match=r"unknown number 'elven'. Did you mean 'eleven'\? Available: eleven"
    ):
        numbers.get("elven")
    with pytest.raises(UnknownNameError, match="unknown number 'elven'"):
        numbers.unregister("elven")


def test_a_plug_in_is_found_through_its_entry_point(numbers: Registry, plug):
    plug(("uno", "some_numbers:ONE"))
    for _ in range(2):
        assert numbers.names() == ["one", "uno"]
    assert numbers.get("uno") == 1


def test_a_plug_in_of_another_group_is_not_ours(plug, monkeypatch):
    plug(("uno", "some_numbers:ONE"))
    others = Registry("letter", group="tests.letters", check=a_number)
    assert others.names() == []


def test_asking_for_a_builtin_does_not_look_for_plug_ins(numbers: Registry, monkeypatch):
    def forbidden(**_):
        raise AssertionError("looked for plug-ins")

    monkeypatch.setattr(latentprobe.registry, "entry_points", forbidden)
    assert numbers.get("one") == 1


def test_a_plug_in_may_stand_inside_a_class(numbers: Registry, plug, monkeypatch):
    monkeypatch.setattr(
        sys.modules["some_numbers"], "Box", types.SimpleNamespace(two=2), raising=False
    )
    plug(("dos", "some_numbers:Box.two"))
    assert numbers.get("dos") == 2


def test_a_plug_in_of_the_wrong_shape_is_refused_when_loaded(numbers: Registry, plug):
    plug(("word", "some_numbers:WORD"))
    assert "word" in numbers
    with pytest.raises(PluginError, match="number 'word' cannot be registered: a number is an int"):
        numbers.get("word")


@pytest.mark.parametrize("target", ["no_such_module:ONE", "some_numbers:TWO", "some_numbers"])
def test_a_plug_in_that_cannot_be_imported_is_refused_by_name(numbers: Registry, plug, target: str):
    plug(("broken", target))
    with pytest.raises(PluginError, match=rf"number 'broken' stands at '{target}', which cannot"):
        numbers.get("broken")


def test_a_plug_in_cannot_take_a_builtins_name_and_says_so_every_time(numbers: Registry, plug):
    plug(("zwei", "some_numbers:ONE"), ("one", "some_numbers:WORD"), ("drei", "some_numbers:ONE"))
    for _ in range(2):
        with pytest.raises(
            PluginError, match=r"two numbers are called 'one': .* the plug-in 'some_numbers:WORD'"
        ):
            numbers.names()
    assert numbers.get("one") == 1


def test_two_plug_ins_cannot_share_a_name(numbers: Registry, plug):
    plug(("zwei", "some_numbers:ONE"), ("zwei", "some_numbers:WORD"))
    with pytest.raises(PluginError, match="two numbers are called 'zwei'"):
        numbers.names()


def test_registering_over_a_plug_in_is_refused(numbers: Registry, plug):
    plug(("uno", "some_numbers:ONE"))
    with pytest.raises(PluginError, match="number 'uno' is already registered"):
        numbers.register("uno", 7)


@pytest.mark.parametrize(
    ("registry", "expected"),
    [
        (methods, {"organism", "organism-mediated", "lvr", "monet", "mirage"}),
        (backends, {"torch"}),
        (architectures, {"qwen2_5_vl"}),
        (benchmarks, {"mini-attribute"}),
        (interventions, {"zero", "mean", "resample", "patch", "noise"}),
    ],
)
def test_every_builtin_of_the_house_loads_and_has_the_right_shape(registry: Registry, expected):
    assert expected <= set(registry.names())
    for name in expected:
        assert registry.get(name) is registry.get(name)


@pytest.mark.parametrize(
    ("registry", "message"),
    [
        (methods, "a method is a latentprobe.methods.MethodSpec"),
        (architectures, "an architecture is a latentprobe.architectures.Architecture"),
        (benchmarks, r"a benchmark has functions problem\(split, index\) and size\(split\)"),
        (interventions, r"an intervention is a callable \(activation, context\)"),
    ],
)
def test_every_registry_of_the_house_refuses_what_is_not_its_kind(registry: Registry, message: str):
    with pytest.raises(PluginError, match=message):
        registry.register("no-such-thing", 5)
    assert "no-such-thing" not in registry


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"slots": 0}, "slots=0; a segment has at least one slot"),
        ({"close": "<o>"}, "open, slot and close must be three different tokens"),
    ],
)
def test_a_method_without_slots_or_with_one_token_for_two_is_refused(changed: dict, message: str):
    fields = {"name": "n", "title": "t", "open": "<o>", "slot": "<s>", "close": "<c>"} | changed
    with pytest.raises(PluginError, match=message):
        methods.register("n", MethodSpec(**fields))
