import dataclasses

import pytest
import torch

from latentprobe.conditions import (
    FED,
    KEYS_AND_VALUES,
    STANDARD,
    Condition,
    conditions,
    resolve,
)
from latentprobe.edits import Activations, Context, Edit, Knockout
from latentprobe.errors import EditError, PluginError, UnknownNameError
from latentprobe.interventions import Bank
from latentprobe.tokens import ANSWER, CLOSE, FORMAT, IMAGE, REASONING, SLOTS, Layout, Segment
from latentprobe.trajectory import Structure

NAMES = [
    *("full", "full-again", "plain", "format-only", "markers-only", "zero", "mean", "noise-norm"),
    *("donor-different-answer", "cut-slots-image", "cut-answer-slots"),
]
CONTEXT = Context(FED, None, ("slot", "d_model"), (4, 5), ("slot", "slot"), (0, 1))


@pytest.fixture
def bank() -> Bank:
    """Two donors whose rows are 1, 2 and 5, 6."""
    rows = {"one": torch.tensor([[1.0], [2.0]]), "two": torch.tensor([[5.0], [6.0]])}
    at = (FED, "blocks.0.attn.hook_k")
    return Bank.of({
        key: Activations(dict.fromkeys(at, value), (4, 5), ("slot", "slot"), (0, 1))
        for key, value in rows.items()
    })


def only_edit(name: str, bank: Bank | None = None, donor: str | None = None) -> Edit:
    (edit,) = conditions.get(name).edits(bank, donor)
    assert isinstance(edit, Edit)
    return edit


def only_cut(name: str) -> Knockout:
    (cut,) = conditions.get(name).edits(None, None)
    assert isinstance(cut, Knockout)
    return cut


# --- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"name": "another"},
        {"content": "mean"},
        {"structure": Structure(slots=False)},
        {"structure": Structure(template="forced")},
        {"cuts": (Knockout(SLOTS, IMAGE),)},
        {"cuts": (Knockout(IMAGE, SLOTS),)},
        {"cuts": (Knockout(SLOTS, IMAGE, layers=(0,)),)},
        {"cuts": (Knockout(SLOTS, IMAGE, heads=(0,)),)},
    ],
)
def test_a_key_changes_with_the_recipe(change: dict[str, object]):
    plain = Condition("mine", "content", "words", content="zero")
    cut = dataclasses.replace(plain, cuts=(Knockout(SLOTS, IMAGE, layers=(1,), heads=(1,)),))
    changed = dataclasses.replace(plain, **change).key  # pyright: ignore[reportArgumentType]
    assert changed not in {plain.key, cut.key}


@pytest.mark.parametrize("change", [{"recipe": "other words"}, {"family": "mine"}, {"seeds": 3}])
def test_a_key_does_not_change_with_the_words(change: dict[str, object]):
    plain = Condition("mine", "content", "words", content="zero")
    assert dataclasses.replace(plain, **change).key == plain.key  # pyright: ignore[reportArgumentType]


def test_the_standard_conditions_have_keys_of_their_own():
    assert len({condition.key for condition in STANDARD}) == len(STANDARD) == len(NAMES)


# --- what each one does --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "markers", "slots", "template"),
    [
        ("full", True, True, "method"),
        ("full-again", True, True, "method"),
        ("plain", False, False, "banned"),
        ("format-only", False, False, "forced"),
        ("markers-only", True, False, "method"),
        ("zero", True, True, "method"),
        ("donor-different-answer", True, True, "method"),
        ("cut-answer-slots", True, True, "method"),
    ],
)
def test_a_condition_leaves_these_parts_of_the_response(name, markers, slots, template):
    assert conditions.get(name).structure == Structure(markers, slots, template)


@pytest.mark.parametrize("name", NAMES[:5])
def test_structure_and_reference_conditions_edit_nothing(name):
    assert conditions.get(name).edits(None, None) == ()
    assert not conditions.get(name).needs_bank


def test_zero_replaces_what_is_fed_at_the_slots_by_zeros():
    edit = only_edit("zero")
    assert (edit.at, edit.where, edit.allow_empty) == (FED, SLOTS, True)
    assert torch.equal(edit.do(torch.ones(2, 3), CONTEXT), torch.zeros(2, 3))


def test_mean_replaces_what_is_fed_by_the_mean_over_problems(bank):
    edit = only_edit("mean", bank)
    assert (edit.at, edit.where) == (FED, SLOTS)
    # (1 + 2 + 5 + 6) / 4
    assert torch.equal(edit.do(torch.zeros(2, 1), CONTEXT), torch.full((2, 1), 3.5))


