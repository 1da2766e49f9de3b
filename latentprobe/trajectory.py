"""What comes out of a model: a trajectory (one generated response) and a replay of it."""

from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from latentprobe.benchmarks import Parsed, Problem
from latentprobe.prompts import Prompt
from latentprobe.tokens import Layout


@dataclass(frozen=True)
class Structure:
    """Which parts of the response are there; the method decides the rest.

    Attributes:
        markers: Whether latent mode may be entered; without markers their tokens are banned.
        slots: Whether an entered segment holds slots; without, it is closed at once.
        template: The answer template: left to the `method`, `forced` at the start of the response,
            or `banned`.
    """

    markers: bool = True
    slots: bool = True
    template: Literal["method", "forced", "banned"] = "method"


@dataclass(frozen=True)
class AnswerContext:
    """Where options are scored: after `length` positions, then `prefix` (template tokens)."""

    length: int
    prefix: tuple[int, ...] = ()


@dataclass(frozen=True)
class Trajectory:
    """One generated response, with everything needed to replay it.

    Attributes:
        text: The response as text, latent positions left out, end token dropped.
        answer: The option (or free text) read from it, None if unparsed.
        correct: Whether the answer is the gold one; None without a gold answer.
        token_ids: Ids of prompt and response; at slots they mean nothing (`layout` is the truth).
        layout: Role of every position, segments, image grids.
        latents: The vectors fed at the slots, after edits ("slot d_model").
        states: The hidden states they were made from, before edits ("slot d_model").
        scores: Log-likelihood (nats, summed over tokens) of every option as the answer; empty
            without options.
        score_tokens: Number of tokens of every option.
        stop_reason: `end` or `max_new_tokens`.
        applied: Per edit, at how many positions it was applied.
        logits: Logits at every response position ("pos vocab"); None unless they were kept.
        problem: The problem asked, if any.
        prompt: The prompt as the model read it.
        parsed: What the parser read, and where.
        structure: The structure it was generated under.
        context: Where its options were scored.
        seed: Seed of sampling and of random interventions.
    """

    text: str
    answer: str | None
    correct: bool | None
    token_ids: tuple[int, ...] = field(repr=False)
    layout: Layout = field(repr=False)
    latents: Float[Tensor, "slot d_model"] = field(repr=False)
    states: Float[Tensor, "slot d_model"] = field(repr=False)
    scores: tuple[float, ...] = field(repr=False)
    score_tokens: tuple[int, ...] = field(repr=False)
    stop_reason: str
    applied: tuple[int, ...]
    logits: Float[Tensor, "pos vocab"] | None = field(repr=False)
    problem: Problem | None = field(repr=False)
    prompt: Prompt = field(repr=False)
    parsed: Parsed = field(repr=False)
    structure: Structure = field(repr=False)
    context: AnswerContext = field(repr=False)
    seed: int = 0

    @property
    def entered(self) -> bool:
        """Whether latent mode was entered."""
        return bool(self.layout.segments)

    @property
    def response_ids(self) -> tuple[int, ...]:
        """Ids of the response only."""
        return self.token_ids[self.layout.n_prompt :]


@dataclass(frozen=True)
class Replay:
    """A trajectory run through the model once more, teacher-forced.

    Attributes:
        logits: Logits at `positions` ("pos vocab"); row p predicts the token at p + 1.
        positions: Positions of the rows, counted from 0 in the whole sequence.
        option_scores: Log-likelihood (nats, summed over tokens) of every option as the answer.
        applied: Per edit, at how many positions it was applied.
    """

    logits: Float[Tensor, "pos vocab"] = field(repr=False)
    positions: tuple[int, ...] = field(repr=False)
    option_scores: tuple[float, ...]
    applied: tuple[int, ...]
