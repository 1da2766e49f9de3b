"""The decode loop: one loop for every method, driven by its `MethodSpec`.

1. The prompt is run once (image features and rotary positions laid in); conditions may fork it.
2. Tokens are chosen greedily or sampled and fed one by one. When the opening marker comes, by the
   model's choice or by force, the loop enters latent mode: the last state after the final norm
   (`latent.hook_state`) becomes the next input vector (`latent.hook_fed`), once per slot, until the
   method's end rule holds.
3. Positions of slots and markers are recorded here, where they happen; ids in the span mean
   nothing.
4. What the finished response says is read elsewhere (`reading.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latentprobe.backends import Chunk, Plan, Session
from latentprobe.edits import Edit, Knockout
from latentprobe.errors import EditError, EmptySubsetError
from latentprobe.methods import MethodSpec
from latentprobe.methods.detect import TokenIds
from latentprobe.prompts import Prompt
from latentprobe.tokens import Layout, LayoutBuilder
from latentprobe.trajectory import Structure


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen.

    Attributes:
        max_new_tokens: Most response positions, slots included.
        temperature: 0 is greedy; above 0, logits are divided by it and sampled.
        top_p: Smallest probability mass kept when sampling, in (0, 1].
        top_k: Number of likeliest tokens kept when sampling; 0 keeps all.
    """

    max_new_tokens: int = 64
    temperature: int | float = 0.0
    top_p: int | float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise EditError(
                f"max_new_tokens={self.max_new_tokens}; at least one token is generated"
            )
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise EditError(
                f"decoding {self}: temperature is at least 0, top_p in (0, 1], top_k at least 0"
            )

    def choose(self, logits: Float[Tensor, " vocab"], generator: torch.Generator) -> int:
        """Return the next token's id."""
        if self.temperature == 0:
            return int(logits.argmax())
        logits = logits.float().cpu() / self.temperature
        if self.top_k:
            kept = min(self.top_k, len(logits))
            logits = logits.masked_fill(logits < logits.topk(kept).values[-1], -torch.inf)
        ordered, ids = logits.softmax(-1).sort(descending=True)
        ordered[ordered.cumsum(-1) - ordered >= self.top_p] = 0
        return int(ids[torch.multinomial(ordered, 1, generator=generator)])


@dataclass(frozen=True)
class Parts:
    """What the loop needs of a loaded model.

    Attributes:
        backend: Runs chunks of positions.
        tokenizer: The checkpoint's tokenizer.
        spec: The method, or None for a model without latents.
        tokens: Ids of the method's tokens, or None.
        ends: Ids that end a response.
        template: Token ids of the answer template's opening.
        joiner: What stands between two tokens' texts when they are joined.
    """

    backend: Any
    tokenizer: Any
    spec: MethodSpec | None
    tokens: TokenIds | None
    ends: frozenset[int]
    template: tuple[int, ...]
    joiner: str

    @property
    def inherent(self) -> tuple[Knockout, ...]:
        """Attention edges the model itself is built without."""
        return self.spec.blocked if self.spec else ()

    def piece(self, token: int) -> str:
        """Return one token's own text."""
        return self.tokenizer.decode([token])

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Return every token's text; a character spread over several stands at its last token."""
        pieces, start = [], 0
        for stop in range(1, len(tokens) + 1):
            text = self.tokenizer.decode(list(tokens[start:stop]))
            unfinished = text.endswith("\ufffd") and stop < len(tokens)
            pieces.append("" if unfinished else text)
            start = start if unfinished else stop
        return pieces


@dataclass(frozen=True)
class Prefill:
    """A prompt that has been run: its cache and its last state, to be forked by conditions."""

    prompt: Prompt
    cache: Any
    state: Float[Tensor, " d_model"]
    problem_key: str = ""


def prefill(parts: Parts, session: Session, prompt: Prompt) -> Prefill:
    """Run a prompt and keep its cache."""
    cache = parts.backend.new_cache()
    layout = Layout(prompt.roles, len(prompt.roles), (), prompt.images, growing=True)
    chunk = Chunk(prompt.encoded.embeds, prompt.encoded.rotary, 0, layout)
    return Prefill(prompt, cache, session.forward(chunk, cache)[-1])