def test_noise_keeps_the_length_of_every_fed_vector_and_changes_with_the_seed():
    edit, fed = only_edit("noise-norm"), torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    other = dataclasses.replace(CONTEXT, seed=1)
    assert (edit.at, edit.where) == (FED, SLOTS)
    noisy = edit.do(fed, CONTEXT)
    torch.testing.assert_close(noisy.norm(dim=-1), torch.tensor([5.0, 2.0]))
    assert not torch.allclose(noisy, fed)
    assert not torch.allclose(noisy, edit.do(fed, other))


def test_a_donor_lends_keys_and_values_at_the_slots_of_every_layer(bank):
    edit = only_edit("donor-different-answer", bank, "two")
    here = dataclasses.replace(
        CONTEXT, hook="blocks.0.attn.hook_k", layer=0, axes=("pos", "d_head")
    )
    assert (edit.at, edit.where) == (KEYS_AND_VALUES, SLOTS)
    assert torch.equal(edit.do(torch.zeros(2, 1), here), torch.tensor([[5.0], [6.0]]))


def test_cut_slots_image_cuts_slots_from_the_image_in_all_layers_and_heads():
    assert only_cut("cut-slots-image") == Knockout(SLOTS, IMAGE, allow_empty=True)


def test_cut_answer_slots_cuts_everything_after_the_slots_from_them():
    cut = only_cut("cut-answer-slots")
    roles = ("image", "question", "open", "slot", "close", "reasoning", "format", "answer")
    layout = Layout(roles, 2, (Segment(2, (3,), 4),))
    assert layout.positions(cut.queries) == layout.positions(CLOSE | REASONING | FORMAT | ANSWER)
    assert layout.positions(cut.queries) == [4, 5, 6, 7]
    assert (layout.positions(cut.keys), cut.layers, cut.heads) == ([3], None, None)


def test_content_and_cuts_come_in_this_order():
    cut = Knockout(SLOTS, IMAGE)
    both = Condition("both", "content", "", content="zero", cuts=(cut,))
    edit, last = both.edits(None, None)
    assert isinstance(edit, Edit)
    assert last is cut


@pytest.mark.parametrize("name", NAMES)
def test_conditions_that_use_other_problems_say_so(name):
    assert conditions.get(name).needs_bank == (name in {"mean", "donor-different-answer"})
    assert conditions.get(name).seeds == (3 if name in {"noise-norm", NAMES[8]} else 1)


@pytest.mark.parametrize("name", ["mean", "donor-different-answer"])
def test_without_any_slots_to_borrow_a_condition_says_so(name):
    with pytest.raises(EditError, match="what other problems' slots hold, and no `full` response"):
        conditions.get(name).edits(None, "one")


# --- by name -------------------------------------------------------------------------------------


def names(chosen: tuple[Condition, ...]) -> list[str]:
    return [condition.name for condition in chosen]


def test_standard_is_all_eleven_full_first():
    assert names(resolve("standard")) == NAMES
    assert conditions.names() == sorted(NAMES)


def test_a_comma_string_and_a_list_choose_the_same():
    assert names(resolve(" zero, ,mean,")) == ["full", "zero", "mean"]
    assert resolve("zero,mean") == resolve(["zero", "mean"])


def test_full_is_always_there_first_and_once():
    assert names(resolve("zero,full,zero")) == ["full", "zero"]
    assert names(resolve([])) == names(resolve("")) == ["full"]


def test_standard_can_stand_in_a_list_beside_others():
    mine = Condition("mine", "content", "slots see no question", cuts=(Knockout(SLOTS, IMAGE),))
    assert names(resolve(["zero", "standard", mine])) == [
        *("full", "zero"),
        *(name for name in NAMES[1:] if name != "zero"),
        "mine",
    ]


def test_an_unknown_condition_is_offered_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown condition 'markers-onyl'.*'markers-only'"):
        resolve("zero,markers-onyl")


def test_two_conditions_of_one_name_are_refused():
    mine = Condition("zero", "content", "not the registered one")
    with pytest.raises(PluginError, match="two conditions are called 'zero'; rename one"):
        resolve(["zero", mine])
    with pytest.raises(PluginError, match="two conditions are called 'full'"):
        resolve([Condition("full", "reference", "not the method as published")])


def test_a_users_condition_can_be_registered_and_then_named():
    mine = Condition("mine", "content", "slots see no image in layer 0")
    conditions.register("mine", mine)
    try:
        assert resolve("mine")[1] is mine
    finally:
        conditions.unregister("mine")
    with pytest.raises(PluginError, match=r"a condition is a latentprobe\.conditions\.Condition"):
        conditions.register("wrong", "a string")  # pyright: ignore[reportArgumentType]
