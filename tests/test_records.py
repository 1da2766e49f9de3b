"""The record store: rows survive what happens to processes and files."""

import errno
import fcntl
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import textwrap
import warnings
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentprobe.errors import StudyError, StudyMismatchError
from latentprobe.records import (
    SCHEMA,
    RecordStore,
    Trial,
    canonical_json,
    content_key,
    environment,
    folder,
    store,
)

STUDY = {"model": {"name": "organism:mediated", "hash": "ab12"}, "seeds": [0, 1]}
LOG, TABLE, MANIFEST = "trials.wal.jsonl", "trials.parquet", "manifest.json"


def trial(number: int, **changes: object) -> Trial:
    made = Trial(
        key=f"key-{number:03d}",
        model="organism:mediated",
        model_hash="ab12",
        benchmark="mini-attribute",
        split="test",
        problem=f"hash-{number // 2}",
        problem_name=f"problem {9 - number // 2}",
        cluster=f"image-{number // 4}",
        condition="full" if number % 2 else "zero",
        condition_hash="cd34",
        seed=0,
        text="<answer>röd</answer>\n",
        answer="red",
        parsed=True,
        correct=bool(number % 3),
        gold="red",
        answer_loglik="blue",
        correct_loglik=False,
        option_logprobs=[-0.1 * number, -2.5],
        option_margin=0.1 * number,
        entered=True,
        segments=1,
        slots=4,
        tokens=17,
        stop_reason="end",
        applied={"zero": 4},
    )
    return replace(made, **changes)


def fill(path: Path, numbers: range) -> bytes:
    with RecordStore.open(path, STUDY) as store_:
        for number in numbers:
            store_.append(trial(number), seconds=0.5)
        return store_.finalise().read_bytes()


def contents(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in sorted(path.iterdir())}


@pytest.fixture
def uninterrupted(tmp_path: Path) -> bytes:
    return fill(tmp_path / "uninterrupted", range(8))


# --- keys, rows, schema --------------------------------------------------------------------------


def test_a_content_key_is_the_hash_of_canonical_json():
    text = '["model",{"a":1,"b":[true,null]}]'
    expected = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert content_key("model", {"b": [True, None], "a": 1}) == expected
    assert content_key("a", "b") != content_key("b", "a")
    assert content_key("ab") != content_key("a", "b")


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()])
def test_what_json_cannot_say_has_no_key(value: object):
    with pytest.raises(StudyError, match="cannot be written as JSON"):
        content_key(value)


def test_every_field_of_a_trial_is_a_column_and_only_optional_ones_may_be_null():
    assert SCHEMA.names == [field.name for field in fields(Trial)]
    nullable = {column.name for column in SCHEMA if column.nullable}
    assert nullable == {
        "answer", "answer_loglik", "correct_loglik", "option_margin", "donor", "donor_answer",
        "donor_followed", "error",
    }  # fmt: skip


def test_a_row_comes_back_as_it_was_written(tmp_path: Path):
    with RecordStore.open(tmp_path, STUDY) as store_:
        store_.append(trial(1), 0.1)
        store_.append(trial(3, answer=None, option_margin=None, donor_followed=True), 0.1)
        frame = store_.frame().set_index("key")
    first, second = frame.loc["key-001"], frame.loc["key-003"]
    assert first["text"] == "<answer>röd</answer>\n"
    assert first["applied"] == {"zero": 4}
    assert list(first["option_logprobs"]) == [-0.1, -2.5]
    assert (first["option_margin"], first["slots"], first["correct"]) == (0.1, 4, True)
    assert pd.isna(second["answer"])
    assert pd.isna(second["option_margin"])
    assert second["donor_followed"] is True


