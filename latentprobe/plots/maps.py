"""Where on the picture one position looks: attention drawn over the merged patch grid.

A map shows shares of the attention that goes to the image, which add up to 1 even where that is
next to nothing; the image mass is therefore printed above every map.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from latentprobe.errors import StatisticsError
from latentprobe.plots.theme import ATTENTION_SCALE, INK, MUTED, TEMPLATE, label, panel_grid

PANELS_PER_ROW = 3
_PANEL_WIDTH_PX, _TITLE_PX, _MARGIN_PX = 280, 105, 150
_NO_ATTENTION = 1e-9
_MOST_CELLS_WRITTEN = 36
_MOST_CELLS_APART = 144
_HALO = ", ".join(["0 0 2px white", "0 0 4px white"] * 4)


@dataclass(frozen=True)
class AttentionMap:
    """Where one position looks on the picture, in one layer.

    Attributes:
        layer: Decoder layer, counted from 0.
        position_label: What the position is, for people: "slot 0", "answer".
        weights: Attention per cell of the merged patch grid, rows from the top, each row from the
            left. Only their ratios matter: they are drawn as shares of their sum.
        image_mass: Fraction (0 to 1) of the position's attention that goes to the image at all.

    Example:
        >>> AttentionMap(0, "slot 0", ((0.1, 0.3), (0.0, 0.6)), 0.5).shares[1][1]
        0.6
    """

    layer: int
    position_label: str
    weights: tuple[tuple[float, ...], ...]
    image_mass: float

    def __post_init__(self) -> None:
        """Refuse an empty or ragged grid."""
        _check_grid(self.weights)

    @property
    def shares(self) -> list[list[float]]:
        """Weights divided by their sum; all zero where nothing goes to the image."""
        return _shares(self.weights)


def attention_over_image(
    image_png: bytes, weights: Sequence[Sequence[float]], *, title: str = ""
) -> go.Figure:
    """Draw one attention map over its picture.

    Args:
        image_png: The picture as PNG bytes, any size; it is stretched over the grid.
        weights: Attention per cell of the merged patch grid, rows from the top, columns from the
            left; drawn as shares of their sum.
        title: A line above the picture.

    Returns:
        The picture under a half-transparent heat map, with its colour bar.

    Raises:
        StatisticsError: The grid is empty, or its rows differ in length.

    Example:
        >>> figure = attention_over_image(b"", [[0.25, 0.75]])
        >>> figure.data[0].colorbar.title.text, figure.data[0].z
        ('share of attention<br>to the image', ([0.25, 0.75],))
    """
    _check_grid(weights)
    shares = _shares(weights)
    figure = panel_grid([(1, 1)])
    figure.add_trace(_heat(shares, visible=True, top=_peak([shares])))
    _place_picture(figure, image_png, shares, cell=(1, 1))
    figure.update_layout(
        template=TEMPLATE, height=440, title_text=label(title), hovermode="closest", dragmode=False
    )
    return figure


def attention_maps_by_layer(image_png: bytes, maps: Sequence[AttentionMap]) -> go.Figure:
    """Draw the maps of several positions side by side, with a slider over layers.

    The colour scale is shared by the positions of one layer, so that they can be compared, and is
    set anew for each layer, so that a diffuse layer can still be read.

    Args:
        image_png: The picture as PNG bytes.
        maps: One map per layer and position; the last layer is shown first.

    Returns:
        One panel per position label, in the order given (three to a row).

    Raises:
        StatisticsError: There is no map, or a layer and position come twice.

    Example:
        >>> maps = [AttentionMap(layer, "slot 0", ((0.2, 0.8),), 0.5) for layer in (0, 1)]
        >>> [step.label for step in attention_maps_by_layer(b"", maps).layout.sliders[0].steps]
        ['0', '1']
    """
    labels, layers = _labels_and_layers(maps)
    cells = [(i // PANELS_PER_ROW + 1, i % PANELS_PER_ROW + 1) for i in range(len(labels))]
    figure = panel_grid(cells, horizontal_spacing=0.06, vertical_spacing=0.32 / cells[-1][0])
    shown = layers[-1]
    ordered = sorted(maps, key=lambda one: (one.layer, labels.index(one.position_label)))
    peaks = {one: _peak([m.shares for m in maps if m.layer == one]) for one in layers}
    for one in ordered:
        cell = cells[labels.index(one.position_label)]
        heat = _heat(one.shares, visible=one.layer == shown, top=peaks[one.layer])
        heat.name = f"layer {one.layer}, {one.position_label}"
        heat.showscale = one is _first_of(ordered, one.layer)
        figure.add_trace(heat, row=cell[0], col=cell[1])
    for name, cell in zip(labels, cells, strict=True):
        grid = next(one.shares for one in maps if one.position_label == name)
        _place_picture(figure, image_png, grid, cell=cell)
    steps = [_step(ordered, layer, labels) for layer in layers]
    _lay_out(figure, steps, cells[-1][0] * _row_height(ordered))
    return figure


def _labels_and_layers(maps: Sequence[AttentionMap]) -> tuple[list[str], list[int]]:
    if not maps:
        raise StatisticsError("cannot draw attention over the image: there is no map; give one")
    seen = {(one.layer, one.position_label) for one in maps}
    if len(seen) != len(maps):
        raise StatisticsError(
            f"cannot draw attention over the image: {len(maps)} maps for {len(seen)} pairs of "
            "layer and position; give one map per pair"
        )
    return list(dict.fromkeys(one.position_label for one in maps)), sorted({
        one.layer for one in maps
    })


def _first_of(ordered: Sequence[AttentionMap], layer: int) -> AttentionMap:
    return next(one for one in ordered if one.layer == layer)


def _check_grid(weights: Sequence[Sequence[float]]) -> None:
    widths = {len(row) for row in weights}
    if len(widths) != 1 or widths == {0}:
        raise StatisticsError(
            f"an attention map needs rows of one length, got lengths {sorted(widths) or '(none)'}"
        )


def _shares(weights: Sequence[Sequence[float]]) -> list[list[float]]:
    total = float(sum(sum(row) for row in weights))
    scale = 1.0 / total if total > _NO_ATTENTION else 0.0
    return [[float(value) * scale for value in row] for row in weights]


def _peak(grids: Sequence[Sequence[Sequence[float]]]) -> float:
    return max(max(max(row) for row in grid) for grid in grids) or 1.0


def _heat(shares: list[list[float]], *, visible: bool, top: float) -> go.Heatmap:
    cells = len(shares) * len(shares[0])
    gap = 1 if cells <= _MOST_CELLS_APART else 0
    return go.Heatmap(
        z=shares,
        zmin=0.0,
        zmax=top,
        colorscale=[list(stop) for stop in ATTENTION_SCALE],
        visible=visible,
        xgap=gap,
        ygap=gap,
        texttemplate="%{z:.2f}" if cells <= _MOST_CELLS_WRITTEN else None,
        textfont={"size": 14, "color": INK, "shadow": _HALO},
        colorbar={
            "title": {"text": "share of attention<br>to the image", "font": {"size": 13}},
            "thickness": 14,
            "lenmode": "pixels",
            "len": 260,
            "y": 1.0,
            "yanchor": "top",
            "tickformat": ".2f" if top >= 0.05 else ".3f",
            "tickfont": {"size": 13},
            "outlinewidth": 1,
            "outlinecolor": "#b6bcc4",
        },
        hovertemplate="row %{y}, column %{x}<br>share %{z:.3f}<extra>%{fullData.name}</extra>",
    )


def _place_picture(
    figure: go.Figure, image_png: bytes, grid: Sequence[Sequence[float]], *, cell: tuple[int, int]
) -> None:
    rows, columns = len(grid), len(grid[0])
    row, col = cell
    figure.add_layout_image(
        source="data:image/png;base64," + base64.b64encode(image_png).decode("ascii"),
        x=-0.5,
        y=-0.5,
        sizex=columns,
        sizey=rows,
        sizing="stretch",
        layer="below",
        row=row,
        col=col,
    )
    ticks = {"tickmode": "linear", "tick0": 0, "showgrid": False, "showline": False}
    x_axis = next(figure.select_xaxes(row=row, col=col))
    y_axis = next(figure.select_yaxes(row=row, col=col))
    x_axis.update(
        range=[-0.5, columns - 0.5],
        constrain="domain",
        title_text="patch column",
        dtick=max(1, columns // 8),
        **ticks,
    )
    y_axis.update(
        range=[rows - 0.5, -0.5],
        constrain="domain",
        title_text="patch row",
        dtick=max(1, rows // 8),
        scaleanchor=x_axis.plotly_name.replace("axis", ""),
        **ticks,
    )


def _step(ordered: Sequence[AttentionMap], layer: int, labels: Sequence[str]) -> dict[str, object]:
    mass = {one.position_label: one.image_mass for one in ordered if one.layer == layer}
    titles = [
        {
            "text": f"<b>{label(name)}</b><br>" + _mass_line(mass.get(name), layer),
            "x": 0.5,
            "y": 1.0,
            "xref": f"x{place + 1 if place else ''} domain",
            "yref": f"y{place + 1 if place else ''} domain",
            "yanchor": "bottom",
            "yshift": 4,
            "showarrow": False,
            "font": {"size": 14, "color": INK},
        }
        for place, name in enumerate(labels)
    ]
    return {
        "label": str(layer),
        "method": "update",
        "args": [
            {"visible": [one.layer == layer for one in ordered]},
            {"annotations": titles},
        ],
    }


def _mass_line(mass: float | None, layer: int) -> str:
    if mass is None:
        return f"layer {layer}: not recorded"
    return f"layer {layer}, image mass {100 * mass:.1f} %"


def _row_height(maps: Sequence[AttentionMap]) -> int:
    tallest = max(len(one.weights) / len(one.weights[0]) for one in maps)
    return round(_PANEL_WIDTH_PX * min(max(tallest, 0.4), 1.5)) + _TITLE_PX


def _lay_out(figure: go.Figure, steps: list[dict[str, object]], height: int) -> None:
    last = len(steps) - 1
    annotations = steps[last]["args"][1]["annotations"]  # pyright: ignore[reportIndexIssue]
    slider = {
        "active": last,
        "steps": steps,
        "currentvalue": {"prefix": "layer ", "font": {"size": 14, "color": INK}},
        "pad": {"t": 65, "b": 5},
        "len": 1.0,
        "font": {"size": 13},
        "bgcolor": "#d8dee4",
        "activebgcolor": MUTED,
    }
    figure.update_layout(
        template=TEMPLATE,
        height=max(height, 330) + _MARGIN_PX,
        annotations=annotations,
        sliders=[slider] if len(steps) > 1 else [],
        hovermode="closest",
        dragmode=False,
        margin={"t": 60},
    )
