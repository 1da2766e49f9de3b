"""Sentences from summaries made by hand: never more than the table bears."""

from dataclasses import replace

import pytest

from latentprobe.stats import Difference, Equivalence, Estimate, Retained
from latentprobe.studies.summary import Comparison, ConditionSummary, StudySummary
from latentprobe.studies.verdict import sentences

HEADLINES = {
    "slots": "The answer comes through the latent slots",
    "markers": "The boundary markers carry the gain",
    "nothing": "No single part of the latent span explains the gain by these tests",
}
NOISE, WEAK, TORN = "The same recipe run twice", "Replacing fed vectors understates", "two scorers"


def estimate(value: float, half: float = 0.04) -> Estimate:
    return Estimate(value, value - half, value + half, 0.95, 96, 96, "by hand")


def comparison(difference: float, word: str) -> Comparison:
    gap = Difference(estimate(difference), 0, 0, None, 0.01, None, 0)
    within = Equivalence(estimate(difference), 0.05, 0.05, word == "equivalent", None)
    return Comparison(gap, within, 0.01, word)


def condition(
    name: str, accuracy: float, word: str | None = None, **changes: object
) -> ConditionSummary:
    """One condition of a model whose `full` scores 0.95."""
    compared = None if word is None else comparison(accuracy - 0.95, word)
    made = ConditionSummary(
        condition=name,
        n=96,
        seeds=1,
        errors=0,
        accuracy=estimate(accuracy),
        accuracy_loglik=estimate(accuracy),
        parse_rate=1.0,
        accuracy_given_parsed=accuracy,
        by_answer=compared,
        by_loglik=compared,
        by_margin=None,
        retained=None,
        answer_changed=None,
        donor_followed=None,
        applied_min=None,
        entered_rate=1.0,
        slots_mean=2.0,
    )
    return replace(made, **changes)  # pyright: ignore[reportArgumentType]


def keeps(value: float, half: float = 0.05) -> Retained:
    return Retained(value, value - half, value + half, estimate(0.6))


def summary(*conditions: ConditionSummary) -> StudySummary:
    return StudySummary("M", "bench", 96, 1 / 6, "plain", 0.05, 0.5, 0, conditions)


FULL, PLAIN = condition("full", 0.95), condition("plain", 0.35, "different")
CUTS = [condition(n, 0.17, "different") for n in ("cut-slots-image", "cut-answer-slots")]
DONOR = condition("donor-different-answer", 0.2, "different", donor_followed=0.8)
CONTENT = [condition(n, 0.95, "equivalent") for n in ("zero", "mean", "noise-norm")]
SAME_DONOR = condition("donor-different-answer", 0.95, "equivalent", donor_followed=0.02)
MARKERS = condition("markers-only", 0.94, "equivalent", retained=keeps(0.97))


def headline(*conditions: ConditionSummary) -> str:
    first = sentences(summary(*conditions))[0]
    found = [name for name, text in HEADLINES.items() if text in first]
    return found[0] if found else first


def saying(text: str, *conditions: ConditionSummary) -> str:
    """The one sentence that holds a text, or the empty string."""
    found = [sentence for sentence in sentences(summary(*conditions)) if text in sentence]
    assert len(found) <= 1
    return "".join(found)


# --- the headline --------------------------------------------------------------------------------


def test_cuts_that_break_it_and_donors_that_are_followed_mean_that_slots_carry():
    assert headline(FULL, PLAIN, *CUTS, DONOR) == "slots"


@pytest.mark.parametrize(
    "conditions",
    [
        (FULL, PLAIN, *CUTS),
        (FULL, PLAIN, CUTS[0], DONOR),
        (FULL, PLAIN, CUTS[0], condition("cut-answer-slots", 0.8, "inconclusive"), DONOR),
        (FULL, PLAIN, *CUTS, replace(DONOR, donor_followed=0.49)),
        (FULL, PLAIN, *CUTS, replace(DONOR, donor_followed=None)),
    ],
    ids=["no donor", "one cut", "inconclusive cut", "donor not followed", "donor not measured"],
)
def test_slots_are_not_said_to_carry_on_less(conditions):
    assert headline(*conditions) not in ("slots", "markers")


