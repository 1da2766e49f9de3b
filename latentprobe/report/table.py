"""The condition table: every number of a study in one row per condition.

A missing number is an en dash whose tooltip says why; it is never a blank, a zero or a "nan". A
verdict that changes with the scorer is marked in plain sight.
"""

import html
from collections.abc import Sequence

from latentprobe.plots.rows import Row, is_missing, real
from latentprobe.plots.theme import INK, VERDICT_COLOURS
from latentprobe.report.content import StudyPage

REFERENCE_CONDITION = "full"
HEADINGS = (
    "condition",
    "what it does",
    "accuracy<br>[95&nbsp;%&nbsp;interval]",
    "by option log-&#8203;likelihood",
    "parse rate",
    "difference to full<br>[95&nbsp;%&nbsp;interval]",
    "gain retained<br>[95&nbsp;%&nbsp;interval]",
    "verdict",
    "applied<br>(fewest positions)",
    "problems x&nbsp;seeds",
)
NO_EDIT = "no edit in this condition"
NOT_RECORDED = "not recorded"
ITSELF = "the reference the others are compared with"


def condition_table(study: StudyPage) -> str:
    """Return the table of one study's conditions, in the order of its summary.

    Args:
        study: The study; its summary has the columns of `SUMMARY_COLUMNS`.

    Returns:
        An HTML table with a caption, followed by the reasons why a gain is undefined, if any.

    Example:
        >>> import pandas as pd
        >>> from latentprobe.report.content import SUMMARY_COLUMNS
        >>> row = {name: None for name in SUMMARY_COLUMNS} | {"condition": "full", "accuracy": 0.8}
        >>> page = StudyPage(model="m", card="", verdicts=(), summary=pd.DataFrame([row]))
        >>> "0.80" in condition_table(page), "None" in condition_table(page)
        (True, False)
    """
    rows: list[Row] = list(study.summary.to_dict("records"))
    heads = "".join(f'<th scope="col">{heading}</th>' for heading in HEADINGS)
    body = "\n".join(_row(row) for row in rows)
    return (
        f'<div class="scroll"><table>\n<caption>{html.escape(study.model)}</caption>\n'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
        f"{_reasons(rows)}"
    )


def absent(reason: str) -> str:
    """Return an en dash that says why there is no number.

    Args:
        reason: Why, in a few words.

    Example:
        >>> absent("not recorded")
        '<span class="absent" title="not recorded">&ndash;</span>'
    """
    return f'<span class="absent" title="{html.escape(reason)}">&ndash;</span>'


def number(value: object, *, digits: int = 2, signed: bool = False, reason: str = "") -> str:
    """Return a number as HTML text, or an en dash where there is none.

    Args:
        value: A real number, None or NaN.
        digits: Digits after the point.
        signed: Whether to write the plus sign too.
        reason: Why there is none, for the tooltip.

    Example:
        >>> number(-0.416, signed=True), number(float("nan"), reason="no donor")
        ('&minus;0.42', '<span class="absent" title="no donor">&ndash;</span>')
    """
    exact = real(value)
    if exact is None:
        return absent(reason or NOT_RECORDED)
    shown = round(exact, digits)
    sign = "&minus;" if shown < 0 else "+" if signed and shown > 0 else ""
    return f"{sign}{abs(shown):.{digits}f}"


def _row(row: Row) -> str:
    cells = (
        f'<td class="recipe">{_text(row["recipe"])}</td>',
        _cell(number(row["accuracy"]) + _interval(row, "accuracy")),
        _cell(number(row["accuracy_loglik"], reason="no option log-likelihoods recorded")),
        _cell(number(row["parse_rate"])),
        _cell(_difference(row) + _side_numbers(row)),
        _cell(_retained(row)),
        f"<td>{_verdict(row)}</td>",
        _cell(_applied(row["applied_min"])),
        _cell(_count(row["n"]) + " x " + _count(row["seeds"])),
    )
    return f'<tr><th scope="row">{_text(row["condition"])}</th>{"".join(cells)}</tr>'


def _cell(content: str) -> str:
    return f'<td class="number">{content}</td>'


def _text(value: object) -> str:
    return absent(NOT_RECORDED) if is_missing(value) else html.escape(str(value))


def _count(value: object) -> str:
    return number(value, digits=0)


def _interval(row: Row, name: str, *, signed: bool = False) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if is_missing(low) or is_missing(high):
        return ""
    return f"<small>[{number(low, signed=signed)}, {number(high, signed=signed)}]</small>"


def _difference(row: Row) -> str:
    reason = ITSELF if row["condition"] == REFERENCE_CONDITION else NOT_RECORDED
    value = number(row["difference"], signed=True, reason=reason)
    return value + _interval(row, "difference", signed=True)


def _side_numbers(row: Row) -> str:
    names = {"answer_changed": "answer changed", "donor_followed": "donor followed"}
    return "".join(
        f'<span class="minor">{words} {number(row[name])}</span>'
        for name, words in names.items()
        if not is_missing(row[name])
    )


def _retained(row: Row) -> str:
    if not is_missing(row["retained"]):
        return number(row["retained"]) + _interval(row, "retained")
    if is_missing(row["retained_reason"]):
        return absent(NOT_RECORDED)
    reason = html.escape(str(row["retained_reason"]))
    return f'<span class="undefined" title="{reason}">undefined</span>'


def _verdict(row: Row) -> str:
    if is_missing(row["verdict"]):
        reason = ITSELF if row["condition"] == REFERENCE_CONDITION else NOT_RECORDED
        return absent(reason)
    mark = ""
    if not is_missing(row["survives_scorer"]) and not row["survives_scorer"]:
        other = "" if is_missing(row["verdict_loglik"]) else str(row["verdict_loglik"])
        by_other = f'<span class="minor">by log-likelihood: {html.escape(other)}</span>'
        mark = '<br><span class="mark">scorer-dependent</span>' + (by_other if other else "")
    return _word(str(row["verdict"])) + mark


def _word(word: str) -> str:
    colour = VERDICT_COLOURS.get(word, INK)
    return f'<span class="word" style="border-color:{colour}">{html.escape(word)}</span>'


def _applied(value: object) -> str:
    if is_missing(value):
        return absent(NO_EDIT)
    reached_nothing = '<br><span class="mark">reached nothing</span>'
    return _count(value) + (reached_nothing if value == 0 else "")


def _reasons(rows: Sequence[Row]) -> str:
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        if is_missing(row["retained"]) and not is_missing(row["retained_reason"]):
            names = by_reason.setdefault(str(row["retained_reason"]), [])
            names.append(str(row["condition"]))
    return "".join(
        f'<p class="note">Gain retained is undefined ({html.escape(", ".join(names))}): '
        f"{html.escape(reason)}.</p>"
        for reason, names in by_reason.items()
    )
