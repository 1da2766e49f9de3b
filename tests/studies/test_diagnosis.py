import json
import shutil

import pandas as pd
import pytest

from latentprobe.errors import StatisticsError, StudyError
from latentprobe.studies.diagnosis import Diagnosis
from latentprobe.studies.summary import summarise
from latentprobe.studies.verdict import sentences

ORDER = [
    *("full", "plain", "zero", "mean", "noise-norm", "donor-different-answer", "cut-slots-image"),
]


@pytest.fixture
def copied(finished, tmp_path) -> Diagnosis:
    """A study that a test may spoil."""
    return Diagnosis.read(shutil.copytree(finished.folder, tmp_path / "copy"))


def test_a_study_read_from_its_folder_is_the_one_that_was_run(finished):
    again = Diagnosis.read(str(finished.folder))
    pd.testing.assert_frame_equal(again.rows, finished.rows)
    assert again.manifest == finished.manifest


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(StudyError, match=r"is not a study's folder: it has no manifest\.json"):
        Diagnosis.read(tmp_path)


def test_a_study_can_be_read_while_it_is_not_finished(copied):
    (copied.folder / "trials.parquet").unlink()
    for name in ("attention.parquet", "example.json"):
        (copied.folder / name).unlink()
    log = copied.folder / "trials.wal.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:9]))
    page = Diagnosis.read(copied.folder).page()
    assert (page.attention, page.examples) == (None, ())
    assert page.summary["n"].iloc[0] == 6


def test_the_summary_is_that_of_the_rows_in_the_order_asked(finished):
    made = finished.summary(margin=0.2, reference="zero")
    assert [one.condition for one in made.conditions] == ORDER
    assert (made.margin, made.reference) == (0.2, "zero")
    assert made == summarise(finished.rows, order=ORDER, margin=0.2, reference="zero")
    assert finished.verdict() == sentences(finished.summary())


def test_without_a_usable_trial_of_full_there_is_no_summary(finished):
    lacking = Diagnosis(
        finished.folder, finished.rows[finished.rows["condition"] != "full"], finished.manifest
    )
    with pytest.raises(StatisticsError, match="no usable trial of the condition 'full'"):
        lacking.summary()


def test_the_page_holds_what_the_summary_says(finished):
    page, summary = finished.page(), finished.summary()
    table = page.summary.set_index("condition")
    assert list(table.index) == ORDER
    for one in summary.conditions:
        row = table.loc[one.condition]
        assert (row["n"], row["seeds"]) == (one.n, one.seeds)
        assert row["accuracy"] == one.accuracy.value
        assert row["verdict"] == one.verdict
        assert row["applied_min"] == one.applied_min
    assert table.loc["full", "difference"] is None
    assert table.loc["zero", "difference"] == pytest.approx(
        table.loc["zero", "accuracy"] - table.loc["full", "accuracy"]
    )
    assert table.loc["zero", "recipe"] == "fed vectors replaced by zeros, in the loop"
    assert (page.model, page.chance) == ("organism:mediated", pytest.approx(1 / 6))
    assert page.verdicts == finished.verdict()
    assert "Slots are the only route" in page.card
    assert page.manifest["study"]["seed"] == 0


def test_the_page_shows_attention_and_one_example(finished, mediated, problems):
    page = finished.page()
    assert set(page.attention["role"]) == {"open", "slot", "close", "format", "answer"}
    (example,) = page.examples
    made = mediated.generate(problems[0])
    assert (example.question, example.gold) == (problems[0].question, problems[0].answer)
    assert (example.text, example.answer) == (made.text, made.answer)
    assert example.roles == made.layout.roles
    assert len(example.tokens) == len(made.token_ids)


def test_the_report_is_written_where_it_is_wanted(finished, tmp_path):
    path = finished.report(tmp_path / "page.html")
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "page.html"
    assert "<title>Diagnosis of organism:mediated</title>" in text
    for condition in ORDER:
        assert condition in text


def test_the_report_is_in_the_studys_folder_when_nothing_is_said(copied):
    assert copied.report() == copied.folder / "report.html"
    assert (copied.folder / "report.html").exists()


def test_a_manifest_without_conditions_still_gives_a_page(copied):
    path = copied.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["conditions"], manifest["card"]
    path.write_text(json.dumps(manifest))
    page = Diagnosis.read(copied.folder).page()
    assert set(page.summary["condition"]) == set(ORDER)
    assert (set(page.summary["recipe"]), page.card) == ({""}, "")
