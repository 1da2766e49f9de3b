"""The decode loop: one loop for every method, driven by its `MethodSpec`.

1. The prompt is run once (image features and rotary positions laid in); conditions may fork it.
2. Tokens are chosen greedily or sampled and fed one by one. When the opening marker comes, by the
   model's choice or by force, the loop enters latent mode: the last state after the final norm
   (`latent.hook_state`) becomes the next input vector (`latent.hook_fed`), once per slot, until the
   method's end rule holds.
3. Positions of slots and markers are recorded here, where they happen; ids in the span mean
   nothing.
4. The answer is read from the text, options are scored in the answer's place, roles are settled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latentprobe.backends import Chunk, Plan, Session
from latentprobe.benchmarks import Parsed, Problem, parse_answer
from latentprobe.edits import Edit, Knockout
from latentprobe.errors import EditError, EmptySubsetError
from latentprobe.methods import MethodSpec
from latentprobe.methods.detect import TokenIds
from latentprobe.prompts import Prompt, answer_texts
from latentprobe.scoring import OptionScorer
from latentprobe.tokens import Layout, LayoutBuilder
from latentprobe.trajectory import AnswerContext, Structure, Trajectory


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
            self._feed(self._embed(token), token, "open")
        if (self.structure.slots and self._slots(ids)) or not self.structure.slots:
            self._feed(self._embed(tokens.close), tokens.close, "close")

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

    def _with(self, token: int) -> str:
        return self.text + (self.parts.joiner if self.text else "") + self.parts.piece(token)

    def role(self, token: int) -> str:
        """Return the role of the next ordinary token as far as it can be known now."""
        spec = self.parts.spec
        if spec is None:
            return "reasoning"
        before = self.text
        self.text = self._with(token)
        opened, after = before.rfind(spec.answer.open), self.text.rfind(spec.answer.open)
        if after > opened:
            return "format"
        if opened < 0 or spec.answer.close in before[opened + len(spec.answer.open) :]:
            return "reasoning"
        closed = spec.answer.close in self.text[opened + len(spec.answer.open) :]
        return "format" if closed else "answer"


# -- after the loop -------------------------------------------------------------------------------


def finish(
    response: Response, stop_reason: str, problem: Problem | None, *, keep_logits: bool
) -> Trajectory:
    """Read the answer, score the options, settle the roles."""
    parts, prompt = response.parts, response.start.prompt
    if keep_logits:
        response.close_off()
    reading = Reading.of(parts, response.ids, response.builder, problem)
    layout = reading.layout(response.builder)
    context = reading.context(layout, response.structure)
    options = option_ids(parts, problem)
    at = context.length - len(prompt.roles)
    scorer = OptionScorer(parts.backend, response.session, prompt.encoded.offset)
    scores = scorer.score(
        options,
        context,
        cache=response.cache,
        state=response.start.state if at == 0 else response.states[at - 1],
        layout=layout,
    )
    width = prompt.encoded.embeds.shape[-1]
    empty = prompt.encoded.embeds.new_zeros(0, width)
    gold = None if problem is None else problem.answer
    return Trajectory(
        text=reading.text,
        answer=reading.parsed.answer,
        correct=None if gold is None else reading.parsed.answer == gold,
        token_ids=(*prompt.token_ids, *response.ids),
        layout=layout,
        latents=torch.stack(response.latents) if response.latents else empty,
        states=torch.stack(response.latent_states) if response.latent_states else empty,
        scores=scores,
        score_tokens=tuple(len(option) for option in options),
        stop_reason=stop_reason,
        applied=tuple(len(positions) for positions in response.session.applied),
        logits=parts.backend.logits(torch.stack(response.states)) if keep_logits else None,
        problem=problem,
        prompt=prompt,
        parsed=reading.parsed,
        structure=response.structure,
        context=context,
        seed=response.seed,
    )


def option_ids(parts: Parts, problem: Problem | None) -> list[list[int]]:
    """Return the token ids of each option as it would stand in the answer's place."""
    if problem is None or parts.spec is None:
        return []
    lead = parts.spec.answer.lead
    texts = answer_texts(problem, parts.spec.prompt)
    return [parts.tokenizer(lead + t, add_special_tokens=False)["input_ids"] for t in texts]


@dataclass(frozen=True)
class Reading:
    """A finished response as text, and which of its tokens are which part of the answer."""

    parts: Parts
    text: str
    parsed: Parsed
    spans: tuple[tuple[int, int, int], ...]  # response index, first and last character + 1

    @classmethod
    def of(
        cls, parts: Parts, ids: Sequence[int], builder: LayoutBuilder, problem: Problem | None
    ) -> "Reading":
        """Join the visible tokens (no slots, no end token) and read the answer from them."""
        text, spans = "", []
        roles = builder.roles[builder.n_prompt :]
        visible = [i for i, own in enumerate(ids) if roles[i] != "slot" and own not in parts.ends]
        for index, piece in zip(visible, parts.pieces([ids[i] for i in visible]), strict=True):
            start = len(text) + len(parts.joiner if text else "")
            text += (parts.joiner if text else "") + piece
            spans.append((index, start, len(text)))
        answer = parts.spec.answer if parts.spec else None
        parsed = parse_answer(
            text,
            problem.options if problem else (),
            template_open=answer.open if answer else "\0",
            template_close=answer.close if answer else "\0",
        )
        return cls(parts, text, parsed, tuple(spans))

    def layout(self, builder: LayoutBuilder) -> Layout:
        """Return the layout with the roles of ordinary tokens settled by the text."""
        for index, start, stop in self.spans:
            position = builder.n_prompt + index
            if builder.roles[position] not in ("open", "close"):
                builder.roles[position] = self._role(start, stop)
        return builder.build()

    def _role(self, start: int, stop: int) -> str:
        parsed, spec = self.parsed, self.parts.spec
        if not parsed.in_template:
            return "answer" if parsed.ok else "reasoning"
        assert spec is not None
        if start < parsed.stop and stop > parsed.start:
            return "answer"
        opened = parsed.begin - len(spec.answer.open)
        closed = self.text.find(spec.answer.close, parsed.stop)
        in_opening = stop > opened and start < parsed.begin
        in_closing = 0 <= closed < stop and start < closed + len(spec.answer.close)
        return "format" if in_opening or in_closing else "reasoning"

    def context(self, layout: Layout, structure: Structure) -> AnswerContext:
        """Return where options are scored.

        After the template's opening where the response has one; otherwise after the last latent
        span (or the prompt), with the opening written there unless the structure bans it.
        """
        if self.parsed.in_template:
            begin = self.parsed.begin
            index, start, stop = [span for span in self.spans if span[1] < begin][-1]
            if stop <= begin:
                return AnswerContext(layout.n_prompt + index + 1)
            # A token that holds the opening's end and the answer's beginning: write the opening.
            own = self.parts.tokenizer(self.text[start:begin], add_special_tokens=False)
            return AnswerContext(layout.n_prompt + index, tuple(own["input_ids"]))
        spans = [p for p in layout.response if layout.roles[p] in ("open", "slot", "close")]
        length = max(spans) + 1 if spans else layout.n_prompt
        prefix = () if structure.template == "banned" else self.parts.template
        return AnswerContext(length, prefix)


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
