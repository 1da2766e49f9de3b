# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOptionalIterable=false, reportReturnType=false, reportArgumentType=false
# plotly types its figures loosely; these tests read what was drawn.

import base64
import io

import pytest
from PIL import Image

from latentprobe.errors import StatisticsError
from latentprobe.plots import AttentionMap, attention_maps_by_layer, attention_over_image

GRID = ((0.1, 0.3), (0.0, 0.6))


def png() -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (56, 56), (10, 120, 200)).save(target, "PNG")
    return target.getvalue()


def maps(*labels: str, layers: int = 2) -> list[AttentionMap]:
    return [
        AttentionMap(layer, name, GRID, 0.25 * (layer + 1))
        for layer in range(layers)
        for name in labels
    ]


def test_weights_are_drawn_as_shares_of_their_sum() -> None:
    figure = attention_over_image(png(), [[1.0, 3.0], [0.0, 4.0]], title="slot 0")
    assert figure.data[0].z == ([0.125, 0.375], [0.0, 0.5])
    assert figure.data[0].colorbar.title.text == "share of attention<br>to the image"
    assert figure.layout.title.text == "slot 0"


def test_the_picture_lies_under_the_grid_the_right_way_up() -> None:
    figure = attention_over_image(png(), [[0.2, 0.3, 0.5]])
    (picture,) = figure.layout.images
    assert base64.b64decode(picture.source.partition(",")[2]) == png()
    assert (picture.x, picture.y, picture.sizex, picture.sizey) == (-0.5, -0.5, 3, 1)
    assert picture.layer == "below"
    assert figure.layout.xaxis.range == (-0.5, 2.5)
    assert figure.layout.yaxis.range == (0.5, -0.5)
    assert figure.layout.yaxis.scaleanchor == "x"
    titles = figure.layout.xaxis.title.text, figure.layout.yaxis.title.text
    assert titles == ("patch column", "patch row")


def test_the_picture_shows_through_everywhere() -> None:
    scale = attention_over_image(png(), [[1.0]]).data[0].colorscale
    opacities = [float(colour.rpartition(",")[2].strip(" )")) for _, colour in scale]
    assert opacities[0] == 0.0
    assert opacities == sorted(opacities)
    assert opacities[-1] < 0.85


def test_no_attention_to_the_image_is_drawn_as_zero_not_as_an_error() -> None:
    figure = attention_over_image(png(), [[0.0, 0.0]])
    assert figure.data[0].z == ([0.0, 0.0],)
    assert figure.data[0].zmax == 1.0


def test_small_grids_write_their_numbers_and_large_ones_do_not() -> None:
    assert attention_over_image(png(), GRID).data[0].texttemplate == "%{z:.2f}"
    large = attention_over_image(png(), [[1.0] * 16] * 16).data[0]
    assert (large.texttemplate, large.xgap) == (None, 0)


def test_the_slider_steps_through_layers_and_opens_at_the_last() -> None:
    figure = attention_maps_by_layer(png(), maps("slot 0", "answer"))
    assert [trace.name for trace in figure.data] == [
        "layer 0, slot 0",
        "layer 0, answer",
        "layer 1, slot 0",
        "layer 1, answer",
    ]
    assert [trace.visible for trace in figure.data] == [False, False, True, True]
    (slider,) = figure.layout.sliders
    assert slider.active == 1
    assert slider.steps[0].args[0] == {"visible": [True, True, False, False]}
    notes = [note["text"] for note in slider.steps[0].args[1]["annotations"]]
    assert notes == [
        "<b>slot 0</b><br>layer 0, image mass 25.0 %",
        "<b>answer</b><br>layer 0, image mass 25.0 %",
    ]
    assert "image mass 50.0 %" in figure.layout.annotations[0].text


def test_positions_of_one_layer_share_one_scale_and_one_colour_bar() -> None:
    uneven = [AttentionMap(0, "slot 0", ((1.0, 0.0),), 0.5), AttentionMap(0, "b", GRID, 0.5)]
    figure = attention_maps_by_layer(png(), uneven)
    assert [trace.zmax for trace in figure.data] == [1.0, 1.0]
    assert [trace.showscale for trace in figure.data] == [True, False]
    assert len(figure.layout.sliders) == 0


def test_a_fourth_position_starts_a_second_row() -> None:
    figure = attention_maps_by_layer(png(), maps("a", "b", "c", "d", layers=1))
    assert len(figure.layout.images) == 4
    assert figure.layout.yaxis.domain[0] > figure.layout.yaxis4.domain[1]
    assert figure.layout.annotations[3].xref == "x4 domain"


def test_a_position_missing_in_one_layer_says_so() -> None:
    some = [*maps("slot 0"), AttentionMap(0, "answer", GRID, 0.1)]
    figure = attention_maps_by_layer(png(), some)
    assert "layer 1: not recorded" in figure.layout.annotations[1].text


def test_no_map_or_two_for_one_place_are_refused() -> None:
    with pytest.raises(StatisticsError, match="there is no map"):
        attention_maps_by_layer(png(), [])
    with pytest.raises(StatisticsError, match="4 maps for 2 pairs"):
        attention_maps_by_layer(png(), maps("slot 0") * 2)


def test_a_ragged_or_empty_grid_is_refused() -> None:
    with pytest.raises(StatisticsError, match=r"lengths \[1, 2\]"):
        AttentionMap(0, "slot 0", ((0.1,), (0.2, 0.3)), 0.5)
    with pytest.raises(StatisticsError, match="none"):
        attention_over_image(png(), [])