def test_markers_that_keep_the_gain_while_no_content_matters_carry():
    assert headline(FULL, PLAIN, MARKERS, *CONTENT, SAME_DONOR) == "markers"


@pytest.mark.parametrize(
    "conditions",
    [
        (FULL, PLAIN, MARKERS),
        (FULL, PLAIN, *CONTENT, SAME_DONOR),
        (FULL, PLAIN, replace(MARKERS, retained=None), *CONTENT),
        (FULL, PLAIN, replace(MARKERS, retained=keeps(0.84)), *CONTENT),
        (
            FULL,
            PLAIN,
            replace(MARKERS, retained=Retained(None, None, None, estimate(0.0), "no gain")),
            *CONTENT,
        ),
        (FULL, PLAIN, MARKERS, *CONTENT[:2], condition("noise-norm", 0.9, "inconclusive")),
        (FULL, PLAIN, MARKERS, *CONTENT, DONOR),
    ],
    ids=[
        *("no content condition", "no markers-only", "retained missing", "interval reaches below"),
        *("retained undefined", "one content inconclusive", "the donor matters"),
    ],
)
def test_markers_are_not_said_to_carry_on_less(conditions):
    assert headline(*conditions) not in ("slots", "markers")


def test_slots_do_not_carry_when_cutting_them_off_helps():
    better = [replace(CUTS[0], by_answer=comparison(0.3, "different")), CUTS[1]]
    assert headline(FULL, PLAIN, MARKERS, *better, DONOR) == "nothing"


def test_markers_do_not_carry_what_the_format_keeps_alone():
    template = condition("format-only", 0.94, "equivalent", retained=keeps(0.98))
    same = [replace(cut, by_answer=comparison(0.0, "equivalent")) for cut in CUTS]
    everything = (FULL, PLAIN, MARKERS, *CONTENT, *same, SAME_DONOR)
    assert headline(*everything) == "markers"
    assert headline(*everything, template) == "nothing"


def test_a_cut_that_matters_keeps_the_markers_from_carrying():
    assert headline(FULL, PLAIN, MARKERS, *CONTENT, *CUTS, SAME_DONOR) == "nothing"


def test_what_was_not_run_is_named_instead_of_a_finding():
    assert sentences(summary(FULL)) == (
        "Which part carries the gain was not tested in full: plain, markers-only, cut-slots-image, "
        "cut-answer-slots, donor-different-answer were not run.",
    )
    assert "donor-different-answer was not run" in headline(FULL, PLAIN, MARKERS, *CUTS)


def test_too_few_problems_are_named_with_the_number_that_equivalence_needs():
    unsure = replace(SAME_DONOR, by_answer=comparison(0.0, "inconclusive"))
    first = headline(FULL, PLAIN, MARKERS, *CUTS, unsure)
    assert first.startswith("These 96 problems cannot tell")
    assert "donor-different-answer is inconclusive" in first
    assert "59 problems" in first  # 0.95 ** 59 < 0.05 <= 0.95 ** 58
    assert 0.95**59 < 0.05 <= 0.95**58


def test_without_a_gain_there_is_nothing_to_explain():
    same = condition("plain", 0.95, "equivalent")
    assert "full and plain are equivalent" in headline(FULL, same, MARKERS)
    better = condition("plain", 0.99, "different")
    assert "full does worse than plain" in headline(FULL, better, MARKERS)
    assert saying("There is a loss, not a gain", FULL, better)


def test_edits_that_reached_nothing_and_trials_that_failed_are_said():
    missed = replace(CONTENT[0], unreached=7)
    assert "zero (7 trials)" in saying("at no position", FULL, PLAIN, missed)
    failed = replace(CONTENT[0], errors=3)
    assert "zero (3)" in saying("failed", FULL, PLAIN, failed)


# --- one sentence per question -------------------------------------------------------------------


