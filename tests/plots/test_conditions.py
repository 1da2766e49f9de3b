# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOptionalIterable=false, reportReturnType=false, reportArgumentType=false
# plotly types its figures loosely; these tests read what was drawn.

import pandas as pd
import plotly.graph_objects as go
import pytest

from latentprobe.errors import StatisticsError
from latentprobe.plots import accuracy_by_condition
from latentprobe.plots.conditions import AXIS_TITLE
from latentprobe.plots.theme import VERDICT_COLOURS

CONDITIONS = ["full", "zero", "plain"]
ROWS = {
    "full": (0.9, 0.8, 0.95, 0.92, None, None),
    "zero": (0.6, 0.5, 0.7, 0.85, "different", "inconclusive"),
    "plain": (0.2, 0.1, 0.3, None, "different", None),
}


def frame(*models: str) -> pd.DataFrame:
    rows = [
        {
            "model": model,
            "condition": condition,
            "accuracy": values[0],
            "accuracy_low": values[1],
            "accuracy_high": values[2],
            "accuracy_loglik": values[3],
            "verdict": values[4],
            "verdict_loglik": values[5],
        }
        for model in models
        for condition, values in ROWS.items()
    ]
    return pd.DataFrame(rows)


def drawn(figure: go.Figure) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.x[0] is not None]


def test_each_condition_is_drawn_with_its_accuracy_and_interval() -> None:
    different, reference, _ = drawn(accuracy_by_condition(frame("m")))
    assert different.name == "different"
    assert different.x == (0.6, 0.2)
    assert different.y == (1, 2)
    assert different.error_x.array == pytest.approx((0.1, 0.1))
    assert different.error_x.arrayminus == pytest.approx((0.1, 0.1))
    assert different.marker.color == VERDICT_COLOURS["different"]
    assert reference.name == "reference"
    assert reference.error_x.array == pytest.approx([0.05])
    assert reference.error_x.arrayminus == pytest.approx([0.1])


def test_the_log_likelihood_scorer_is_an_open_marker_below_in_its_own_verdicts_colour() -> None:
    *_, loglik = drawn(accuracy_by_condition(frame("m")))
    assert loglik.x == (0.92, 0.85)
    assert [round(y) for y in loglik.y] == [0, 1]
    assert all(0.2 < y - round(y) < 0.5 for y in loglik.y)
    assert loglik.marker.symbol[1] == "square-open"
    assert loglik.marker.color[1] == VERDICT_COLOURS["inconclusive"]


def test_without_a_second_verdict_the_open_marker_takes_the_first() -> None:
    *_, loglik = drawn(accuracy_by_condition(frame("m").drop(columns="verdict_loglik")))
    assert loglik.marker.color[1] == VERDICT_COLOURS["different"]


def test_conditions_run_from_top_to_bottom_as_given_and_axes_are_labelled() -> None:
    figure = accuracy_by_condition(frame("m"))
    axis = figure.layout.yaxis
    assert list(axis.ticktext) == CONDITIONS
    assert axis.range[0] > axis.range[1]
    assert axis.title.text == "condition"
    assert figure.layout.xaxis.title.text == AXIS_TITLE


def test_every_model_has_a_panel_on_the_same_accuracy_axis() -> None:
    figure = accuracy_by_condition(frame("a", "b", "c", "d"))
    axes = list(figure.select_xaxes())
    assert len(axes) == 4
    assert {axis.range for axis in axes} == {(-0.02, 1.02)}
    assert all("fraction of problems" in axis.title.text for axis in axes)
    titles = [note.text for note in figure.layout.annotations]
    assert titles == ["<b>a</b>", "<b>b</b>", "<b>c</b>", "<b>d</b>"]


def test_the_chance_line_is_dotted_and_labelled() -> None:
    figure = accuracy_by_condition(frame("a", "b"), chance={"a": 0.25})
    (line,) = figure.layout.shapes
    assert (line.type, line.x0, line.x1, line.xref) == ("line", 0.25, 0.25, "x")
    assert (line.line.dash, line.y0, line.y1, line.yref) == ("dot", 0, 1, "y domain")
    assert "chance 0.25" in [note.text for note in figure.layout.annotations]
    assert len(accuracy_by_condition(frame("a", "b"), chance=0.25).layout.shapes) == 2
    assert len(accuracy_by_condition(frame("a", "b")).layout.shapes) == 0


def test_a_high_chance_is_labelled_to_the_left_of_its_line() -> None:
    figure = accuracy_by_condition(frame("a"), chance=0.9)
    assert figure.layout.annotations[0].xanchor == "right"


def test_the_legend_explains_verdicts_and_scorers_once() -> None:
    figure = accuracy_by_condition(frame("a", "b"))
    names = [trace.name for trace in figure.data if trace.showlegend is not False]
    assert names == [
        "different",
        "reference",
        "filled: parsed answer",
        "open: option log-likelihood",
    ]


def test_without_log_likelihoods_there_is_no_open_marker_and_no_legend_for_it() -> None:
    figure = accuracy_by_condition(frame("a").assign(accuracy_loglik=float("nan")))
    assert not any("log-likelihood" in trace.name for trace in figure.data)


def test_names_are_escaped() -> None:
    figure = accuracy_by_condition(frame("<i>m</i>"))
    assert figure.layout.annotations[0].text == "<b>&lt;i&gt;m&lt;/i&gt;</b>"


def test_a_frame_without_intervals_columns_is_refused() -> None:
    with pytest.raises(StatisticsError, match=r"missing column\(s\) accuracy_low"):
        accuracy_by_condition(frame("m").drop(columns="accuracy_low"))
