"""Accuracy per condition with its interval, by both scorers, one panel per model.

The filled marker is the scorer that parses the text, the open one beside it picks the option of the
highest log-likelihood. Where the two part, an effect on the answer's format is being read as an
effect on the answer, and the figure has to show it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from latentprobe.plots.rows import Row, checked_rows, real
from latentprobe.plots.theme import (
    INK,
    MUTED,
    REFERENCE,
    TEMPLATE,
    VERDICT_COLOURS,
    VERDICT_SYMBOLS,
    label,
    model_colours,
    panel_grid,
)

COLUMNS = (
    "model",
    "condition",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "accuracy_loglik",
    "verdict",
)
AXIS_TITLE = "accuracy (fraction of problems, 95 % interval)"
PANELS_PER_ROW = 3
_ROW_PX, _PANEL_PX, _MARGIN_PX = 36, 90, 60
_LOGLIK_OFFSET = 0.33
_HOVER = "%{customdata}<extra></extra>"


@dataclass(frozen=True)
class _Panel:
    """Where one model is drawn and which rows it has."""

    model: str
    rows: list[Row]
    row: int
    column: int


def accuracy_by_condition(
    frame: pd.DataFrame, *, chance: float | Mapping[str, float] | None = None
) -> go.Figure:
    """Draw accuracy and its interval per condition, conditions from top to bottom as given.

    Args:
        frame: One row per model and condition with `model`, `condition`, `accuracy`,
            `accuracy_low`, `accuracy_high`, `accuracy_loglik` (fractions from 0 to 1) and
            `verdict` (`different`, `equivalent`, `inconclusive`, or missing for the reference);
            `verdict_loglik` colours the open marker where present.
        chance: Accuracy of guessing (0 to 1), for every model or by model name; None draws no line.

    Returns:
        The figure: one panel per model, all on the same accuracy axis from 0 to 1.

    Raises:
        StatisticsError: A column is missing, or there is no row.

    Example:
        >>> frame = pd.DataFrame({
        ...     "model": ["m"], "condition": ["zero"], "accuracy": [0.5], "accuracy_low": [0.4],
        ...     "accuracy_high": [0.6], "accuracy_loglik": [0.5], "verdict": ["different"]})
        >>> accuracy_by_condition(frame, chance=0.25).layout.xaxis.title.text
        'accuracy (fraction of problems, 95 % interval)'
    """
    rows = checked_rows(frame, COLUMNS, "accuracy by condition")
    conditions = list(dict.fromkeys(str(row["condition"]) for row in rows))
    panels = _panels(rows)
    figure = panel_grid(
        [(panel.row, panel.column) for panel in panels],
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=min(0.2, 140 / _height(len(conditions), panels[-1].row)),
    )
    for panel in panels:
        _draw_panel(figure, panel, conditions)
        _draw_chance(figure, panel, chance, len(conditions))
    _draw_legend(figure, rows)
    _lay_out(figure, panels, conditions)
    return figure


def _panels(rows: list[Row]) -> list[_Panel]:
    models = list(dict.fromkeys(row["model"] for row in rows))
    return [
        _Panel(str(model), [row for row in rows if row["model"] == model], *_place(index))
        for index, model in enumerate(models)
    ]


def _place(index: int) -> tuple[int, int]:
    return index // PANELS_PER_ROW + 1, index % PANELS_PER_ROW + 1


def _height(conditions: int, rows: int) -> int:
    return rows * (_ROW_PX * conditions + _PANEL_PX) + _MARGIN_PX


def _word(value: object) -> str:
    return value if isinstance(value, str) and value in VERDICT_COLOURS else REFERENCE


def _draw_panel(figure: go.Figure, panel: _Panel, conditions: list[str]) -> None:
    known = [row for row in panel.rows if real(row["accuracy"]) is not None]
    for word in VERDICT_COLOURS:
        chosen = [row for row in known if _word(row["verdict"]) == word]
        if chosen:
            trace = _parsed_trace(chosen, conditions, word)
            figure.add_trace(trace, row=panel.row, col=panel.column)
    scored = [row for row in panel.rows if real(row["accuracy_loglik"]) is not None]
    if scored:
        trace = _loglik_trace(scored, conditions)
        figure.add_trace(trace, row=panel.row, col=panel.column)


def _interval(row: Row) -> tuple[float, float, float]:
    """Return accuracy, low and high; both ends are the accuracy where there is no interval."""
    middle = float(row["accuracy"])
    low, high = real(row["accuracy_low"]), real(row["accuracy_high"])
    return middle, middle if low is None else low, middle if high is None else high


def _parsed_trace(rows: list[Row], conditions: list[str], word: str) -> go.Scatter:
    intervals = [_interval(row) for row in rows]
    colour = VERDICT_COLOURS[word]
    return go.Scatter(
        name=word,
        x=[middle for middle, _, _ in intervals],
        y=[conditions.index(str(row["condition"])) for row in rows],
        mode="markers",
        marker={"color": colour, "symbol": VERDICT_SYMBOLS[word], "size": 10},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, high - middle) for middle, _, high in intervals],
            "arrayminus": [max(0.0, middle - low) for middle, low, _ in intervals],
            "color": colour,
            "thickness": 2,
            "width": 5,
        },
        customdata=[
            f"<b>{label(row['condition'])}</b><br>"
            f"parsed answer: {middle:.3f} [{low:.3f}, {high:.3f}]<br>{word}"
            for row, (middle, low, high) in zip(rows, intervals, strict=True)
        ],
        hovertemplate=_HOVER,
        showlegend=False,
    )


def _loglik_trace(rows: list[Row], conditions: list[str]) -> go.Scatter:
    words = [_word(row.get("verdict_loglik", row["verdict"])) for row in rows]
    values = [float(row["accuracy_loglik"]) for row in rows]
    return go.Scatter(
        name="option log-likelihood",
        x=values,
        y=[conditions.index(str(row["condition"])) + _LOGLIK_OFFSET for row in rows],
        mode="markers",
        marker={
            "color": [VERDICT_COLOURS[word] for word in words],
            "symbol": [f"{VERDICT_SYMBOLS[word]}-open" for word in words],
            "size": 8,
            "line": {"width": 1.75},
        },
        customdata=[
            f"<b>{label(row['condition'])}</b><br>option log-likelihood: {value:.3f}<br>{word}"
            for row, value, word in zip(rows, values, words, strict=True)
        ],
        hovertemplate=_HOVER,
        showlegend=False,
    )


def _draw_chance(
    figure: go.Figure,
    panel: _Panel,
    chance: float | Mapping[str, float] | None,
    conditions: int,
) -> None:
    value = chance.get(panel.model) if isinstance(chance, Mapping) else chance
    if value is None:
        return
    line = {"dash": "dot", "color": MUTED, "width": 1.5}
    figure.add_shape(
        type="line",
        x0=value,
        x1=value,
        y0=0,
        y1=1,
        yref="y domain",
        line=line,
        row=panel.row,
        col=panel.column,
    )
    figure.add_annotation(
        text=f"chance {value:.2f}",
        x=value,
        y=conditions - 0.15,
        xanchor="left" if value < 0.7 else "right",
        xshift=5 if value < 0.7 else -5,
        showarrow=False,
        font={"size": 13, "color": MUTED},
        row=panel.row,
        col=panel.column,
    )


def _draw_legend(figure: go.Figure, rows: list[Row]) -> None:
    words = {_word(row["verdict"]) for row in rows}
    for word in VERDICT_COLOURS:
        if word in words:
            _legend_entry(figure, word, VERDICT_COLOURS[word], VERDICT_SYMBOLS[word])
    if any(real(row["accuracy_loglik"]) is not None for row in rows):
        _legend_entry(figure, "filled: parsed answer", MUTED, "circle")
        _legend_entry(figure, "open: option log-likelihood", MUTED, "circle-open")


def _legend_entry(figure: go.Figure, name: str, colour: str, symbol: str) -> None:
    outline = {"color": colour, "width": 2}
    marker = {"color": colour, "symbol": symbol, "size": 10, "line": outline}
    figure.add_trace(
        go.Scatter(name=name, x=[None], y=[None], mode="markers", marker=marker, hoverinfo="skip"),
        row=1,
        col=1,
    )


def _lay_out(figure: go.Figure, panels: list[_Panel], conditions: list[str]) -> None:
    count = len(conditions)
    figure.update_xaxes(
        range=[-0.02, 1.02],
        tickvals=[0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
        tickformat=".1f",
        title_text=AXIS_TITLE
        if len(panels) < PANELS_PER_ROW
        else AXIS_TITLE.replace(" (", "<br>("),
    )
    figure.update_yaxes(
        range=[count + 0.15, -0.6],
        tickvals=list(range(count)),
        ticktext=[label(name) for name in conditions],
        showgrid=True,
    )
    figure.update_yaxes(title_text="condition", col=1)
    colours = model_colours(panel.model for panel in panels)
    for panel in panels:
        figure.add_annotation(
            text=f"<b>{label(panel.model)}</b>",
            x=0.0,
            y=1.0,
            xref="x domain",
            yref="y domain",
            xanchor="left",
            yanchor="bottom",
            yshift=4,
            showarrow=False,
            font={"size": 15, "color": colours.get(panel.model, INK)},
            row=panel.row,
            col=panel.column,
        )
    height = _height(count, panels[-1].row)
    figure.update_layout(template=TEMPLATE, height=height, hovermode="closest", dragmode=False)
