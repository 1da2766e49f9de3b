"""Checkpoints in the exact published formats: recognised, and run as their papers' code runs."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from latentprobe.benchmarks import Problem
from latentprobe.edits import Edit, knockout
from latentprobe.errors import MethodMismatchError, MethodNotFoundError
from latentprobe.generation import Decoding
from latentprobe.interventions import noise, zero
from latentprobe.methods import methods
from latentprobe.models import LatentModel, load
from latentprobe.tokens import ALL, CLOSE, IMAGE, MARKERS, OPEN, QUESTION, SLOTS, Segment
from latentprobe.trajectory import Structure, Trajectory

PUBLISHED = ("lvr", "monet", "mirage")


@pytest.fixture(scope="session")
def model(published):
    """Factory of loaded checkpoints; `entry="forced"` makes the first token the opening marker."""
    loaded: dict[tuple[str, str], LatentModel] = {}

    def get(method: str, entry: str = "forced") -> LatentModel:
        if (method, entry) not in loaded:
            spec = replace(methods.get(method), entry=entry)
            loaded[method, entry] = load(str(published(method)), method=spec)
        return loaded[method, entry]

    return get


@pytest.fixture(scope="session")
def asked(problems) -> Problem:
    first = problems[0]
    return Problem(first.question, first.images, ("red", "blue", "green", "yellow"), "red")


def ids_in_span(t: Trajectory) -> list[int]:
    return [t.token_ids[slot] for slot in t.layout.segments[0].slots]


# --- recognising ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", PUBLISHED)
def test_a_published_checkpoint_is_recognised(published, method):
    loaded = load(str(published(method)))
    assert loaded.method is methods.get(method)
    assert loaded.name == f"{method}-7b"
    vocabulary = loaded.parts.tokenizer.get_vocab()
    tokens = loaded.parts.tokens
    assert (tokens.open, tokens.slot, tokens.close) == tuple(
        vocabulary[token] for token in loaded.method.tokens
    )
    assert loaded.parts.ends == {vocabulary["<|im_end|>"], vocabulary["<|endoftext|>"]}


def test_the_added_ids_mean_different_things_in_different_methods(published):
    first = {method: load(str(published(method))).parts.tokens for method in PUBLISHED}
    assert first["lvr"].open == first["monet"].slot == first["mirage"].slot
    assert first["lvr"].slot == first["monet"].open == first["mirage"].open


def test_a_plain_checkpoint_is_not_taken_for_one(published):
    with pytest.raises(MethodNotFoundError, match="no latent method was recognised") as caught:
        load(str(published("plain")))
    for method in PUBLISHED:
        for token in methods.get(method).tokens:
            assert token in str(caught.value)


@pytest.mark.parametrize("method", PUBLISHED)
def test_a_method_forced_on_a_plain_checkpoint_is_refused(published, method):
    with pytest.raises(MethodMismatchError, match="this checkpoint's tokenizer lacks") as caught:
        load(str(published("plain")), method=method)
    assert all(token in str(caught.value) for token in methods.get(method).tokens)


def test_an_lvr_head_checkpoint_is_not_recognised(published):
    folder = str(published("lvr", lvr_head=True))
    with pytest.raises(MethodNotFoundError, match="in its config for each method's own entries"):
        load(folder)


@pytest.mark.parametrize(
    ("method", "entry", "part"),
    [("lvr", "lvr_start_id", "open"), ("monet", "latent_end_id", "close")],
)
def test_config_ids_that_disagree_with_the_tokenizer_warn(published, method, entry, part):
    folder = str(published(method, **{entry: 7}))
    with pytest.warns(UserWarning, match=f"{entry}=7 disagrees with the tokenizer") as caught:
        loaded = load(folder)
    assert len(caught) == 1
    vocabulary = loaded.parts.tokenizer.get_vocab()
    assert getattr(loaded.parts.tokens, part) == vocabulary[getattr(loaded.method, part)]


# --- prompts -------------------------------------------------------------------------------------

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
IMAGE_TAGS = "<|vision_start|><|image_pad|><|vision_end|>"
TURN = "<|im_end|>\n<|im_start|>assistant"


def test_prompts_are_word_for_word_the_published_ones(model, asked):
    question = f"{asked.question}\nA. red\nB. blue\nC. green\nD. yellow"
    letter = "\nAnswer with the option's letter from the given choices directly."
    boxed = "\nPut your final answer in \\boxed{}."
    expected = {
        "lvr": f"{SYSTEM}{IMAGE_TAGS}{question}{letter}{TURN}\n",
        "monet": f"{SYSTEM}{question}{boxed}{IMAGE_TAGS}{TURN}\n",
        "mirage": f"{SYSTEM}{IMAGE_TAGS}{question}{TURN}",
    }
    for method, text in expected.items():
        prompt = model(method).prepare(asked)
        assert prompt.text == text
        words = model(method).parts.tokenizer
        merged = text.replace("<|image_pad|>", "<|image_pad|>" * 4)
        assert words.decode(list(prompt.token_ids)) == merged
        image = words.convert_tokens_to_ids("<|image_pad|>")
        assert [r == "image" for r in prompt.roles] == [i == image for i in prompt.token_ids]
        asked_for = [
            i for i, r in zip(prompt.token_ids, prompt.roles, strict=True) if r == "question"
        ]
        assert words.decode(asked_for).strip().startswith("What color is inside")
        assert "assistant" not in words.decode(asked_for)
        assert prompt.unknown == ()


def test_mirages_assistant_turn_opens_without_a_newline(model, asked):
    mirage, lvr = model("mirage"), model("lvr")
    words = mirage.parts.tokenizer
    assert words.decode(list(mirage.prepare(asked).token_ids))[-21:] == "<|im_start|>assistant"
    assert words.decode(list(lvr.prepare(asked).token_ids)).endswith("<|im_start|>assistant\n")


# --- one segment ---------------------------------------------------------------------------------


def logits_at(model: LatentModel, t: Trajectory, position: int) -> Tensor:
    return model.replay(t, positions=[position]).logits[0]


def test_lvr_feeds_eight_states_after_its_marker_and_writes_argmax_ids(model, asked):
    lvr = model("lvr")
    t = lvr.generate(asked, max_new_tokens=12)
    n = t.layout.n_prompt
    assert t.layout.segments[0] == Segment(n, tuple(range(n + 1, n + 9)), None)
    assert len(t.latents) == 8
    assert t.token_ids[n] == lvr.parts.tokens.open
    assert t.layout.roles[n + 9] != "slot"
    assert t.response_ids[9] != lvr.parts.tokens.close  # left to the model, which has other plans
    expected = [int(logits_at(lvr, t, slot - 1).argmax()) for slot in range(n + 1, n + 9)]
    assert ids_in_span(t) == expected
    assert lvr.parts.tokens.slot not in ids_in_span(t)


def test_monet_overwrites_its_marker_and_nine_more_inputs_then_closes(model, asked):
    monet = model("monet")
    t = monet.generate(asked, max_new_tokens=14)
    n, tokens = t.layout.n_prompt, monet.parts.tokens
    assert t.layout.segments[0] == Segment(None, tuple(range(n, n + 10)), n + 10)
    assert len(t.latents) == 10
    assert ids_in_span(t)[0] == tokens.open
    assert t.token_ids[n + 10] == tokens.close
    assert len(ids_in_span(t)[1:]) == 9
    expected = [int(logits_at(monet, t, slot - 1).argmax()) for slot in range(n + 1, n + 10)]
    assert ids_in_span(t)[1:] == expected


def test_mirage_feeds_at_most_eight_states_and_writes_pads(model, asked):
    mirage = model("mirage")
    t = mirage.generate(asked, max_new_tokens=14)
    n, tokens = t.layout.n_prompt, mirage.parts.tokens
    span = t.layout.segments[0]
    assert (span.open, span.slots) == (n, tuple(range(n + 1, n + 9)))
    assert ids_in_span(t) == [tokens.slot] * 8
    assert span.close == n + 9
    assert t.token_ids[span.close] == tokens.close
    assert int(logits_at(mirage, t, n + 8).argmax()) != tokens.close, "written without asking"
    assert len(t.layout.segments) == 1


@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_mirage_ends_its_span_when_the_end_is_predicted(model, asked, count):
    mirage = model("mirage")
    t = mirage.generate(asked, max_new_tokens=14)
    weight = mirage.parts.backend.model.lm_head.weight
    tokens, kept = mirage.parts.tokens, weight[mirage.parts.tokens.close].clone()
    try:
        earlier = torch.linalg.qr(t.states[:count].T).Q
        own = t.states[count] - earlier @ (earlier.T @ t.states[count])
        weight[tokens.close] = 100 * own / own.norm() ** 2  # after this many slots: close
        early = mirage.generate(asked, max_new_tokens=14)
    finally:
        weight[tokens.close] = kept
    span = early.layout.segments[0]
    assert len(span.slots) == len(early.latents) == count
    assert span.close == span.open + count + 1
    assert early.token_ids[span.close] == tokens.close


@pytest.mark.parametrize("method", PUBLISHED)
def test_the_first_latent_is_the_state_the_published_code_feeds(model, asked, method):
    loaded = model(method)
    t = loaded.generate(asked, max_new_tokens=12)
    n = t.layout.n_prompt
    before = n - 1 if method == "monet" else n
    backend = loaded.parts.backend
    torch.testing.assert_close(
        backend.logits(t.states[:1])[0], logits_at(loaded, t, before), atol=1e-4, rtol=1e-4
    )
    if method == "monet":
        torch.testing.assert_close(t.states[0], loaded.prefill(asked).state)
    else:
        opener = backend.embed(torch.tensor([loaded.parts.tokens.open]))[0]
        fed = loaded.read(t, "blocks.0.hook_resid_pre", where=OPEN)
        assert torch.equal(fed["blocks.0.hook_resid_pre"][0], opener)
    fed = loaded.read(t, "blocks.0.hook_resid_pre", where=SLOTS)["blocks.0.hook_resid_pre"]
    assert torch.equal(fed, t.latents)
    assert torch.equal(t.latents, t.states)


@pytest.mark.parametrize("method", PUBLISHED)
def test_a_model_that_predicts_its_marker_enters_by_itself(published, asked, method):
    loaded = load(str(published(method)))
    plain = loaded.generate(asked, max_new_tokens=4)
    assert not plain.entered
    state = loaded.prefill(asked).state
    loaded.parts.backend.model.lm_head.weight[loaded.parts.tokens.open] = 5 * state
    t = loaded.generate(asked, max_new_tokens=16)
    n = t.layout.n_prompt
    assert t.response_ids[0] == loaded.parts.tokens.open
    assert len(t.layout.segments[0].slots) == {"lvr": 8, "monet": 10, "mirage": 8}[method]
    assert t.layout.segments[0].slots[0] == (n if method == "monet" else n + 1)
    banned = loaded.generate(asked, max_new_tokens=4, structure=Structure(markers=False))
    assert not banned.entered


# --- end to end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", PUBLISHED)
def test_generating_and_replaying_agree_and_edits_reach_the_model(model, asked, method):
    loaded = model(method)
    t = loaded.generate(asked, max_new_tokens=16)
    out = loaded.replay(t)
    torch.testing.assert_close(out.logits, t.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.option_scores, t.scores, atol=1e-4, rtol=1e-4)
    count = len(t.layout.slots)
    after = Edit("blocks.*.hook_resid_post", where=SLOTS, do=zero())
    later = ~(IMAGE | SLOTS | QUESTION)
    for edit in (
        Edit("latent.hook_fed", where=SLOTS, do=zero()),
        Edit("latent.hook_fed", where=SLOTS, do=noise(1.0, scale="norm")),
        after,
        knockout(queries=later, keys=SLOTS),
    ):
        replayed = loaded.replay(t, edits=[edit])
        generated = loaded.generate(asked, edits=[edit], max_new_tokens=16)
        assert replayed.applied[0] > 0
        assert generated.applied[0] > 0
        moved = (replayed.logits - out.logits)[count + 1 :].abs().max()
        assert moved > 1e-3, edit.label
    same = Edit(["latent.hook_fed", "blocks.*"], where=ALL, do=lambda a, context: a.clone())
    assert torch.equal(loaded.replay(t, edits=[same]).logits, out.logits)
    again = loaded.generate(asked, edits=[same], max_new_tokens=16)
    assert again.token_ids == t.token_ids


@pytest.mark.parametrize("method", PUBLISHED)
def test_every_structure_runs_and_letters_are_scored(model, asked, method):
    loaded = model(method)
    for structure in (
        Structure(slots=False),
        Structure(markers=False, template="forced"),
        Structure(markers=False, template="banned"),
    ):
        t = loaded.generate(asked, structure=structure, max_new_tokens=12)
        assert len(t.latents) == 0
        assert len(t.layout.positions(MARKERS)) == (2 if structure.markers else 0)
        assert t.score_tokens == (1, 1, 1, 1)
        assert len(set(t.scores)) == 4
        if structure.template == "forced":
            assert t.text.startswith(loaded.method.answer.open)
            assert t.parsed.in_template
        if structure.template == "banned":
            assert loaded.method.answer.open not in t.text


class _Scripted(Decoding):
    """Writes a given text, then ends."""

    def choose(self, logits: Tensor, generator: torch.Generator) -> int:
        return self.__dict__["ids"].pop(0)


def say(model: LatentModel, asked: Problem, text: str, **how) -> Trajectory:
    ids = model.parts.tokenizer(text + "<|im_end|>", add_special_tokens=False)["input_ids"]
    decoding = _Scripted(max_new_tokens=80)
    decoding.__dict__["ids"] = list(ids)
    return model.generate(asked, decoding=decoding, **how)


def test_characters_spread_over_several_tokens_stand_whole_in_the_text(model, asked):
    lvr = model("lvr", "predicted")
    text = "雪 é → <answer> A </answer>"
    assert len(lvr.parts.tokenizer("雪")["input_ids"]) == 3
    t = say(lvr, asked, text)
    assert t.text == text
    assert (t.answer, t.correct) == ("red", True)


def test_an_answers_letter_that_shares_a_token_with_the_brace_is_scored_in_its_own_place(
    model, asked
):
    monet = model("monet", "predicted")
    words = monet.parts.tokenizer
    vocabulary = words.get_vocab()
    assert "{A" in vocabulary
    t = say(monet, asked, "So \\boxed{A}")
    n = t.layout.n_prompt
    shared = n + list(t.response_ids).index(vocabulary["{A"])
    assert t.answer == "red"
    assert t.layout.roles[shared] == "answer"
    assert t.context.length == shared
    assert t.context.prefix == (vocabulary["{"],)
    apart = say(monet, asked, "So \\boxed{B}")
    assert apart.context.prefix == ()
    torch.testing.assert_close(t.scores, apart.scores, atol=1e-4, rtol=1e-4)


def test_a_banned_opening_is_banned_however_tokens_spell_it(model, asked):
    monet = model("monet", "predicted")
    vocabulary = monet.parts.tokenizer.get_vocab()
    said = monet.parts.tokenizer("So \\boxed{A} or \\boxed{C}")["input_ids"]
    assert vocabulary["{A"] in said
    assert vocabulary["{"] in said
    plain = Structure(template="banned")
    t = say(monet, asked, "So \\boxed{A} or \\boxed{C} {A", structure=plain)
    assert t.text == "So \\boxed} or \\boxedC} {A"
    assert not t.parsed.in_template
    assert say(monet, asked, "So \\boxed{A}").parsed.in_template


def test_the_span_leaves_no_trace_in_the_text(model, asked):
    for method in PUBLISHED:
        t = model(method).generate(asked, max_new_tokens=13)
        slots = set(t.layout.slots)
        words = model(method).parts.tokenizer
        shown = [i for p, i in enumerate(t.token_ids) if p >= t.layout.n_prompt and p not in slots]
        assert t.text == words.decode(shown).removesuffix("<|im_end|>")
    closed = model("monet").generate(asked, max_new_tokens=13)
    assert closed.text.startswith("</abs_vis_token>")
    assert len(closed.layout.positions(CLOSE)) >= 1
