"""A finished response, read: its text, its answer, its options' scores, the roles of its tokens.

1. Visible tokens (no slots, no end token) are joined to a text; the answer is parsed from it.
2. The parsed span settles which ordinary tokens are answer, format or reasoning.
3. Options are scored in the answer's place, on a fork of the response's cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from latentprobe.benchmarks import Parsed, Problem, parse_answer
from latentprobe.generation import Parts, Response
from latentprobe.prompts import answer_texts
from latentprobe.scoring import OptionScorer
from latentprobe.tokens import Layout, LayoutBuilder
from latentprobe.trajectory import AnswerContext, Structure, Trajectory


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
