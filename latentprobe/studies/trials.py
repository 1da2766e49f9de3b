"""One trial: the question put to the model, and the row its answer becomes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from latentprobe.benchmarks import Problem
from latentprobe.conditions import Condition
from latentprobe.generation import Decoding
from latentprobe.records import Trial, content_key
from latentprobe.studies.donors import Candidate
from latentprobe.trajectory import Trajectory


@dataclass
class Clock:
    """Seconds a block took."""

    seconds: float = 0.0


@dataclass(frozen=True)
class Question:
    """A (problem, condition, seed) put to one model; its `key` names the row."""

    model: str
    model_hash: str
    benchmark: str
    split: str
    problem: Problem
    condition: Condition
    decoding: Decoding
    seed: int

    @cached_property
    def key(self) -> str:
        """Content hash of model, problem, condition, decoding and seed."""
        return content_key(
            self.model_hash, self.problem.key, self.condition.key, repr(self.decoding), self.seed
        )

    @contextmanager
    def timed(self) -> Iterator[Clock]:
        """Measure the seconds spent inside."""
        clock, began = Clock(), time.monotonic()
        yield clock
        clock.seconds = time.monotonic() - began


def trial_of(
    question: Question,
    trajectory: Trajectory | None,
    donor: Candidate | None,
    *,
    error: str | None = None,
) -> Trial:
    """Return the row of one trial; a failed one carries its error and no outcome."""
    problem, condition = question.problem, question.condition
    assert problem.answer is not None
    asked = {
        "key": question.key,
        "model": question.model,
        "model_hash": question.model_hash,
        "benchmark": question.benchmark,
        "split": question.split,
        "problem": problem.key,
        "problem_name": problem.name or problem.question,
        "cluster": problem.cluster or problem.key,
        "condition": condition.name,
        "condition_hash": condition.key,
        "seed": question.seed,
        "gold": problem.answer,
    }
    if trajectory is None:
        return Trial(**asked, text="", answer=None, parsed=False, correct=False, error=error)
    return Trial(**asked, **_outcome(problem, trajectory, condition), **_donated(trajectory, donor))


def _outcome(problem: Problem, trajectory: Trajectory, condition: Condition) -> dict:
    scores = trajectory.scores
    best = max(range(len(scores)), key=scores.__getitem__)
    tied = scores.count(scores[best]) > 1  # no guess between equals
    gold = problem.answer_index
    assert gold is not None
    others = [score for index, score in enumerate(scores) if index != gold]
    labels = [edit.label for edit in condition.cuts]
    if condition.content is not None:
        labels.insert(0, condition.content)
    return {
        "text": trajectory.text,
        "answer": trajectory.answer,
        "parsed": trajectory.parsed.ok,
        "correct": bool(trajectory.correct),
        "answer_loglik": None if tied else problem.options[best],
        "correct_loglik": best == gold and not tied,
        "option_logprobs": list(scores),
        "option_tokens": list(trajectory.score_tokens),
        "option_margin": scores[gold] - max(others) if others else None,
        "entered": trajectory.entered,
        "segments": len(trajectory.layout.segments),
        "slots": len(trajectory.layout.slots),
        "tokens": len(trajectory.response_ids),
        "stop_reason": trajectory.stop_reason,
        "applied": dict(zip(_distinct(labels), trajectory.applied, strict=True)),
    }


def _distinct(labels: list[str]) -> list[str]:
    """Number the labels that occur again, so that no edit's count hides another's."""
    again = [labels[:place].count(label) for place, label in enumerate(labels)]
    return [f"{label} ({n + 1})" if n else label for label, n in zip(labels, again, strict=True)]


def _donated(trajectory: Trajectory, donor: Candidate | None) -> dict:
    if donor is None:
        return {}
    return {
        "donor": donor.key,
        "donor_answer": donor.answer,
        "donor_followed": trajectory.answer == donor.answer,
    }
