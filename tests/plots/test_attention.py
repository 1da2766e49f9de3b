# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOptionalIterable=false, reportReturnType=false, reportArgumentType=false
# plotly types its figures loosely; these tests read what was drawn.

import pandas as pd
import plotly.graph_objects as go
import pytest

from latentprobe.errors import StatisticsError
from latentprobe.plots import narrowness_by_layer
from latentprobe.plots.theme import PAPER, ROLE_COLOURS


def frame(model: str = "m", *, layers: int = 2, answer_mass: float = 0.002) -> pd.DataFrame:
    rows = []
    for layer in range(layers):
        for head in (0, 1):
            rows += [
                (model, layer, head, "slot", 0.4 + 0.2 * head + 0.1 * layer, 0.5),
                (model, layer, head, "answer", 0.3, answer_mass if layer == 0 else 0.2),
                (model, layer, head, "system", None, 0.0),
            ]
    return pd.DataFrame(
        rows, columns=["model", "layer", "head", "role", "narrowness", "image_mass"]
    )


def mean_line(figure: go.Figure, role: str, axis: str) -> go.Scatter:
    (line,) = [t for t in figure.data if t.name == role and (t.yaxis or "y") == axis]
    return line


def band(figure: go.Figure, role: str) -> go.Scatter:
    return next(t for t in figure.data if t.name == f"{role}, lowest to highest head")


def caption(figure: go.Figure) -> str:
    return figure.layout.annotations[-1].text.replace("<br>", " ")


def test_the_line_is_the_mean_over_heads_and_the_band_spans_them() -> None:
    figure = narrowness_by_layer(frame())
    line = mean_line(figure, "slot", "y")
    assert line.x == (0, 1)
    assert line.y == pytest.approx((0.5, 0.6))
    assert line.line.color == ROLE_COLOURS["slot"]
    assert band(figure, "slot").x == (0, 1, 1, 0)
    assert band(figure, "slot").y == pytest.approx((0.6, 0.7, 0.5, 0.4))


def test_image_mass_is_drawn_below() -> None:
    figure = narrowness_by_layer(frame())
    assert mean_line(figure, "answer", "y2").y == pytest.approx((0.002, 0.2))
    assert figure.layout.yaxis.domain[0] > figure.layout.yaxis2.domain[1]


def test_points_under_the_mass_floor_are_hollow_dashed_and_named() -> None:
    figure = narrowness_by_layer(frame())
    answer = mean_line(figure, "answer", "y")
    assert answer.marker.color == (PAPER, ROLE_COLOURS["answer"])
    assert answer.line.dash == "dash"
    assert mean_line(figure, "slot", "y").line.dash == "solid"
    assert "m: system (layers 0 to 1), answer (layer 0)." in caption(figure)


def test_the_floor_is_the_callers_to_set() -> None:
    figure = narrowness_by_layer(frame()[lambda f: f["role"] != "system"], floor=0.001)
    assert mean_line(figure, "answer", "y").line.dash == "solid"
    assert "Hollow" not in caption(figure)


def test_separate_spans_of_layers_are_named_separately() -> None:
    rows = frame(layers=5)
    rows.loc[(rows["role"] == "answer") & rows["layer"].isin([3, 4]), "image_mass"] = 0.0
    assert "answer (layers 0, 3 to 4)" in caption(narrowness_by_layer(rows))


def test_a_role_without_any_narrowness_appears_only_in_the_mass_panel() -> None:
    figure = narrowness_by_layer(frame())
    assert [t.yaxis for t in figure.data if t.name == "system"] == ["y2"]


def test_every_axis_says_what_it_is() -> None:
    layout = narrowness_by_layer(frame()).layout
    assert layout.xaxis.title.text == layout.xaxis2.title.text == "layer"
    assert "narrowness" in layout.yaxis.title.text
    assert "image mass" in layout.yaxis2.title.text


def test_models_stand_side_by_side_on_the_same_scale_with_one_legend() -> None:
    models = [frame(name, layers=20) for name in ("a", "b", "c", "d")]
    figure = narrowness_by_layer(pd.concat(models))
    assert len(list(figure.select_yaxes())) == 8
    assert len({axis.range for axis in figure.select_yaxes(row=1)}) == 1
    named = [trace.name for trace in figure.data if trace.showlegend]
    assert sorted(named) == ["answer", "slot", "system"]
    titles = [note.text for note in figure.layout.annotations[:-1]]
    assert titles == ["<b>a</b>", "<b>b</b>", "<b>c</b>", "<b>d</b>"]


def test_a_frame_without_heads_is_refused() -> None:
    with pytest.raises(StatisticsError, match=r"missing column\(s\) head"):
        narrowness_by_layer(frame().drop(columns="head"))


def test_no_image_mass_anywhere_still_draws() -> None:
    figure = narrowness_by_layer(frame().assign(image_mass=0.0))
    assert figure.layout.yaxis2.range == (-0.02, 1.05)
