r"""Reading answers: what must be read, what must stay unparsed, and where it was read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentprobe.benchmarks.scorers import parse_answer, resolve_option

COLOURS = ("red", "blue", "green", "yellow")
TAGS = {"template_open": "<answer>", "template_close": "</answer>"}
BOXED = {"template_open": r"\boxed{", "template_close": "}"}


def read(text: str, options=COLOURS, template=TAGS) -> str | None:
    return parse_answer(text, options, **template).answer


# --- what other extractors get wrong -------------------------------------------------------------


@pytest.mark.parametrize(
    "response",
    [
        "C",
        "Answer: C",
        "answer: C",
        "ANSWER: (C)",
        "Answer C",
        "The correct answer is (C).",
        "The answer is green.",
        "<answer>(C)</answer>",
        "A closer look shows a ball at the left so the answer is C.",
        "Based on the image, the ball is green.",
        "(C)",
        "C.",
        "C)",
        "(C).",
        "C. green",
        "C: green",
        "(C) green",
        "C) Green.",
        "green",
        "Green",
        " GREEN. ",
        "<answer> green </answer>",
        "<answer>\nC\n</answer>\n",
        "<answer>C",
        "Answer: A green ball",
        "The answer is C because it is green, not red",
        "(C) because of the green frame",
        "I think red <answer>blue</answer> no, <answer>green</answer>",
        "<answer>red</answer> The answer is red. <answer>The answer is C.</answer>",
        "red blue yellow <answer>C. green</answer> red",
    ],
)
def test_a_response_that_names_one_option_is_read(response: str):
    assert read(response) == "green"


@pytest.mark.parametrize(
    "response",
    [
        "",
        "   ",
        "<answer></answer>",
        "green <answer>",
        "green <answer> </answer>",
        "red or green",
        "<answer>red or green</answer>",
        "It is not red, so green.",
        "E",
        "(E)",
        "The answer is E.",
        "The answer is Cyan.",
        "C. red",
        "C and D",
        "greenish",
        "evergreen",
        "A closer look shows the ball.",
        "I cannot tell.",
        "<answer>none of them</answer> green",
        "c",
        "<answer>C) red</answer>",
        "Based on the image, a ball",
        "The answer is A closer look",
        "(C) because it is left of the red one",
        "E. red",
    ],
)
def test_a_response_that_names_none_or_several_stays_unparsed(response: str):
    assert read(response) is None


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (r"\boxed{C}", "green"),
        (r"so \boxed{green}.", "green"),
        (r"\boxed{\text{green}}", "green"),
        (r"\boxed{A} wait \boxed{C}", "green"),
        (r"\boxed{ (C) }", "green"),
        (r"\boxed{C", "green"),
        (r"\boxed{}", None),
        (r"\boxed{red, green}", None),
        ("C", "green"),
        ("<answer>C</answer>", None),
    ],
)
def test_boxed_answers_are_read(response: str, expected: str | None):
    assert read(response, template=BOXED) == expected


@pytest.mark.parametrize(
    ("response", "inner"),
    [
        (r"x \boxed{\frac{1}{2}} y}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{a{b{c}}d} e", "a{b{c}}d"),
        (r"\boxed{a{b", "a{b"),
        (r"\boxed{ \mathbf{7} }", r"\mathbf{7}"),
    ],
)
def test_nested_braces_close_in_pairs(response: str, inner: str):
    parsed = parse_answer(response, (), **BOXED)
    assert parsed.answer == inner
    assert response[parsed.start : parsed.stop] == inner


def test_the_order_of_the_rules_letter_text_statement_occurrence():
    assert resolve_option("B", COLOURS) == "blue"
    assert resolve_option("red, so the answer is B", COLOURS) == "blue"
    assert resolve_option("the answer is A, no: answer is B", COLOURS) == "blue"
    assert resolve_option("it looks blue", COLOURS) == "blue"


def test_letters_go_no_further_than_the_options():
    assert read("C", options=("red", "blue")) is None
    assert read("answer: C", options=("red", "blue")) is None
    assert read("B", options=("red", "blue")) == "blue"


def test_an_options_text_is_matched_as_a_whole_and_literally():
    assert read("a dark red ball", options=("dark red", "light red")) == "dark red"
    assert read("it is 3.5 m", options=("3.5", "345")) == "3.5"
    assert read("it is 345 m", options=("3.5", "345")) == "345"
    assert read("in C++ of course", options=("C++", "Java")) == "C++"


@pytest.mark.parametrize("response", ["it is 0.5", "1,500 g", "-5 degrees", "at 10:5", "5.25"])
def test_a_piece_of_a_number_is_no_option(response: str):
    assert resolve_option(response, ["5", "500", "25"]) is None
    assert resolve_option("it is 5, I think", ["5", "500", "25"]) == "5"


def test_options_that_differ_in_case_only_are_told_apart_and_nothing_is_no_option():
    assert resolve_option("PH", ["pH", "PH"]) == "PH"
    assert resolve_option("", [".", "red"]) is None


def test_an_article_is_not_an_option():
    assert read("A ball") is None
    assert read("A green ball") == "green"


# --- spans ---------------------------------------------------------------------------------------


def test_the_span_inside_a_template_is_where_the_answer_stands():
    text = "so <answer> green\n</answer> done"
    parsed = parse_answer(text, COLOURS, **TAGS)
    assert text[parsed.start : parsed.stop] == "green"
    assert text[parsed.begin :].startswith(" green")
    assert (parsed.begin, parsed.start, parsed.stop) == (11, 12, 17)
    assert parsed.in_template
    assert parsed.ok


def test_the_span_without_a_template_is_the_whole_response():
    parsed = parse_answer("  red or blue ", COLOURS, **TAGS)
    assert (parsed.begin, parsed.start, parsed.stop) == (2, 2, 13)
    assert not parsed.in_template
    assert not parsed.ok


def test_the_span_of_an_empty_response_is_empty():
    for text in ("", "   "):
        parsed = parse_answer(text, COLOURS, **TAGS)
        assert (parsed.start, parsed.stop, parsed.answer) == (0, 0, None)


def test_an_open_question_is_answered_by_its_span():
    assert read("<answer> a red ball. </answer>", options=()) == "a red ball"
    assert read("seven", options=()) == "seven"
    assert read("<answer></answer>", options=()) is None


responses = st.lists(
    st.sampled_from(["<answer>", "</answer>", " ", "red", "green", "C", "A", "\n", "é", "."]),
    max_size=8,
).map("".join)


@given(responses, st.sampled_from([COLOURS, ()]))
def test_every_span_lies_in_the_response_and_is_stripped(text: str, options: tuple):
    parsed = parse_answer(text, options, **TAGS)
    assert 0 <= parsed.begin <= parsed.start <= parsed.stop <= len(text)
    span = text[parsed.start : parsed.stop]
    assert span == span.strip()
    assert parsed.in_template == ("<answer>" in text)
    assert parsed.answer is None or not options or parsed.answer in options
    assert resolve_option(span, options) == parsed.answer


@given(st.integers(0, 3), st.sampled_from(["{}", "({})", "{}.", "{}: {}", "answer is {}"]))
def test_a_letter_reads_as_the_option_it_stands_for(index: int, form: str):
    letter, option = "ABCD"[index], COLOURS[index]
    assert read(f"<answer>{form.format(letter, option)}</answer>") == option
    assert read(form.format(letter, option)) == option
