"""The decode loop against a loop written by hand that runs everything again at every step."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count

import pytest
import torch
from torch import Tensor
from transformers import TopKLogitsWarper, TopPLogitsWarper

from latentprobe.benchmarks import Problem
from latentprobe.edits import Edit, Knockout, knockout
from latentprobe.errors import EditError, EmptySubsetError
from latentprobe.generation import Decoding
from latentprobe.methods import AnswerSpec, methods
from latentprobe.models import LatentModel
from latentprobe.tokens import (
    ALL,
    ANSWER,
    CLOSE,
    FORMAT,
    IMAGE,
    MARKERS,
    OPEN,
    REASONING,
    SLOTS,
    Layout,
    Segment,
    positions,
    segment,
)
from latentprobe.trajectory import Structure, Trajectory

close = partial(torch.testing.assert_close, atol=2e-5, rtol=1e-5)
ORGANISM = methods.get("organism")
FREE = replace(ORGANISM, entry="predicted", max_segments=None, close_forced=False)
LIMIT = 14


# --- the loop by hand ----------------------------------------------------------------------------


@dataclass
class Naive:
    """A response by the loop below; `roles` tells ordinary tokens apart from latent ones only."""

    ids: list[int] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    fed: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    stop: str = "max_new_tokens"


@dataclass
class Loop:
    """Generates with a full forward and no cache for every single question asked of the model."""

    model: LatentModel
    decode: Callable
    structure: Structure = Structure()
    limit: int = LIMIT
    pick: Callable[[Tensor], int] = lambda logits: int(logits.argmax())
    feed: Callable[[Tensor, int], Tensor] = lambda vector, position: vector
    state: Callable[[Tensor, int], Tensor] = lambda vector, position: vector
    change: dict[str, Callable] = field(default_factory=dict)
    cut: Callable[[list[str]], Tensor] | None = None

    def run(self, problem: Problem) -> Naive:
        spec, words = self.model.method, self.model.parts.tokenizer
        self.net = self.model.parts.backend.model
        self.prompt = self.model.prepare(problem)
        self.vectors = list(self.prompt.encoded.embeds)
        self.out = out = Naive()
        opener, slot, closer = (words.convert_tokens_to_ids(token) for token in spec.tokens)
        table = self.net.model.language_model.embed_tokens.weight
        written, segments = [], 0
        if spec.entry == "forced" and self.structure.markers:
            written = [opener]
        if self.structure.template == "forced":
            written += words(spec.answer.open, add_special_tokens=False)["input_ids"]

        def pick() -> int:
            logits = self.head(self.last())
            if not self.structure.markers:
                logits[[opener, slot, closer]] = -torch.inf
            elif segments == spec.max_segments:
                logits[opener] = -torch.inf
            if self.structure.template == "banned":
                logits[self.completing(spec.answer.open)] = -torch.inf
            return self.pick(logits)

        while len(out.ids) < self.limit:
            token = written.pop(0) if written else pick()
            if token == words.eos_token_id:
                self.put(table[token], token, "format")
                out.stop = "end"
                break
            if token != opener:
                awaits = "open" in out.roles or "slot" in out.roles
                for role in out.roles:
                    awaits = {"open": True, "slot": True, "close": False}.get(role, awaits)
                role = "close" if token == closer and awaits else "text"
                self.put(table[token], token, role)
                continue
            segments += 1
            most = spec.slots if self.structure.slots else 0
            if spec.first_latent == "after_open" or not most:
                self.put(table[opener], opener, "open")
            ended = not most
            for step in range(most):
                if spec.end == "predicted" and pick() == closer:
                    ended = True
                    break
                if len(out.ids) == self.limit:
                    break
                made = self.last()
                own = int(self.head(made).argmax()) if spec.ids == "argmax" else slot
                if spec.first_latent == "at_open" and step == 0:
                    own = opener
                place = len(self.vectors)
                fed = self.feed(self.state(made, place), place)
                out.states.append(made)
                out.fed.append(fed)
                self.put(fed, own, "slot")
            if (ended or spec.close_forced) and len(out.ids) < self.limit:
                self.put(table[closer], closer, "close")
        out.logits = self.head(self.all())[len(self.prompt.token_ids) :]
        return out

    def put(self, vector: Tensor, token: int, role: str) -> None:
        self.vectors.append(vector)
        self.out.ids.append(token)
        self.out.roles.append(role)

    def completing(self, opening: str) -> list[int]:
        """Return every token after which the visible text has one more opening."""
        words = self.model.parts.tokenizer
        pairs = zip(self.out.ids, self.out.roles, strict=True)
        said = [words.decode([token]) for token, role in pairs if role != "slot"]
        return [
            token
            for token in range(len(words))
            if " ".join([*said, words.decode([token])]).count(opening)
            > " ".join(said).count(opening)
        ]

    def head(self, states: Tensor) -> Tensor:
        return states @ self.net.lm_head.weight.T

    def all(self) -> Tensor:
        prompt, roles = self.prompt, [*self.prompt.roles, *self.out.roles]
        after = torch.arange(len(prompt.token_ids), len(self.vectors)) + prompt.encoded.offset
        rotary = torch.cat([prompt.encoded.rotary, after.expand(3, -1)], dim=1)
        change = {
            name: partial(_only_some, axis=0, rows=list(map(where, roles, count())), do=do)
            for name, (where, do) in self.change.items()
        }
        removed = None if self.cut is None else self.cut(roles)
        run = self.decode(
            self.net, torch.stack(self.vectors), rotary, change=change, cut=lambda *_: removed
        )
        return run.states

    def last(self) -> Tensor:
        return self.all()[-1]


def _only_some(value: Tensor, *, axis: int, rows: list[bool], do: Callable) -> Tensor:
    shape = [1] * value.ndim
    shape[axis] = -1
    return torch.where(torch.tensor(rows).view(shape), do(value), value)


def same(t: Trajectory, naive: Naive) -> None:
    """Assert that a trajectory is what the loop by hand gave, position by position."""
    assert list(t.response_ids) == naive.ids
    roles = ["text" if r not in ("open", "slot", "close") else r for r in t.layout.roles]
    assert roles[t.layout.n_prompt :] == [r if r != "format" else "text" for r in naive.roles]
    assert t.stop_reason == naive.stop
    assert len(t.latents) == len(t.states) == naive.roles.count("slot")
    if naive.fed:
        close(t.latents, torch.stack(naive.fed))
        close(t.states, torch.stack(naive.states))
    close(t.logits, naive.logits)


@pytest.fixture(scope="session")
def loop(naive_decode) -> Callable[..., Loop]:
    return lambda model, **how: Loop(model, naive_decode, **how)


@dataclass(frozen=True)
class Scripted(Decoding):
    """Chooses the words of a script; keeps the logits it was shown."""

    script: tuple[int, ...] = ()
    shown: list[Tensor] = field(default_factory=list)

    def choose(self, logits: Tensor, generator: torch.Generator) -> int:
        self.shown.append(logits.clone())
        return self.script[len(self.shown) - 1]


def script(model: LatentModel, text: str, **how) -> Scripted:
    ids = model.parts.tokenizer(text, add_special_tokens=False)["input_ids"]
    return Scripted(**{"max_new_tokens": 40, **how}, script=tuple(ids))


# --- entering, filling and leaving latent mode ---------------------------------------------------

SPECS = {
    "forced entry": ORGANISM,
    "predicted entry": FREE,
    "one segment at most": replace(FREE, max_segments=1),
    "at open": replace(FREE, first_latent="at_open", close_forced=True, ids="argmax"),
    "at open, forced entry": replace(ORGANISM, first_latent="at_open", slots=3),
    "argmax ids": replace(ORGANISM, ids="argmax", slots=4),
    "close left to the model": replace(ORGANISM, close_forced=False, slots=3, max_segments=None),
    "end predicted": replace(ORGANISM, end="predicted", close_forced=False, slots=5),
    "end predicted, then forced": replace(FREE, end="predicted", close_forced=True, slots=3),
    "one slot": replace(FREE, slots=1, close_forced=True),
}


SEEDS = [9, 19, 35, 42, 44]  # what they generate enters, closes, ends and runs out in turns


PREDICTED = "end predicted"
CASES = [
    (name, seed) for name in SPECS for seed in [*SEEDS, *([11, 13] if name == PREDICTED else [])]
]


@pytest.mark.parametrize(("name", "seed"), CASES)
def test_a_response_is_what_the_loop_by_hand_gives(random_latent, loop, problems, name, seed):
    model = random_latent(SPECS[name], seed)
    naive = loop(model).run(problems[1])
    t = model.generate(problems[1], max_new_tokens=LIMIT)
    same(t, naive)
    assert t.entered
    assert "slot" in naive.roles or SPECS[name].end == "predicted"


def test_the_cases_above_enter_close_end_and_run_out(random_latent, problems):
    seen = [
        random_latent(SPECS[name], seed).generate(problems[1], max_new_tokens=LIMIT)
        for name, seed in CASES
        if name in ("predicted entry", PREDICTED, "close left to the model")
    ]
    spans = [span for t in seen for span in t.layout.segments]
    assert {t.stop_reason for t in seen} == {"end", "max_new_tokens"}
    assert {span.close is None for span in spans} == {True, False}
    assert max(len(t.layout.segments) for t in seen) >= 2
    predicted = {
        (len(span.slots), span.close is not None)
        for name, seed in CASES
        if name == PREDICTED
        for span in random_latent(SPECS[name], seed)
        .generate(problems[1], max_new_tokens=LIMIT)
        .layout.segments
    }
    assert predicted >= {(0, True), (1, True), (2, True), (5, True), (5, False)}


@pytest.mark.parametrize("limit", range(1, 7))
def test_a_response_may_run_out_inside_a_span(random_latent, loop, problems, limit):
    model = random_latent(replace(ORGANISM, slots=3), 9)
    t = model.generate(problems[0], max_new_tokens=limit)
    same(t, loop(model, limit=limit).run(problems[0]))
    n = t.layout.n_prompt
    slots = tuple(range(n + 1, n + min(limit, 4)))
    assert t.layout.segments == (Segment(n, slots, n + 4 if limit > 4 else None),)
    assert t.stop_reason == "max_new_tokens"
    assert len(t.logits) == limit


@pytest.mark.parametrize(
    ("close_forced", "text", "roles"),
    [
        (True, "OPEN CLOSE red END", "ocaf"),
        (True, "OPEN the CLOSE red END", "oscaf"),
        (True, "OPEN the the the red END", "ossscaf"),
        (True, "the OPEN the is CLOSE red END", "aosscaf"),
        (False, "OPEN CLOSE red END", "ocaf"),
        (False, "OPEN the the CLOSE red END", "osscaf"),
        (False, "OPEN the the the CLOSE red END", "ossscaf"),
        (False, "OPEN the the the red END", "osssaf"),
    ],
)
def test_a_predicted_end_is_asked_for_once_before_every_slot(
    random_latent, problems, close_forced, text, roles
):
    model = random_latent(replace(FREE, end="predicted", slots=3, close_forced=close_forced))
    words = {"OPEN": OPENED, "CLOSE": CLOSED, "END": END}
    said = " ".join(words.get(word, word) for word in text.split())
    assert roles_of(model, problems[0], said)[0] == roles
    decoding = script(model, said)
    t = model.generate(problems[0], decoding=decoding)
    assert len(decoding.shown) == len(decoding.script), "one draw per step, none left over"
    assert len(t.latents) == roles.count("s")


def test_at_open_the_first_slot_stands_where_the_markers_id_is(random_latent, problems):
    spec = replace(ORGANISM, first_latent="at_open", slots=3)
    t = random_latent(spec, 9).generate(problems[0], max_new_tokens=8)
    n, tokens = t.layout.n_prompt, random_latent(spec, 9).parts.tokens
    assert t.layout.segments[0] == Segment(None, (n, n + 1, n + 2), n + 3)
    assert t.response_ids[:4] == (tokens.open, tokens.slot, tokens.slot, tokens.close)


def test_two_segments_are_two_spans_with_their_own_steps(random_latent, loop, problems):
    model = random_latent(replace(FREE, slots=3, close_forced=True), 19)
    t = model.generate(problems[1], max_new_tokens=LIMIT)
    same(t, loop(model).run(problems[1]))
    assert len(t.layout.segments) >= 2
    for span in t.layout.segments[:2]:
        assert [t.layout.step(slot) for slot in span.slots] == [0, 1, 2]
        assert [span.open + 1, span.open + 2, span.open + 3, span.open + 4] == [
            *span.slots,
            span.close,
        ]


def test_the_mediated_organism_runs_under_its_own_mask(mediated, loop, problems):
    def own_mask(roles: list[str]) -> Tensor:
        queries = torch.tensor([role not in ("image", "slot") for role in roles])
        return torch.outer(queries, torch.tensor([role == "image" for role in roles]))

    for problem in problems[:2]:
        t = mediated.generate(problem)
        same(t, loop(mediated, limit=64, cut=own_mask).run(problem))
        assert t.correct
        assert t.applied == ()


# --- structures ----------------------------------------------------------------------------------

STRUCTURES = {
    "template after the span": Structure(template="forced"),
    "template after markers": Structure(slots=False, template="forced"),
    "markers only": Structure(slots=False),
    "plain": Structure(markers=False, template="banned"),
    "format only": Structure(markers=False, template="forced"),
    "no markers": Structure(markers=False),
    "no template": Structure(template="banned"),
}
TEMPLATES = {
    "one token": AnswerSpec("<answer>", "</answer>"),
    "two tokens": AnswerSpec("color is", "?"),
    "three tokens": AnswerSpec("the color is", "?"),
}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("base", [ORGANISM, FREE], ids=["forced", "predicted"])
def test_a_structure_is_what_the_loop_by_hand_gives(
    random_latent, loop, problems, name, template, base
):
    structure = STRUCTURES[name]
    model = random_latent(replace(base, answer=TEMPLATES[template]), 19)
    naive = loop(model, structure=structure).run(problems[1])
    t = model.generate(problems[1], max_new_tokens=LIMIT, structure=structure)
    same(t, naive)
    assert t.structure == structure
    assert bool(t.layout.segments) == structure.markers
    assert bool(t.layout.slots) == (structure.markers and structure.slots)
    if structure.template == "forced":
        written = model.parts.tokenizer(TEMPLATES[template].open)["input_ids"]
        after_span = base.entry == "forced" and structure.markers
        start = t.layout.segments[0].close + 1 - t.layout.n_prompt if after_span else 0
        assert list(t.response_ids[start : start + len(written)]) == written


def test_markers_alone_are_an_open_and_a_close_side_by_side(random_latent, problems):
    for spec in (ORGANISM, replace(ORGANISM, first_latent="at_open")):
        model = random_latent(spec, 9)
        t = model.generate(problems[0], max_new_tokens=6, structure=Structure(slots=False))
        n = t.layout.n_prompt
        assert t.layout.segments == (Segment(n, (), n + 1),)
        assert t.latents.shape == (0, 64)


def test_what_a_structure_bans_cannot_be_chosen(random_latent, problems):
    model = random_latent(replace(FREE, answer=TEMPLATES["two tokens"]))
    vocabulary = model.parts.tokenizer.get_vocab()
    markers = {vocabulary[token] for token in FREE.tokens}
    plain = Structure(markers=False, template="banned")
    decoding = script(model, "color is red the color is is <|im_end|>")
    t = model.generate(problems[0], structure=plain, decoding=decoding)
    banned = [set(shown.isneginf().nonzero().flatten().tolist()) for shown in decoding.shown]
    # "is" after "color" is asked for again, without it, until something else is chosen
    opening = {*markers, vocabulary["is"]}
    assert banned == [markers, markers, opening, markers, markers, markers, opening, opening]
    assert t.text == "color red the color"
    free = script(model, "color is red <|im_end|>")
    assert model.generate(problems[0], decoding=free).text == "color is red"
    assert all(logits.isfinite().all() for logits in free.shown)


def test_an_opening_is_banned_as_it_stands_in_the_text_with_its_markers(random_latent, problems):
    spec = replace(FREE, slots=1, close_forced=True, answer=TEMPLATES["two tokens"])
    model = random_latent(spec)
    decoding = script(model, f"color {OPENED} is {END}")
    t = model.generate(problems[0], structure=Structure(template="banned"), decoding=decoding)
    assert t.text == f"color {OPENED} {CLOSED} is"  # a span stands between the two words
    assert all(logits.isfinite().all() for logits in decoding.shown)


def test_no_further_segment_opens_than_the_method_allows(random_latent, problems):
    model = random_latent(replace(FREE, max_segments=1, slots=1, close_forced=True))
    decoding = script(model, "red <|organism_open|> red <|im_end|>")
    model.generate(problems[0], decoding=decoding)
    opener = model.parts.tokens.open
    assert [bool(logits[opener].isneginf()) for logits in decoding.shown] == [0, 0, 1, 1]


# --- roles ---------------------------------------------------------------------------------------


def roles_of(model: LatentModel, problem: Problem, text: str, **how) -> tuple[str, str]:
    """Return initials of the final roles, and of those known while generating."""
    known = {}

    def look(activation: Tensor, context) -> Tensor:
        for position, role in zip(context.positions, context.roles, strict=True):
            known.setdefault(position, role)  # options are scored later, at positions used again
        return activation

    watch = Edit("blocks.0.hook_resid_pre", where=ALL, do=look)
    t = model.generate(problem, edits=[watch], decoding=script(model, text), **how)
    initial = {"open": "o", "slot": "s", "close": "c", "reasoning": "r", "format": "f"}
    letters = [initial.get(role, role[0]) for role in t.layout.roles[t.layout.n_prompt :]]
    during = [initial.get(known[p], known[p][0]) for p in t.layout.response]
    return "".join(letters), "".join(during)


OPENED, CLOSED, END = "<|organism_open|>", "<|organism_close|>", "<|im_end|>"


@pytest.mark.parametrize(
    ("template", "text", "final", "during"),
    [
        ("one token", f"what <answer> red </answer> {END}", "rfaff", "rfaff"),
        ("one token", f"{OPENED} {CLOSED} <answer> red </answer> {END}", "osscfaff", "osscfaff"),
        ("one token", f"the {OPENED} is {CLOSED} red {END}", "aossacaf", "rossrcrf"),
        ("one token", f"red {END}", "af", "rf"),
        ("one token", f"red blue {END}", "rrf", "rrf"),
        ("one token", f"<answer> red </answer> or <answer> blue {END}", "rrrrfaf", "fafrfaf"),
        ("one token", f"<answer> red </answer> the {END}", "fafrf", "fafrf"),
        ("two tokens", f"what color is red ? {END}", "rffaff", "rrfaff"),
        ("two tokens", f"color color is blue ? is {END}", "rffafrf", "rrfafrf"),
        ("three tokens", f"the color is red ? {END}", "fffaff", "rrfaff"),
        ("two tokens", f"red {CLOSED} {END}", "aaf", "rrf"),
    ],
)
def test_roles_follow_the_text_while_generating_and_are_settled_at_the_end(
    random_latent, problems, template, text, final, during
):
    model = random_latent(replace(FREE, answer=TEMPLATES[template]))
    assert roles_of(model, problems[0], text) == (final, during)


def test_the_answer_read_is_judged_against_the_gold_one(random_latent, problems):
    model, gold = random_latent(FREE), problems[0].answer
    other = next(option for option in problems[0].options if option != gold)
    said = {
        f"<answer> {gold} </answer> {END}": (gold, True),
        f"<answer> {other} </answer> {END}": (other, False),
        f"the color is {END}": (None, False),
    }
    for text, expected in said.items():
        t = model.generate(problems[0], decoding=script(model, text))
        assert (t.answer, t.correct) == expected
        assert t.text == text.removesuffix(f" {END}")
    open_question = Problem(problems[0].question, problems[0].images)
    t = model.generate(open_question, decoding=script(model, f"<answer> red </answer> {END}"))
    assert (t.answer, t.correct, t.scores) == ("red", None, ())


# --- edits inside the loop -----------------------------------------------------------------------


def halve(activation: Tensor, context=None) -> Tensor:
    return activation * 0.4 + 0.1


def blocked(queries: set[str], keys: set[str]) -> Callable[[list[str]], Tensor]:
    def cut(roles: list[str]) -> Tensor:
        asked = torch.tensor([role in queries for role in roles])
        return torch.outer(asked, torch.tensor([role in keys for role in roles]))

    return cut


def is_(*roles: str) -> Callable[[str, int], bool]:
    return lambda role, position: role in roles


EDITS = {
    "fed": (Edit("latent.hook_fed", SLOTS, halve), {"feed": lambda v, p: halve(v)}, 3),
    "state": (Edit("latent.hook_state", SLOTS, halve), {"state": lambda v, p: halve(v)}, 3),
    "residual": (
        Edit("blocks.1.hook_resid_post", SLOTS, halve),
        {"change": {"blocks.1.hook_resid_post": (is_("slot"), halve)}},
        3,
    ),
    "residual in the middle": (
        Edit("blocks.0.hook_resid_mid", SLOTS | MARKERS, halve),
        {"change": {"blocks.0.hook_resid_mid": (is_("slot", "open", "close"), halve)}},
        5,
    ),
    "keys": (
        Edit("blocks.0.attn.hook_k", MARKERS, halve),
        {"change": {"blocks.0.attn.hook_k": (is_("open", "close"), halve)}},
        2,
    ),
    "values": (
        Edit("blocks.2.attn.hook_v", SLOTS, halve),
        {"change": {"blocks.2.attn.hook_v": (is_("slot"), halve)}},
        3,
    ),
    "image": (
        Edit("blocks.0.hook_mlp_out", IMAGE, halve),
        {"change": {"blocks.0.hook_mlp_out": (is_("image"), halve)}},
        4,
    ),
    "knockout": (knockout(queries=CLOSE, keys=SLOTS), {"cut": blocked({"close"}, {"slot"})}, 1),
    "knockout of the image": (
        knockout(queries=SLOTS | MARKERS, keys=IMAGE | OPEN - OPEN),
        {"cut": blocked({"slot", "open", "close"}, {"image"})},
        5,
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_in_the_loop_is_the_same_change_in_the_loop_by_hand(
    random_latent, loop, problems, name
):
    edit, how, count = EDITS[name]
    model = random_latent(replace(ORGANISM, slots=3), 19)
    t = model.generate(problems[1], max_new_tokens=LIMIT, edits=[edit])
    same(t, loop(model, **how).run(problems[1]))
    assert t.applied == (count,)
    plain = model.generate(problems[1], max_new_tokens=LIMIT)
    assert not torch.allclose(t.logits[:6], plain.logits[:6], atol=1e-3)


def test_an_edit_of_one_step_leaves_the_other_steps_fed_as_they_are(random_latent, loop, problems):
    model = random_latent(replace(ORGANISM, slots=3), 19)
    edit = Edit("latent.hook_fed", SLOTS[1:2], halve)
    t = model.generate(problems[1], max_new_tokens=LIMIT, edits=[edit])
    second = t.layout.slots[1]
    naive = loop(model, feed=lambda v, p: halve(v) if p == second else v).run(problems[1])
    same(t, naive)
    assert t.applied == (1,)
    close(t.latents[[0, 2]], t.states[[0, 2]])
    close(t.latents[1], halve(t.states[1]))


def test_an_edit_of_the_second_segment_leaves_the_first_as_it_is(random_latent, loop, problems):
    model = random_latent(replace(FREE, slots=3, close_forced=True), 19)
    edit = Edit("latent.hook_fed", segment(1) & SLOTS, halve)
    t = model.generate(problems[1], max_new_tokens=LIMIT, edits=[edit])
    second = t.layout.segments[1].slots
    naive = loop(model, feed=lambda v, p: halve(v) if p in second else v).run(problems[1])
    same(t, naive)
    assert t.applied == (len(second),)


@pytest.mark.parametrize("step", range(3))
def test_an_edit_of_a_response_position_waits_for_that_position(
    random_latent, loop, problems, step
):
    model = random_latent(replace(ORGANISM, slots=3), 19)
    place = model.prepare(problems[1]).encoded.embeds.shape[0] + (2, 4, 7)[step]
    asked = [Edit("blocks.1.hook_resid_post", positions([place]), halve)]
    how = {
        "change": {"blocks.1.hook_resid_post": (lambda role, position: position == place, halve)}
    }
    if step == 0:
        asked.append(Edit("latent.hook_fed", positions([place, place + 90]), halve))
        how["feed"] = lambda v, p: halve(v) if p == place else v
    t = model.generate(problems[1], max_new_tokens=LIMIT, edits=asked)
    same(t, loop(model, **how).run(problems[1]))
    assert t.applied == (1,) * len(asked)


FROM_THE_END = [
    *(SLOTS[-1], SLOTS[-2:], SLOTS[:-1], SLOTS[::-1], segment(-1), positions([-1]), ~SLOTS[-1]),
    *(SLOTS[-1] | IMAGE, IMAGE | SLOTS[-1], SLOTS & segment(-1), ALL - positions([3, -2])),
]


@pytest.mark.parametrize("where", FROM_THE_END, ids=str)
def test_a_subset_that_counts_from_the_end_is_refused_while_generating(mediated, problems, where):
    edit = Edit("blocks.1.hook_resid_post", where, halve)
    for asked in (edit, knockout(queries=where, keys=IMAGE), knockout(queries=CLOSE, keys=where)):
        with pytest.raises(
            EditError, match=r"counts from the end, .* or make the edit in a replay"
        ):
            mediated.generate(problems[0], edits=[asked])
        whole = replace(asked, allow_empty=True)
        with pytest.raises(EditError, match="not known while generating"):
            mediated.generate(problems[0], edits=[whole])


def test_edits_of_state_and_fed_vector_act_one_after_the_other(random_latent, loop, problems):
    model = random_latent(ORGANISM, 19)
    double = Edit("latent.hook_fed", SLOTS, lambda a, context: a * 2)
    t = model.generate(
        problems[1],
        max_new_tokens=LIMIT,
        edits=[double, Edit("latent.hook_state", SLOTS, halve)],
    )
    naive = loop(model, state=lambda v, p: halve(v), feed=lambda v, p: v * 2).run(problems[1])
    same(t, naive)
    assert t.applied == (2, 2)
    close(t.latents, halve(t.states) * 2)


def test_an_identity_edit_changes_no_bit_of_a_response(random_latent, problems):
    model = random_latent(FREE, 19)
    plain = model.generate(problems[1], max_new_tokens=LIMIT)
    for name in [*(p.name for p in model.hook_points.select("blocks.1.*")), "latent.*"]:
        edit = Edit(name, ALL, lambda a, context: a.clone())
        t = model.generate(problems[1], max_new_tokens=LIMIT, edits=[edit])
        assert t.token_ids == plain.token_ids
        assert torch.equal(t.logits, plain.logits), name
        assert t.scores == plain.scores


def test_an_edit_that_touches_nothing_is_refused_unless_that_is_meant(random_latent, problems):
    model = random_latent(replace(ORGANISM, close_forced=False), 9)
    how = {"structure": Structure(markers=False), "max_new_tokens": 4}
    edit = Edit("blocks.0.hook_resid_post", SLOTS, halve)
    with pytest.raises(EmptySubsetError, match=r"edit 1 \(blocks.0.*@slot\) was applied at no"):
        identity = Edit("blocks.0.hook_resid_post", ALL, lambda a, context: a)
        model.generate(problems[0], edits=[identity, edit], **how)
    t = model.generate(problems[0], edits=[replace(edit, allow_empty=True)], **how)
    assert t.applied == (0,)
    with pytest.raises(EmptySubsetError, match="knockout answer->slot"):
        model.generate(problems[0], edits=[knockout(queries=ANSWER, keys=SLOTS)], **how)
    cut = Knockout(ANSWER, SLOTS, allow_empty=True)
    assert model.generate(problems[0], edits=[cut], **how).applied == (0,)


def test_roles_known_while_generating_decide_what_an_edit_touches(random_latent, problems):
    model = random_latent(FREE)
    asked = [
        Edit("blocks.0.hook_resid_post", where, halve) for where in (REASONING, FORMAT, ANSWER)
    ]
    decoding = script(model, f"the <answer> red blue </answer> {END}")
    t = model.generate(problems[0], edits=asked, decoding=decoding)
    assert t.applied == (1, 2, 2)  # the end token ends the response and is never run


# --- choosing tokens -----------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["fixed", "predicted"])
def test_sampling_is_a_function_of_the_seed(random_latent, loop, problems, end):
    model = random_latent(replace(FREE, end=end), 9)
    decoding = Decoding(LIMIT, temperature=1.5, top_p=0.95, top_k=20)
    runs = [model.generate(problems[0], seed=s, decoding=decoding) for s in (1, 1, 2, 3)]
    assert runs[0].token_ids == runs[1].token_ids
    assert len({t.token_ids for t in runs}) == 3
    for seed in (1, 2, 3):
        generator = torch.Generator().manual_seed(seed)
        chosen = partial(decoding.choose, generator=generator)
        same(runs[seed], loop(model, pick=chosen).run(problems[0]))
        assert runs[seed].seed == seed


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"),
    [(1.0, 1.0, 0), (0.7, 0.9, 0), (1.3, 0.5, 0), (1.0, 1.0, 3), (2.0, 0.8, 6), (0.5, 1e-6, 0)],
)
def test_what_is_sampled_is_what_the_published_warpers_keep(temperature, top_p, top_k):
    logits = 2 * torch.randn(12, generator=torch.Generator().manual_seed(4))
    kept = logits[None] / temperature
    if top_k:
        kept = TopKLogitsWarper(top_k)(None, kept)
    kept = TopPLogitsWarper(top_p)(None, kept)[0].softmax(-1)
    decoding = Decoding(temperature=temperature, top_p=top_p, top_k=top_k)
    generator, draws = torch.Generator().manual_seed(0), 3000
    counts = torch.zeros(12)
    for _ in range(draws):
        counts[decoding.choose(logits, generator)] += 1
    assert (counts[kept == 0] == 0).all()
    spread = (kept * (1 - kept) / draws).sqrt()
    assert ((counts / draws - kept).abs() <= 4 * spread + 1e-6).all()


def test_more_likeliest_tokens_than_there_are_keeps_all_of_them():
    logits, generator = torch.zeros(3), torch.Generator().manual_seed(0)
    drawn = {Decoding(temperature=1.0, top_k=50).choose(logits, generator) for _ in range(50)}
    assert drawn == {0, 1, 2}


def test_greedy_takes_the_likeliest_and_draws_nothing():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    rng = random.Random(0)
    for _ in range(5):
        values = [rng.random() for _ in range(7)]
        chosen = Decoding().choose(torch.tensor(values), generator)
        assert chosen == values.index(max(values))
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0; at least one token"),
        ({"temperature": -0.5}, "temperature is at least 0"),
        ({"top_p": 0.0}, r"top_p in \(0, 1\]"),
        ({"top_p": 1.5}, r"top_p in \(0, 1\]"),
        ({"top_k": -1}, "top_k at least 0"),
    ],
)
def test_a_decoding_that_makes_no_sense_is_refused(how, match):
    with pytest.raises(EditError, match=match):
        Decoding(**how)


# --- what a trajectory keeps ---------------------------------------------------------------------


def test_logits_are_kept_for_every_response_position_or_not_at_all(random_latent, problems):
    model = random_latent(FREE, 44)
    kept = model.generate(problems[0], max_new_tokens=LIMIT)
    assert kept.stop_reason == "end"
    assert kept.logits.shape == (len(kept.response_ids), 29)
    dropped = model.generate(problems[0], max_new_tokens=LIMIT, keep_logits=False)
    assert dropped.logits is None
    assert dropped.token_ids == kept.token_ids
    assert dropped.scores == kept.scores


@pytest.mark.parametrize("limit", [3, LIMIT])
def test_counts_of_edits_do_not_depend_on_kept_logits(random_latent, problems, limit):
    model = random_latent(FREE, 44)
    asked = [
        Edit("blocks.0.hook_resid_post", ALL, lambda a, context: a.clone()),
        Edit("blocks.1.attn.hook_pattern", FORMAT | ANSWER | REASONING, lambda a, context: a),
        knockout(queries=FORMAT | ANSWER | REASONING, keys=IMAGE, layers=[1]),
    ]
    kept, dropped = (
        model.generate(problems[0], max_new_tokens=limit, edits=asked, keep_logits=keep)
        for keep in (True, False)
    )
    assert kept.stop_reason == ("end" if limit == LIMIT else "max_new_tokens")
    ended = kept.stop_reason == "end"
    text = sum(role not in ("open", "slot", "close") for role in kept.layout.roles) - ended
    text -= kept.layout.n_prompt
    assert kept.applied == dropped.applied == (len(kept.layout) - ended, text, text)


def test_a_trajectory_knows_its_layout_and_that_it_entered(random_latent, problems):
    model = random_latent(ORGANISM, 9)
    t = model.generate(problems[0], max_new_tokens=5)
    assert isinstance(t.layout, Layout)
    assert t.layout.n_prompt == len(t.prompt.token_ids)
    assert t.token_ids == (*t.prompt.token_ids, *t.response_ids)
    assert len(t.token_ids) == len(t.layout)
    assert t.entered
    without = model.generate(problems[0], max_new_tokens=5, structure=Structure(markers=False))
    assert not without.entered