def test_a_gain_is_stated_with_both_accuracies_and_chance():
    assert saying("There is a gain to explain", FULL, PLAIN) == (
        "There is a gain to explain: full scores 0.95 [0.91, 0.99], plain 0.35 [0.31, 0.39]; "
        "guessing gives 0.17."
    )


def test_without_a_gain_there_is_little_to_explain():
    plain = condition("plain", 0.94, "equivalent")
    assert not saying("There is a gain", FULL, plain)
    assert saying("No gain over plain could be shown, so there is little", FULL, plain)
    unknown = replace(summary(FULL, plain), chance=None)
    assert not any("guessing" in sentence for sentence in sentences(unknown))


def test_cuts_are_listed_with_their_words():
    assert saying("slots cut:", FULL, *CUTS) == (
        "With attention to or from the slots cut: cut-slots-image 0.17 [0.13, 0.21] (different); "
        "cut-answer-slots 0.17 [0.13, 0.21] (different)."
    )


def test_the_donors_share_of_answers_is_stated():
    assert saying("another answer", FULL, DONOR) == (
        "With the slots of a problem that has another answer, 80% of answers are the donor's; "
        "accuracy is 0.20 [0.16, 0.24] (different, against full)."
    )


def test_what_markers_and_format_keep_is_stated_where_it_is_defined():
    form = condition("format-only", 0.5, "different", retained=keeps(0.25))
    undefined = replace(form, retained=Retained(None, None, None, estimate(0.0), "no gain"))
    assert saying("Of the gain", FULL, PLAIN, MARKERS, form) == (
        "Of the gain, markers-only keeps 0.97 [0.92, 1.02] and format-only keeps "
        "0.25 [0.20, 0.30] (1 is all, 0 none)."
    )
    assert "format-only" not in saying("Of the gain", FULL, PLAIN, MARKERS, undefined)
    assert not saying("Of the gain", FULL, PLAIN, undefined)
    assert not saying("Of the gain", FULL, MARKERS, form)  # no gain was shown


def test_a_weak_test_that_understates_the_slots_is_named():
    weak = [condition("zero", 0.3, "different"), condition("mean", 0.73, "different")]
    said = saying(WEAK, FULL, *weak, *CUTS)
    assert "(mean leaves 0.73): a slot re-reads the image in every layer" in said
    assert "With the fed vectors replaced: zero 0.30 [0.26, 0.34] (different)" in said


@pytest.mark.parametrize(
    "conditions",
    [
        (condition("zero", 0.18, "different"), *CUTS),
        (condition("zero", 0.73, "different"),),
        (condition("zero", 0.95, "equivalent"), condition("cut-slots-image", 0.8, "inconclusive")),
    ],
    ids=["as strong as the cut", "no cut was run", "the cut shows nothing"],
)
def test_a_test_is_not_called_weak_without_a_stronger_one(conditions):
    assert saying("With the fed vectors replaced", FULL, *conditions)
    assert not saying(WEAK, FULL, *conditions)


def test_the_noise_floor_is_stated_where_it_was_measured():
    again = condition("full-again", 0.95, "equivalent", answer_changed=0.02)
    assert saying(NOISE, FULL, again) == "The same recipe run twice changes 2% of answers."
    assert not saying(NOISE, FULL, replace(again, answer_changed=None))
    assert not saying(NOISE, FULL)


def test_conditions_on_which_the_scorers_disagree_are_named_last():
    torn = replace(PLAIN, by_loglik=comparison(0.0, "equivalent"))
    said = sentences(summary(FULL, torn, *CUTS))
    assert TORN in said[-1]
    assert "disagree on plain: read these as effects on format as well" in said[-1]


def test_the_same_word_in_the_other_direction_is_a_disagreement():
    turned = replace(PLAIN, by_loglik=comparison(+0.2, "different"))
    assert "disagree on plain" in saying(TORN, FULL, turned)


@pytest.mark.parametrize(
    "unmeasured", [replace(PLAIN, by_loglik=None), replace(PLAIN, by_answer=None), PLAIN]
)
def test_scorers_that_agree_or_were_not_both_used_do_not_disagree(unmeasured):
    assert not saying(TORN, FULL, unmeasured)
