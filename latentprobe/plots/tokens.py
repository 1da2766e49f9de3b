"""A sequence as a strip of coloured tokens: what each position is, at a glance.

Plain HTML with inline styles, so that it looks the same in a report and in a notebook cell. Long
runs of image tokens say nothing token by token and are folded into one box with their count.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from latentprobe.errors import StatisticsError, UnknownNameError
from latentprobe.plots.theme import INK, MUTED, ROLE_COLOURS, rgba

LONGEST_RUN_SHOWN = 6
FOLDED_ROLES = frozenset({"image", "pad"})
_VISIBLE = str.maketrans({"\n": "↵", "\t": "⇥", "\r": "␍"})
_EMPTY = {"slot": "slot"}
_BOX = (
    "display:inline-block;padding:2px 5px;margin:2px 1px;border-radius:4px;white-space:pre;"
    "max-width:100%;overflow-wrap:anywhere;"
)


@dataclass(frozen=True)
class _Chip:
    """One box of the strip: a token, or a folded run of `count` tokens of one role."""

    text: str
    role: str
    position: int
    count: int = 1


def token_strip_html(tokens: Sequence[str], roles: Sequence[str]) -> str:
    """Return tokens as an HTML strip coloured by role, with a legend of the roles present.

    Runs of more than six image (or pad) tokens become one box "image x N". Line breaks and tabs are
    shown as ↵ and ⇥; everything is HTML-escaped.

    Args:
        tokens: The decoded text of each position, in order.
        roles: The role of each position: `system image question open slot close reasoning format
            answer pad`.

    Returns:
        A `<div>`; positions (counted from 0) are in each box's tooltip.

    Raises:
        StatisticsError: There are not as many roles as tokens.
        UnknownNameError: A role is not one of the ten.

    Example:
        >>> strip = token_strip_html(["<img>"] * 9 + ["Red"], ["image"] * 9 + ["answer"])
        >>> "image x 9" in strip, "<img>" in strip
        (True, False)
    """
    if len(tokens) != len(roles):
        raise StatisticsError(
            f"cannot draw the token strip: {len(tokens)} tokens but {len(roles)} roles; "
            "give one role per token"
        )
    for role in roles:
        if role not in ROLE_COLOURS:
            raise UnknownNameError("role", role, ROLE_COLOURS)
    boxes = "".join(_box(chip) for chip in _chips(tokens, roles))
    return (
        f'<div class="token-strip" style="color:{INK};line-height:1.9">{_legend(roles)}'
        f'<div style="font-family:ui-monospace,Menlo,Consolas,monospace;font-size:13px">{boxes}'
        "</div></div>"
    )


def _chips(tokens: Sequence[str], roles: Sequence[str]) -> list[_Chip]:
    chips: list[_Chip] = []
    for role, run in groupby(range(len(tokens)), key=lambda position: roles[position]):
        positions = list(run)
        if role in FOLDED_ROLES and len(positions) > LONGEST_RUN_SHOWN:
            count = len(positions)
            chips.append(_Chip(f"{role} x {count}", role, positions[0], count))
        else:
            chips += [_Chip(tokens[position], role, position) for position in positions]
    return chips


def _box(chip: _Chip) -> str:
    text = html.escape(chip.text.translate(_VISIBLE)) or _EMPTY.get(chip.role, "∅")
    last = chip.position + chip.count - 1
    where = (
        f"position {chip.position}" if chip.count == 1 else f"positions {chip.position} to {last}"
    )
    line_end = "<br>" if chip.count == 1 and chip.text.endswith("\n") else ""
    style = _BOX + _paint(chip.role)
    return f'<span title="{chip.role}, {where}" style="{style}">{text}</span>{line_end}'


def _legend(roles: Sequence[str]) -> str:
    present = set(roles)
    entries = "".join(
        f'<span style="{_BOX}{_paint(role)}">{role}</span> '
        for role in ROLE_COLOURS
        if role in present
    )
    return f'<div style="font-size:13px;color:{MUTED}">roles: {entries}</div>'


def _paint(role: str) -> str:
    colour = ROLE_COLOURS[role]
    return f"color:{INK};background:{rgba(colour, 0.2)};border-bottom:3px solid {colour}"