def touches_prompt(edits: Sequence[Edit | Knockout], prompt: Prompt) -> bool:
    """Return whether an edit acts on the prompt itself, so that a prefill cannot be shared."""
    layout = Layout(prompt.roles, len(prompt.roles), (), prompt.images, growing=True)
    wheres = [edit.queries if isinstance(edit, Knockout) else edit.where for edit in edits]
    return any(where.mask(layout).any() for where in wheres)


class OutOfRoom(Exception):  # noqa: N818 - control flow inside this module, not an error
    """The response has reached its largest length."""


@dataclass
class Response:
    """A response while it grows; see the module's docstring for the steps."""

    parts: Parts
    session: Session
    start: Prefill
    structure: Structure
    decoding: Decoding
    seed: int
    ids: list[int] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)
    latent_states: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    segments: int = 0

    def __post_init__(self) -> None:
        prompt = self.start.prompt
        self.builder = LayoutBuilder(list(prompt.roles), prompt.images)
        self.cache = self.parts.backend.fork_cache(self.start.cache, len(prompt.roles))
        self.generator = torch.Generator().manual_seed(self.seed)
        self.answering = Answering(self.parts)

    @property
    def state(self) -> Float[Tensor, " d_model"]:
        """The state after the final norm at the last position."""
        return self.states[-1] if self.states else self.start.state

    # -- the loop ---------------------------------------------------------------------------------

    def run(self) -> str:
        """Generate to the end; return why it stopped (`end` or `max_new_tokens`)."""
        forced = self._opening()
        try:
            while True:
                token = forced.pop(0) if forced else self._choose()
                if self._opens(token):
                    self._segment(token)
                else:
                    self._token(token)
                if token in self.parts.ends:
                    return "end"
        except OutOfRoom:
            return "max_new_tokens"

    def _opening(self) -> list[int]:
        """Return the ids that are written without asking at the start of the response."""
        tokens, spec = self.parts.tokens, self.parts.spec
        template = list(self.parts.template) if self.structure.template == "forced" else []
        if tokens and spec and spec.entry == "forced" and self.structure.markers:
            return [tokens.open, *template]
        return template

    def _choose(self) -> int:
        logits = self.parts.backend.logits(self.state[None])[0].clone()
        logits[self._banned()] = -torch.inf
        token = self.decoding.choose(logits, self.generator)
        while self.structure.template == "banned" and self.answering.opens(token):
            logits[token] = -torch.inf
            token = self.decoding.choose(logits, self.generator)
        return token

    def _banned(self) -> list[int]:
        tokens, spec, banned = self.parts.tokens, self.parts.spec, []
        if tokens and spec:
            if not self.structure.markers:
                banned = [tokens.open, tokens.slot, tokens.close]
            elif spec.max_segments is not None and self.segments >= spec.max_segments:
                banned = [tokens.open]
        return banned

    def _opens(self, token: int) -> bool:
        return self.parts.tokens is not None and token == self.parts.tokens.open

    # -- one segment ------------------------------------------------------------------------------

    def _segment(self, token: int) -> None:
        """Run one latent span: opening marker, slots, and the closing marker where it is ours."""
        spec, tokens = self.parts.spec, self.parts.tokens
        assert spec is not None
        assert tokens is not None
        self.segments += 1
        ids: list[int | None] = [None] * spec.slots
        if spec.first_latent == "at_open" and self.structure.slots:
            ids[0] = token
        else:
            self._marker(token, "open")
        if (self.structure.slots and self._slots(ids)) or not self.structure.slots:
            self._marker(tokens.close, "close")

    def _marker(self, token: int, role: str) -> None:
        self.answering.follow(token)
        self._feed(self._embed(token), token, role)

    def _slots(self, ids: Sequence[int | None]) -> bool:
        """Feed states back, one per slot; return whether the closing marker is to be written."""
        spec, tokens = self.parts.spec, self.parts.tokens
        assert spec is not None
        assert tokens is not None
        for own in ids:
            if spec.end == "predicted" and self._choose() == tokens.close:
                return True
            self._slot(own)
        return spec.close_forced

    def _slot(self, own: int | None) -> None:
        assert self.parts.tokens is not None
        assert self.parts.spec is not None
        if own is None:
            own = self.parts.tokens.slot
            if self.parts.spec.ids == "argmax":
                own = int(self.parts.backend.logits(self.state[None])[0].argmax())
        state = self.state
        self._room()
        self.builder.append("slot")
        layout = self.builder.build(growing=True)
        edited = self.session.edit_latent("latent.hook_state", state[None], layout)
        fed = self.session.edit_latent("latent.hook_fed", edited, layout)[0]
        self.latent_states.append(state)
        self.latents.append(fed)
        self._run(fed, own)

    # -- one position -----------------------------------------------------------------------------

    def _token(self, token: int) -> None:
        tokens = self.parts.tokens
        role = self.answering.role(token)
        if tokens and token == tokens.close and self.builder.awaits_close():
            role = "close"
        if token in self.parts.ends:
            self._room()
            self.builder.append("format")
            self.ids.append(token)
            return
        self._feed(self._embed(token), token, role)

    def _embed(self, token: int) -> Float[Tensor, " d_model"]:
        return self.parts.backend.embed(torch.tensor([token]))[0]

    def _room(self) -> None:
        if len(self.ids) >= self.decoding.max_new_tokens:
            raise OutOfRoom

    def _feed(self, vector: Float[Tensor, " d_model"], token: int, role: str) -> None:
        self._room()
        self.builder.append(role)
        self._run(vector, token)

    def _run(self, vector: Float[Tensor, " d_model"], token: int, *, count: bool = True) -> None:
        """Run the position that was just added to the layout."""
        self.ids.append(token)
        position = len(self.builder.roles) - 1
        rotary = torch.full(
            (self.parts.backend.rotary_axes, 1), position + self.start.prompt.encoded.offset
        ).to(vector.device)
        chunk = Chunk(vector[None], rotary, position, self.builder.build(growing=True))
        self.states.append(self.session.forward(chunk, self.cache, count=count)[-1])

    def close_off(self) -> None:
        """Run the end token too, so that every response position has logits."""
        if len(self.states) < len(self.ids):
            token = self.ids.pop()
            self._run(self._embed(token), token, count=False)


