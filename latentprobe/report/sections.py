"""The report's sections: each function turns studies into one piece of HTML.

Text from outside (model names, questions, what a model wrote) is escaped here, where it enters the
page; figures are inline JSON drawn by the one plotly bundle in the page's head.
"""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from statistics import fmean

import pandas as pd
import plotly.graph_objects as go

from latentprobe.plots.attention import MASS_FLOOR, narrowness_by_layer
from latentprobe.plots.conditions import accuracy_by_condition
from latentprobe.plots.maps import attention_maps_by_layer
from latentprobe.plots.rows import Row, is_missing, real
from latentprobe.plots.theme import ROLE_COLOURS, model_colours
from latentprobe.plots.tokens import token_strip_html
from latentprobe.report.content import Example, StudyPage
from latentprobe.report.table import absent, condition_table, number

SHORT_CARD = 400
_CONFIG = json.dumps({"responsive": True, "displaylogo": False, "displayModeBar": False})
_ATTENTION_COLUMNS = {
    "queries": ("queries", 0),
    "entropy_nats": ("entropy (nats)", 2),
    "narrowness": ("narrowness (0 to 1)", 2),
    "effective_tokens": ("effective image tokens", 1),
    "image_mass": ("image mass (fraction)", 3),
}


def verdict_section(studies: Sequence[StudyPage], title: str) -> str:
    """Return the page's opening: its title, then per model the verdict sentences and the card."""
    colours = model_colours(study.model for study in studies)
    models = "\n".join(_model_verdicts(study, colours[study.model]) for study in studies)
    return f"<header>\n<h1>{html.escape(title)}</h1>\n{models}\n</header>"


def condition_section(studies: Sequence[StudyPage]) -> str:
    """Return the figure of accuracy by condition, one panel per model."""
    frame = pd.concat([_named(study.summary, study) for study in studies], ignore_index=True)
    chance = {study.model: study.chance for study in studies if study.chance is not None}
    figure = figure_html(
        accuracy_by_condition(frame, chance=chance),
        "figure-conditions",
        "Accuracy of every condition with its 95 % interval, one panel per model; "
        "the same numbers are in the table below.",
    )
    return _section("Accuracy by condition", figure)


def table_section(studies: Sequence[StudyPage]) -> str:
    """Return one table per model with every number of every condition."""
    note = (
        '<p class="note">Rates are fractions of problems. Verdicts compare with <b>full</b>; '
        "<b>equivalent</b> means within the study's margin, <b>inconclusive</b> that these "
        "problems cannot tell. <b>Applied</b> is the fewest positions an edit changed in any "
        "trial. A dash or dotted underline has its reason in a tooltip.</p>"
    )
    return _section("Every condition in numbers", note, *map(condition_table, studies))


def attention_section(studies: Sequence[StudyPage]) -> str:
    """Return narrowness and image mass per layer and role, drawn and as a table of means."""
    measured = [(s, s.attention) for s in studies if s.attention is not None and len(s.attention)]
    if not measured:
        return _section("Attention to the image", '<p class="note">Attention was not read.</p>')
    frame = pd.concat([_named(rows, study) for study, rows in measured], ignore_index=True)
    figure = figure_html(
        narrowness_by_layer(frame),
        "figure-attention",
        "Narrowness of attention over the image, and image mass, per layer and role.",
    )
    tables = "\n".join(_attention_table(study.model, rows) for study, rows in measured)
    return _section("Attention to the image: how narrow, and how much", figure, tables)


def example_section(studies: Sequence[StudyPage]) -> str:
    """Return the example problems: picture, question, text, token strip, attention maps."""
    shown = [(study, example) for study in studies for example in study.examples]
    if not shown:
        return _section("Examples", '<p class="note">No example was recorded.</p>')
    parts = [_example(study.model, example, i) for i, (study, example) in enumerate(shown, start=1)]
    return _section("Examples", *parts)


def manifest_section(studies: Sequence[StudyPage]) -> str:
    """Return how the numbers came about, one table per model."""
    return _section("Manifest", *map(_manifest, studies))


def figure_html(figure: go.Figure, name: str, description: str) -> str:
    """Return a figure as an inline plot; needs the plotly bundle earlier on the page.

    Args:
        figure: The figure; its layout must say its height.
        name: The element's id, fixed so that the page is the same bytes every time.
        description: What it shows, for people who cannot see it.

    Example:
        >>> figure_html(go.Figure(layout={"height": 200}), "figure-1", "Nothing.").count("figure-1")
        2
    """
    label = html.escape(description)
    height = int(figure.layout.height)  # pyright: ignore[reportAttributeAccessIssue]
    return (
        f'<figure>\n<div id="{name}" class="plot" role="img" aria-label="{label}" '
        f'style="height:{height}px"></div>\n<script>Plotly.newPlot("{name}", '
        f"Object.assign({figure.to_json(engine='json')}, {{config: {_CONFIG}}}));</script>\n"
        "</figure>"
    )


def _section(heading: str, *parts: str) -> str:
    inside = "\n".join(parts)
    return f"<section>\n<h2>{html.escape(heading)}</h2>\n{inside}\n</section>"


def _named(frame: pd.DataFrame, study: StudyPage) -> pd.DataFrame:
    return frame.astype(object).assign(model=study.model)


def _model_verdicts(study: StudyPage, colour: str) -> str:
    sentences = "\n".join(f"<li>{html.escape(sentence)}</li>" for sentence in study.verdicts)
    sentences = sentences or "<li>No verdict was drawn.</li>"
    return (
        f'<div class="model" style="border-color:{colour}">\n<h2>{html.escape(study.model)}</h2>\n'
        f'<ul class="verdicts">\n{sentences}\n</ul>\n{_card(study.card)}</div>'
    )


