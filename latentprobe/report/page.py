"""Assembly of the report: sections in order, one plotly bundle, one file.

The page's content policy forbids every network request, so that "self-contained" is enforced by the
browser that shows it and not only promised here.
"""

import html
from collections.abc import Sequence
from pathlib import Path

from plotly.offline import get_plotlyjs

from latentprobe.errors import StudyError
from latentprobe.report.content import StudyPage
from latentprobe.report.sections import (
    attention_section,
    condition_section,
    example_section,
    manifest_section,
    table_section,
    verdict_section,
)
from latentprobe.report.style import STYLE

CONTENT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)


def write_report(studies: Sequence[StudyPage], path: Path | str, *, title: str) -> Path:
    """Write one self-contained HTML page and return where it is.

    Args:
        studies: One per model, in the order to show them.
        path: The file to write, replaced if there; missing folders are made.
        title: The page's heading.

    Returns:
        The file's path.

    Raises:
        StudyError: There is no study, or two have the same model name.
        StatisticsError: A frame lacks columns or rows.

    Example:
        >>> import pandas as pd, tempfile
        >>> from latentprobe.report.content import SUMMARY_COLUMNS
        >>> row = {name: None for name in SUMMARY_COLUMNS} | {"condition": "full", "accuracy": 0.8}
        >>> page = StudyPage(model="m", card="", verdicts=("Works.",), summary=pd.DataFrame([row]))
        >>> write_report([page], tempfile.mkdtemp() + "/report.html", title="A study").name
        'report.html'
    """
    text = report_html(studies, title=title)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(text.encode("utf-8"))
    return target


def report_html(studies: Sequence[StudyPage], *, title: str) -> str:
    """Return the page as text; the same inputs give the same text.

    Args:
        studies: One per model, in the order to show them.
        title: The page's heading.

    Raises:
        StudyError: There is no study, or two have the same model name.
        StatisticsError: A frame lacks columns or rows.
    """
    names = [study.model for study in studies]
    if not names or len(set(names)) != len(names):
        raise StudyError(
            f"a report needs one study per model, each under its own name; got {names or 'none'}"
        )
    body = "\n".join((
        verdict_section(studies, title),
        "<noscript><p>The figures need JavaScript; every number is in the tables.</p></noscript>",
        "<main>",
        condition_section(studies),
        table_section(studies),
        attention_section(studies),
        example_section(studies),
        manifest_section(studies),
        "</main>",
    ))
    return f"{_head(title)}\n<body>\n{body}\n</body>\n</html>\n"


def _head(title: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{html.escape(title)}</title>\n<link rel="icon" href="data:,">\n'
        f"<style>\n{STYLE}\n</style>\n<script>{get_plotlyjs()}</script>\n</head>"
    )
