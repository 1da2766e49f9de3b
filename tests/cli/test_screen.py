import dataclasses

import pandas as pd
import pytest
from rich.console import Console

from latentprobe.bench.timing import Result, Row
from latentprobe.cli import screen
from latentprobe.organisms import get
from latentprobe.plots.theme import ROLE_COLOURS
from latentprobe.report import StudyPage
from latentprobe.report.content import SUMMARY_COLUMNS
from latentprobe.tokens import Layout


@pytest.fixture(autouse=True)
def wide(monkeypatch) -> None:
    monkeypatch.setattr(screen, "console", Console(width=220))


def page(model: str, **rows: dict[str, object]) -> StudyPage:
    """A page of conditions, each a few of the table's columns."""
    blank = dict.fromkeys(SUMMARY_COLUMNS) | {"model": model}
    usual = {"accuracy": 0.5, "accuracy_low": 0.25, "accuracy_high": 0.75}
    listed = [blank | usual | {"condition": name} | row for name, row in rows.items()]
    return StudyPage(
        model=model,
        card="",
        verdicts=(f"{model} says 0.50 [0.25, 0.75].", "[bold]not markup[/bold]"),
        summary=pd.DataFrame(listed, columns=list(SUMMARY_COLUMNS), dtype=object),
    )


def line(text: str, start: str) -> list[str]:
    """The cells of the table row that starts with a word."""
    (found,) = [one for one in text.splitlines() if one.lstrip("│ ").startswith(start)]
    return [cell.strip() for cell in found.strip("│").split("│")]


ZERO = {"difference": -0.456, "retained": 0.2, "verdict": "different"}


def test_the_table_holds_accuracy_difference_retained_and_verdict(capsys):
    screen.comparison([page("one", full={}, zero=ZERO)])
    out = capsys.readouterr().out
    assert line(out, "full") == ["full", "0.50 [0.25, 0.75]", "-", "-", "-"]
    assert line(out, "zero") == ["zero", "0.50 [0.25, 0.75]", "-0.46", "0.20", "different"]


def test_models_stand_side_by_side_and_a_missing_condition_is_a_dash(capsys):
    screen.comparison([page("one", full={}, zero=ZERO), page("two", full={}, mean=ZERO)])
    out = capsys.readouterr().out
    assert line(out, "zero")[5:] == ["-"] * 4
    assert line(out, "mean") == [
        "mean",
        *["-"] * 4,
        "0.50 [0.25, 0.75]",
        "-0.46",
        "0.20",
        "different",
    ]


def test_on_a_narrow_screen_every_model_has_a_table_of_its_own(capsys, monkeypatch):
    monkeypatch.setattr(screen, "console", Console(width=80))
    screen.comparison([page("one", full={}), page("two", full={})])
    out = capsys.readouterr().out
    assert out.count("Accuracy by condition") == 2
    assert out.count("0.50 [0.25, 0.75]") == 4
    assert max(len(text) for text in out.splitlines()) <= 80


def test_names_and_sentences_are_shown_as_they_are(capsys):
    screen.comparison([page("[red]model", **{"[link]": ZERO})])
    out = capsys.readouterr().out
    assert "[red]model says 0.50 [0.25, 0.75]." in out
    assert "[bold]not markup[/bold]" in out
    assert line(out, "[link]")[0] == "[link]"


def test_the_strip_shows_every_response_token_and_a_legend(mediated, problems):
    made = mediated.generate(problems[0], keep_logits=False)
    strip = screen.token_strip(mediated, made)
    tokens, legend = strip.plain.split("\n")
    for token in made.response_ids:
        assert f" {mediated.parts.tokenizer.decode([token])} " in tokens
    assert legend.split() == list(dict.fromkeys(made.layout.roles))
    styles = {strip.plain[span.start : span.end]: str(span.style) for span in strip.spans}
    assert styles[" slot "] == f"black on {ROLE_COLOURS['slot']}"
    assert styles[" <|organism_open|> "] == f"black on {ROLE_COLOURS['open']}"


def test_a_long_run_of_image_tokens_is_collapsed(marker_only, problems):
    made = marker_only.generate(problems[0], keep_logits=False, max_new_tokens=1)

    def strip(images: int) -> str:
        first = made.layout.roles.index("image")
        ids = (*[made.token_ids[first]] * images, made.token_ids[-1])
        layout = Layout((*["image"] * images, "open"), images, ())
        longer = dataclasses.replace(made, token_ids=ids, layout=layout)
        return screen.token_strip(marker_only, longer).plain.split("\n")[0]

    assert strip(5) == " image x 5  <|organism_open|> "
    assert strip(4) == " <|image_pad|> " * 4 + " <|organism_open|> "


def test_a_model_card_says_what_the_model_is(capsys, mediated):
    screen.model_card(mediated)
    out = " ".join(capsys.readouterr().out.split())
    assert "organism:mediated" in out
    assert "qwen2_5_vl: 3 layers of width 64, 4 heads, 2 key-value heads" in out
    assert f"hook points {len(mediated.hook_points)}" in out
    assert mediated.fingerprint in out


def test_an_unparsed_answer_and_a_missing_gold_are_said(capsys, marker_only, problems):
    made = marker_only.generate(problems[0], keep_logits=False, max_new_tokens=1)
    screen.trajectory(marker_only, made)
    out = capsys.readouterr().out
    assert "answer: not parsed (wrong)   stop: max_new_tokens" in out
    assert out.count(" nats  ") == 6


def test_training_bench_and_files_have_one_line_each(capsys, tmp_path):
    screen.training_step(7, 0.12345, 3.21)
    screen.wrote("rows", tmp_path / "[x]" / "trials.parquet")
    screen.organism(get("mediated"))
    rows = (Row("plain", 2.0, 1.0, 3.0, 1.0), Row("rows", 2.04, 1.0, 3.0, 1.02))
    screen.bench(Result("A title", rows, {}, "A note"), as_json=False)
    out = capsys.readouterr().out
    assert "step     7   loss 0.1235 nats      3.2 s" in out or "loss 0.1234" in out
    assert f"wrote rows: {tmp_path}/[x]/trials.parquet" in out
    assert "organism:mediated" in out
    assert "1.020 x" in out
    assert "A note" in out


def test_bars_count_each_model_by_itself(capsys, monkeypatch):
    monkeypatch.setattr(screen, "errors", Console(stderr=True, width=120))
    with screen.Bars() as bars:
        bars.update("one", 0, 4)
        bars.update("two", 1, 2)
        bars.update("one", 4, 4)
        done = {task.description: (task.completed, task.total) for task in bars.progress.tasks}
    assert done == {"one": (4, 4), "two": (1, 2)}
    assert "4/4" in capsys.readouterr().err