def _card(card: str) -> str:
    if not card.strip():
        return ""
    opened = " open" if len(card) <= SHORT_CARD else ""
    paragraphs = "".join(
        f"<p>{html.escape(part.strip())}</p>" for part in card.split("\n\n") if part.strip()
    )
    return (
        f'<details class="card"{opened}><summary>About this model</summary>{paragraphs}</details>\n'
    )


def _attention_table(model: str, frame: pd.DataFrame) -> str:
    rows: list[Row] = list(frame.to_dict("records"))
    columns = {name: words for name, words in _ATTENTION_COLUMNS.items() if name in frame.columns}
    by_role = {role: [row for row in rows if row["role"] == role] for role in ROLE_COLOURS}
    heads = "".join(f'<th scope="col">{words}</th>' for words, _ in columns.values())
    body = "\n".join(
        _attention_row(role, chosen, columns) for role, chosen in by_role.items() if chosen
    )
    caption = f"{html.escape(model)}: mean over layers and heads"
    return (
        f'<div class="scroll"><table>\n<caption>{caption}</caption>\n<thead><tr>'
        f'<th scope="col">role of the query</th>{heads}</tr></thead>\n<tbody>\n{body}\n'
        "</tbody></table></div>"
    )


def _attention_row(role: str, rows: Sequence[Row], columns: Mapping[str, tuple[str, int]]) -> str:
    reason = f"no attention to the image, or image mass under {MASS_FLOOR:g}"
    cells = "".join(
        f'<td class="number">{number(_mean(rows, name), digits=digits, reason=reason)}</td>'
        for name, (_, digits) in columns.items()
    )
    return f'<tr><th scope="row">{html.escape(role)}</th>{cells}</tr>'


def _mean(rows: Sequence[Row], column: str) -> float | None:
    known = [value for row in rows if (value := real(row[column])) is not None]
    return fmean(known) if known else None


def _example(model: str, example: Example, index: int) -> str:
    name = html.escape(f"{model}: {example.problem_name}")
    return (
        f'<article>\n<h3>{name}</h3>\n<div class="example">\n{_picture(example)}\n'
        f"<dl>{_facts(example)}</dl>\n</div>\n<h4>Positions and their roles</h4>\n"
        f"{token_strip_html(example.tokens, example.roles)}\n{_maps(example, index)}</article>"
    )


def _picture(example: Example) -> str:
    data = base64.b64encode(example.image_png).decode("ascii")
    alt = html.escape(f"The picture of problem {example.problem_name}: {example.question}")
    return f'<div><img src="data:image/png;base64,{data}" alt="{alt}"></div>'


def _facts(example: Example) -> str:
    facts = {
        "question": html.escape(example.question),
        "options": _options(example),
        "gold answer": _answer(example, example.gold, "not known"),
        "model's text": f"<pre>{html.escape(example.text)}</pre>",
        "parsed answer": _parsed_answer(example),
    }
    return "\n".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items())


def _named_options(example: Example) -> list[str]:
    letters = [chr(ord("A") + i) if i < 26 else str(i + 1) for i in range(len(example.options))]
    return [f"{a}. {text}" for a, text in zip(letters, example.options, strict=True)]


def _resolved(example: Example, answer: str | None) -> str | None:
    """Return "letter. text" for an answer given as an option's text or letter."""
    for named, text in zip(_named_options(example), example.options, strict=True):
        if answer in {text, named.partition(". ")[0]}:
            return named
    return answer


def _answer(example: Example, answer: str | None, reason: str) -> str:
    return absent(reason) if answer is None else html.escape(str(_resolved(example, answer)))


def _parsed_answer(example: Example) -> str:
    shown = _answer(example, example.answer, "no answer could be parsed from the text")
    if example.answer is None or example.gold is None:
        return shown
    right = _resolved(example, example.answer) == _resolved(example, example.gold)
    return f"{shown} ({'the gold answer' if right else 'not the gold answer'})"


def _options(example: Example) -> str:
    if not example.options:
        return absent("an open question")
    items = "".join(f"<li>{html.escape(named)}</li>" for named in _named_options(example))
    return f'<ol class="options">{items}</ol>'


def _maps(example: Example, index: int) -> str:
    if not example.maps:
        return '<p class="note">No attention map was recorded for this problem.</p>\n'
    figure = figure_html(
        attention_maps_by_layer(example.image_png, example.maps),
        f"figure-example-{index}",
        f"Attention over the picture of problem {example.problem_name}, per position and layer.",
    )
    return (
        "<h4>Where these positions look</h4>\n"
        '<p class="note">Mean over the heads of one layer; the slider picks the layer, and the '
        "page opens at the last. Shares add up to 1 over the picture, however little attention "
        "goes to it: that fraction stands above each map. One colour scale per layer.</p>\n"
        f"{figure}\n"
    )


def _manifest(study: StudyPage) -> str:
    rows = "\n".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{_manifest_value(value)}</td></tr>'
        for name, value in _flat(study.manifest)
    )
    return (
        f"<details open><summary>{html.escape(study.model)}</summary>\n"
        f'<table class="manifest"><tbody>\n{rows}\n</tbody></table></details>'
    )


def _flat(mapping: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for key, value in mapping.items():
        inner = _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else []
        found += inner or [(f"{prefix}{key}", value)]
    return found


def _manifest_value(value: object) -> str:
    if is_missing(value) or value in ({}, [], (), ""):
        return absent("not recorded")
    if isinstance(value, list | tuple):
        return html.escape(", ".join(map(str, value)))
    return html.escape(str(value))
