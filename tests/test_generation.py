"""The decode loop against a loop written by hand that runs everything again at every step."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import torch
from torch import Tensor
from transformers import TopKLogitsWarper, TopPLogitsWarper

from latentprobe.benchmarks import Problem
from latentprobe.edits import Edit, Knockout, knockout
from latentprobe.errors import EditError, EmptySubsetError
from latentprobe.generation import Decoding
from latentprobe.methods import AnswerSpec, MethodSpec, methods
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
        template = words(spec.answer.open, add_special_tokens=False)["input_ids"]
        written, segments = [], 0
        if spec.entry == "forced" and self.structure.markers:
            written = [opener]
        elif self.structure.template == "forced":
            written = list(template)

        def pick() -> int:
            logits = self.head(self.last())
            if not self.structure.markers:
                logits[[opener, slot, closer]] = -torch.inf
            elif segments == spec.max_segments:
                logits[opener] = -torch.inf
            tail = (*out.ids, None)[-len(template) : -1]
            if self.structure.template == "banned" and list(tail) == template[:-1]:
                logits[template[-1]] = -torch.inf
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
            count = spec.slots if self.structure.slots else 0
            if spec.first_latent == "after_open" or not count:
                self.put(table[opener], opener, "open")
            ended = not count
            for step in range(count):
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
                if spec.end == "predicted" and pick() == closer:
                    ended = True
                    break
            if (ended or spec.close_forced) and len(out.ids) < self.limit:
                self.put(table[closer], closer, "close")
        out.logits = self.head(self.all())[len(self.prompt.token_ids) :]
        return out

    def put(self, vector: Tensor, token: int, role: str) -> None:
        self.vectors.append(vector)
        self.out.ids.append(token)
        self.out.roles.append(role)

    def head(self, states: Tensor) -> Tensor:
        return states @ self.net.lm_head.weight.T

    def all(self) -> Tensor:
        prompt, roles = self.prompt, [*self.prompt.roles, *self.out.roles]
        after = torch.arange(len(prompt.token_ids), len(self.vectors)) + prompt.encoded.offset
        rotary = torch.cat([prompt.encoded.rotary, after.expand(3, -1)], dim=1)
        change = {
            name: partial(_only_some, axis=0, rows=[where(role) for role in roles], do=do)
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
        self.shown.append(logits)
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


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("name", SPECS)
def test_a_response_is_what_the_loop_by_hand_gives(random_latent, loop, problems, name, seed):
    model = random_latent(SPECS[name], seed)
    naive = loop(model).run(problems[0])
    same(model.generate(problems[0], max_new_tokens=LIMIT), naive)
    assert "slot" in naive.roles
