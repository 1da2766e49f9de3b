import dataclasses

import pytest

from latentprobe.benchmarks import Problem
from latentprobe.errors import ProblemError
from latentprobe.studies.donors import Candidate, different_answer

PROBLEM = Problem("What is inside?", options=["red", "blue", "green"], answer="red", name="asked")
SAME, OTHER = PROBLEM.question, "What is outside?"


def chosen(*candidates: Candidate, slots: int = 2, seed: int = 0) -> str:
    return different_answer(PROBLEM, slots, candidates, seed=seed).key


GOOD = Candidate("good", OTHER, "blue", 2)


@pytest.mark.parametrize(
    "wrong",
    [
        Candidate(PROBLEM.key, SAME, "green", 2),
        Candidate("same-answer", SAME, "red", 2),
        Candidate("unparsed", SAME, None, 2),
        Candidate("fewer-slots", SAME, "blue", 1),
        Candidate("more-slots", SAME, "blue", 3),
    ],
    ids=lambda c: c.key,
)
def test_a_donor_is_another_problem_answered_otherwise_with_as_many_slots(wrong):
    assert {chosen(wrong, GOOD, seed=seed) for seed in range(20)} == {"good"}
    with pytest.raises(ProblemError, match="no donor for asked: none of 1 problems has another"):
        chosen(wrong)


def test_what_counts_is_the_donors_own_answer_not_its_gold():
    # a candidate carries no gold answer at all: only what the model itself said under `full`
    assert [field.name for field in dataclasses.fields(Candidate)] == [
        *("key", "question", "answer", "slots"),
    ]


def test_a_donor_with_the_models_own_answer_could_not_be_told_to_be_followed():
    own = Candidate(PROBLEM.key, SAME, "blue", 2)
    other = Candidate("other", OTHER, "green", 2)
    assert chosen(own, GOOD, other) == "other"  # the model says blue anyway
    with pytest.raises(ProblemError, match="no donor for asked"):
        chosen(own, GOOD)


def test_a_donor_with_the_same_question_is_preferred():
    near = [Candidate(f"near-{n}", SAME, "blue", 2) for n in range(2)]
    far = [Candidate(f"far-{n}", OTHER, "green", 2) for n in range(30)]
    taken = {chosen(*far, *near, seed=seed) for seed in range(30)}
    assert taken == {"near-0", "near-1"}


def test_the_choice_depends_on_seed_and_contents_only():
    many = [Candidate(f"c{n}", SAME, "blue", 2) for n in range(20)]
    picks = [chosen(*many, seed=seed) for seed in range(20)]
    assert picks == [chosen(*reversed(many), seed=seed) for seed in range(20)]
    assert len(set(picks)) > 5
    elsewhere = dataclasses.replace(PROBLEM, question="Another question")
    assert picks != [different_answer(elsewhere, 2, many, seed=seed).key for seed in range(20)]


def test_a_donor_that_was_not_chosen_does_not_change_the_choice():
    many = [Candidate(f"c{n}", SAME, "blue", 2) for n in range(20)]
    first = chosen(*many)
    assert chosen(*(c for c in many if c.key in {first, "c0", "c1"})) == first


@pytest.mark.parametrize("candidates", [(), (Candidate("none", SAME, "blue", 0),)])
def test_a_response_without_slots_has_no_donor(candidates):
    with pytest.raises(ProblemError, match="0 slots; add problems, or leave donor conditions out"):
        chosen(*candidates, slots=0)
