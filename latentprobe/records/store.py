"""The store itself: append to the log, resume from it, write the table."""

import json
import os
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from latentprobe.errors import StudyError, StudyMismatchError
from latentprobe.records.folder import (
    FORMAT,
    MANIFEST,
    check_identity,
    environment,
    lock_folder,
    read_manifest,
    replace_file,
)
from latentprobe.records.trial import SCHEMA, Trial, canonical_json, decode_line, encode_row

LOG, TABLE = "trials.wal.jsonl", "trials.parquet"
SORTED_BY = ("problem_name", "condition", "seed", "key")


class RecordStore:
    """The rows of one study in one folder; `open` it to write, `read` it to look.

    Attributes:
        folder: Where the files are.
        manifest: The manifest as last written.
        done: Keys of the trials that have a row.

    Example:
        >>> import tempfile
        >>> trial = Trial("k1", "m", "h", "b", "test", "p", "p-0", "p", "full", "c", 0, "A",
        ...               "red", True, True, "red")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with RecordStore.open(folder, {"model": "h"}) as store:
        ...         store.append(trial, seconds=0.1)
        ...         "k1" in store.done, store.finalise().name, len(store.frame())
        (True, 'trials.parquet', 1)
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], lock: int | None) -> None:
        """Use `RecordStore.open` or `RecordStore.read` instead."""
        self.folder, self.manifest = folder, manifest
        self.done = set(self._rows(warn=True))
        self._writable = lock is not None
        self._release = weakref.finalize(self, os.close, lock) if lock is not None else None

    @classmethod
    def open(
        cls, folder: str | Path, study: Mapping[str, Any], *, command: Sequence[str] = ()
    ) -> "RecordStore":
        """Create a study's folder or resume it; only one process can hold it.

        Args:
            folder: Made if absent.
            study: The identity of the study, JSON; a folder belongs to one identity.
            command: The command line, for the manifest.

        Raises:
            StudyMismatchError: The folder holds another study's rows or files that are not a
                study's; nothing was changed.
            StudyError: Another process is writing there, or the manifest cannot be read.
        """
        path, identity = Path(folder), json.loads(canonical_json(dict(study)))
        if path.exists() and not path.is_dir():
            raise StudyMismatchError(f"{path} is a file; give a folder for the study's rows")
        check_identity(path, identity)
        path.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(path)
        try:
            manifest = check_identity(path, identity)
            store = cls(path, manifest or {}, lock)
        except BaseException:
            os.close(lock)
            raise
        store._introduce(identity, command)
        return store

    @classmethod
    def read(cls, folder: str | Path) -> "RecordStore":
        """Open a study's folder to look at its rows; nothing is written, nothing is locked.

        Raises:
            StudyError: There is no study in the folder.
        """
        manifest = read_manifest(Path(folder))
        if manifest is None:
            raise StudyError(
                f"{folder} is not a study's folder: it has no {MANIFEST}. Give the folder that was "
                "passed as `out=` (or --out) when the study ran"
            )
        return cls(Path(folder), manifest, None)

    def append(self, trial: Trial, seconds: float) -> None:
        """Write one finished trial; it is on disk when this returns.

        Args:
            trial: The row. A key that is already there is left alone: the first one wins.
            seconds: How long the trial took; kept beside the row, not in it.

        Raises:
            StudyError: The store is open for reading only, or a field has the wrong type.
        """
        self._require_writable()
        if trial.key in self.done:
            return
        line = canonical_json({"row": encode_row(trial), "seconds": float(seconds)})
        log = self.folder / LOG
        with log.open("ab+") as file:
            if file.tell() and not _ends_a_line(log):
                file.write(b"\n")
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.done.add(trial.key)

    def finalise(self) -> Path:
        """Write the sorted rows as parquet, atomically, and the summed seconds to the manifest.

        Returns:
            The parquet file.

        Raises:
            StudyError: The store is open for reading only.
        """
        self._require_writable()
        sink = pa.BufferOutputStream()
        pq.write_table(self._table(), sink)
        replace_file(self.folder / TABLE, sink.getvalue().to_pybytes())
        seconds: dict[str, float] = {}
        for row, spent in self._logged(warn=False):
            seconds.setdefault(row["key"], spent)
        self.update_manifest(seconds=sum(seconds.values()), rows=len(self.done))
        return self.folder / TABLE

    def frame(self) -> pd.DataFrame:
        """Return all rows, sorted; `applied` as dicts, what is absent as null."""
        frame = self._table().to_pandas()
        frame["applied"] = pd.Series([json.loads(text) for text in frame["applied"]], dtype=object)
        return frame

    def update_manifest(self, **values: Any) -> None:
        """Set fields of the manifest, atomically.

        Raises:
            StudyError: The store is open for reading only, or a value is not JSON.
        """
        self._require_writable()
        changed = json.loads(canonical_json({**self.manifest, **values}))
        text = json.dumps(changed, indent=2, sort_keys=True, allow_nan=False)
        replace_file(self.folder / MANIFEST, text.encode() + b"\n")
        self.manifest = changed

    def close(self) -> None:
        """Let go of the folder; the store can still be read."""
        self._writable = False
        if self._release is not None:
            self._release()

    def __enter__(self) -> "RecordStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"RecordStore({str(self.folder)!r}, {len(self.done)} trials)"

    def _require_writable(self) -> None:
        if not self._writable:
            raise StudyError(
                f"the store in {self.folder} is not open for writing; use RecordStore.open with "
                "the study's identity"
            )

    def _introduce(self, identity: dict[str, Any], command: Sequence[str]) -> None:
        """Write the first manifest, or note that a resumed study runs elsewhere."""
        here = json.loads(canonical_json(environment()))
        if not self.manifest:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            about = {"format": FORMAT, "study": identity, "created": now, "command": list(command)}
            self.update_manifest(**about, **here)
            return
        first = {name: self.manifest.get(name) for name in here}
        resumed = self.manifest.get("resumed_in", [])
        if here not in (first, *resumed):
            self.update_manifest(resumed_in=[*resumed, here])

    def _rows(self, *, warn: bool = False) -> dict[str, dict[str, Any]]:
        """Rows by key: the log's first, then those only the table has."""
        rows: dict[str, dict[str, Any]] = {}
        for row, _ in self._logged(warn=warn):
            rows.setdefault(row["key"], row)
        for row in self._tabled():
            rows.setdefault(row["key"], row)
        return rows

    def _tabled(self) -> list[dict[str, Any]]:
        table = self.folder / TABLE
        if not table.exists():
            return []
        try:
            return pq.read_table(table, schema=SCHEMA).to_pylist()
        except pa.ArrowException as error:
            raise StudyError(
                f"{table} cannot be read ({error}); move it away: it is written again from {LOG}"
            ) from error

    def _table(self) -> pa.Table:
        rows = sorted(self._rows().values(), key=lambda row: tuple(row[name] for name in SORTED_BY))
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    def _logged(self, *, warn: bool) -> Iterator[tuple[dict[str, Any], float]]:
        log = self.folder / LOG
        lines = log.read_bytes().split(b"\n") if log.exists() else []
        for number, line in enumerate(lines, start=1):
            entry = decode_line(line)
            if entry is not None:
                yield entry
            elif line and warn:
                warnings.warn(
                    f"{log}, line {number}: cut short or corrupt, skipped; its trial will run "
                    "again unless another line has it",
                    UserWarning,
                    stacklevel=2,
                )


def _ends_a_line(log: Path) -> bool:
    with log.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
