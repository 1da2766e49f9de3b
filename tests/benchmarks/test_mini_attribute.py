"""mini-attribute: what is asked can be read off the pixels, splits and twins are what they say."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentprobe.benchmarks import Box, load
from latentprobe.benchmarks.mini_attribute import (
    BENCHMARK,
    CELL,
    COLORS,
    NAMES,
    TEST_PROBLEMS,
    Plan,
    draw_image,
    draw_plan,
    problem,
)
from latentprobe.benchmarks.problem import Problem

JITTER = 12
indices = st.integers(0, 100_000)
splits = st.sampled_from(["train", "test"])


@pytest.fixture(scope="module")
def whole_split() -> list[Problem]:
    return list(load("mini-attribute"))


def pixels(one: Problem) -> np.ndarray:
    return np.asarray(one.pictures[0]).astype(int)


def nearest_colour(pixel: np.ndarray) -> str:
    return min(NAMES, key=lambda name: int(np.abs(pixel - np.array(COLORS[name])).sum()))


def asked_frame(one: Problem) -> str:
    return one.question.removeprefix("What color is inside the ").removesuffix(" frame?")


def cell(one: Problem, box: Box) -> np.ndarray:
    return pixels(one)[int(box.top) : int(box.bottom), int(box.left) : int(box.right)]


def assert_answerable_from_pixels(one: Problem):
    """Read frame and inside colours off the picture, cell by cell, and answer the question."""
    read = {}
    for row in (0, CELL):
        for column in (0, CELL):
            here = cell(one, Box(column, row, column + CELL, row + CELL))
            frame, inside = nearest_colour(here[2, 2]), nearest_colour(here[14, 14])
            assert frame not in read, "frames must differ, or the question has two answers"
            read[frame] = (inside, (column, row))
    answer, corner = read[asked_frame(one)]
    assert answer == one.answer
    box = one.evidence[0]
    assert (box.left, box.top, box.image) == (*corner, 0)


# --- splits --------------------------------------------------------------------------------------


def test_there_are_512_test_problems_all_different(whole_split: list[Problem]):
    assert TEST_PROBLEMS == len(whole_split) == BENCHMARK.size("test") == 512
    assert BENCHMARK.size("train") is None
    assert len({one.key for one in whole_split}) == 512
    assert len({one.name for one in whole_split}) == 512


@settings(deadline=None, max_examples=200)
@given(splits, indices)
def test_a_plan_lies_in_the_split_its_own_hash_names(split: str, index: int):
    plan = draw_plan(split, index)
    digest = hashlib.sha256("|".join(plan.frames + plan.inner).encode()).hexdigest()
    assert ("test" if int(digest[:2], 16) < 256 // 8 else "train") == split == plan.split


def test_no_test_picture_is_among_the_training_pictures():
    test = {draw_plan("test", i).frames + draw_plan("test", i).inner for i in range(512)}
    train = {draw_plan("train", i).frames + draw_plan("train", i).inner for i in range(3000)}
    assert not test & train
    # and without the rule an eighth of random plans would be test plans
    free = [Plan(plan[:4], plan[4:][::-1], 0).split for plan in train]
    assert 0.08 < free.count("test") / len(free) < 0.18


@pytest.mark.parametrize("split", ["train", "test"])
def test_gold_answers_are_balanced_in_every_block_of_six(split: str):
    answers = [draw_plan(split, index).answer for index in range(60)]
    for start in range(0, 60, 6):
        assert sorted(answers[start : start + 6]) == sorted(NAMES)
    orders = {tuple(answers[start : start + 6]) for start in range(0, 60, 6)}
    assert len(orders) > 5, "blocks must be shuffled, or the index gives the answer away"


def test_the_asked_cell_and_frame_are_spread_over_all(whole_split: list[Problem]):
    corners = Counter((one.evidence[0].left, one.evidence[0].top) for one in whole_split)
    frames = Counter(asked_frame(one) for one in whole_split)
    assert len(corners) == 4
    assert min(corners.values()) > 90
    assert set(frames) == set(NAMES)
    assert min(frames.values()) > 50


# --- pictures ------------------------------------------------------------------------------------


def test_the_answer_can_be_read_off_the_pixels_of_every_test_problem(whole_split: list[Problem]):
    for one in whole_split:
        assert_answerable_from_pixels(one)
        assert one.twin is not None
        assert_answerable_from_pixels(one.twin)


def test_the_evidence_box_holds_the_asked_frame_colour_and_the_answer(whole_split: list[Problem]):
    for one in whole_split[:60]:
        here = cell(one, one.evidence[0])
        assert here.shape == (CELL, CELL, 3)
        frame, inside = here[:4].reshape(-1, 3), here[8:-8, 8:-8].reshape(-1, 3)
        for part, name in ((frame, asked_frame(one)), (inside, one.answer)):
            assert (np.abs(part - np.array(COLORS[str(name)])) <= JITTER).all()


def test_a_picture_is_two_cells_by_two_of_two_flat_colours_each():
    plan = Plan(("red", "green", "blue", "cyan"), ("red", "yellow", "blue", "purple"), 1)
    image = np.asarray(draw_image(plan, "seed")).astype(int)
    assert image.shape == (56, 56, 3)
    for number, (frame, inside) in enumerate(zip(plan.frames, plan.inner, strict=True)):
        row, column = (number // 2) * CELL, (number % 2) * CELL
        part = image[row : row + CELL, column : column + CELL].reshape(-1, 3)
        tints = {tuple(pixel) for pixel in part.tolist()}
        assert len(tints) == 2
        assert {nearest_colour(np.array(tint)) for tint in tints} == {frame, inside}


@settings(deadline=None, max_examples=40)
@given(splits, indices)
def test_a_twin_differs_only_inside_the_asked_cell_and_has_another_answer(split: str, index: int):
    one = problem(split, index)
    twin = one.twin
    assert twin is not None
    assert twin.answer != one.answer
    assert (twin.question, twin.options, twin.evidence) == (
        one.question,
        one.options,
        one.evidence,
    )
    changed = (pixels(one) != pixels(twin)).any(axis=-1)
    rows, columns = np.nonzero(changed)
    box = one.evidence[0]
    assert box.left + 5 <= columns.min()
    assert columns.max() < box.right - 5
    assert box.top + 5 <= rows.min()
    assert rows.max() < box.bottom - 5
    assert changed.sum() >= (CELL - 2 * 7) ** 2, "the whole inner square takes the other colour"
    assert twin.twin is None
    assert twin.key != one.key


@settings(deadline=None, max_examples=25)
@given(splits, indices)
def test_the_same_index_gives_the_same_problem(split: str, index: int):
    one, again = problem(split, index), problem(split, index)
    assert one.key == again.key
    assert one.twin is not None
    assert again.twin is not None
    assert one.twin.key == again.twin.key
    assert one.name == f"mini-attribute/{split}/{index}"
    assert one.key != problem(split, index + 1).key


def test_the_first_problems_have_not_changed_since_the_organisms_were_trained():
    kept = [one.key for one in load("mini-attribute", limit=3)]
    assert kept == KEYS


KEYS = ["b1f26ae59fafb037", "c78b2c9328af735b", "141c2f7445d8f454"]