def test_numpy_scalars_are_stored_as_plain_values(tmp_path: Path):
    changes = {"correct": np.bool_(True), "slots": np.int64(3), "option_margin": np.float32(0.5)}
    made = trial(0)
    for name, value in changes.items():
        object.__setattr__(made, name, value)
    with RecordStore.open(tmp_path, STUDY) as store_:
        store_.append(made, 0.1)
        row = json.loads((tmp_path / LOG).read_text())["row"]
    assert (row["correct"], row["slots"], row["option_margin"]) == (True, 3, 0.5)


def test_a_trial_of_the_wrong_type_is_refused_before_anything_is_written(tmp_path: Path):
    with RecordStore.open(tmp_path, STUDY) as store_:
        for name, value, message in [
            ("gold", None, "gold cannot be None"),
            ("seed", "zero", "does not fit the store's columns"),
            ("option_margin", float("nan"), "cannot be written as JSON"),
            ("text", "\ud800", "does not fit the store's columns"),
        ]:
            made = trial(0)
            object.__setattr__(made, name, value)
            with pytest.raises(StudyError, match=message):
                store_.append(made, 0.1)
        assert not (tmp_path / LOG).exists()
        assert store_.done == set()


def test_the_frame_is_sorted_by_problem_condition_seed_and_key(tmp_path: Path):
    with RecordStore.open(tmp_path, STUDY) as store_:
        for number in (5, 0, 3, 2, 4, 1):
            store_.append(trial(number), 0.1)
        frame = store_.frame()
    assert list(frame["problem_name"]) == [f"problem {n}" for n in (7, 7, 8, 8, 9, 9)]
    assert list(frame["condition"]) == ["full", "zero"] * 3


def test_an_empty_study_has_an_empty_frame_with_every_column(tmp_path: Path):
    with RecordStore.open(tmp_path, STUDY) as store_:
        assert store_.finalise() == tmp_path / TABLE
    frame = RecordStore.read(tmp_path).frame()
    assert len(frame) == 0
    assert list(frame.columns) == SCHEMA.names


# --- resuming ------------------------------------------------------------------------------------


def test_an_interrupted_and_resumed_run_gives_the_same_table_byte_for_byte(
    tmp_path: Path, uninterrupted: bytes
):
    fill(tmp_path / "resumed", range(3))
    assert fill(tmp_path / "resumed", range(8)) == uninterrupted
    assert set(contents(tmp_path / "resumed")) == {".lock", LOG, TABLE, MANIFEST}


def test_the_order_in_which_trials_finish_leaves_no_trace(tmp_path: Path, uninterrupted: bytes):
    assert fill(tmp_path / "backwards", range(7, -1, -1)) == uninterrupted


CHILD = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_records import RecordStore, STUDY, trial
    with RecordStore.open(Path({path!r}), STUDY) as opened:
        for number in range(8):
            opened.append(trial(number), 0.5)
            print(number, flush=True)
            if number == 4:
                time.sleep(60)
