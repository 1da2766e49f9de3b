"""Rows of a results frame, checked before anything is drawn from them."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from latentprobe.errors import StatisticsError

Row = Mapping[Hashable, Any]


def checked_rows(frame: pd.DataFrame, columns: Sequence[str], figure: str) -> list[Row]:
    """Return a frame's rows in order, after checking that they have what a figure draws.

    Args:
        frame: The rows to draw.
        columns: Names that must be among its columns.
        figure: What is being drawn, for the message.

    Raises:
        StatisticsError: A column is missing, or there is no row.

    Example:
        >>> checked_rows(pd.DataFrame({"layer": [0]}), ["layer"], "a figure")
        [{'layer': 0}]
    """
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise StatisticsError(
            f"cannot draw {figure}: missing column(s) {', '.join(missing)}; got "
            f"{', '.join(map(str, frame.columns)) or '(none)'}; needed {', '.join(columns)}"
        )
    if frame.empty:
        raise StatisticsError(f"cannot draw {figure}: the frame has no rows")
    return list(frame.to_dict("records"))


def real(value: object) -> float | None:
    """Return a cell's number, or None where it holds nothing.

    Args:
        value: A real number, None, NaN or NA.

    Example:
        >>> real(0.5), real(float("nan")), real(None)
        (0.5, None, None)
    """
    return None if is_missing(value) else float(value)  # pyright: ignore[reportArgumentType]


def is_missing(value: object) -> bool:
    """Return whether a cell holds nothing: None, NaN, NA or NaT.

    Example:
        >>> is_missing(None), is_missing(float("nan")), is_missing(0.0), is_missing([])
        (True, True, False, False)
    """
    return value is None or (bool(pd.isna(value)) if pd.api.types.is_scalar(value) else False)
