"""The record store: trials as rows that outlive the process that made them.

A study's folder holds

    manifest.json       which study this is and how its rows came about
    trials.wal.jsonl    write-ahead log, one finished trial per line: {"row": ..., "seconds": ...}
    trials.parquet      the same rows sorted, written by `finalise`

A line is on disk before `append` returns, so a killed run loses at most the trial it was in. Rows
are a pure function of the study: timings stay in the log's lines and the manifest, and an
interrupted and resumed run gives the same rows, byte for byte, as an uninterrupted one.
"""

from latentprobe.records.folder import environment
from latentprobe.records.store import RecordStore
from latentprobe.records.trial import SCHEMA, Trial, canonical_json, content_key

__all__ = ["SCHEMA", "RecordStore", "Trial", "canonical_json", "content_key", "environment"]
