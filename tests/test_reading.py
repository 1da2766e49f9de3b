"""A finished response read back: text, answer, roles and the place of the options, by hand."""

from dataclasses import replace

import pytest

from latentprobe.benchmarks import Problem
from latentprobe.methods import AnswerSpec, PromptSpec
from latentprobe.reading import Reading, option_ids
from latentprobe.tokens import LayoutBuilder
from latentprobe.trajectory import AnswerContext, Structure

PROMPT = ["system", "image", "question"]
OPEN, SLOT, CLOSE = (f"<|organism_{part}|>" for part in ("open", "slot", "close"))
INITIALS = {"o": "open", "s": "slot", "c": "close", "r": "reasoning"}


@pytest.fixture
def parts(mediated):
    return mediated.parts


@pytest.fixture
def two_words(mediated):
    """The same model with an answer template of two tokens."""
    spec = replace(mediated.method, answer=AnswerSpec("color is", "?"))
    words = mediated.parts.tokenizer
    opening = tuple(words("color is", add_special_tokens=False)["input_ids"])
    return replace(mediated.parts, spec=spec, template=opening)


def read(parts, text: str, roles: str, problem=None) -> tuple[Reading, LayoutBuilder]:
    """Read a response given as words and the initials of the roles the loop gave them."""
    ids = parts.tokenizer(text, add_special_tokens=False)["input_ids"]
    builder = LayoutBuilder([*PROMPT])
    for initial in roles:
        builder.append(INITIALS[initial])
    assert len(ids) == len(roles)
    return Reading.of(parts, ids, builder, problem), builder


SPAN = f"{OPEN} {SLOT} red {CLOSE}"


def test_the_text_is_the_visible_tokens_without_slots_and_end(parts):
    reading, _ = read(parts, f"{SPAN} <answer> blue </answer> <|im_end|>", "osscrrrr")
    assert reading.text == f"{OPEN} {CLOSE} <answer> blue </answer>"
    assert [index for index, _, _ in reading.spans] == [0, 3, 4, 5, 6]
    for index, start, stop in reading.spans:
        piece = {0: OPEN, 3: CLOSE, 4: "<answer>", 5: "blue", 6: "</answer>"}[index]
        assert reading.text[start:stop] == piece
    assert reading.parsed.answer == "blue", "a colour's id at a slot means nothing"


@pytest.mark.parametrize(
    ("text", "roles", "expected"),
    [
        (f"{SPAN} <answer> blue </answer> <|im_end|>", "osscrrrr", "osscfafr"),
        (f"the {SPAN} color is blue ?", "rosscrrrr", "aosscaaaa"),  # no template
        ("<answer> red </answer> <answer> blue", "rrrrr", "rrrfa"),
        ("what", "r", "r"),
    ],
)
def test_ordinary_tokens_get_their_roles_from_the_parsed_answer(
    parts, problems, text, roles, expected
):
    problem = Problem(problems[0].question, problems[0].images, ("red", "blue"), "red")
    reading, builder = read(parts, text, roles, problem)
    names = {**INITIALS, "f": "format", "a": "answer"}
    layout = reading.layout(builder)
    assert layout.roles == (*PROMPT, *(names[initial] for initial in expected))
    assert not layout.growing


def test_options_stand_after_the_opening_or_else_behind_the_last_span(two_words):
    template = two_words.template
    assert len(template) == 2
    places = {
        ("the color is red ?", "rrrrr"): AnswerContext(3 + 3),
        ("color is red color is blue", "rrrrrr"): AnswerContext(3 + 5),
        (f"{SPAN} red", "osscr"): AnswerContext(3 + 4, template),
        (f"{SPAN} red {SPAN} red", "osscrosscr"): AnswerContext(3 + 9, template),
        ("color red", "rr"): AnswerContext(3, template),
    }
    for (text, roles), expected in places.items():
        reading, builder = read(two_words, text, roles)
        assert reading.context(reading.layout(builder), Structure()) == expected, text
    reading, builder = read(two_words, f"{SPAN} red", "osscr")
    banned = Structure(template="banned")
    assert reading.context(reading.layout(builder), banned) == AnswerContext(3 + 4)


def test_a_model_without_a_method_has_text_and_no_template(parts):
    bare = replace(parts, spec=None, tokens=None, template=())
    reading, builder = read(bare, "<answer> red </answer>", "rrr")
    assert (reading.text, reading.parsed.in_template) == ("<answer> red </answer>", False)
    assert option_ids(bare, Problem("?", (), ("red", "blue"), "red")) == []
    assert reading.context(reading.layout(builder), Structure()) == AnswerContext(3)


def test_options_are_tokenised_as_they_would_stand_behind_the_opening(parts):
    ids = parts.tokenizer.convert_tokens_to_ids
    asked = Problem("?", (), ("red", "blue green"), "red")
    assert option_ids(parts, asked) == [[ids("red")], [ids("blue"), ids("green")]]
    lettered = replace(parts.spec, prompt=PromptSpec(options="letters"))
    assert [len(one) for one in option_ids(replace(parts, spec=lettered), asked)] == [1, 1]
    assert option_ids(parts, None) == []
