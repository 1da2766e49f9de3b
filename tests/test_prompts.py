"""From a problem to a prompt: roles of the positions, image tokens, question span."""

import copy
from dataclasses import replace

import pytest
import torch
from PIL import Image

from latentprobe.benchmarks import Problem
from latentprobe.errors import ModelError, ProblemError
from latentprobe.methods import PromptSpec
from latentprobe.models import LatentModel
from latentprobe.prompts import Prompt, answer_texts, question_text
from latentprobe.tokens import Layout, image_region

QUESTION = "What color is inside the red frame?"
WORDS = ["what", "color", "is", "inside", "the", "red", "frame", "?"]
SQUARE = Image.new("RGB", (56, 56), "red")
WIDE = Image.new("RGB", (224, 56), "blue")
OPTIONS = ("red", "blue")


def prepare(model: LatentModel, *images: Image.Image, question: str = QUESTION, **spec) -> Prompt:
    prompter = replace(model.prompter, spec=replace(model.prompter.spec, **spec))
    return prompter.prepare(Problem(question, images, options=OPTIONS), model.parts.backend)


def runs(prompt: Prompt) -> list[tuple[str, int]]:
    layout = Layout(prompt.roles, len(prompt.roles))
    return [(name, count) for name, _, count in layout.runs()]


def tokens(model: LatentModel, prompt: Prompt, role: str) -> list[str]:
    ids = [i for i, name in zip(prompt.token_ids, prompt.roles, strict=True) if name == role]
    return model.prompter.tokenizer.convert_ids_to_tokens(ids)


# --- roles ---------------------------------------------------------------------------------------


def test_one_image_before_the_question(mediated):
    prompt = prepare(mediated, SQUARE)
    # <|im_start|> user <|vision_start|> 4 x image <|vision_end|> 8 words <|im_end|> <|im_start|>
    # assistant
    expected = [("system", 3), ("image", 4), ("system", 1), ("question", 8), ("system", 3)]
    assert runs(prompt) == expected
    assert tokens(mediated, prompt, "question") == WORDS
    assert set(tokens(mediated, prompt, "image")) == {"<|image_pad|>"}
    assert [(g.start, g.rows, g.columns, g.width, g.height) for g in prompt.images] == [
        (3, 2, 2, 56, 56)
    ]


def test_no_image_leaves_only_words(mediated):
    prompt = prepare(mediated)
    assert runs(prompt) == [("system", 2), ("question", 8), ("system", 3)]
    assert (prompt.images, prompt.pixel_values, prompt.image_grid_thw) == ((), None, None)
    assert prompt.encoded.offset == 0
    assert repr(prompt) == "Prompt(13 positions, 0 images)"


def test_two_images_of_different_shape_keep_their_own_grids(mediated):
    prompt = prepare(mediated, SQUARE, WIDE)
    expected = [
        *(("system", 3), ("image", 4), ("system", 2), ("image", 4), ("system", 1)),
        *(("question", 8), ("system", 3)),
    ]
    assert runs(prompt) == expected
    assert tokens(mediated, prompt, "question") == WORDS
    assert [(g.start, g.rows, g.columns, g.width, g.height) for g in prompt.images] == [
        (3, 2, 2, 56, 56),
        (9, 1, 4, 224, 56),
    ]
    assert prompt.encoded.grids == ((2, 2), (1, 4))
    assert prompt.image_grid_thw.tolist() == [[1, 4, 4], [1, 2, 8]]
    layout = Layout(prompt.roles, len(prompt.roles), images=prompt.images)
    assert layout.positions(image_region((60, 0, 100, 56), image=1)) == [10]


def test_the_image_after_the_text(mediated):
    prompt = prepare(mediated, SQUARE, image_first=False)
    assert runs(prompt) == [
        *(("system", 2), ("question", 8), ("system", 1), ("image", 4), ("system", 4)),
    ]
    assert tokens(mediated, prompt, "question") == WORDS
    assert prompt.images[0].start == 11


def test_two_images_after_the_text(mediated):
    prompt = prepare(mediated, SQUARE, WIDE, image_first=False)
    assert tokens(mediated, prompt, "question") == WORDS
    assert [grid.start for grid in prompt.images] == [11, 17]


def test_a_system_message_comes_first_and_is_no_question(mediated):
    prompt = prepare(mediated, SQUARE, system="the color is red")
    assert runs(prompt)[:2] == [("system", 7 + 3), ("image", 4)]
    assert tokens(mediated, prompt, "question") == WORDS


def test_the_assistants_opening_can_be_the_methods_own(mediated):
    prompt = prepare(mediated, SQUARE, assistant="<|im_start|> assistant what")
    assert prompt.text.endswith("<|im_start|> assistant what")
    assert runs(prompt)[-1] == ("system", 4)
    assert prompt.text.count("assistant") == 1


