import math

import pandas as pd
import pytest

from latentprobe.errors import StatisticsError
from latentprobe.plots.rows import checked_rows, is_missing, real


def test_rows_come_in_order_with_every_column() -> None:
    frame = pd.DataFrame({"layer": [1, 0], "note": ["a", None]})
    rows = checked_rows(frame, ["layer"], "a map")
    assert [row["layer"] for row in rows] == [1, 0]
    assert is_missing(rows[1]["note"])


def test_a_missing_column_is_named() -> None:
    frame = pd.DataFrame({"layer": [0]})
    with pytest.raises(StatisticsError, match=r"draw a map: missing column\(s\) head; got layer"):
        checked_rows(frame, ["layer", "head"], "a map")


def test_an_empty_frame_is_refused() -> None:
    with pytest.raises(StatisticsError, match="no rows"):
        checked_rows(pd.DataFrame({"layer": []}), ["layer"], "a map")


@pytest.mark.parametrize("nothing", [None, math.nan, pd.NA, pd.NaT])
def test_every_kind_of_nothing_is_no_number(nothing: object) -> None:
    assert is_missing(nothing)
    assert real(nothing) is None


@pytest.mark.parametrize("something", [0.0, 0, False, True])
def test_zero_and_false_are_numbers(something: object) -> None:
    assert not is_missing(something)
    assert real(something) == something
