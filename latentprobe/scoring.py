"""Option log-likelihoods: the scorer that needs no parsing.

Every option is scored as the text that would stand in the answer's place, after the response's own
reasoning and the answer template, on a fork of the response's cache. An option of one token costs
nothing (its log-probability is read off the logits there); longer ones cost one short chunk each.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latentprobe.backends import Chunk, Session
from latentprobe.tokens import Layout
from latentprobe.trajectory import AnswerContext


class OptionScorer:
    """Scores options after a response.

    Args:
        backend: The backend the response was run on.
        session: The open session; its edits and knockouts act on the scored tokens too.
        offset: Rotary position of response position p is p + offset.
    """

    def __init__(self, backend: Any, session: Session, offset: int) -> None:
        self.backend, self.session, self.offset = backend, session, offset

    def score(
        self,
        options: Sequence[Sequence[int]],
        context: AnswerContext,
        *,
        cache: Any,
        state: Float[Tensor, " d_model"],
        layout: Layout,
    ) -> tuple[float, ...]:
        """Return the log-likelihood of every option in nats, summed over its tokens.

        Args:
            options: Token ids of each option.
            context: Where the options stand.
            cache: Keys and values of at least `context.length` positions.
            state: Final-norm state at position `context.length - 1`.
            layout: Layout of at least `context.length` positions.
        """
        if not options:
            return ()
        roles = list(layout.roles[: context.length])
        if context.prefix or any(len(option) > 1 for option in options):
            cache = self.backend.fork_cache(cache, context.length)
        if context.prefix:
            states, roles = self._run(context.prefix, "format", cache, roles, layout)
            state = states[-1]
        first = torch.log_softmax(self.backend.logits(state[None])[0].float(), dim=-1)
        totals = []
        for option in options:
            total = float(first[option[0]])
            if len(option) > 1:
                fork = self.backend.fork_cache(cache, len(roles))
                states, _ = self._run(option[:-1], "answer", fork, roles, layout)
                rest = torch.log_softmax(self.backend.logits(states).float(), dim=-1)
                total += float(rest[range(len(option) - 1), list(option[1:])].sum())
            totals.append(total)
        return tuple(totals)

    def _run(
        self, ids: Sequence[int], role: str, cache: Any, roles: list[str], layout: Layout
    ) -> tuple[Tensor, list[str]]:
        """Run ordinary tokens on top of a cache; return their states and the grown roles."""
        first = len(roles)
        grown = [*roles, *[role] * len(ids)]
        embeds = self.backend.embed(torch.tensor(list(ids)))
        steps = torch.arange(first, len(grown), device=embeds.device) + self.offset
        rotary = steps.expand(self.backend.rotary_axes, -1)
        kept = tuple(s for s in layout.segments if max((*s.slots, s.open or 0)) < first)
        # The trajectory may go on past the scored place: positions there are not there here.
        own = Layout(tuple(grown), layout.n_prompt, kept, layout.images, growing=True)
        chunk = Chunk(embeds, rotary, first, own)
        return self.session.forward(chunk, cache, count=False), grown
