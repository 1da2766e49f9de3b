"""A trial as a row: its fields, their columns, and its line in the write-ahead log."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import pyarrow as pa

from latentprobe.errors import StudyError


@dataclass(frozen=True)
class Trial:
    """One (problem, condition, seed) with its outcome: a row of the store.

    Attributes:
        key: `content_key` of everything the outcome depends on.
        model: The model's name.
        model_hash: Content hash of its weights.
        benchmark: The benchmark's name.
        split: Its split.
        problem: Content hash of the problem.
        problem_name: The problem's label for people.
        cluster: Problems with one cluster are not independent.
        condition: The condition's name.
        condition_hash: Content hash of its recipe.
        seed: Seed of decoding and of the condition's randomness.
        text: The raw response.
        answer: Text of the option the parser found, or None.
        parsed: Whether the parser found an answer.
        correct: Whether the parsed answer is the gold one; False when not parsed.
        gold: Text of the gold option.
        answer_loglik: The option with the highest log-likelihood, or None without options.
        correct_loglik: Whether that is the gold one, or None.
        option_logprobs: Log-likelihood of each option, in nats, summed over its tokens.
        option_tokens: Number of tokens of each option (divide by it to normalise for length).
        option_margin: Gold option minus the best other one, in nats, or None.
        entered: Whether latent mode was entered.
        segments: Number of latent segments.
        slots: Number of latent slots, over all segments.
        tokens: Tokens of the response, slots included.
        stop_reason: Why decoding ended.
        applied: Per edit, how many positions it really changed.
        donor: Key of the problem whose slots were transplanted, or None.
        donor_answer: What the model itself answered to that problem under `full`, or None.
        donor_followed: Whether the answer is the donor's, or None.
        error: What went wrong, or None; an outcome with an error is not counted.
    """

    key: str
    model: str
    model_hash: str
    benchmark: str
    split: str
    problem: str
    problem_name: str
    cluster: str
    condition: str
    condition_hash: str
    seed: int
    text: str
    answer: str | None
    parsed: bool
    correct: bool
    gold: str
    answer_loglik: str | None = None
    correct_loglik: bool | None = None
    option_logprobs: Sequence[float] = ()
    option_tokens: Sequence[int] = ()
    option_margin: float | None = None
    entered: bool = False
    segments: int = 0
    slots: int = 0
    tokens: int = 0
    stop_reason: str = ""
    applied: Mapping[str, int] = field(default_factory=dict)
    donor: str | None = None
    donor_answer: str | None = None
    donor_followed: bool | None = None
    error: str | None = None


NONE = type(None)
COLUMN_TYPES: dict[Any, tuple[pa.DataType, tuple[type, ...]]] = {  # annotation -> column, JSON
    str: (pa.string(), (str,)),
    int: (pa.int64(), (int,)),
    bool: (pa.bool_(), (bool,)),
    str | None: (pa.string(), (str, NONE)),
    bool | None: (pa.bool_(), (bool, NONE)),
    float | None: (pa.float64(), (float, NONE)),
    Sequence[float]: (pa.list_(pa.float64()), (list,)),
    Sequence[int]: (pa.list_(pa.int64()), (list,)),
    Mapping[str, int]: (pa.string(), (str,)),  # as canonical JSON
}
JSON_TYPES = {column.name: COLUMN_TYPES[column.type][1] for column in fields(Trial)}
SCHEMA = pa.schema([
    pa.field(column.name, COLUMN_TYPES[column.type][0], nullable=NONE in JSON_TYPES[column.name])
    for column in fields(Trial)
])


def canonical_json(value: object) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN.

    Raises:
        StudyError: The value holds something JSON cannot say.

    Example:
        >>> canonical_json({"b": 1, "a": [True, None]})
        '{"a":[true,null],"b":1}'
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StudyError(
            f"{value!r} cannot be written as JSON ({error}); use strings, finite numbers, "
            "booleans, None, lists and dicts with string keys"
        ) from error


def content_key(*parts: object) -> str:
    """Return 16 hex digits that name these parts by content, the same on every machine.

    Args:
        parts: JSON values; the order of dict keys does not matter, the order of parts does.

    Raises:
        StudyError: A part cannot be written as JSON.

    Example:
        >>> content_key("model", {"a": 1, "b": 2}) == content_key("model", {"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:16]


def encode_row(trial: Trial) -> dict[str, Any]:
    """Return the trial as plain Python values, one per column; a StudyError if one does not fit."""
    given = {column.name: getattr(trial, column.name) for column in fields(trial)}
    given["applied"] = canonical_json(dict(trial.applied))
    empty = [name for name, value in given.items() if value is None]
    wrong = [name for name in empty if not SCHEMA.field(name).nullable]
    if wrong:
        raise StudyError(f"trial {trial.key!r}: {', '.join(wrong)} cannot be None")
    try:
        return pa.RecordBatch.from_pylist([given], schema=SCHEMA).to_pylist()[0]
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise StudyError(
            f"trial {trial.key!r} does not fit the store's columns: {error}. Give the types that "
            "latentprobe.records.Trial declares"
        ) from error


def decode_line(line: bytes) -> tuple[dict[str, Any], float] | None:
    """Row and seconds of one log line, or None when it is not a whole one."""
    try:
        entry = json.loads(line)
        row, seconds = dict(entry["row"]), float(entry["seconds"])
    except (ValueError, TypeError, KeyError):
        return None
    whole = row.keys() == JSON_TYPES.keys()
    fits = whole and all(type(row[name]) in types for name, types in JSON_TYPES.items())
    return (row, seconds) if fits else None
