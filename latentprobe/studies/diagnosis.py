"""A finished (or half-finished) study on disk: rows, summary, sentences, report, without torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from latentprobe.errors import StudyError
from latentprobe.records import RecordStore
from latentprobe.report import AttentionMap, Example, StudyPage, write_report
from latentprobe.studies.summary import ConditionSummary, StudySummary, summarise
from latentprobe.studies.verdict import sentences

ATTENTION = "attention.parquet"
EXAMPLE = "example.json"
EXAMPLE_IMAGE = "example.png"
REPORT = "report.html"


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """One model's study, read from its folder.

    Attributes:
        folder: Where it lies.
        rows: One row per trial (`records.Trial` lists the columns).
        manifest: How the rows came about.
    """

    folder: Path
    rows: pd.DataFrame
    manifest: dict

    @classmethod
    def read(cls, folder: str | Path) -> "Diagnosis":
        """Read a study's folder.

        Raises:
            StudyError: There is no study in it.
        """
        store = RecordStore.read(folder)
        return cls(Path(folder), store.frame(), store.manifest)

    def summary(self, *, margin: float = 0.05, reference: str = "plain") -> StudySummary:
        """Return estimates and verdict words for every condition.

        Args:
            margin: Difference in accuracy that counts as none, in (0, 1).
            reference: Condition from which gains are counted.

        Raises:
            StatisticsError: There is no usable trial of `full`.
        """
        order = [name for name, _ in self.manifest.get("conditions", [])]
        return summarise(self.rows, order=order, margin=margin, reference=reference)

    def verdict(self) -> tuple[str, ...]:
        """Return what the rows amount to, in sentences, the most important first."""
        return self._sentences(self.summary())

    def _sentences(self, summary: StudySummary) -> tuple[str, ...]:
        expected = self.manifest.get("trials", len(self.rows))
        if len(self.rows) >= expected:
            return sentences(summary)
        partial = f"Unfinished: {len(self.rows)} of {expected} trials are done."
        return (partial, *sentences(summary))

    def __repr__(self) -> str:
        study = self.manifest.get("study", {})
        asked = f"{study.get('model')} on {study.get('benchmark')}"
        return f"Diagnosis({str(self.folder)!r}: {asked}, {len(self.rows)} trials)"

    def page(self) -> StudyPage:
        """Return this study as the report shows it."""
        summary = self.summary()
        recipes = dict(self.manifest.get("conditions", []))
        rows = [_table_row(summary, one, recipes) for one in summary.conditions]
        attention = self.folder / ATTENTION
        try:
            frame = pd.read_parquet(attention) if attention.exists() else pd.DataFrame()
        except (OSError, ValueError) as error:
            raise StudyError(
                f"{attention} cannot be read ({error}); delete it and run the study's command again"
            ) from error
        return StudyPage(
            model=summary.model,
            card=str(self.manifest.get("card", "")),
            verdicts=self._sentences(summary),
            summary=pd.DataFrame(rows, dtype=object),
            attention=frame if len(frame) else None,
            examples=self._examples(),
            manifest={k: v for k, v in self.manifest.items() if k not in ("conditions", "card")},
            chance=summary.chance,
        )

    def report(self, path: str | Path | None = None) -> Path:
        """Write the study as one self-contained HTML page (`report.html` in its folder)."""
        name = self.manifest.get("study", {}).get("model", "model")
        return write_report(
            [self.page()], path or self.folder / REPORT, title=f"Diagnosis of {name}"
        )

    def _examples(self) -> tuple[Example, ...]:
        path, image = self.folder / EXAMPLE, self.folder / EXAMPLE_IMAGE
        if not path.exists() or not image.exists():
            return ()
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        maps = tuple(
            AttentionMap(
                layer=one["layer"],
                position_label=one["position_label"],
                weights=tuple(tuple(row) for row in one["weights"]),
                image_mass=one["image_mass"],
            )
            for one in content.pop("maps")
        )
        listed: dict[str, Any] = {
            name: tuple(content.pop(name)) for name in ("options", "tokens", "roles")
        }
        return (Example(**content, **listed, maps=maps, image_png=image.read_bytes()),)


def _table_row(summary: StudySummary, one: ConditionSummary, recipes: dict[str, str]) -> dict:
    """Return one condition as the report's table wants it."""
    difference = one.difference.estimate if one.difference else None
    retained = one.retained
    return {
        "model": summary.model,
        "condition": one.condition,
        "recipe": recipes.get(one.condition, ""),
        "n": one.n,
        "seeds": one.seeds,
        "accuracy": one.accuracy.value,
        "accuracy_low": one.accuracy.low,
        "accuracy_high": one.accuracy.high,
        "accuracy_loglik": one.accuracy_loglik.value if one.accuracy_loglik else None,
        "parse_rate": one.parse_rate,
        "difference": difference.value if difference else None,
        "difference_low": difference.low if difference else None,
        "difference_high": difference.high if difference else None,
        "retained": retained.value if retained else None,
        "retained_low": retained.low if retained else None,
        "retained_high": retained.high if retained else None,
        "retained_reason": retained.reason if retained else None,
        "verdict": one.verdict,
        "verdict_loglik": one.verdict_loglik,
        "survives_scorer": one.survives_scorer,
        "answer_changed": one.answer_changed,
        "donor_followed": one.donor_followed,
        "applied_min": one.applied_min,
    }
