"""The study loop: its rows, and that they are the same however often the run is cut short."""

import dataclasses
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import save_file

import latentprobe
from latentprobe.benchmarks import Problem
from latentprobe.benchmarks import load as load_problems
from latentprobe.conditions import Condition
from latentprobe.edits import Knockout
from latentprobe.errors import ProblemError, StudyMismatchError, UnknownNameError
from latentprobe.generation import Decoding
from latentprobe.models import LatentModel
from latentprobe.studies.diagnose import Study, diagnose
from latentprobe.studies.diagnosis import Diagnosis
from latentprobe.tokens import SLOTS
from latentprobe.trajectory import Structure

WAL, ROWS = "trials.wal.jsonl", "trials.parquet"
SEEDS = {
    **dict.fromkeys(("full", "plain", "zero", "mean", "cut-slots-image"), 1),
    **dict.fromkeys(("noise-norm", "donor-different-answer"), 3),
}


def keys(folder: Path) -> list[str]:
    """Keys of the whole lines of the write-ahead log, in order."""
    found = []
    for line in (folder / WAL).read_text().splitlines():
        try:
            found.append(json.loads(line)["row"]["key"])
        except json.JSONDecodeError:
            continue
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- an uninterrupted run ------------------------------------------------------------------------


def test_every_problem_has_every_condition_and_seed_once(finished):
    rows = finished.rows
    assert len(rows) == 6 * sum(SEEDS.values())
    counted = rows.groupby(["problem", "condition"])["seed"].agg(list).map(sorted)
    assert counted.map(len).to_dict() == {
        (problem, name): seeds for problem in set(rows["problem"]) for name, seeds in SEEDS.items()
    }
    assert all(seeds == list(range(len(seeds))) for seeds in counted)
    assert rows["key"].is_unique
    assert not rows["error"].notna().any()


def test_rows_are_those_of_a_generation_by_hand(mediated, problems, finished):
    rows = finished.rows[finished.rows["condition"] == "full"].set_index("problem")
    for problem in problems[:6]:
        made, row = mediated.generate(problem), rows.loc[problem.key]
        assert (row["text"], row["answer"], row["correct"]) == (
            made.text,
            made.answer,
            made.answer == problem.answer,
        )
        assert row["option_logprobs"] == pytest.approx(made.scores, abs=1e-5)


def test_edits_reached_every_slot(finished):
    counts = {
        name: [tuple(count.values()) for count in rows]
        for name, rows in finished.rows.groupby("condition")["applied"]
    }
    assert set(counts["full"]) == set(counts["plain"]) == {()}
    for name in ("zero", "mean", "noise-norm", "cut-slots-image"):
        assert set(counts[name]) == {(2,)}
    assert all(count >= 2 for (count,) in counts["donor-different-answer"])


def test_donors_gave_another_answer_of_their_own(finished):
    rows = finished.rows
    own = rows[rows["condition"] == "full"].set_index("problem")["answer"]
    donated = rows[rows["condition"] == "donor-different-answer"]
    assert len(donated) == 18
    for row in donated.to_dict("records"):
        assert row["donor"] != row["problem"]
        assert row["donor_answer"] == own[row["donor"]] != row["gold"]
        assert row["donor_followed"] == (row["answer"] == row["donor_answer"])


def test_the_manifest_says_how_the_rows_came_about(finished, mediated):
    manifest = finished.manifest
    assert [name for name, _ in manifest["conditions"]] == list(
        dict.fromkeys([
            *("full", "plain", "zero", "mean", "noise-norm", "donor-different-answer"),
            "cut-slots-image",
        ])
    )
    assert manifest["seeds"] == [0, 1, 2]
    assert manifest["study"]["model_hash"] == mediated.fingerprint
    assert (manifest["rows"], manifest["study"]["problems"]) == (66, 6)
    assert (manifest["card"], manifest["method_card"]) == (
        mediated.card,
        mediated.method.describe(),
    )


