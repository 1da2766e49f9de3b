"""One look for every figure: fonts, colours and what each colour means.

Colours carry meaning (a role, a verdict word, a model), so they are written once, here, and were
chosen to stay apart under red-green colour blindness; a marker symbol always says the same thing
as the colour. Sizes are for a page 1200 px wide.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import plotly.graph_objects as go
from plotly.subplots import make_subplots

FONT_FAMILY = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, MUTED, GRID, PAPER = "#1f2328", "#57606a", "#e4e7eb", "#ffffff"

ROLE_COLOURS: Mapping[str, str] = MappingProxyType({
    "system": "#6a6a6a",
    "image": "#332288",
    "question": "#009e73",
    "open": "#e69f00",
    "slot": "#d55e00",
    "close": "#7a4a00",
    "reasoning": "#56b4e9",
    "format": "#cc79a7",
    "answer": "#0072b2",
    "pad": "#c9c9c9",
})
ROLE_SYMBOLS: Mapping[str, str] = MappingProxyType({
    "system": "cross",
    "image": "pentagon",
    "question": "hexagon",
    "open": "triangle-right",
    "slot": "circle",
    "close": "triangle-left",
    "reasoning": "triangle-up",
    "format": "star",
    "answer": "square",
    "pad": "x",
})
REFERENCE = "reference"
VERDICT_COLOURS: Mapping[str, str] = MappingProxyType({
    "different": "#d55e00",
    "equivalent": "#0072b2",
    "inconclusive": "#8a8a8a",
    REFERENCE: INK,
})
VERDICT_SYMBOLS: Mapping[str, str] = MappingProxyType({
    "different": "circle",
    "equivalent": "diamond",
    "inconclusive": "square",
    REFERENCE: "triangle-up",
})
MODEL_COLOURS = ("#332288", "#117733", "#aa4499", "#2a7f72", "#882255", "#7a7a1f")
"""Colours of models in the order they are given; reused from the start after the sixth."""

ATTENTION_SCALE = (
    (0.0, "rgba(255, 245, 235, 0.0)"),
    (0.25, "rgba(253, 174, 97, 0.5)"),
    (0.6, "rgba(227, 74, 51, 0.66)"),
    (1.0, "rgba(103, 0, 31, 0.78)"),
)
"""From nothing (the picture shows through) to dark red; ordered in lightness too."""


def model_colours(models: Iterable[str]) -> dict[str, str]:
    """Return one colour per model, by order of appearance.

    Args:
        models: Model names; repeats are ignored.

    Returns:
        Colour (hex) by model name.

    Example:
        >>> model_colours(["mediated", "marker-only", "mediated"])
        {'mediated': '#332288', 'marker-only': '#117733'}
    """
    names = list(dict.fromkeys(models))
    return {name: MODEL_COLOURS[i % len(MODEL_COLOURS)] for i, name in enumerate(names)}


def rgba(colour: str, alpha: float) -> str:
    """Return a hex colour as a CSS `rgba(...)` of the given opacity.

    Args:
        colour: `#rrggbb`.
        alpha: Opacity from 0 (invisible) to 1 (solid).

    Example:
        >>> rgba("#d55e00", 0.25)
        'rgba(213, 94, 0, 0.25)'
    """
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {alpha:g})"


def label(text: object) -> str:
    """Return text safe inside a plotly label, where a subset of HTML is otherwise obeyed.

    Example:
        >>> label("<b>mine</b>")
        '&lt;b&gt;mine&lt;/b&gt;'
    """
    return html.escape(str(text), quote=False)


def panel_grid(
    cells: Sequence[tuple[int, int]],
    *,
    horizontal_spacing: float = 0.05,
    vertical_spacing: float = 0.1,
    shared_yaxes: bool = False,
) -> go.Figure:
    """Return a figure with a panel in each of the given cells and nothing in the others.

    Args:
        cells: (row, column) of each panel, counted from 1.
        horizontal_spacing: Gap between columns, as a fraction of the plot's width.
        vertical_spacing: Gap between rows, as a fraction of the plot's height.
        shared_yaxes: Whether panels of a row share their vertical axis and its labels.

    Example:
        >>> len(list(panel_grid([(1, 1), (1, 2), (2, 1)]).select_xaxes()))
        3
    """
    rows, columns = (max(cell[i] for cell in cells) for i in (0, 1))
    wanted = set(cells)
    return make_subplots(
        rows=rows,
        cols=columns,
        specs=[
            [{} if (row + 1, col + 1) in wanted else None for col in range(columns)]
            for row in range(rows)
        ],
        horizontal_spacing=horizontal_spacing,
        vertical_spacing=vertical_spacing if rows > 1 else 0.0,
        shared_yaxes=shared_yaxes,
    )


def _axis() -> dict[str, object]:
    return {
        "gridcolor": GRID,
        "linecolor": "#b6bcc4",
        "showline": True,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": "#b6bcc4",
        "tickfont": {"size": 13, "color": INK},
        "title": {"font": {"size": 14, "color": INK}, "standoff": 10},
        "automargin": True,
    }


TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT_FAMILY, "size": 14, "color": INK},
        "title": {"font": {"size": 17, "color": INK}, "x": 0.0, "xanchor": "left"},
        "paper_bgcolor": PAPER,
        "plot_bgcolor": PAPER,
        "colorway": list(MODEL_COLOURS),
        "xaxis": _axis(),
        "yaxis": _axis(),
        "legend": {
            "orientation": "h",
            "x": 0.0,
            "xanchor": "left",
            "yref": "container",
            "y": 1.0,
            "yanchor": "top",
            "font": {"size": 13},
            "bgcolor": "rgba(255, 255, 255, 0)",
        },
        "hoverlabel": {"font": {"family": FONT_FAMILY, "size": 13}},
        "margin": {"l": 20, "r": 20, "t": 72, "b": 60},
    }
)
"""The plotly template every figure carries; nothing is registered globally."""