def test_the_evidence_of_every_problem_is_the_token_of_its_cell(mediated, problems):
    for problem in problems:
        prompt = mediated.prepare(problem)
        layout = Layout(prompt.roles, len(prompt.roles), images=prompt.images)
        box = problem.evidence[0]
        region = image_region((box.left, box.top, box.right, box.bottom))
        cell = int(box.top // 28) * 2 + int(box.left // 28)
        assert layout.positions(region) == [prompt.images[0].start + cell]


# --- text ----------------------------------------------------------------------------------------


def test_options_as_letters_stand_under_the_question_and_are_answered_by_letter(mediated):
    spec = PromptSpec(options="letters", suffix="\nAnswer with a letter.")
    problem = Problem("Which?", options=("red", "light blue"))
    assert question_text(problem, spec) == ("Which?\nA. red\nB. light blue\nAnswer with a letter.")
    assert answer_texts(problem, spec) == ("A", "B")
    prompt = prepare(mediated, SQUARE, options="letters", suffix=" is")
    assert tokens(mediated, prompt, "question") == [*WORDS, "[UNK]", "red", "[UNK]", "blue", "is"]


def test_options_not_shown_are_answered_by_their_text():
    spec = PromptSpec(options="none")
    problem = Problem("Which?", options=OPTIONS)
    assert question_text(problem, spec) == "Which?"
    assert answer_texts(problem, spec) == OPTIONS
    assert question_text(Problem("How many?"), PromptSpec(options="letters")) == "How many?"


def test_unknown_words_are_listed_once_as_they_were_written(mediated):
    prompt = prepare(mediated, SQUARE, question="What Mauve is the MAUVE or Mauve frame?")
    assert prompt.unknown == ("Mauve", "MAUVE", "or")
    assert prepare(mediated, SQUARE).unknown == ()


def test_space_around_the_question_is_no_question(mediated):
    prompt = prepare(mediated, SQUARE, question=f"\n  {QUESTION}  ")
    assert tokens(mediated, prompt, "question") == WORDS


# --- tensors -------------------------------------------------------------------------------------


def test_words_are_embedded_and_image_features_stand_at_image_positions(mediated):
    prompt = prepare(mediated, WIDE, SQUARE)
    model = mediated.parts.backend.model
    table = model.model.language_model.embed_tokens.weight
    features = []
    for image in (WIDE, SQUARE):  # one by one, not in one call as the prompter does
        one = mediated.prompter.image_processor(images=[image], return_tensors="pt")
        with torch.no_grad():
            out = model.model.get_image_features(one["pixel_values"], one["image_grid_thw"])
        features += list(out.pooler_output[0])
    for position, (token, role) in enumerate(zip(prompt.token_ids, prompt.roles, strict=True)):
        expected = features.pop(0) if role == "image" else table[token]
        torch.testing.assert_close(prompt.encoded.embeds[position], expected)
    assert not features


def test_rotary_positions_run_on_after_the_image_by_its_longer_side(mediated):
    prompt = prepare(mediated, SQUARE)
    # three words, then a 2 x 2 grid at 3 (rows 3-4, columns 3-4), then on from 5
    assert prompt.encoded.rotary[1].tolist() == [0, 1, 2, 3, 3, 4, 4, *range(5, 17)]
    assert prompt.encoded.rotary[2].tolist() == [0, 1, 2, 3, 4, 3, 4, *range(5, 17)]
    assert prompt.encoded.offset == 17 - len(prompt.token_ids)


# --- errors --------------------------------------------------------------------------------------


def with_template(model: LatentModel, template: str):
    tokenizer = copy.deepcopy(model.prompter.tokenizer)
    tokenizer.chat_template = template
    return replace(model.prompter, tokenizer=tokenizer)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0]['content'][-1]['text'] }}",
        "<|image_pad|> <|image_pad|> {{ messages[0]['content'][-1]['text'] }}",
        "<|image_pad|> what?",
        "<|image_pad|> {{ messages[0]['content'][-1]['text'] | upper }}",
    ],
    ids=["drops the image", "shows it twice", "drops the question", "changes the question"],
)
def test_a_template_that_does_not_show_what_it_was_given_is_an_error(mediated, template: str):
    prompter = with_template(mediated, template)
    with pytest.raises(
        ModelError, match=r"must show the question and one <\|image_pad\|> per image; for 1 images"
    ):
        prompter.prepare(Problem(QUESTION, [SQUARE]), mediated.parts.backend)


def test_images_for_a_model_without_an_image_processor_are_an_error(mediated):
    prompter = replace(mediated.prompter, image_processor=None)
    with pytest.raises(ProblemError, match="has images, but this model has no image processor"):
        prompter.prepare(Problem(QUESTION, [SQUARE]), mediated.parts.backend)
    prompt = prompter.prepare(Problem(QUESTION), mediated.parts.backend)
    assert tokens(mediated, prompt, "question") == WORDS