def test_progress_is_told_after_every_trial(mediated, problems, empty_folder):
    told = []
    diagnose(
        mediated,
        problems[:2],
        conditions="zero",
        out=empty_folder,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_one_problem_is_enough(mediated, problems, empty_folder):
    made = diagnose(mediated, problems[:1], conditions="zero,cut-slots-image", out=empty_folder)
    assert sorted(made.rows["condition"]) == ["cut-slots-image", "full", "zero"]
    assert made.summary()["zero"].verdict == "inconclusive"
    assert made.report().stat().st_size > 10_000


def test_decoding_and_first_seed_are_used(mediated, problems, empty_folder):
    made = diagnose(
        mediated,
        problems[:1],
        conditions="noise-norm",
        out=empty_folder,
        seed=5,
        decoding=Decoding(max_new_tokens=4),
    )
    rows = made.rows
    assert sorted(rows["seed"]) == [5, 5, 6, 7]
    assert set(rows["tokens"]) == {4}
    assert set(rows["stop_reason"]) == {"max_new_tokens"}


# --- cut short -----------------------------------------------------------------------------------

DRIVER = """
import json, os, shutil, signal, sys
from pathlib import Path

import latentprobe.models, latentprobe.studies.diagnose, transformers  # once, for all processes
from latentprobe.cli import main
from latentprobe.records import RecordStore

folder, points = Path(sys.argv.pop(1)), json.loads(sys.argv.pop(1))
sys.argv += ["--out", str(folder / "study")]
append, appended = RecordStore.append, 0

def counted(self, trial, seconds):
    global appended
    appended += trial.key not in self.done
    if where == "half-a-line" and appended == number:
        with (self.folder / "trials.wal.jsonl").open("ab") as log:
            log.write(b'{"row": {"answer": "bl')
        os.kill(os.getpid(), signal.SIGKILL)
    append(self, trial, seconds)
    if appended == number:
        os.kill(os.getpid(), signal.SIGINT if where == "interrupt" else signal.SIGKILL)

RecordStore.append = counted
codes = []
for where, number in points:
    process = os.fork()
    if not process:
        os.dup2(os.open(folder / f"{where}.errors", os.O_CREAT | os.O_WRONLY), 2)
        os.dup2(2, 1)
        main()
        raise SystemExit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
    shutil.copytree(folder / "study", folder / where)
print(json.dumps(codes))
"""


@dataclasses.dataclass(frozen=True)
class Stop:
    """How one process ended, and what it left."""

    code: int
    errors: str
    keys: list[str]
    files: set[str]


@pytest.fixture(scope="module")
def stops(study_arguments, tmp_path_factory) -> tuple[Path, list[Stop]]:
    """The same command in one folder, three processes stopped at three different points."""
    folder = tmp_path_factory.mktemp("stopped")
    points = [("bank-phase", 3), ("half-a-line", 15), ("interrupt", 16)]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(folder), json.dumps(points), *study_arguments],
        cwd=Path(latentprobe.__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )
    codes = json.loads(done.stdout)
    return folder / "study", [
        Stop(
            code,
            (folder / f"{where}.errors").read_text(),
            keys(folder / where),
            {path.name for path in (folder / where).iterdir()},
        )
        for code, (where, _) in zip(codes, points, strict=True)
    ]


def test_the_processes_really_were_stopped_where_they_were_told_to(stops):
    _, (bank_phase, half_line, interrupted) = stops
    assert [s.code for s in stops[1]] == [-signal.SIGKILL, -signal.SIGKILL, 130]
    assert [len(s.keys) for s in stops[1]] == [3, 17, 33]
    assert "bank.safetensors" not in bank_phase.files
    assert "bank.safetensors" in half_line.files & interrupted.files
    assert not any(ROWS in s.files for s in stops[1])


def test_no_stopped_run_repeats_a_trial_that_was_finished(stops):
    _, ended = stops
    for before, after in itertools.pairwise(ended):
        assert after.keys[: len(before.keys)] == before.keys
        assert len(set(after.keys)) == len(after.keys)


def test_an_interrupt_says_that_finished_trials_are_kept(stops):
    last = stops[1][-1]
    assert "interrupted; finished trials are kept, the same command does only the rest" in (
        last.errors
    )
    assert "Traceback" not in last.errors


def test_half_a_line_is_warned_of_when_the_study_goes_on(stops):
    assert "line 18: cut short or corrupt, skipped" in stops[1][-1].errors


