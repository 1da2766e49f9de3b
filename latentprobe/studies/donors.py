"""Who lends slots to whom: the donor rule of a condition, decided by seed and content alone."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from latentprobe.benchmarks import Problem
from latentprobe.errors import ProblemError


@dataclass(frozen=True)
class Candidate:
    """A problem that could lend its slots.

    Attributes:
        key: Content hash of the problem.
        question: Its question.
        answer: What the model itself answered to it under `full`.
        slots: Number of slots in that response.
    """

    key: str
    question: str
    answer: str | None
    slots: int


def different_answer(
    problem: Problem, slots: int, candidates: Sequence[Candidate], *, seed: int
) -> Candidate:
    """Choose a donor whose own answer differs from the problem's gold answer.

    Nor is it what the model itself answered: only then can an answer be told to be the donor's.
    Donors with the same question are preferred, so that the answer is the only thing that differs
    in what was asked; they must have as many slots. The choice is a function of seed and contents.

    Raises:
        ProblemError: No candidate qualifies.
    """
    key = problem.key
    own = {candidate.key: candidate.answer for candidate in candidates}
    able = [
        c
        for c in candidates
        if c.key != key
        and c.slots == slots > 0
        and c.answer not in (None, problem.answer, own.get(key))
    ]
    if not able:
        raise ProblemError(
            f"no donor for {problem.name or key}: none of {len(candidates)} problems has another "
            f"answer and {slots} slots; add problems, or leave donor conditions out"
        )
    same = [c for c in able if c.question == problem.question]
    return min(
        same or able, key=lambda c: hashlib.sha256(f"{seed}/{key}/{c.key}".encode()).digest()
    )
