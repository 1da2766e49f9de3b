# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOptionalIterable=false, reportReturnType=false, reportArgumentType=false
# plotly types its figures loosely; these tests read what was drawn.

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pytest

from latentprobe.plots.theme import (
    MODEL_COLOURS,
    ROLE_COLOURS,
    ROLE_SYMBOLS,
    TEMPLATE,
    VERDICT_COLOURS,
    VERDICT_SYMBOLS,
    label,
    model_colours,
    rgba,
)

ROLES = [
    "system",
    "image",
    "question",
    "open",
    "slot",
    "close",
    "reasoning",
    "format",
    "answer",
    "pad",
]
# Linear RGB as a person without green cones sees it (Machado, Oliveira and Fernandes 2009).
NO_GREEN_CONES = np.array([
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
])
TO_XYZ = np.array([
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
])


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(colour: str, *, blind: bool) -> np.ndarray:
    rgb = linear(colour)
    rgb = np.clip(NO_GREEN_CONES @ rgb, 0, 1) if blind else rgb
    x, y, z = np.cbrt(TO_XYZ @ rgb / np.array([0.95047, 1.0, 1.08883]) + 1e-9)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize(("palette", "least"), [(ROLE_COLOURS, 10), (VERDICT_COLOURS, 25)])
def test_colours_stay_apart_also_without_green_cones(
    palette: Mapping[str, str], least: float, blind: bool
) -> None:
    seen = {name: lab(colour, blind=blind) for name, colour in palette.items()}

    def distance(two: tuple[str, str]) -> float:
        return float(np.linalg.norm(seen[two[0]] - seen[two[1]]))

    closest = min(combinations(seen, 2), key=distance)
    assert distance(closest) > least, closest


def test_the_colour_distance_sees_two_colours_that_merge_without_green_cones() -> None:
    red, green = "#b04040", "#6b6b20"
    assert np.linalg.norm(lab(red, blind=False) - lab(green, blind=False)) > 40
    assert np.linalg.norm(lab(red, blind=True) - lab(green, blind=True)) < 20


def test_every_role_and_verdict_has_a_colour_and_a_symbol_of_its_own() -> None:
    assert list(ROLE_COLOURS) == list(ROLE_SYMBOLS) == ROLES
    assert len(set(ROLE_COLOURS.values())) == len(set(ROLE_SYMBOLS.values())) == len(ROLES)
    assert {"different", "equivalent", "inconclusive"} < set(VERDICT_COLOURS)
    assert len(set(VERDICT_SYMBOLS.values())) == len(VERDICT_COLOURS) == len(VERDICT_SYMBOLS)


def test_models_take_colours_in_order_and_start_over_after_the_last() -> None:
    names = [f"model-{i}" for i in range(len(MODEL_COLOURS) + 1)]
    colours = model_colours(names)
    assert colours["model-0"] == colours[names[-1]] == MODEL_COLOURS[0]


def test_no_font_of_the_template_is_tiny() -> None:
    layout = TEMPLATE.layout
    sizes = [layout.font.size, layout.xaxis.tickfont.size, layout.legend.font.size]
    assert min(sizes) >= 13


def test_rgba_keeps_the_colour() -> None:
    assert rgba("#0072b2", 0.5) == "rgba(0, 114, 178, 0.5)"


def test_labels_are_escaped_because_plotly_obeys_html() -> None:
    assert label('<a href="x">') == '&lt;a href="x"&gt;'
