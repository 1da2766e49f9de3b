"""What a report shows: one record per model, one per example problem.

These are plain values: frames, texts and PNG bytes. Whoever has stored rows can fill them in
without loading a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from latentprobe.errors import StatisticsError
from latentprobe.plots.maps import AttentionMap

SUMMARY_COLUMNS = (
    "model",
    "condition",
    "recipe",
    "n",
    "seeds",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "accuracy_loglik",
    "parse_rate",
    "difference",
    "difference_low",
    "difference_high",
    "retained",
    "retained_low",
    "retained_high",
    "retained_reason",
    "verdict",
    "verdict_loglik",
    "survives_scorer",
    "answer_changed",
    "donor_followed",
    "applied_min",
)


@dataclass(frozen=True, kw_only=True)
class Example:
    """One problem as the model answered it, with what its positions are and look at.

    Attributes:
        problem_name: A label for people.
        question: The question as asked.
        options: The options' texts, in order; empty for an open question.
        gold: The gold answer: an option's text or letter; None if unknown.
        text: What the model wrote.
        answer: The answer parsed from the text, or None where none could be.
        image_png: The picture as PNG bytes.
        tokens: The decoded text of each position of prompt and response.
        roles: The role of each position.
        maps: Head-mean attention over the image, one per layer and position shown; may be empty.
    """

    problem_name: str
    question: str
    options: tuple[str, ...]
    gold: str | None
    text: str
    answer: str | None
    image_png: bytes
    tokens: tuple[str, ...]
    roles: tuple[str, ...]
    maps: tuple[AttentionMap, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyPage:
    """Everything the report says about one model.

    Attributes:
        model: The model's name.
        card: What the model is: a few sentences, paragraphs separated by a blank line.
        verdicts: Verdict sentences, most important first.
        summary: One row per condition with `SUMMARY_COLUMNS`; rates are fractions from 0 to 1,
            `applied_min` the smallest number of positions an edit changed in any trial. None or
            NaN where something is not defined (`retained_reason` says why), and for `applied_min`
            of a condition without edits.
        attention: One row per layer, head and role with `queries`, `entropy_nats`,
            `entropy_normalised`, `narrowness`, `effective_tokens` and `image_mass`; None if
            attention was not read.
        examples: Example problems to show.
        manifest: How the numbers came about: versions, seeds, model hash, command line.
        chance: Accuracy of guessing (0 to 1), or None.

    Raises:
        StatisticsError: A column of the summary is missing.

    Example:
        >>> summary = pd.DataFrame(columns=SUMMARY_COLUMNS)
        >>> StudyPage(model="m", card="", verdicts=(), summary=summary).chance is None
        True
    """

    model: str
    card: str
    verdicts: tuple[str, ...]
    summary: pd.DataFrame
    attention: pd.DataFrame | None = None
    examples: tuple[Example, ...] = ()
    manifest: Mapping[str, object] = field(default_factory=dict)
    chance: float | None = None

    def __post_init__(self) -> None:
        """Refuse a summary the table cannot be drawn from."""
        missing = [name for name in SUMMARY_COLUMNS if name not in self.summary.columns]
        if missing:
            raise StatisticsError(
                f"summary of {self.model!r} lacks column(s) {', '.join(missing)}; "
                f"needed: {', '.join(SUMMARY_COLUMNS)}"
            )