"""


def test_a_run_killed_without_warning_loses_no_finished_trial(tmp_path: Path, uninterrupted: bytes):
    path = tmp_path / "killed"
    code = textwrap.dedent(CHILD).format(tests=str(Path(__file__).parent), path=str(path))
    root = Path(folder.__file__).parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert child.stdout is not None
    with child.stdout:
        finished = [int(child.stdout.readline()) for _ in range(5)]
        with pytest.raises(StudyError, match="another process is writing"):
            RecordStore.open(path, STUDY)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    with RecordStore.open(path, STUDY) as store_:
        assert store_.done == {f"key-{number:03d}" for number in finished}
    assert fill(path, range(8)) == uninterrupted


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_a_log_cut_at_any_byte_resumes_to_the_same_table(data):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "cut"
        expected = fill(path, range(3))
        (path / TABLE).unlink()
        whole = (path / LOG).read_bytes()
        end = data.draw(st.integers(0, len(whole)))
        (path / LOG).write_bytes(whole[:end])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with RecordStore.open(path, STUDY) as store_:
                survivors = len(store_.done)
            assert fill(path, range(3)) == expected
        complete = whole[:end].count(b"\n")
        cut = whole[:end].rpartition(b"\n")[2]
        closed = bool(cut) and whole[end : end + 1] == b"\n"  # only the newline was lost
        assert survivors == complete + closed
        assert bool(caught) == (bool(cut) and not closed)


def test_a_line_cut_short_is_skipped_with_a_warning_and_its_trial_runs_again(tmp_path: Path):
    fill(tmp_path, range(2))
    (tmp_path / TABLE).unlink()
    log = tmp_path / LOG
    log.write_bytes(log.read_bytes()[:-30])
    with pytest.warns(UserWarning, match=r"trials\.wal\.jsonl, line 2: cut short.*will run again"):
        opened = RecordStore.open(tmp_path, STUDY)
    with opened as store_:
        assert store_.done == {"key-000"}
        store_.append(trial(1), 0.5)
        assert len(store_.frame()) == 2
    lines = log.read_bytes().split(b"\n")
    assert len(lines) == 4  # whole, cut, whole again, and nothing after the last newline
    assert json.loads(lines[2])["row"]["key"] == "key-001"


@pytest.mark.parametrize("line", [
    b"garbage", b"[]", b"\xff\xfe", b"\x00\x00", b'{"row": {"key": "x"}, "seconds": 1}',
    b'{"row": 3, "seconds": 1}', b'{"seconds": 1}', b"null",
])  # fmt: skip
def test_a_corrupt_line_is_skipped_wherever_it_is(tmp_path: Path, line: bytes):
    fill(tmp_path, range(2))
    log = tmp_path / LOG
    log.write_bytes(line + b"\n" + log.read_bytes())
    with pytest.warns(UserWarning, match="line 1: cut short or corrupt"):
        assert RecordStore.read(tmp_path).done == {"key-000", "key-001"}


def test_a_row_whose_value_changed_type_is_corrupt(tmp_path: Path):
    fill(tmp_path, range(1))
    (tmp_path / TABLE).unlink()
    log = tmp_path / LOG
    log.write_bytes(log.read_bytes().replace(b'"slots":4', b'"slots":"4"'))
    with pytest.warns(UserWarning, match="line 1"):
        assert RecordStore.read(tmp_path).done == set()


def test_of_two_rows_with_one_key_the_first_wins(tmp_path: Path):
    with RecordStore.open(tmp_path, STUDY) as store_:
        store_.append(trial(0, text="first"), 0.5)
        store_.append(trial(0, text="second"), 0.5)
        assert (tmp_path / LOG).read_bytes().count(b"\n") == 1
    fill(tmp_path / "other", range(1))
    with (tmp_path / LOG).open("ab") as file:
        file.write((tmp_path / "other" / LOG).read_bytes())
    store_ = RecordStore.read(tmp_path)
    assert list(store_.frame()["text"]) == ["first"]


def test_rows_that_only_the_table_has_are_kept(tmp_path: Path, uninterrupted: bytes):
    fill(tmp_path / "a", range(5))
    (tmp_path / "a" / LOG).unlink()
    reader = RecordStore.read(tmp_path / "a")
    assert len(reader.done) == len(reader.frame()) == 5
    assert fill(tmp_path / "a", range(8)) == uninterrupted


def test_frames_from_the_log_and_from_the_table_are_equal(tmp_path: Path):
    fill(tmp_path, range(6))
    both = RecordStore.read(tmp_path).frame()
    (tmp_path / LOG).rename(tmp_path / "kept")
    pd.testing.assert_frame_equal(RecordStore.read(tmp_path).frame(), both)
    (tmp_path / "kept").rename(tmp_path / LOG)
    (tmp_path / TABLE).unlink()
    pd.testing.assert_frame_equal(RecordStore.read(tmp_path).frame(), both)


def test_a_table_that_cannot_be_read_is_refused_and_the_folder_let_go(tmp_path: Path):
    fill(tmp_path, range(2))
    (tmp_path / TABLE).write_bytes(b"not parquet")
    with pytest.raises(StudyError, match=r"trials\.parquet cannot be read .* move it away"):
        RecordStore.open(tmp_path, STUDY)
    (tmp_path / TABLE).unlink()
    fill(tmp_path, range(2))
    assert pq.read_table(tmp_path / TABLE).num_rows == 2


# --- whose folder it is --------------------------------------------------------------------------


def test_another_study_is_refused_and_every_difference_named(tmp_path: Path):
    fill(tmp_path, range(2))
    before = contents(tmp_path)
    other = {"model": {"name": "organism:mediated", "hash": "ff"}, "seeds": [0, 1], "split": "val"}
    with pytest.raises(StudyMismatchError) as caught:
        RecordStore.open(tmp_path, other)
    message = str(caught.value)
    assert "model.hash: got 'ff', there 'ab12'" in message
    assert "split: got 'val', there '(absent)'" in message
    assert "model.name" not in message
    assert "choose another folder" in message
    assert contents(tmp_path) == before


def test_many_differences_are_counted_rather_than_listed(tmp_path: Path):
    with RecordStore.open(tmp_path, {f"k{n:02d}": n for n in range(12)}):
        pass
    with pytest.raises(StudyMismatchError, match=r"k00: .*and 4 more"):
        RecordStore.open(tmp_path, {f"k{n:02d}": -n - 1 for n in range(12)})


def test_a_folder_of_another_format_is_another_study(tmp_path: Path):
    fill(tmp_path, range(1))
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**manifest, "format": 0}))
    with pytest.raises(StudyMismatchError, match="format: got 1, there 0"):
        RecordStore.open(tmp_path, STUDY)


@pytest.mark.parametrize("name", ["thesis.tex", LOG, TABLE])
def test_a_folder_with_files_but_no_study_is_left_alone(tmp_path: Path, name: str):
    (tmp_path / name).write_text("precious")
    with pytest.raises(StudyMismatchError, match=f"holds files but no study: {name}"):
        RecordStore.open(tmp_path, STUDY)
    assert contents(tmp_path) == {name: b"precious"}


def test_a_file_is_not_a_folder(tmp_path: Path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(StudyMismatchError, match="is a file; give a folder"):
        RecordStore.open(tmp_path / "file", STUDY)


def test_a_start_that_died_before_its_manifest_does_not_block_the_next(tmp_path: Path):
    (tmp_path / ".lock").touch()
    (tmp_path / "manifest.json.partial").write_text("{")
    assert len(fill(tmp_path, range(1))) > 0
    assert RecordStore.read(tmp_path).done == {"key-000"}


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"study": 3}'])
def test_a_manifest_that_cannot_be_read_is_named(tmp_path: Path, text: str):
    (tmp_path / MANIFEST).write_text(text)
    for opening in (RecordStore.read, lambda path: RecordStore.open(path, STUDY)):
        with pytest.raises(StudyError, match=r"manifest\.json is not a study's manifest"):
            opening(tmp_path)


def test_reading_where_no_study_is_says_what_to_give(tmp_path: Path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(StudyError, match=r"is not a study's folder.*--out"):
            RecordStore.read(path)
    assert contents(tmp_path) == {}


def test_two_writers_cannot_hold_one_folder_but_readers_can_look(tmp_path: Path):
    with RecordStore.open(tmp_path, STUDY) as store_:
        store_.append(trial(0), 0.5)
        with pytest.raises(StudyError, match="another process is writing"):
            RecordStore.open(tmp_path, STUDY)
        assert RecordStore.read(tmp_path).done == {"key-000"}
    with RecordStore.open(tmp_path, STUDY) as store_:
        assert repr(store_) == f"RecordStore({str(tmp_path)!r}, 1 trials)"


def test_a_store_forgotten_without_closing_lets_go(tmp_path: Path):
    opened = RecordStore.open(tmp_path, STUDY)
    del opened
    with RecordStore.open(tmp_path, STUDY) as store_:
        assert store_.done == set()


def test_a_file_system_without_locks_gets_a_warning(tmp_path: Path, monkeypatch):
    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="cannot be locked .*No locks available"):
        opened = RecordStore.open(tmp_path, STUDY)
    with opened as store_:
        store_.append(trial(0), 0.5)
        assert store_.done == {"key-000"}


def test_reading_and_closed_stores_do_not_write(tmp_path: Path):
    fill(tmp_path, range(1))
    before = contents(tmp_path)
    closed = RecordStore.open(tmp_path, STUDY)
    closed.close()
    closed.close()
    for store_ in (RecordStore.read(tmp_path), closed):
        for write in (
            lambda: store_.append(trial(5), 0.1),  # noqa: B023 - called at once
            store_.finalise,
            lambda: store_.update_manifest(note="x"),  # noqa: B023 - called at once
        ):
            with pytest.raises(StudyError, match="not open for writing"):
                write()
        assert len(store_.frame()) == 1
    RecordStore.read(tmp_path).close()
    assert contents(tmp_path) == before


# --- the manifest --------------------------------------------------------------------------------


def test_the_manifest_says_how_the_rows_came_about(tmp_path: Path):
    with RecordStore.open(tmp_path, STUDY, command=["latentprobe", "diagnose"]) as store_:
        for number in range(3):
            store_.append(trial(number), seconds=0.25)
        store_.finalise()
        store_.update_manifest(note="three trials")
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert manifest["study"] == STUDY
    assert manifest["command"] == ["latentprobe", "diagnose"]
    assert manifest["versions"]["python"] == platform.python_version()
    assert manifest["versions"]["numpy"] == np.__version__
    assert (manifest["seconds"], manifest["rows"]) == (0.75, 3)
    assert manifest["note"] == "three trials"
    assert pd.Timestamp(manifest["created"]).tzinfo is not None
    assert RecordStore.read(tmp_path).manifest == manifest


def test_the_time_of_a_repeated_row_counts_once(tmp_path: Path):
    fill(tmp_path, range(2))
    log = tmp_path / LOG
    log.write_bytes(log.read_bytes() * 2)
    fill(tmp_path, range(2))
    assert RecordStore.read(tmp_path).manifest["seconds"] == 1.0


def test_a_run_resumed_in_another_environment_leaves_a_note_once(tmp_path: Path, monkeypatch):
    fill(tmp_path, range(1))
    fill(tmp_path, range(1))
    assert "resumed_in" not in RecordStore.read(tmp_path).manifest
    elsewhere = {**environment(), "cpus": 1000}
    monkeypatch.setattr(store, "environment", lambda: elsewhere)
    fill(tmp_path, range(2))
    fill(tmp_path, range(2))
    assert RecordStore.read(tmp_path).manifest["resumed_in"] == [elsewhere]


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch):
    def fail(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with RecordStore.open(tmp_path, STUDY) as store_:
        before = (tmp_path / MANIFEST).read_bytes()
        with pytest.raises(StudyError, match="cannot be written as JSON"):
            store_.update_manifest(note=object())
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            store_.update_manifest(note="x" * 1000)
        assert (tmp_path / MANIFEST).read_bytes() == before
        assert "note" not in store_.manifest


def test_the_environment_names_versions_but_no_machine(monkeypatch):
    monkeypatch.setattr(folder, "PACKAGES", ("numpy", "a-package-nobody-has"))
    found = environment()
    assert found["versions"]["numpy"] == np.__version__
    assert found["versions"]["a-package-nobody-has"] is None
    assert found["cpus"] == os.cpu_count()
    text = canonical_json(found)
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text


def test_records_statistics_and_summaries_need_no_torch():
    code = (
        "import sys, latentprobe.records, latentprobe.stats, latentprobe.studies.summary; "
        "print(sorted({'torch', 'transformers', 'plotly'} & set(sys.modules)))"
    )
    root = Path(folder.__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"
