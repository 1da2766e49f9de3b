"""How narrow attention to the image is, per layer, role and model.

Narrowness is computed after renormalising over image tokens, so it says little where hardly any
attention goes to the image. The image mass is therefore always drawn below it, and points under a
floor are hollow and named in the caption.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import pandas as pd
import plotly.graph_objects as go

from latentprobe.plots.rows import Row, checked_rows, real
from latentprobe.plots.theme import (
    INK,
    MUTED,
    PAPER,
    ROLE_COLOURS,
    ROLE_SYMBOLS,
    TEMPLATE,
    label,
    model_colours,
    panel_grid,
    rgba,
)

COLUMNS = ("model", "layer", "head", "role", "narrowness", "image_mass")
MASS_FLOOR = 0.01
PANELS_PER_ROW = 3
AXIS_TITLES = {
    "narrowness": "narrowness<br>(0 uniform, 1 one token)",
    "image_mass": "image mass<br>(fraction of attention)",
}
_PANEL_PX, _MARGIN_PX, _CAPTION_LINE_PX, _CAPTION_WIDTH = 290, 90, 18, 145
_FEW_LAYERS, _FEW_ROLES = 12, 5


@dataclass(frozen=True)
class _Line:
    """One role of one model over layers: mean, lowest and highest head, and image mass.

    Attributes:
        low_mass: Per layer, whether the head-mean image mass is under the floor.
    """

    role: str
    layers: list[int]
    mean: list[float | None]
    lowest: list[float | None]
    highest: list[float | None]
    low_mass: list[bool]


def narrowness_by_layer(frame: pd.DataFrame, *, floor: float = MASS_FLOOR) -> go.Figure:
    """Draw narrowness and image mass over layers, one line per role, one column per model.

    A line is the mean over heads, its band runs from the lowest head to the highest. A point is
    hollow where the mean image mass is under `floor`; its line is dashed and the caption names it.

    Args:
        frame: One row per model, layer, head and role with `narrowness` (0 = uniform over the
            image, 1 = all on one image token; missing where undefined) and `image_mass` (0 to 1).
        floor: Image mass (0 to 1) under which narrowness means little.

    Returns:
        The figure: narrowness above, image mass below.

    Raises:
        StatisticsError: A column is missing, or there is no row.

    Example:
        >>> frame = pd.DataFrame({"model": ["m"], "layer": [0], "head": [0], "role": ["slot"],
        ...                       "narrowness": [0.4], "image_mass": [0.3]})
        >>> [trace.y for trace in narrowness_by_layer(frame).data if trace.name == "slot"]
        [(0.4,), (0.3,)]
    """
    every_row = checked_rows(frame, COLUMNS, "narrowness by layer")
    models = list(dict.fromkeys(row["model"] for row in every_row))
    bands = (len(models) - 1) // PANELS_PER_ROW + 1
    figure = panel_grid(
        [_cell(index, offset) for index in range(len(models)) for offset in (0, 1)],
        horizontal_spacing=0.09,
        vertical_spacing=0.16 / bands,
    )
    named: set[str] = set()
    low: list[str] = []
    for index, model in enumerate(models):
        rows = [row for row in every_row if row["model"] == model]
        for offset, quantity in enumerate(AXIS_TITLES):
            lines = _lines(rows, quantity, floor)
            _draw_lines(figure, lines, _cell(index, offset), named)
        low += _low_mass(str(model), _lines(rows, "image_mass", floor))
        _title_panel(figure, str(model), index, models)
    _lay_out(figure, every_row, _caption(low, floor), bands)
    return figure


def _cell(index: int, offset: int) -> tuple[int, int]:
    return 2 * (index // PANELS_PER_ROW) + offset + 1, index % PANELS_PER_ROW + 1


def _lines(rows: Sequence[Row], quantity: str, floor: float) -> list[_Line]:
    present = {row["role"] for row in rows}
    lines = [
        _line([row for row in rows if row["role"] == role], role, quantity, floor)
        for role in ROLE_COLOURS
        if role in present
    ]
    return [line for line in lines if any(value is not None for value in line.mean)]


def _line(rows: Sequence[Row], role: str, quantity: str, floor: float) -> _Line:
    layers = sorted({int(row["layer"]) for row in rows})
    values = [_per_head(rows, layer, quantity) for layer in layers]
    masses = [_per_head(rows, layer, "image_mass") for layer in layers]
    return _Line(
        role=role,
        layers=layers,
        mean=[fmean(heads) if heads else None for heads in values],
        lowest=[min(heads, default=None) for heads in values],
        highest=[max(heads, default=None) for heads in values],
        low_mass=[not heads or fmean(heads) < floor for heads in masses],
    )


def _per_head(rows: Sequence[Row], layer: int, quantity: str) -> list[float]:
    """Return the quantity's mean for each head of a layer that has one."""
    by_head: dict[int, list[float]] = {}
    for row in rows:
        value = real(row[quantity])
        if int(row["layer"]) == layer and value is not None:
            by_head.setdefault(int(row["head"]), []).append(value)
    return [fmean(values) for values in by_head.values()]


