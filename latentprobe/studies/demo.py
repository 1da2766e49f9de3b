"""`latentprobe demo`: two organisms of known mechanism, every standard condition, one page.

The point of the demo is that the diagnosis is right: `mediated` must come out as carried by its
slots, `marker-only` as carried by its markers. Nothing in the numbers is fixed beforehand.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentprobe.benchmarks import load as load_problems
from latentprobe.models import load
from latentprobe.report import StudyPage, write_report
from latentprobe.studies.diagnose import diagnose
from latentprobe.studies.diagnosis import REPORT, Diagnosis

ORGANISMS = ("mediated", "marker-only")
BENCHMARK = "mini-attribute"
PROBLEMS = 72
TABLE = "table.md"


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes:
        diagnoses: One per organism.
        report: The HTML page.
    """

    diagnoses: tuple[Diagnosis, ...]
    report: Path


def run_demo(
    out: Path,
    *,
    limit: int = PROBLEMS,
    seed: int = 0,
    command: Sequence[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> Demo:
    """Diagnose the demo's organisms and write the page.

    Args:
        out: Folder; each organism's study lies in a folder of its own inside.
        limit: Number of problems.
        seed: First seed of random contents and donors.
        command: The command line, for the manifests.
        progress: Called with (organism, trials done, trials in all).
    """
    problems = load_problems(BENCHMARK, limit=limit)
    diagnoses = []
    for name in ORGANISMS:

        def tick(done: int, total: int, name: str = name) -> None:
            if progress is not None:
                progress(name, done, total)

        diagnoses.append(
            diagnose(
                load(f"organism:{name}"),
                problems,
                out=out / name,
                seed=seed,
                benchmark=BENCHMARK,
                split="test",
                command=command,
                progress=tick,
            )
        )
    title = "What carries the gain? Two models of known mechanism"
    pages = [one.page() for one in diagnoses]
    report = write_report(pages, out / REPORT, title=title)
    (out / TABLE).write_text(markdown(pages), encoding="utf-8")
    return Demo(tuple(diagnoses), report)


def markdown(pages: Sequence[StudyPage]) -> str:
    """Return the studies' table, conditions by models, and each headline, as Markdown."""
    heads = [f"{page.model} | to full | gain retained | verdict" for page in pages]
    lines = [f"| condition | {' | '.join(heads)} |", "|---" * (1 + 4 * len(pages)) + "|"]
    rows = [{str(row["condition"]): row for row in p.summary.to_dict("records")} for p in pages]
    for name in dict.fromkeys(name for found in rows for name in found):
        cells = [_cells(found[name]) if name in found else "- | - | - | -" for found in rows]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    sentences = [f"- **{page.model}**: {page.verdicts[0]}" for page in pages]
    return "\n".join([*lines, "", *sentences]) + "\n"


def _cells(row: Mapping[Any, Any]) -> str:
    accuracy = f"{row['accuracy']:.2f} [{row['accuracy_low']:.2f}, {row['accuracy_high']:.2f}]"
    difference = "-" if row["difference"] is None else f"{row['difference']:+.2f}"
    retained = "-" if row["retained"] is None else f"{row['retained']:.2f}"
    return f"{accuracy} | {difference} | {retained} | {row['verdict'] or '-'}"