class Answering:
    """Follows the response's text and says, token by token, which part of the template it is."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.text = ""

    def opens(self, token: int) -> bool:
        """Return whether the next token would complete the template's opening."""
        spec = self.parts.spec
        opening = spec.answer.open if spec else ""
        return bool(opening) and self._with(token).count(opening) > self.text.count(opening)

    def follow(self, token: int) -> None:
        """Add a visible token, marker or not, to the text."""
        self.text = self._with(token)

    def _with(self, token: int) -> str:
        return self.text + (self.parts.joiner if self.text else "") + self.parts.piece(token)

    def role(self, token: int) -> str:
        """Return the role of the next ordinary token as far as it can be known now."""
        spec = self.parts.spec
        if spec is None:
            return "reasoning"
        before = self.text
        self.follow(token)
        opened, after = before.rfind(spec.answer.open), self.text.rfind(spec.answer.open)
        if after > opened:
            return "format"
        if opened < 0 or spec.answer.close in before[opened + len(spec.answer.open) :]:
            return "reasoning"
        closed = spec.answer.close in self.text[opened + len(spec.answer.open) :]
        return "format" if closed else "answer"


def check_applied(edits: Sequence[Edit | Knockout], applied: Sequence[int]) -> None:
    """Refuse edits that touched nothing.

    Raises:
        EmptySubsetError: An edit was applied at no position and does not allow it.
    """
    for number, (edit, count) in enumerate(zip(edits, applied, strict=True)):
        if count == 0 and not edit.allow_empty:
            raise EmptySubsetError(
                f"edit {number} ({edit.label}) was applied at no position: its subset is empty on "
                "this response, or the hook point did not fire there. Choose another subset, or "
                "say allow_empty=True if that is meant"
            )


def check_known_in_the_loop(edits: Sequence[Edit | Knockout]) -> None:
    """Refuse subsets that only a finished sequence can resolve.

    Raises:
        EditError: A subset counts from the end, which is not known while generating.
    """
    for edit in edits:
        wheres = (edit.queries, edit.keys) if isinstance(edit, Knockout) else (edit.where,)
        if any(where.counts_from_the_end for where in wheres):
            raise EditError(
                f"{edit.label} counts from the end, which is not known while generating; count "
                "from 0, or make the edit in a replay"
            )


def make_plan(parts: Parts, edits: Sequence[Edit | Knockout], seed: int) -> Plan:
    """Return the plan of one trial."""
    return Plan(edits=tuple(edits), inherent=parts.inherent, seed=seed)