def _draw_lines(
    figure: go.Figure, lines: Sequence[_Line], cell: tuple[int, int], named: set[str]
) -> None:
    opacity = 0.13 if len(lines) <= _FEW_ROLES else 0.06
    for line in lines:
        figure.add_trace(_band(line, opacity), row=cell[0], col=cell[1])
    for line in lines:
        figure.add_trace(_mean(line, new=line.role not in named), row=cell[0], col=cell[1])
        named.add(line.role)


def _band(line: _Line, opacity: float) -> go.Scatter:
    known = [i for i, value in enumerate(line.mean) if value is not None]
    there = [line.layers[i] for i in known]
    return go.Scatter(
        name=f"{line.role}, lowest to highest head",
        x=there + there[::-1],
        y=[line.highest[i] for i in known] + [line.lowest[i] for i in reversed(known)],
        fill="toself",
        fillcolor=rgba(ROLE_COLOURS[line.role], opacity),
        line={"width": 0},
        mode="lines",
        legendgroup=line.role,
        showlegend=False,
        hoverinfo="skip",
    )


def _mean(line: _Line, *, new: bool) -> go.Scatter:
    colour = ROLE_COLOURS[line.role]
    return go.Scatter(
        name=line.role,
        x=line.layers,
        y=line.mean,
        mode="lines+markers",
        line={"color": colour, "width": 2, "dash": "dash" if any(line.low_mass) else "solid"},
        marker={
            "symbol": ROLE_SYMBOLS[line.role],
            "size": 10 if len(line.layers) <= _FEW_LAYERS else 6,
            "color": [PAPER if low else colour for low in line.low_mass],
            "line": {"color": colour, "width": 2 if len(line.layers) <= _FEW_LAYERS else 1.5},
        },
        legendgroup=line.role,
        legendrank=1 + list(ROLE_COLOURS).index(line.role),
        showlegend=new,
        cliponaxis=False,
        customdata=list(zip(line.lowest, line.highest, strict=True)),
        hovertemplate=(
            f"{line.role}, layer %{{x}}<br>mean over heads %{{y:.3f}}"
            "<br>heads from %{customdata[0]:.3f} to %{customdata[1]:.3f}<extra></extra>"
        ),
    )


def _low_mass(model: str, lines: Sequence[_Line]) -> list[str]:
    named = [
        f"{line.role} ({'layer' if len(low) == 1 else 'layers'} {_spans(low)})"
        for line in lines
        if (low := [at for at, is_low in zip(line.layers, line.low_mass, strict=True) if is_low])
    ]
    return [f"{label(model)}: {', '.join(named)}"] if named else []


def _spans(layers: Sequence[int]) -> str:
    spans: list[list[int]] = []
    for layer in layers:
        if spans and layer == spans[-1][-1] + 1:
            spans[-1].append(layer)
        else:
            spans.append([layer])
    return ", ".join(str(s[0]) if len(s) == 1 else f"{s[0]} to {s[-1]}" for s in spans)


def _caption(low: Sequence[str], floor: float) -> list[str]:
    text = "Lines: mean over heads. Bands: lowest to highest head."
    if low:
        text += (
            f" Hollow points, dashed lines: image mass under {floor:g}, so narrowness there means "
            f"little: {'; '.join(low)}."
        )
    return textwrap.wrap(text, _CAPTION_WIDTH)


def _title_panel(figure: go.Figure, model: str, index: int, models: Sequence[object]) -> None:
    row, col = _cell(index, 0)
    figure.add_annotation(
        text=f"<b>{label(model)}</b>",
        x=0.0,
        y=1.0,
        xref="x domain",
        yref="y domain",
        xanchor="left",
        yanchor="bottom",
        yshift=4,
        showarrow=False,
        font={"size": 15, "color": model_colours(map(str, models)).get(model, INK)},
        row=row,
        col=col,
    )


def _lay_out(figure: go.Figure, rows: Sequence[Row], caption: list[str], bands: int) -> None:
    layers = [int(row["layer"]) for row in rows]
    span = max(layers) - min(layers)
    figure.update_xaxes(title_text="layer", tickformat="d", dtick=max(1, -(-span // 12)))
    for band in range(2 * bands):
        quantity = tuple(AXIS_TITLES)[band % 2]
        top = max(real(row[quantity]) or 0.0 for row in rows) or 1.0
        figure.update_yaxes(range=[-0.02 * top, 1.05 * top], row=band + 1)
        figure.update_yaxes(title_text=AXIS_TITLES[quantity], row=band + 1, col=1)
    bottom = 70 + _CAPTION_LINE_PX * len(caption)
    figure.add_annotation(
        text="<br>".join(caption),
        x=0.0,
        y=0.0,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="top",
        yshift=-55,
        align="left",
        showarrow=False,
        font={"size": 13, "color": MUTED},
    )
    figure.update_layout(
        template=TEMPLATE,
        height=2 * bands * _PANEL_PX + _MARGIN_PX + bottom,
        margin={"b": bottom},
        hovermode="closest",
        dragmode=False,
    )
