"""The option scorer on a backend that is a table: every number by hand."""

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from latentprobe.scoring import OptionScorer
from latentprobe.tokens import Layout, Segment
from latentprobe.trajectory import AnswerContext

# Row i: what the last token i predicts, as chances of tokens 0, 1, 2.
CHANCES = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1]])


@dataclass
class Table:
    """A bigram model behind the seams of a backend and of a session; it keeps what it was fed."""

    rotary_axes: int = 3
    chunks: list = field(default_factory=list)
    forks: list = field(default_factory=list)

    def fork_cache(self, cache: str, length: int) -> str:
        self.forks.append((cache, length))
        return f"{cache}'"

    def embed(self, ids: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(ids, 3).float()

    def logits(self, states: Tensor) -> Tensor:
        return states @ CHANCES.log()

    # A session runs chunks; in a bigram model a state is the token itself.
    applied, tensors = (), ()

    def forward(self, chunk, cache: str, *, count: bool = True) -> Tensor:
        self.chunks.append((chunk, cache, count))
        return chunk.embeds

    def edit_latent(self, name: str, vector: Tensor, layout: Layout) -> Tensor:
        return vector


LAYOUT = Layout(
    ("question", "open", "slot", "close", "format", "answer"), 1, (Segment(1, (2,), 3),)
)


def score(options, context, table=None) -> tuple[float, ...]:
    table = table or Table()
    state = table.embed(torch.tensor([1]))[0]
    scorer = OptionScorer(table, table, offset=-2)
    return scorer.score(options, context, cache="cache", state=state, layout=LAYOUT)


def test_an_option_of_one_token_is_read_off_the_logits_and_runs_nothing():
    table = Table()
    scores = score([[0], [1], [2]], AnswerContext(5), table)
    assert scores == pytest.approx([math.log(0.1), math.log(0.2), math.log(0.7)], abs=1e-6)
    assert table.chunks == []
    assert table.forks == []


def test_the_chances_of_a_longer_options_tokens_multiply():
    scores = score([[2, 0, 1], [0, 0]], AnswerContext(5))
    expected = [math.log(0.7 * 0.6 * 0.25), math.log(0.1 * 0.5)]
    assert scores == pytest.approx(expected, abs=1e-6)


def test_a_prefix_stands_before_every_option():
    scores = score([[1], [0, 2]], AnswerContext(4, prefix=(0, 2)))
    assert scores == pytest.approx([math.log(0.3), math.log(0.6 * 0.25)], abs=1e-6)


def test_options_run_on_forks_as_uncounted_answer_positions():
    table = Table()
    score([[1, 0, 2], [2]], AnswerContext(4, prefix=(0,)), table)
    (prefix, where, _), (option, fork, _) = table.chunks
    assert [count for _, _, count in table.chunks] == [False, False]
    assert table.forks == [("cache", 4), ("cache'", 5)]
    assert (where, fork) == ("cache'", "cache''")
    assert prefix.layout.roles == ("question", "open", "slot", "close", "format")
    assert option.layout.roles == (*prefix.layout.roles, "answer", "answer")
    assert (prefix.first, option.first) == (4, 5)
    assert prefix.rotary.tolist() == [[2]] * 3
    assert option.rotary.tolist() == [[3, 4]] * 3
    assert option.layout.slots == [2]
    assert option.layout.n_prompt == 1


def test_spans_that_come_after_the_place_are_not_in_the_options_layout():
    table = Table()
    score([[1, 0]], AnswerContext(1), table)
    ((chunk, _, _),) = table.chunks
    assert chunk.layout.roles == ("question", "answer")
    assert chunk.layout.segments == ()


def test_without_options_there_is_nothing_to_score():
    assert score([], AnswerContext(4, prefix=(0,))) == ()
