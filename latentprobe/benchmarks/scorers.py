r"""Finding the answer in a response, and judging it.

An intervention changes the format of a response as easily as its content, so the parser is strict,
keeps the span it read, and never guesses: what it cannot read is *unparsed*, not wrong by chance.
Option log-likelihoods, which need no parsing, are the other scorer of every trial.

The parser, in order: (1) look inside the last answer span (`<answer> ... </answer>`,
`\boxed{...}`), or in the whole response where there is none; (2) a letter alone, with or without
its option's text; (3) an option's text alone; (4) "answer: C" or "answer is C", where an "A" before
another word is the article; (5) the only option whose text occurs, unless the response starts with
another option's letter ("C. red").
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from latentprobe.benchmarks.problem import option_letters


@dataclass(frozen=True)
class Parsed:
    """What was read from a response.

    Attributes:
        answer: The option's text (or the span's text for an open question), None if unparsed.
        start: First character of the answer span in the response.
        stop: One past the last character of the answer span.
        begin: Where the answer may begin: right after the template's opening, or `start`.
        in_template: Whether the span stood inside the answer template.
    """

    answer: str | None
    start: int
    stop: int
    begin: int
    in_template: bool

    @property
    def ok(self) -> bool:
        """Whether an answer was read."""
        return self.answer is not None


def parse_answer(
    text: str, options: Sequence[str], *, template_open: str, template_close: str
) -> Parsed:
    """Read the answer from a response.

    Args:
        text: The response, latent positions left out.
        options: The options' texts in order; empty for an open question.
        template_open: Text right before the answer.
        template_close: Text right after it.

    Example:
        >>> parse_answer("so <answer> (B) </answer>", ["red", "blue"],
        ...              template_open="<answer>", template_close="</answer>").answer
        'blue'
        >>> parse_answer("red or blue", ["red", "blue"],
        ...              template_open="<answer>", template_close="</answer>").answer is None
        True
    """
    found = text.rfind(template_open)
    if found < 0:
        span = text.strip()
        start = text.index(span) if span else 0
        return Parsed(resolve_option(span, options), start, start + len(span), start, False)
    begin = found + len(template_open)
    end = _closing(text, begin, template_close)
    inner = text[begin:end]
    start = begin + len(inner) - len(inner.lstrip())
    stop = start + len(inner.strip())
    return Parsed(resolve_option(inner, options), start, stop, begin, True)


def resolve_option(span: str, options: Sequence[str]) -> str | None:
    """Return the option a span of text names, or None when it names none or several."""
    span = span.strip().strip(".").strip()
    if not options:
        return span or None
    letters = option_letters(len(options))
    by_letter = _by_letter(span, letters, options)
    if by_letter is not None:
        return by_letter
    same = [o for o in options if o == span] or [o for o in options if _plain(o) == _plain(span)]
    if same and span:
        return same[0]
    stated = re.findall(
        rf"(?i:answer(?:\s+is)?)\s*:?\s*\(?([{letters[0]}-{letters[-1]}])\)?(?!\w|(?<=A)\s+\w)",
        span,
    )
    if stated:
        return options[letters.index(stated[-1])]
    inside = [option for option in options if _occurs(_plain(option), _plain(span))]
    begun = re.match(r"\(?([A-Z])[.:)]", span)
    if len(inside) != 1 or (begun and begun[1] != letters[options.index(inside[0])]):
        return None
    return inside[0]


def _occurs(option: str, text: str) -> bool:
    """Whether an option stands in a text as a whole: no part of a word or of a number."""
    whole = rf"(?<![\w-])(?<!\d[.,:]){re.escape(option)}(?!\w|[.,:]\d)"
    return bool(option) and re.search(whole, text) is not None


def _by_letter(span: str, letters: Sequence[str], options: Sequence[str]) -> str | None:
    match = re.fullmatch(r"\(?([A-Z])\)?(?:[.:)]?\s+(.*))?", span, flags=re.DOTALL)
    if match is None or match[1] not in letters:
        return None
    option = options[letters.index(match[1])]
    return option if match[2] is None or _plain(match[2]) == _plain(option) else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().strip(" .").split())


def _closing(text: str, begin: int, close: str) -> int:
    """Return where the span that starts at `begin` ends; braces nest."""
    if close != "}":
        end = text.find(close, begin)
        return len(text) if end < 0 else end
    depth = 1
    for index in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index
    return len(text)