def test_a_run_stopped_three_times_ends_with_the_rows_of_an_uninterrupted_one(
    stops, finished, mediated, problems
):
    folder, _ = stops
    told = []
    with pytest.warns(UserWarning, match="line 18: cut short or corrupt, skipped; its trial will"):
        again = diagnose(
            mediated,
            problems[:6],
            conditions=[name for name, _ in finished.manifest["conditions"]],
            out=folder,
            benchmark="mini-attribute",
            split="test",
            progress=lambda done, total: told.append((done, total)),
        )
    assert told[0] == (33, 66)
    assert len(again.rows) == 66
    lines = keys(folder)
    assert (len(lines), len(set(lines))) == (66, 66)
    assert (folder / ROWS).read_bytes() == (finished.folder / ROWS).read_bytes()
    for name in ("attention.parquet", "example.json"):
        assert (folder / name).read_bytes() == (finished.folder / name).read_bytes()
    assert not list(folder.glob("*.partial"))
    assert [one.accuracy for one in again.summary().conditions] == [
        one.accuracy for one in finished.summary().conditions
    ]


def test_a_finished_study_asked_again_runs_nothing(mediated, problems, empty_folder, monkeypatch):
    diagnose(mediated, problems[:2], conditions="zero", out=empty_folder)
    before = contents(empty_folder)

    def generate(*_: object, **__: object) -> None:
        raise AssertionError("a finished study generated again")

    monkeypatch.setattr(LatentModel, "generate", generate)
    diagnose(mediated, problems[:2], conditions="zero", out=empty_folder)
    assert contents(empty_folder) == before


def test_half_a_bank_is_never_taken_for_a_bank(mediated, problems, empty_folder, monkeypatch):
    def half(tensors, path, **more):
        save_file(tensors, path, **more)
        os.truncate(path, path.stat().st_size // 2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("latentprobe.interventions.bank.save_file", half)
        with pytest.raises(KeyboardInterrupt):
            diagnose(mediated, problems[:3], conditions="mean", out=empty_folder)
    assert len(keys(empty_folder)) == 3
    again = diagnose(mediated, problems[:3], conditions="mean", out=empty_folder)
    whole = diagnose(mediated, problems[:3], conditions="mean", out=empty_folder.with_name("whole"))
    pd.testing.assert_frame_equal(again.rows, whole.rows)


def test_a_cut_last_line_is_warned_of_and_its_trial_run_again(mediated, problems, empty_folder):
    whole = diagnose(mediated, problems[:2], conditions="zero", out=empty_folder)
    table, log = (empty_folder / ROWS), (empty_folder / WAL)
    first, all_keys = table.read_bytes(), keys(empty_folder)
    table.unlink()
    log.write_bytes(log.read_bytes()[:-30])
    with pytest.warns(UserWarning, match=r"line 4: cut short or corrupt"):
        again = diagnose(mediated, problems[:2], conditions="zero", out=empty_folder)
    assert keys(empty_folder) == all_keys
    assert table.read_bytes() == first
    assert len(again.rows) == len(whole.rows) == 4


# --- a folder that is already there --------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed: got 1, there 0"),
        ({"decoding": Decoding(temperature=0.5)}, "decoding: got .*temperature=0.5"),
        ({"benchmark": "another"}, "benchmark: got 'another', there 'problems'"),
        ({"count": 2}, "problems: got 2, there 1"),
    ],
)
def test_another_studys_folder_is_refused_and_nothing_overwritten(
    mediated, problems, tmp_path_factory, change, named
):
    folder = tmp_path_factory.mktemp("taken")
    diagnose(mediated, problems[:1], conditions="full", out=folder)
    before = contents(folder)
    count = change.pop("count", 1)
    with pytest.raises(StudyMismatchError, match=f"holds another study.*{named}"):
        diagnose(mediated, problems[:count], conditions="full", out=folder, **change)
    assert contents(folder) == before


