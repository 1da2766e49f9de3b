"""What the commands print: progress, tables, token strips, errors, all through `rich`."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from latentprobe.plots.theme import ROLE_COLOURS
from latentprobe.report import StudyPage

if TYPE_CHECKING:
    from latentprobe.models import LatentModel
    from latentprobe.organisms import Card
    from latentprobe.trajectory import Trajectory

CONDITION_WIDTH, MODEL_WIDTH = 26, 58  # characters a table needs
PIPE_WIDTH = 144  # where the output is not a terminal, and so has no width of its own

console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
errors = Console(stderr=True)
VERDICT_STYLE = {"different": "red", "equivalent": "green", "inconclusive": "yellow"}


class _Rate(ProgressColumn):
    """Trials per second."""

    def render(self, task: Any) -> Text:
        return Text(f"{task.speed:.0f}/s" if task.speed else "", style="dim")


class Bars:
    """Progress bars, one per model: done, rate, time left."""

    def __init__(self) -> None:
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=errors,
        )
        self.tasks: dict[str, Any] = {}

    def update(self, name: str, done: int, total: int) -> None:
        """Show that `done` of `total` trials of a model are finished."""
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total)
        self.progress.update(self.tasks[name], completed=done)

    def __enter__(self) -> "Bars":
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()


def comparison(pages: Sequence[StudyPage]) -> None:
    """Print one table, conditions by models (one table each on a narrow screen), then sentences."""
    wide = console.width >= CONDITION_WIDTH + MODEL_WIDTH * len(pages)
    for group in [pages] if wide else [[page] for page in pages]:
        console.print(_table(group))
    for page in pages:
        console.print(
            Panel(Text("\n".join(page.verdicts)), title=Text(page.model), title_align="left")
        )


def _table(pages: Sequence[StudyPage]) -> Table:
    table = Table(title="Accuracy by condition: 95 % interval, difference to full, gain retained")
    table.add_column("condition", no_wrap=True)
    for page in pages:
        for column in (page.model, "to full", "retained", "verdict"):
            table.add_column(Text(column), justify="left" if column == "verdict" else "right")
    rows = [{str(row["condition"]): row for row in p.summary.to_dict("records")} for p in pages]
    for condition in dict.fromkeys(name for found in rows for name in found):
        cells = [cell for found in rows for cell in _cells(found.get(condition))]
        table.add_row(Text(condition), *cells)
    return table


def _cells(row: dict[Any, Any] | None) -> list[Text]:
    if row is None:
        return [Text("-")] * 4
    low, high = row["accuracy_low"], row["accuracy_high"]
    accuracy = f"{row['accuracy']:.2f} [{low:.2f}, {high:.2f}]"
    difference = "-" if row["difference"] is None else f"{row['difference']:+.2f}"
    retained = "-" if row["retained"] is None else f"{row['retained']:.2f}"
    word = row["verdict"] or "-"
    return [
        Text(accuracy),
        Text(difference),
        Text(retained),
        Text(word, style=VERDICT_STYLE.get(word, "")),
    ]


def model_card(model: "LatentModel") -> None:
    """Print what a model is: card, method, architecture, hook points."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    table.add_row("model", Text(model.name))
    table.add_row("what it is", Text(model.card))
    for key, value in (model.method.describe() if model.method else {}).items():
        table.add_row(key, Text(value))
    config = model.parts.backend.decoder.config
    heads = f"{config.num_attention_heads} heads, {config.num_key_value_heads} key-value heads"
    layers = f"{config.num_hidden_layers} layers of width {config.hidden_size}"
    table.add_row("architecture", f"{model.architecture.name}: {layers}, {heads}")
    table.add_row("hook points", str(len(model.hook_points)))
    table.add_row("weights", model.fingerprint)
    console.print(table)


def trajectory(model: "LatentModel", made: "Trajectory") -> None:
    """Print a response: question, answer, option log-likelihoods, tokens coloured by role."""
    problem = made.problem
    assert problem is not None
    console.print()
    console.print(Text(problem.question, style="bold"))
    if made.prompt.unknown:
        words = ", ".join(made.prompt.unknown)
        console.print(Text(f"words this model does not know: {words}", style="yellow"))
    console.print(token_strip(model, made))
    judged = {True: " (right)", False: " (wrong)", None: ""}[made.correct]
    answer = f"answer: {made.answer or 'not parsed'}{judged}   stop: {made.stop_reason}"
    console.print(Text(answer))
    for option, score in zip(problem.options, made.scores, strict=False):
        console.print(Text(f"  {score:9.3f} nats  {option}"))


def token_strip(model: "LatentModel", made: "Trajectory") -> Text:
    """Return the tokens coloured by role, runs of image tokens collapsed, with a legend."""
    strip = Text()
    for role, start, count in made.layout.runs():
        style = f"black on {ROLE_COLOURS[role]}" if role in ROLE_COLOURS else ""
        if role == "image" and count > 4:
            strip.append(f" image x {count} ", style=style)
        else:
            for token in made.token_ids[start : start + count]:
                strip.append(f" {model.parts.tokenizer.decode([token])} ", style=style)
    strip.append("\n")
    for role in dict.fromkeys(made.layout.roles):
        strip.append(f" {role} ", style=f"black on {ROLE_COLOURS[role]}")
        strip.append(" ")
    return strip


def organism(card: "Card") -> None:
    """Print one organism's card."""
    console.print(Panel(card.text, title=f"organism:{card.name} — {card.mechanism}"))


def training_step(step: int, loss: float, seconds: float) -> None:
    """Print one line of training progress."""
    console.print(f"step {step:5d}   loss {loss:.4f} nats   {seconds:6.1f} s")


def bench(result: Any, *, as_json: bool) -> None:
    """Print a benchmark's result as a table, or as one JSON object."""
    if as_json:
        console.print_json(json.dumps(result.to_dict()))
        return
    table = Table(title=result.title)
    for column in ("what", "median ms", "min ms", "max ms", "against plain"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in result.rows:
        times = (row.median_ms, row.min_ms, row.max_ms)
        table.add_row(row.name, *(f"{t:.1f}" for t in times), f"{row.ratio:.3f} x")
    console.print(table)
    console.print(result.note)


def wrote(what: str, path: Path) -> None:
    """Say where something was written."""
    console.print(Text(f"wrote {what}: {path}"), soft_wrap=True)


def failed(error: Exception) -> None:
    """Print an expected error."""
    errors.print(Text(f"error: {error}", style="red"), soft_wrap=True)


def interrupted() -> None:
    """Say that a run was interrupted and how to go on."""
    errors.print("interrupted; finished trials are kept, the same command does only the rest")
