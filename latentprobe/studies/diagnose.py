"""Diagnose a latent-reasoning model: every condition on every problem, resumable, then the verdict.

1. `full` is run on every problem; the fed vectors and the slots' keys and values go into a bank.
2. Problem by problem, the prompt is run once and every other condition forks from it.
3. Every trial is a row, written ahead to a log before the next one starts; a killed run goes on
   where it was, and the rows it ends with are those of an uninterrupted run.
4. Attention to the image is measured on some of the `full` responses, an example is kept to be
   shown.
5. Rows become a summary, the summary becomes sentences (`verdict.py`), both become a report.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pandas as pd

from latentprobe.analyses import attention_profile
from latentprobe.benchmarks import Problem
from latentprobe.conditions import FED, KEYS_AND_VALUES, Condition, resolve
from latentprobe.errors import LatentProbeError, ProblemError, StudyMismatchError
from latentprobe.generation import Decoding, Prefill
from latentprobe.interventions import Bank
from latentprobe.models import LatentModel
from latentprobe.records import RecordStore, content_key
from latentprobe.studies.diagnosis import ATTENTION, Diagnosis
from latentprobe.studies.donors import Candidate, different_answer
from latentprobe.studies.example import keep_example
from latentprobe.studies.trials import Question, trial_of
from latentprobe.tokens import SLOTS
from latentprobe.trajectory import Trajectory

SCHEMA = 1
ATTENTION_PROBLEMS = 32

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Study:
    """What is to be done; everything that decides a row is in here.

    Attributes:
        model: The model diagnosed.
        problems: The problems, in order.
        benchmark: Name of the benchmark they come from.
        split: Its split.
        conditions: The conditions, `full` first.
        decoding: How tokens are chosen.
        seed: First seed; a condition with several uses seed, seed + 1, ...
    """

    model: LatentModel
    problems: tuple[Problem, ...]
    benchmark: str
    split: str
    conditions: tuple[Condition, ...]
    decoding: Decoding
    seed: int

    @property
    def identity(self) -> dict:
        """What makes rows comparable: two studies that differ here never share a folder."""
        return {
            "schema": SCHEMA,
            "model": self.model.name,
            "model_hash": self.model.fingerprint,
            "method": self.model.method.name if self.model.method else "none",
            "method_hash": content_key(repr(self.model.method)),
            "benchmark": self.benchmark,
            "split": self.split,
            "problems": len(self.problems),
            "problems_hash": content_key(*([p.key, p.cluster] for p in self.problems)),
            "decoding": repr(self.decoding),
            "seed": self.seed,
        }

    def questions(self) -> Iterator[Question]:
        """Yield every trial to be run, problem by problem, `full` first."""
        model_hash = self.model.fingerprint
        for problem in self.problems:
            for condition in self.conditions:
                for number in range(condition.seeds):
                    yield Question(
                        self.model.name,
                        model_hash,
                        self.benchmark,
                        self.split,
                        problem,
                        condition,
                        self.decoding,
                        self.seed + number,
                    )


def diagnose(  # noqa: PLR0913 - keyword-only, each one independent choice
    model: LatentModel,
    problems: Sequence[Problem],
    *,
    conditions: str | Sequence[str | Condition] = "standard",
    out: str | Path,
    seed: int = 0,
    benchmark: str = "problems",
    split: str = "",
    decoding: Decoding | None = None,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> Diagnosis:
    """Run a battery of conditions and keep every trial.

    Args:
        model: The model to diagnose.
        problems: What it is asked; each needs options and a gold answer.
        conditions: `standard`, names (comma-separated or a list), or `Condition`s; `full` is
            always among them.
        out: Folder of the study. An interrupted study in it is resumed; another study's is refused.
        seed: First seed of random contents and donors.
        benchmark: Name written into every row.
        split: Split written into every row.
        decoding: How tokens are chosen; None is greedy, at most 64 positions.
        command: The command line, for the manifest.
        progress: Called with (trials done, trials in all) after every trial.

    Raises:
        StudyMismatchError: `out` holds another study's rows, or rows of another condition of the
            same name; nothing was overwritten.
        UnknownNameError: An unknown condition.
        ProblemError: A problem lacks options or a gold answer, or two are the same.

    Example:
        >>> import tempfile
        >>> from latentprobe.benchmarks import load as problems
        >>> from latentprobe.models import load
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     d = diagnose(load("organism:mediated"), problems("mini-attribute", limit=4),
        ...                  conditions="cut-slots-image", out=folder)
        ...     sorted(set(d.rows["condition"])), len(d.rows)
        (['cut-slots-image', 'full'], 8)
    """
    study = Study(
        model,
        tuple(problems),
        benchmark,
        split,
        resolve(conditions),
        decoding or Decoding(),
        seed,
    )
    _check_problems(study.problems)
    with RecordStore.open(Path(out), study.identity, command=command) as store:
        _check_recipes(store, study.conditions)
        recipes = dict(store.manifest.get("conditions", []))
        recipes |= {condition.name: condition.recipe for condition in study.conditions}
        seeds = {seed + n for c in study.conditions for n in range(c.seeds)}
        store.update_manifest(
            card=model.card,
            method_card=model.method.describe() if model.method else {},
            conditions=[[name, recipe] for name, recipe in recipes.items()],
            trials=len({question.key for question in study.questions()} | store.done),
            seeds=sorted({*store.manifest.get("seeds", []), *seeds}),
        )
        _Runner(study, store, progress).run()
        store.finalise()
    return Diagnosis.read(out)


def _check_problems(problems: Sequence[Problem]) -> None:
    if not problems:
        raise ProblemError("nothing to diagnose: no problems were given")
    lacking = [p.name or p.question for p in problems if not p.options or p.answer is None]
    if lacking:
        raise ProblemError(
            f"{len(lacking)} problems have no options or no gold answer, first {lacking[0]!r}; "
            "both are needed to score a trial"
        )
    if len({problem.key for problem in problems}) != len(problems):
        raise ProblemError("some problems are the same (question, images, options, answer)")


def _check_recipes(store: RecordStore, conditions: Sequence[Condition]) -> None:
    """Refuse rows of one name and two recipes: every table would take them for one condition."""
    rows = store.frame()
    for condition in conditions:
        there = {*rows.loc[rows["condition"] == condition.name, "condition_hash"]}
        if there - {condition.key}:
            raise StudyMismatchError(
                f"{store.folder} holds rows of another condition called {condition.name!r}. No row "
                "was changed; rename the condition, or choose another folder (out=, --out)"
            )


class _Runner:
    """Runs a study's trials into a store."""

    def __init__(self, study: Study, store: RecordStore, progress: Progress | None) -> None:
        self.study, self.store = study, store
        self.questions = list(study.questions())
        self.progress = progress or (lambda done, total: None)
        self.keys = {question.key for question in self.questions}

    def run(self) -> None:
        """Run what is not done yet: the bank, then the rest, then attention and the example."""
        self._tick()
        bank = self._bank() if any(c.needs_bank for c in self.study.conditions) else None
        candidates = self._candidates(bank) if bank else ()
        for problem, questions in groupby(self.questions, key=lambda question: question.problem):
            todo = [question for question in questions if not self._done(question)]
            shared = self._prefill(problem) if todo else None
            for question in todo:
                self._trial(question, shared, bank, candidates)
        self._look()

    def _done(self, question: Question) -> bool:
        return question.key in self.store.done

    def _tick(self) -> None:
        self.progress(len(self.keys & self.store.done), len(self.questions))

    def _prefill(self, problem: Problem) -> Prefill | None:
        """Run a prompt for all of its trials; None if it fails, then each trial says why."""
        try:
            return self.study.model.prefill(problem)
        except LatentProbeError:
            return None

    def _trial(
        self,
        question: Question,
        shared: Prefill | None,
        bank: Bank | None,
        candidates: Sequence[Candidate],
    ) -> Trajectory | None:
        trajectory = None
        with question.timed() as clock:
            try:
                donor = self._donor(question, bank, candidates)
                trajectory = self._generate(question, shared, bank, donor)
                row = trial_of(question, trajectory, donor)
            except LatentProbeError as error:  # one trial's failure is a row, not the end
                row = trial_of(question, None, None, error=f"{type(error).__name__}: {error}")
        self.store.append(row, clock.seconds)
        self._tick()
        return trajectory

    def _generate(
        self, question: Question, shared: Prefill | None, bank: Bank | None, donor: Candidate | None
    ) -> Trajectory:
        condition = question.condition
        return self.study.model.generate(
            question.problem,
            seed=question.seed,
            edits=condition.edits(bank, donor.key if donor else None),
            structure=condition.structure,
            decoding=question.decoding,
            shared=shared,
            keep_logits=False,
        )

    def _donor(
        self, question: Question, bank: Bank | None, candidates: Sequence[Candidate]
    ) -> Candidate | None:
        if question.condition.content != "donor-different-answer" or bank is None:
            return None
        own = next((c for c in candidates if c.key == question.problem.key), None)
        slots = own.slots if own else 0
        return different_answer(question.problem, slots, candidates, seed=question.seed)

    # -- what other problems lend -----------------------------------------------------------------

    def _bank(self) -> Bank | None:
        """Return the bank of the study's `full` responses, from its file or by running them.

        None when none of them has a slot.
        """
        path = self.store.folder / "bank.safetensors"
        full = {q.problem.key: q for q in self.questions if q.condition.name == "full"}
        if path.exists() and all(self._done(question) for question in full.values()):
            return Bank.open(path)
        activations = {}
        for problem in self.study.problems:
            trajectory = self._trial(full[problem.key], self._prefill(problem), None, ())
            if trajectory is not None and trajectory.layout.slots:
                at = (FED, *KEYS_AND_VALUES)
                activations[problem.key] = self.study.model.read(trajectory, at, where=SLOTS)
        if not activations:
            return None
        bank = Bank.of(activations)
        partial = path.with_name(f"{path.name}.partial")
        bank.save(partial)
        partial.replace(path)  # a killed run leaves no half bank
        return bank

    def _candidates(self, bank: Bank) -> tuple[Candidate, ...]:
        rows = self.store.frame()
        full = rows[(rows["condition"] == "full") & rows["answer"].notna()]
        answers = dict(zip(full["problem"], full["answer"], strict=True))
        return tuple(
            Candidate(p.key, p.question, answers.get(p.key), len(bank.steps[p.key]))
            for p in self.study.problems
            if p.key in bank.keys
        )

    # -- what is looked at ------------------------------------------------------------------------

    def _look(self) -> None:
        """Measure attention on some `full` responses and keep one example to be shown."""
        path = self.store.folder / ATTENTION
        if path.exists():
            return
        rows = self.store.frame()
        failed = {*rows.loc[(rows["condition"] == "full") & rows["error"].notna(), "problem"]}
        full = [q for q in self.questions if q.condition.name == "full"]
        trajectories = [
            self._generate(question, None, None, None)
            for question in full[:ATTENTION_PROBLEMS]
            if question.problem.key not in failed
        ]
        if trajectories:
            keep_example(self.store.folder, self.study.model, trajectories[0])
        seen = [t for t in trajectories if sum(g.rows * g.columns for g in t.layout.images) > 1]
        frame = attention_profile(self.study.model, seen).frame if seen else pd.DataFrame()
        partial = path.with_name(f"{path.name}.partial")
        frame.to_parquet(partial)
        partial.replace(path)