def test_another_models_folder_is_refused(mediated, marker_only, problems, empty_folder):
    diagnose(mediated, problems[:1], conditions="full", out=empty_folder)
    before = contents(empty_folder)
    with pytest.raises(StudyMismatchError, match="model: got 'organism:marker-only'"):
        diagnose(marker_only, problems[:1], conditions="full", out=empty_folder)
    assert contents(empty_folder) == before


def test_a_folder_of_other_files_is_refused(mediated, problems, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(StudyMismatchError, match=r"holds files but no study: thesis\.txt"):
        diagnose(mediated, problems[:1], conditions="full", out=tmp_path)
    assert contents(tmp_path) == {"thesis.txt": b"precious"}


def test_conditions_added_later_run_only_the_new_ones(mediated, problems, empty_folder):
    first = diagnose(mediated, problems[:3], conditions="zero", out=empty_folder)
    lines = keys(empty_folder)
    later = diagnose(mediated, problems[:3], conditions="mean,noise-norm", out=empty_folder)
    assert keys(empty_folder)[: len(lines)] == lines
    assert len(keys(empty_folder)) == len(lines) + 3 * (1 + 3)
    assert sorted(set(later.rows["condition"])) == ["full", "mean", "noise-norm", "zero"]
    kept = later.rows[later.rows["condition"].isin(["full", "zero"])]
    assert list(kept["key"]) == list(first.rows["key"])
    # what was said of the first conditions is still said
    recipes = dict(later.manifest["conditions"])
    assert list(recipes) == ["full", "zero", "mean", "noise-norm"]
    assert recipes["zero"] == "fed vectors replaced by zeros, in the loop"
    assert later.manifest["seeds"] == [0, 1, 2]


def test_another_recipe_of_the_same_name_is_refused(mediated, problems, empty_folder):
    mine = Condition("mine", "content", "zeros", content="zero")
    diagnose(mediated, problems[:1], conditions=[mine], out=empty_folder)
    before = contents(empty_folder)
    other = Condition("mine", "content", "noise", content="noise-norm")
    with pytest.raises(StudyMismatchError, match=r"another condition called 'mine'.*rename"):
        diagnose(mediated, problems[:1], conditions=[other], out=empty_folder)
    assert contents(empty_folder) == before
    # other words for the same recipe are not another condition
    reworded = dataclasses.replace(mine, recipe="all zeros")
    again = diagnose(mediated, problems[:1], conditions=[reworded], out=empty_folder)
    assert len(again.rows) == 2


# --- what goes wrong in one trial ----------------------------------------------------------------


def errors(made: Diagnosis, condition: str) -> list[str]:
    rows = made.rows[made.rows["condition"] == condition]
    return [error for error in rows["error"] if isinstance(error, str)]


def test_a_problem_without_a_legal_donor_is_a_row_and_the_study_goes_on(
    mediated, problems, empty_folder
):
    made = diagnose(
        mediated, problems[:1], conditions="donor-different-answer,zero", out=empty_folder
    )
    said = errors(made, "donor-different-answer")
    assert len(said) == 3
    assert all(
        re.match("ProblemError: no donor for mini-attribute/test/0: none of 1", s) for s in said
    )
    assert not errors(made, "full") + errors(made, "zero")
    summary = made.summary()
    assert summary.errors == 3
    assert "donor-different-answer" not in {one.condition for one in summary.conditions}


def test_one_trials_error_is_a_row_and_the_study_goes_on(mediated, problems, empty_folder):
    impossible = Condition(
        "impossible", "attention", "", Structure(slots=False), cuts=(Knockout(SLOTS, SLOTS),)
    )
    made = diagnose(mediated, problems[:2], conditions=[impossible, "zero"], out=empty_folder)
    said = errors(made, "impossible")
    assert len(said) == 2
    assert all(
        error.startswith("EmptySubsetError: edit 0 (knockout slot->slot) was applied at no")
        for error in said
    )
    assert len(made.rows) == 6
    lines = keys(empty_folder)
    diagnose(mediated, problems[:2], conditions=[impossible, "zero"], out=empty_folder)
    assert keys(empty_folder) == lines


def test_a_problem_the_model_cannot_read_is_rows_and_the_study_goes_on(
    mediated, problems, empty_folder
):
    token = mediated.prompter.image_token
    broken = Problem(f"What is {token}?", options=["red", "blue"], answer="red", name="broken")
    made = diagnose(
        mediated, [broken, *problems[:4]], conditions="donor-different-answer", out=empty_folder
    )
    assert len(made.rows) == 5 * 4
    failed = made.rows[made.rows["error"].notna()]
    assert set(failed["problem_name"]) == {"broken"}
    assert len(failed) == 4
    (full,) = failed[failed["condition"] == "full"]["error"]
    assert full.startswith("ModelError: the checkpoint's chat template must show the question")
    donors = failed[failed["condition"] == "donor-different-answer"]["error"]
    assert all(error.startswith("ProblemError: no donor for broken") for error in donors)
    assert made.page().examples[0].problem_name == problems[0].name


def test_without_a_single_slot_conditions_that_borrow_say_so(mediated, problems, empty_folder):
    made = diagnose(
        mediated,
        problems[:2],
        conditions="mean,donor-different-answer",
        out=empty_folder,
        decoding=Decoding(max_new_tokens=1),
    )
    assert len(errors(made, "mean")) == 2
    assert all(e.startswith("EditError: mean takes what other") for e in errors(made, "mean"))
    assert len(errors(made, "donor-different-answer")) == 6
    assert not (empty_folder / "bank.safetensors").exists()


def test_a_response_that_was_not_parsed_is_nobodys_donor(mediated, problems, empty_folder):
    made = diagnose(
        mediated,
        problems[:4],
        conditions="donor-different-answer",
        out=empty_folder,
        decoding=Decoding(max_new_tokens=3),
    )
    assert not made.rows["parsed"].any()
    assert len(errors(made, "donor-different-answer")) == 12


def test_an_error_that_is_not_ours_ends_the_run_and_keeps_what_was_done(
    mediated, problems, empty_folder
):
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        diagnose(mediated, problems[:2], conditions="zero", out=empty_folder, progress=stop)
    assert len(keys(empty_folder)) == 2
    made = diagnose(mediated, problems[:2], conditions="zero", out=empty_folder)
    assert len(made.rows) == 4


# --- what is refused before anything runs --------------------------------------------------------


def test_no_problems_are_refused(mediated, empty_folder):
    with pytest.raises(ProblemError, match="nothing to diagnose: no problems were given"):
        diagnose(mediated, [], out=empty_folder)
    assert not empty_folder.exists()


@pytest.mark.parametrize(
    "open_question", [Problem("Why?", name="why"), Problem("Why?", options=["a", "b"], name="why")]
)
def test_problems_without_options_or_gold_answer_are_refused(
    mediated, problems, empty_folder, open_question
):
    with pytest.raises(ProblemError, match=r"1 problems have no options or no gold .* first 'why'"):
        diagnose(mediated, [*problems, open_question], out=empty_folder)
    assert not empty_folder.exists()


def test_the_same_problem_twice_is_refused(mediated, problems, empty_folder):
    renamed = dataclasses.replace(problems[0], name="a different name")
    with pytest.raises(ProblemError, match="some problems are the same"):
        diagnose(mediated, [*problems, renamed], out=empty_folder)
    assert not empty_folder.exists()


def test_an_unknown_condition_is_refused_before_a_folder_is_made(mediated, problems, empty_folder):
    with pytest.raises(UnknownNameError, match="unknown condition 'zeros'"):
        diagnose(mediated, problems, conditions="zeros", out=empty_folder)
    assert not empty_folder.exists()


def test_problems_with_another_content_are_another_study(mediated, problems):
    def identity(*asked: Problem) -> dict:
        return Study(mediated, asked, "b", "test", (), Decoding(), 0).identity

    assert identity(*problems) == identity(*problems)
    assert identity(problems[0]) != identity(problems[1])
    assert identity(*problems[:2]) != identity(problems[1], problems[0])


def test_no_warning_is_given_on_a_clean_resume(mediated, problems, empty_folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        diagnose(mediated, problems[:1], conditions="full", out=empty_folder)
        diagnose(
            mediated, load_problems("mini-attribute", limit=1), conditions="zero", out=empty_folder
        )
    assert len(keys(empty_folder)) == 2
