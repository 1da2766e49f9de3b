import dataclasses
import time

import pytest

from latentprobe.benchmarks import Problem
from latentprobe.conditions import Condition, conditions
from latentprobe.edits import Knockout
from latentprobe.generation import Decoding
from latentprobe.models import LatentModel
from latentprobe.records import SCHEMA, content_key
from latentprobe.records.trial import encode_row
from latentprobe.studies.donors import Candidate
from latentprobe.studies.trials import Question, trial_of
from latentprobe.tokens import ANSWER, IMAGE, SLOTS
from latentprobe.trajectory import Structure, Trajectory

CUT = Condition(
    "cuts",
    "attention",
    "two of a kind",
    content="zero",
    cuts=(
        Knockout(SLOTS, IMAGE, layers=(0,)),
        Knockout(SLOTS, IMAGE, layers=(1,)),
        Knockout(ANSWER, IMAGE, allow_empty=True),
    ),
)


def question(problem: Problem, condition: str | Condition = "full", **changes) -> Question:
    named = conditions.get(condition) if isinstance(condition, str) else condition
    asked = Question("m", "weights", "bench", "test", problem, named, Decoding(), 0)
    return dataclasses.replace(asked, **changes)


@pytest.fixture(scope="module")
def answered(marker_only: LatentModel, problems: list[Problem]) -> Trajectory:
    return marker_only.generate(problems[0], keep_logits=False)


def test_the_key_changes_with_everything_that_decides_the_outcome(problems):
    asked = question(problems[0])
    changed = [
        asked,
        question(problems[1]),
        question(problems[0], "full-again"),
        question(problems[0], model_hash="other"),
        question(problems[0], decoding=Decoding(max_new_tokens=63)),
        question(problems[0], decoding=Decoding(temperature=1.0)),
        question(problems[0], seed=1),
    ]
    assert len({one.key for one in changed}) == len(changed)
    assert asked.key == content_key(
        "weights", problems[0].key, conditions.get("full").key, repr(Decoding()), 0
    )


def test_the_key_does_not_change_with_names(problems):
    renamed = dataclasses.replace(problems[0], name="other")
    asked = question(problems[0])
    assert question(renamed, model="n", benchmark="c", split="train").key == asked.key


def test_the_row_says_what_was_asked_and_what_came_out(problems, answered):
    row = trial_of(question(problems[0]), answered, None)
    assert (row.model, row.model_hash, row.benchmark, row.split) == (
        "m",
        "weights",
        "bench",
        "test",
    )
    assert (row.problem, row.problem_name) == (problems[0].key, "mini-attribute/test/0")
    assert (row.cluster, row.gold, row.seed) == (problems[0].key, problems[0].answer, 0)
    assert (row.condition, row.condition_hash) == ("full", conditions.get("full").key)
    assert (row.text, row.answer, row.parsed) == (answered.text, answered.answer, True)
    assert row.correct == (answered.answer == problems[0].answer)
    assert (row.entered, row.segments, row.slots) == (True, 1, 2)
    assert row.tokens == len(answered.token_ids) - answered.layout.n_prompt
    assert (row.stop_reason, row.applied) == ("end", {})
    assert (row.donor, row.donor_answer, row.donor_followed, row.error) == (None,) * 4


def test_the_option_scores_and_the_margin_by_hand(problems, answered):
    made = dataclasses.replace(answered, scores=(-3.0, -1.0, -2.5, -4.0, -5.0, -6.0))
    options = list(problems[0].options)
    for gold, margin, right in [(options[0], -2.0, False), (options[1], 1.5, True)]:
        row = trial_of(question(dataclasses.replace(problems[0], answer=gold)), made, None)
        assert row.option_logprobs == [-3.0, -1.0, -2.5, -4.0, -5.0, -6.0]
        assert (row.answer_loglik, row.correct_loglik, row.option_margin) == (
            options[1],
            right,
            margin,
        )


def test_a_single_option_has_no_margin(problems, answered):
    alone = dataclasses.replace(problems[0], options=["red"], answer="red", twin=None)
    row = trial_of(question(alone), dataclasses.replace(answered, scores=(-1.0,)), None)
    assert (row.option_margin, row.correct_loglik) == (None, True)


def test_a_cluster_of_its_own_is_kept(problems, answered):
    shared = dataclasses.replace(problems[0], cluster="picture-7", name="")
    row = trial_of(question(shared), answered, None)
    assert (row.cluster, row.problem_name) == ("picture-7", problems[0].question)


def test_applied_counts_are_named_and_none_hides_another(marker_only, problems):
    made = marker_only.generate(problems[0], edits=CUT.edits(None, None), keep_logits=False)
    row = trial_of(question(problems[0], CUT), made, None)
    assert list(row.applied) == [
        "zero",
        "knockout slot->image",
        "knockout slot->image (2)",
        "knockout answer->image",
    ]
    assert list(row.applied.values()) == list(made.applied)
    assert list(row.applied.values())[:3] == [2, 2, 2]


@pytest.mark.parametrize("followed", [True, False])
def test_a_donor_and_whether_it_was_followed(problems, answered, followed):
    answer = answered.answer if followed else "something else"
    donor = Candidate("abc", "?", answer, 2)
    row = trial_of(
        question(problems[0], "donor-different-answer"),
        dataclasses.replace(answered, applied=(4,)),
        donor,
    )
    assert (row.donor, row.donor_answer, row.donor_followed) == ("abc", answer, followed)


def test_a_failed_trial_is_a_row_without_outcome(problems):
    row = trial_of(question(problems[0]), None, None, error="EditError: no")
    assert (row.error, row.answer, row.parsed, row.correct) == ("EditError: no", None, False, False)
    assert (row.answer_loglik, row.correct_loglik, row.option_margin) == (None, None, None)
    assert encode_row(row).keys() == set(SCHEMA.names)


def test_every_outcome_fits_the_store(marker_only, problems):
    closed = marker_only.generate(problems[0], structure=Structure(slots=False), keep_logits=False)
    row = encode_row(trial_of(question(problems[0], "markers-only"), closed, None))
    assert (row["slots"], row["entered"], row["segments"]) == (0, True, 1)


def test_the_clock_measures_the_block(problems):
    with question(problems[0]).timed() as clock:
        time.sleep(0.02)
    assert 0.02 <= clock.seconds < 2
