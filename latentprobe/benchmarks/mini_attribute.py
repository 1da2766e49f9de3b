"""`mini-attribute`: which colour is inside the frame of a given colour?

A picture of 2 x 2 cells of 28 pixels each: exactly one merged image token per cell of a Qwen2.5-VL
vision tower. Every cell has a coloured frame (four different frame colours) around a coloured
square. The question names a frame colour, the answer is the colour inside: a lookup that needs the
picture, that a half-million-parameter model can learn to perfection, and whose evidence is one
cell.

Problems are a function of (split, index) alone. Splits are disjoint by construction: the hash of a
picture's plan decides which split it may appear in. Gold answers are balanced in every block of
six, so the first N problems are as good as any, and a model that always gives the same answer
scores 1/6.
"""

import hashlib
import random
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

from latentprobe.benchmarks.problem import Box, Problem

COLORS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 70, 220),
    "yellow": (230, 210, 50),
    "purple": (150, 50, 190),
    "cyan": (60, 200, 215),
}
NAMES = tuple(COLORS)
CELL = 28
SIDE = 2
FRAME = 6
JITTER = 12
TEST_PROBLEMS = 512


@dataclass(frozen=True)
class Plan:
    """What a picture shows: frame and inner colour of each cell, row by row; the cell asked for."""

    frames: tuple[str, ...]
    inner: tuple[str, ...]
    asked: int

    @property
    def split(self) -> str:
        """The split this picture belongs to: one eighth of all plans is test, the rest train."""
        text = "|".join((*self.frames, *self.inner)).encode()
        return "test" if hashlib.sha256(text).digest()[0] < 32 else "train"

    @property
    def answer(self) -> str:
        """The colour inside the frame asked for."""
        return self.inner[self.asked]


def problem(split: str, index: int) -> Problem:
    """Draw problem `index` (counted from 0) of a split (`train` or `test`).

    Returns:
        The problem, its evidence box around the asked cell, and its counterfactual twin: the same
        picture, down to the jitter, with another colour in the asked cell.

    Example:
        >>> p = problem("test", 0)
        >>> p.images[0].size, p.answer in p.options, p.twin.answer != p.answer
        ((56, 56), True, True)
    """
    plan = draw_plan(split, index)
    rng = random.Random(f"twin/{split}/{index}")
    other = rng.choice([name for name in NAMES if name != plan.answer])
    inner = (*plan.inner[: plan.asked], other, *plan.inner[plan.asked + 1 :])
    twin = _problem(replace(plan, inner=inner), split, index, suffix="-twin")
    return replace(_problem(plan, split, index), twin=twin)


class MiniAttribute:
    """The benchmark `mini-attribute` as the registry knows it."""

    splits = ("train", "test")

    def problem(self, split: str, index: int) -> Problem:
        """Return problem `index` (counted from 0) of a split."""
        return problem(split, index)

    def size(self, split: str) -> int | None:
        """Return 512 for `test`, None (endless) for `train`."""
        return TEST_PROBLEMS if split == "test" else None


def draw_plan(split: str, index: int) -> Plan:
    """Return the plan of problem `index` of `split`; gold answers come in shuffled blocks."""
    block, place = divmod(index, len(NAMES))
    order = random.Random(f"block/{split}/{block}").sample(NAMES, len(NAMES))
    for attempt in range(1000):
        rng = random.Random(f"plan/{split}/{index}/{attempt}")
        asked = rng.randrange(SIDE * SIDE)
        inner = [rng.choice(NAMES) for _ in range(SIDE * SIDE)]
        inner[asked] = order[place]
        plan = Plan(tuple(rng.sample(NAMES, SIDE * SIDE)), tuple(inner), asked)
        if plan.split == split:
            return plan
    raise AssertionError(f"no plan for {split}/{index}: an eighth of all plans should fit")


def draw_image(plan: Plan, seed: str) -> Image.Image:
    """Draw a plan with PIL: 56 x 56 pixels, every colour jittered by up to 12 per channel."""
    rng = random.Random(f"jitter/{seed}")
    image = Image.new("RGB", (CELL * SIDE, CELL * SIDE), "black")
    pen = ImageDraw.Draw(image)
    for cell, (frame, inner) in enumerate(zip(plan.frames, plan.inner, strict=True)):
        row, column = divmod(cell, SIDE)
        left, top = column * CELL, row * CELL
        pen.rectangle((left, top, left + CELL - 1, top + CELL - 1), fill=_jittered(frame, rng))
        edge = FRAME + rng.randint(-1, 1)
        box = (left + edge, top + edge, left + CELL - 1 - edge, top + CELL - 1 - edge)
        pen.rectangle(box, fill=_jittered(inner, rng))
    return image


def _problem(plan: Plan, split: str, index: int, *, suffix: str = "") -> Problem:
    row, column = divmod(plan.asked, SIDE)
    return Problem(
        question=f"What color is inside the {plan.frames[plan.asked]} frame?",
        images=[draw_image(plan, f"{split}/{index}")],
        options=NAMES,
        answer=plan.answer,
        evidence=[Box(column * CELL, row * CELL, (column + 1) * CELL, (row + 1) * CELL)],
        name=f"mini-attribute/{split}/{index}{suffix}",
    )


def _jittered(name: str, rng: random.Random) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, c + rng.randint(-JITTER, JITTER))) for c in COLORS[name])
    return red, green, blue


BENCHMARK = MiniAttribute()
