"""The table a method is: what ships, what is refused, what its card says."""

from dataclasses import replace

import pytest

from latentprobe.errors import PluginError, UnknownNameError
from latentprobe.methods import methods

PUBLISHED = {
    "lvr": ("<|lvr_start|>", "<|lvr|>", "<|lvr_end|>"),
    "monet": ("<abs_vis_token>", "<abs_vis_token_pad>", "</abs_vis_token>"),
    "mirage": ("<|latent_start|>", "<|latent_pad|>", "<|latent_end|>"),
}


def test_the_methods_that_ship_are_listed_by_name():
    assert methods.names() == ["lvr", "mirage", "monet", "organism", "organism-mediated"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_methods_have_their_published_tokens(name):
    assert methods.get(name).tokens == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("lvr", ("predicted", "after_open", 8, "fixed", False, None, "argmax")),
        ("monet", ("predicted", "at_open", 10, "fixed", True, None, "argmax")),
        ("mirage", ("predicted", "after_open", 8, "predicted", True, 1, "slot")),
        ("organism", ("forced", "after_open", 2, "fixed", True, 1, "slot")),
    ],
)
def test_published_methods_enter_fill_and_leave_as_published(name, rules):
    s = methods.get(name)
    own = (s.entry, s.first_latent, s.slots, s.end, s.close_forced, s.max_segments, s.ids)
    assert own == rules


def test_a_card_says_in_words_what_happens_at_each_point():
    card = methods.get("monet").describe()
    assert (
        card["first latent"] == "the state that predicted the opening marker replaces its embedding"
    )
    assert card["count"] == "exactly 10 slots"
    assert card["closing marker"] == "written without asking"
    assert card["own mask"] == "none"
    card = methods.get("mirage").describe()
    assert card["count"] == "until the model predicts the closing marker, at most 8 slots"
    assert card["ids in the span"] == "the slot token <|latent_pad|>"
    assert card["closing marker"] == "written without asking"
    assert methods.get("lvr").describe()["closing marker"] == "left to the model"
    mediated = methods.get("organism-mediated").describe()
    assert mediated["own mask"] == "~(image | slot) may not see image"
    assert mediated["entry"] == "the response is made to start with the opening marker"


def test_a_method_that_cannot_work_is_refused_when_registered():
    lvr = methods.get("lvr")
    for entry, match in (
        (replace(lvr, slots=0), "slots=0; a segment has at least one slot"),
        (replace(lvr, slot=lvr.open), "three different tokens"),
        ("lvr", "a method is a latentprobe"),
    ):
        with pytest.raises(PluginError, match=match):
            methods.register("broken", entry)
    assert "broken" not in methods


def test_an_own_method_is_registered_found_and_removed():
    own = methods.register("own", replace(methods.get("lvr"), name="own", open="<own>"))
    try:
        assert methods.get("own") is own
        assert "own" in methods.names()
    finally:
        methods.unregister("own")
    with pytest.raises(UnknownNameError, match="unknown method 'own'"):
        methods.get("own")
