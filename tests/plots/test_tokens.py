import re

import pytest

from latentprobe.errors import StatisticsError, UnknownNameError
from latentprobe.plots import token_strip_html
from latentprobe.plots.theme import ROLE_COLOURS


def boxes(strip: str) -> list[tuple[str, str]]:
    return re.findall(r'<span title="([^"]*)" style="[^"]*">([^<]*)</span>', strip)


def test_tokens_are_boxes_with_their_role_and_position() -> None:
    strip = token_strip_html(["Which", " one", "A"], ["question", "question", "answer"])
    assert boxes(strip) == [
        ("question, position 0", "Which"),
        ("question, position 1", " one"),
        ("answer, position 2", "A"),
    ]
    assert ROLE_COLOURS["question"] in strip


@pytest.mark.parametrize(("count", "shown"), [(6, 6), (7, 1)])
def test_more_than_six_image_tokens_in_a_row_are_folded(count: int, shown: int) -> None:
    strip = token_strip_html(["x", *["i"] * count, "y"], ["system", *["image"] * count, "answer"])
    found = boxes(strip)
    assert len(found) == shown + 2
    assert (("image, positions 1 to 7", "image x 7") in found) == (count == 7)
    assert found[-1] == (f"answer, position {count + 1}", "y")


def test_long_runs_of_slots_are_never_folded() -> None:
    assert len(boxes(token_strip_html([""] * 9, ["slot"] * 9))) == 9


def test_the_legend_names_the_roles_present_and_no_other() -> None:
    legend = token_strip_html(["a", "b"], ["answer", "open"]).split("</div>")[0]
    assert re.findall(r">(\w+)</span>", legend) == ["open", "answer"]


def test_html_in_a_token_is_escaped_and_white_space_is_visible() -> None:
    strip = token_strip_html(["<script>&'\"\n", "\t", ""], ["answer"] * 3)
    assert "<script" not in strip
    assert [text for _, text in boxes(strip)] == [
        "&lt;script&gt;&amp;&#x27;&quot;↵",
        "⇥",
        "∅",
    ]
    assert strip.count("<br>") == 1


def test_an_empty_slot_token_is_called_a_slot() -> None:
    assert boxes(token_strip_html([""], ["slot"])) == [("slot, position 0", "slot")]


def test_roles_must_match_the_tokens() -> None:
    with pytest.raises(StatisticsError, match="2 tokens but 1 roles; give one role per token"):
        token_strip_html(["a", "b"], ["answer"])


def test_an_unknown_role_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown role 'slots'. Did you mean 'slot'"):
        token_strip_html(["a"], ["slots"])
