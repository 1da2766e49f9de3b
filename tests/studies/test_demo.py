"""The demo, and that the diagnosis is right on models whose mechanism is known."""

import dataclasses

import pytest

from latentprobe.benchmarks import load as load_problems
from latentprobe.conditions import resolve
from latentprobe.studies.demo import BENCHMARK, ORGANISMS, PROBLEMS, run_demo
from latentprobe.studies.diagnose import diagnose
from latentprobe.studies.summary import StudySummary

CHANCE = 1 / 6
ENOUGH = 64  # of the demo's problems: with less data every verdict is harder to reach


def test_the_demo_diagnoses_both_organisms_and_writes_one_page(tmp_path):
    told: dict[str, tuple[int, int]] = {}
    made = run_demo(
        tmp_path,
        limit=4,
        command=["latentprobe", "demo"],
        progress=lambda name, done, total: told.update({name: (done, total)}),
    )
    assert told == dict.fromkeys(("mediated", "marker-only"), (60, 60))
    assert made.report == tmp_path / "report.html"
    page = made.report.read_text(encoding="utf-8")
    assert "Two models of known mechanism" in page
    for diagnosis, name in zip(made.diagnoses, ORGANISMS, strict=True):
        assert diagnosis.folder == tmp_path / name
        assert (len(diagnosis.rows), diagnosis.rows["error"].notna().sum()) == (60, 0)
        assert diagnosis.manifest["command"] == ["latentprobe", "demo"]
        assert f"organism:{name}" in page


@pytest.fixture(scope="module")
def by_slots(mediated, tmp_path_factory) -> StudySummary:
    names = "cut-slots-image,cut-answer-slots,donor-different-answer,full-again"
    return measured(mediated, names, tmp_path_factory.mktemp("mediated"))


@pytest.fixture(scope="module")
def by_markers(marker_only, tmp_path_factory) -> StudySummary:
    names = "plain,markers-only,zero,noise-norm,donor-different-answer,full-again"
    return measured(marker_only, names, tmp_path_factory.mktemp("marker-only"))


def measured(model, names, folder) -> StudySummary:
    """The demo's first problems, only the conditions asserted about, one seed of each."""
    assert ENOUGH <= PROBLEMS
    once = [dataclasses.replace(condition, seeds=1) for condition in resolve(names)[1:]]
    made = diagnose(model, load_problems(BENCHMARK, limit=ENOUGH), conditions=once, out=folder)
    assert not made.rows["error"].notna().any()
    rows = made.rows.set_index(["condition", "problem", "seed"])
    full, again = rows.loc["full"], rows.loc["full-again"]
    assert list(full["answer"]) == list(again["answer"])
    for one, other in zip(full["option_logprobs"], again["option_logprobs"], strict=True):
        assert list(one) == pytest.approx(list(other), abs=1e-5)
    return made.summary()


@pytest.mark.parametrize("name", ["cut-slots-image", "cut-answer-slots"])
def test_mediated_guesses_when_its_slots_are_cut_off(by_slots, name):
    assert abs(by_slots[name].accuracy.value - CHANCE) <= 0.08
    assert by_slots[name].verdict == "different"


def test_mediated_answers_what_the_donors_slots_say(by_slots):
    assert by_slots["donor-different-answer"].donor_followed >= 0.6
    assert by_slots["donor-different-answer"].verdict == "different"


def test_marker_only_has_a_gain_and_its_markers_keep_it(by_markers):
    assert by_markers["full"].accuracy.value - by_markers["plain"].accuracy.value >= 0.25
    assert by_markers["markers-only"].retained.value >= 0.8


@pytest.mark.parametrize("name", ["zero", "noise-norm", "donor-different-answer"])
def test_marker_only_does_not_care_what_its_slots_hold(by_markers, name):
    assert by_markers[name].verdict == "equivalent"
