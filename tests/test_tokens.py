"""Roles, layouts and token subsets: by hand on one layout, and by law on random ones."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import latentprobe as lp
from latentprobe.errors import EmptySubsetError, LatentProbeError, SubsetError
from latentprobe.tokens import (
    ROLES,
    ImageGrid,
    Layout,
    LayoutBuilder,
    Segment,
    Subset,
    image_region,
    positions,
    role,
    segment,
)

# one image of 2 x 2 tokens, a closed segment of three slots, an unclosed one of two
BY_HAND = Layout(
    (
        *("system", "image", "image", "image", "image", "system", "question", "question"),
        *("open", "slot", "slot", "slot", "close", "reasoning"),
        *("open", "slot", "slot", "format", "answer", "pad"),
    ),
    8,
    (Segment(8, (9, 10, 11), 12), Segment(14, (15, 16), None)),
    (ImageGrid(1, 2, 2, 56, 56),),
)
PLAIN = ("system", "question", "reasoning", "format", "answer", "pad")


sides = st.integers(1, 40)
text = st.lists(st.sampled_from(PLAIN), min_size=1, max_size=4)
image = st.tuples(st.integers(1, 3), st.integers(1, 3), sides, sides)
latent = st.tuples(st.booleans(), st.integers(0, 4), st.booleans())
# what a random layout is made of, as plain data: the type checker draws random numbers of its own,
# which hypothesis does not want to see inside a strategy
plans = st.lists(st.one_of(text, image, latent), max_size=8)


def laid_out(plan: list) -> Layout:
    """Lay text, images and latent segments (with or without their ends) one after another."""
    roles, images, segments = [], [], []
    for part in plan:
        start = len(roles)
        if isinstance(part, list):
            roles += part
        elif len(part) == 4:
            images.append(ImageGrid(start, *part))
            roles += ["image"] * (part[0] * part[1])
        else:
            opened, count, closed = part
            slots = tuple(range(start + opened, start + opened + count))
            roles += ["open"] * opened + ["slot"] * count + ["close"] * closed
            end = start + opened + count if closed else None
            segments.append(Segment(start if opened else None, slots, end))
    return Layout(tuple(roles), len(roles) // 2, tuple(segments), tuple(images))


steps = st.one_of(st.none(), st.integers(-5, 5))
leaves = st.one_of(
    st.sampled_from([lp.ALL, *map(role, ROLES)]),
    st.builds(lambda i, j: lp.SLOTS[i:j], steps, steps),
    st.builds(segment, st.integers(-3, 3)),
)
subsets = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a: ~a, inner),
    ),
    max_leaves=6,
)


# --- by hand -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (lp.ALL, list(range(20))),
        (lp.SYSTEM, [0, 5]),
        (lp.IMAGE, [1, 2, 3, 4]),
        (lp.QUESTION, [6, 7]),
        (lp.OPEN, [8, 14]),
        (lp.SLOTS, [9, 10, 11, 15, 16]),
        (lp.CLOSE, [12]),
        (lp.MARKERS, [8, 12, 14]),
        (lp.REASONING, [13]),
        (lp.FORMAT, [17]),
        (lp.ANSWER, [18]),
        (role("pad"), [19]),
        (lp.SLOTS | lp.ANSWER, [9, 10, 11, 15, 16, 18]),
        (lp.SLOTS & lp.segment(0), [9, 10, 11]),
        (lp.SLOTS - lp.segment(0), [15, 16]),
        (~lp.SLOTS & lp.segment(0), [8, 12]),
    ],
)
def test_a_subset_chooses_the_positions_counted_by_hand(where: Subset, expected: list[int]):
    assert BY_HAND.positions(where) == expected


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (lp.SLOTS[0], [9, 15]),
        (lp.SLOTS[2], [11]),
        (lp.SLOTS[5], []),
        (lp.SLOTS[-1], [11, 16]),
        (lp.SLOTS[-2], [10, 15]),
        (lp.SLOTS[-3], [9]),
        (lp.SLOTS[:1], [9, 15]),
        (lp.SLOTS[1:], [10, 11, 16]),
        (lp.SLOTS[1:2], [10, 16]),
        (lp.SLOTS[::2], [9, 11, 15]),
        (lp.SLOTS[:], [9, 10, 11, 15, 16]),
    ],
)
def test_slicing_slots_counts_steps_inside_every_segment(chosen: Subset, expected: list[int]):
    assert BY_HAND.positions(chosen) == expected


def test_slots_can_be_sliced_only_once():
    with pytest.raises(SubsetError, match=r"slot\[0:2\] is already a slice of the slots"):
        lp.SLOTS[0:2][0]


def test_a_slice_of_slots_with_stride_zero_is_refused_when_written():
    with pytest.raises(SubsetError, match="stride"):
        lp.SLOTS[::0]


def test_a_segment_is_its_markers_and_its_slots():
    assert BY_HAND.positions(segment(0)) == [8, 9, 10, 11, 12]
    assert BY_HAND.positions(segment(1)) == [14, 15, 16]
    assert BY_HAND.positions(segment(-1)) == [14, 15, 16]
    assert BY_HAND.positions(segment(-2)) == [8, 9, 10, 11, 12]


FROM_THE_END = [
    *(lp.SLOTS[-1], lp.SLOTS[-2], lp.SLOTS[-2:], lp.SLOTS[:-1], lp.SLOTS[::-1], segment(-1)),
    *(positions([-1]), positions([0, 3, -2])),
]
FROM_THE_START = [
    *(lp.ALL, lp.SLOTS, lp.SLOTS[0], lp.SLOTS[1:], lp.SLOTS[:2], lp.SLOTS[::2], segment(0)),
    *(segment(3), positions([]), positions([0, 7]), lp.MARKERS, lp.ANSWER),
    *(image_region((0, 0, 1, 1)), ~lp.SLOTS[1] & segment(0), lp.ALL - positions([9, 18])),
]


@pytest.mark.parametrize("where", FROM_THE_START, ids=str)
def test_a_subset_counts_from_the_end_if_any_part_of_it_does(where: Subset):
    assert not where.counts_from_the_end
    assert not (~where & lp.IMAGE).counts_from_the_end
    for other in FROM_THE_END:
        assert other.counts_from_the_end
        for made in (~other, other | where, where | other, where & other, where - other):
            assert made.counts_from_the_end
            assert (~(lp.IMAGE | ~made)).counts_from_the_end


@pytest.mark.parametrize("where", FROM_THE_START, ids=str)
def test_a_subset_that_counts_from_the_start_says_the_same_of_a_layout_cut_short(where: Subset):
    whole = BY_HAND.positions(where)
    for length in range(BY_HAND.n_prompt, len(BY_HAND) + 1):
        builder = LayoutBuilder(list(BY_HAND.roles[: BY_HAND.n_prompt]), BY_HAND.images)
        for name in BY_HAND.roles[BY_HAND.n_prompt : length]:
            builder.append(name)
        assert builder.build(growing=True).positions(where) == [p for p in whole if p < length]


def test_positions_still_to_come_are_no_error_only_while_a_layout_grows():
    growing = Layout(("question", "open"), 1, (Segment(1, (), None),), growing=True)
    assert growing.positions(positions([0, 2, 99])) == [0]
    assert growing.positions(positions([-1, 1])) == [1]  # the end is not known yet
    assert growing.positions(~positions([5])) == [0, 1]
    with pytest.raises(SubsetError, match=r"positions \[2, 99\] are outside the sequence of 2"):
        replace(growing, growing=False).positions(positions([0, 2, 99]))


@pytest.mark.parametrize("index", [2, -3, 99])
def test_a_segment_that_is_not_there_holds_no_position(index: int):
    assert BY_HAND.positions(segment(index)) == []


def test_positions_count_from_the_end_when_negative_and_forget_order_and_repeats():
    assert BY_HAND.positions(positions([-1, 3, 3, 0, -20])) == [0, 3, 19]
    assert BY_HAND.positions(positions(range(2, 0, -1))) == [1, 2]
    assert BY_HAND.positions(positions([])) == []


@pytest.mark.parametrize("outside", [20, -21])
def test_a_position_outside_the_sequence_is_an_error(outside: int):
    with pytest.raises(SubsetError, match=rf"positions \[{outside}\] are outside .* 20 positions"):
        BY_HAND.positions(positions([0, outside]))


def test_a_subset_combines_with_subsets_only():
    for combine in (lambda: lp.SLOTS | [3], lambda: lp.SLOTS & 3, lambda: lp.SLOTS - "slot"):
        with pytest.raises(SubsetError, match=r"combines with another subset, got .*positions\("):
            combine()


def test_an_unknown_role_is_refused_with_the_list_of_roles():
    with pytest.raises(SubsetError, match=r"unknown role 'slots'; a role is one of system, image"):
        role("slots")
    with pytest.raises(SubsetError, match=r"unknown roles \['latent', 'visual'\]"):
        Layout(("visual", "latent", "slot"), 0)


@pytest.mark.parametrize("n_prompt", [-1, 3])
def test_a_prompt_longer_than_the_sequence_is_refused(n_prompt: int):
    with pytest.raises(SubsetError, match=f"n_prompt={n_prompt}, but there are 2 positions"):
        Layout(("system", "answer"), n_prompt)


def test_subset_errors_are_latentprobe_errors():
    assert issubclass(SubsetError, LatentProbeError)
    assert issubclass(EmptySubsetError, SubsetError)


def test_subsets_print_as_they_are_read():
    assert str(lp.SLOTS[0:2] | lp.MARKERS) == "(slot[0:2] | (open | close))"
    assert str(lp.SLOTS[::2] & ~lp.IMAGE) == "(slot[::2] & ~image)"
    assert str(lp.ALL - segment(1)) == "(all & ~segment(1))"
    assert str(positions([3, -1])) == "positions([3, -1])"
    assert str(lp.SLOTS) == str(role("slot")) == "slot"
    assert str(image_region((0, 1, 2, 3))) == "image_region((0.0, 1.0, 2.0, 3.0), image=0)"


def test_a_layout_knows_its_response_slots_steps_and_runs():
    assert len(BY_HAND) == 20
    assert BY_HAND.response == range(8, 20)
    assert BY_HAND.slots == [9, 10, 11, 15, 16]
    steps_of = {position: BY_HAND.step(position) for position in range(20)}
    assert {p: step for p, step in steps_of.items() if step is not None} == {
        9: 0,
        10: 1,
        11: 2,
        15: 0,
        16: 1,
    }
    assert BY_HAND.runs()[:4] == [
        ("system", 0, 1),
        ("image", 1, 4),
        ("system", 5, 1),
        ("question", 6, 2),
    ]
    assert BY_HAND.runs()[-1] == ("pad", 19, 1)


def test_an_empty_layout_has_no_positions_and_no_runs():
    empty = Layout((), 0)
    assert empty.positions(lp.ALL) == []
    assert empty.runs() == []
    assert empty.slots == []


def test_the_base_class_leaves_the_choice_to_its_children():
    with pytest.raises(TypeError, match="abstract"):
        Subset()


# --- by law --------------------------------------------------------------------------------------


@given(plans, subsets, subsets)
def test_combinations_of_subsets_are_combinations_of_sets(plan: list, a: Subset, b: Subset):
    layout = laid_out(plan)
    everything = set(range(len(layout)))
    in_a, in_b = set(layout.positions(a)), set(layout.positions(b))
    assert set(layout.positions(a | b)) == in_a | in_b
    assert set(layout.positions(a & b)) == in_a & in_b
    assert set(layout.positions(a - b)) == in_a - in_b
    assert set(layout.positions(~a)) == everything - in_a


@given(plans, subsets, subsets)
def test_de_morgan_and_absorption_hold(plan: list, a: Subset, b: Subset):
    layout = laid_out(plan)
    assert layout.positions(~(a | b)) == layout.positions(~a & ~b)
    assert layout.positions(~(a & b)) == layout.positions(~a | ~b)
    assert layout.positions(a | (a & b)) == layout.positions(a)
    assert layout.positions(~~a) == layout.positions(a)


@given(plans, subsets)
def test_positions_are_ascending_and_distinct(plan: list, a: Subset):
    layout = laid_out(plan)
    chosen = layout.positions(a)
    assert all(left < right for left, right in pairwise(chosen))


@given(plans)
def test_every_position_has_exactly_one_role(plan: list):
    layout = laid_out(plan)
    counts = [0] * len(layout)
    for name in ROLES:
        for position in layout.positions(role(name)):
            counts[position] += 1
    assert counts == [1] * len(layout)


@given(plans, steps, steps)
def test_a_slice_of_slots_is_the_slice_of_each_segments_list(plan: list, i, j):
    layout = laid_out(plan)
    naive = [position for one in layout.segments for position in list(one.slots)[i:j]]
    assert layout.positions(lp.SLOTS[i:j]) == naive


@given(plans, st.integers(-5, 5))
def test_one_step_of_slots_is_that_step_of_every_segment_long_enough(plan: list, k: int):
    layout = laid_out(plan)
    naive = []
    for one in layout.segments:
        try:
            naive.append(one.slots[k])
        except IndexError:
            continue
    assert layout.positions(lp.SLOTS[k]) == naive


@given(plans)
def test_segments_together_are_markers_and_slots(plan: list):
    layout = laid_out(plan)
    together = [p for k in range(len(layout.segments)) for p in layout.positions(segment(k))]
    assert together == layout.positions(lp.MARKERS | lp.SLOTS)
    from_last = [layout.positions(segment(-1 - k)) for k in range(len(layout.segments))]
    assert [p for part in reversed(from_last) for p in part] == together


@given(plans)
def test_the_step_of_a_position_finds_the_position_again(plan: list):
    layout = laid_out(plan)
    for position in range(len(layout)):
        step = layout.step(position)
        assert (step is not None) == (layout.roles[position] == "slot")
        assert step is None or position in layout.positions(lp.SLOTS[step])


@given(plans)
def test_runs_laid_end_to_end_are_the_roles(plan: list):
    layout = laid_out(plan)
    runs = layout.runs()
    assert [name for name, _, count in runs for _ in range(count)] == list(layout.roles)
    assert [start for _, start, _ in runs] == [
        sum(count for _, _, count in runs[:i]) for i in range(len(runs))
    ]
    assert all(a[0] != b[0] for a, b in pairwise(runs))


@given(plans, st.data())
def test_a_builder_fed_the_roles_rebuilds_a_layout(plan: list, data):
    layout = laid_out(plan)
    # what a builder can tell from roles alone: split after each close and before each open
    start = data.draw(st.integers(0, len(layout)))
    builder = LayoutBuilder(list(layout.roles[:start]), layout.images)
    added = [builder.append(name) for name in layout.roles[start:]]
    built = builder.build()
    assert added == list(range(start, len(layout)))
    assert built.roles == layout.roles
    assert built.n_prompt == start
    inside = [p for k in range(len(built.segments)) for p in built.positions(segment(k))]
    assert inside == [p for p in layout.positions(lp.MARKERS | lp.SLOTS) if p >= start]


# --- image regions -------------------------------------------------------------------------------


def test_an_image_region_falls_on_the_merged_patches_it_overlaps():
    # two images: 2 x 2 patches of 28 pixels at positions 0-3; 2 rows x 3 columns over 30 x 20
    # pixels (patches of 10 x 10) at positions 5-10
    layout = Layout(
        (*["image"] * 4, "system", *["image"] * 6),
        11,
        images=(ImageGrid(0, 2, 2, 56, 56), ImageGrid(5, 2, 3, 30, 20)),
    )
    assert layout.positions(image_region((0, 0, 28, 28))) == [0]
    assert layout.positions(image_region((27, 27, 29, 29))) == [0, 1, 2, 3]
    assert layout.positions(image_region((28, 0, 56, 56))) == [1, 3]
    assert layout.positions(image_region((27.5, 0, 27.9, 1))) == [0]
    assert layout.positions(image_region((10, 0, 20, 10), image=1)) == [6]
    assert layout.positions(image_region((0, 10, 30, 11), image=1)) == [8, 9, 10]
    assert layout.positions(image_region((-9, -9, 999, 999), image=1)) == [5, 6, 7, 8, 9, 10]
    assert layout.positions(image_region((30, 0, 40, 20), image=1)) == []


def meets(pixel: int, patch: int, size: int, patches: int) -> bool:
    """Whether [pixel, pixel + 1) meets [patch * size / patches, (patch + 1) * size / patches)."""
    return (pixel + 1) * patches > patch * size and pixel * patches < (patch + 1) * size


@given(st.lists(image, min_size=1, max_size=3), st.data())
def test_an_image_region_is_the_patches_of_its_pixels(pictures: list, data):
    layout = laid_out([["system"], *pictures, ["question"]])
    grids = layout.images
    which = data.draw(st.integers(0, len(grids) - 1))
    grid = grids[which]
    left, right = sorted(data.draw(st.tuples(*[st.integers(0, grid.width)] * 2)))
    top, bottom = sorted(data.draw(st.tuples(*[st.integers(0, grid.height)] * 2)))
    right, bottom = right + (left == right), bottom + (top == bottom)
    naive = {
        grid.start + r * grid.columns + c
        for x in range(left, min(right, grid.width))
        for y in range(top, min(bottom, grid.height))
        for r in range(grid.rows)
        for c in range(grid.columns)
        if meets(x, c, grid.width, grid.columns) and meets(y, r, grid.height, grid.rows)
    }
    box = (left, top, right, bottom)
    assert layout.positions(image_region(box, image=which)) == sorted(naive)


def test_a_box_that_ends_on_a_patch_border_does_not_touch_the_next_patch():
    # 77 patches over 5 pixels end at 4.999... when 5 / 77 is rounded before it is multiplied
    for size, cells in [(size, cells) for size in range(1, 120) for cells in range(1, 40)]:
        for border in [c for c in range(1, cells) if c * size % cells == 0]:
            grid = ImageGrid(0, 1, cells, size, 1)
            layout = Layout(("image",) * cells, 0, images=(grid,))
            at = border * size // cells
            assert layout.positions(image_region((0, 0, at, 1)))[-1] == border - 1
            assert layout.positions(image_region((at, 0, size, 1)))[0] == border


@pytest.mark.parametrize("image", [-1, 1])
def test_a_region_of_an_image_that_is_not_there_is_an_error(image: int):
    with pytest.raises(SubsetError, match=rf"image {image} does not exist: .* 1 images"):
        BY_HAND.positions(image_region((0, 0, 1, 1), image=image))


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 5), (5, 0, 4, 5), (0, 3, 5, 3), (0, 0, 1), (0, 0, 1, 1, 1), (0, 0, 1, np.nan)]
)
def test_an_empty_or_misshapen_box_is_an_error(box: tuple):
    with pytest.raises(SubsetError, match=r"\(left, top, right, bottom\) in pixels"):
        image_region(box)


# --- growing a layout ----------------------------------------------------------------------------


def grown(*names: str) -> Layout:
    builder = LayoutBuilder(["system", "question"])
    for name in names:
        builder.append(name)
    return builder.build()


def test_a_builder_keeps_the_prompt_and_its_images():
    grid = ImageGrid(0, 1, 2, 8, 8)
    built = LayoutBuilder(["image", "image", "question"], (grid,)).build()
    assert (built.n_prompt, built.images, built.segments) == (3, (grid,), ())
    assert list(built.response) == []


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("open", "slot", "slot", "close"), (Segment(2, (3, 4), 5),)),
        (("open", "close"), (Segment(2, (), 3),)),
        (("open", "slot"), (Segment(2, (3,), None),)),
        (("slot", "slot", "close"), (Segment(None, (2, 3), 4),)),
        (("close",), (Segment(None, (), 2),)),
        (("open", "slot", "close", "slot"), (Segment(2, (3,), 4), Segment(None, (5,), None))),
        (
            ("open", "slot", "close", "reasoning", "open", "slot", "close"),
            (Segment(2, (3,), 4), Segment(6, (7,), 8)),
        ),
        (("open", "slot", "open", "slot"), (Segment(2, (3,), None), Segment(4, (5,), None))),
        (("open", "close", "close"), (Segment(2, (), 3), Segment(None, (), 4))),
        (("reasoning", "answer"), ()),
    ],
)
def test_markers_open_and_close_segments_as_they_come(names, expected):
    assert grown(*names).segments == expected


def test_a_builder_awaits_a_close_only_while_a_segment_is_open():
    builder = LayoutBuilder(["question"])
    waiting = [builder.awaits_close()]
    for name in ("open", "slot", "close", "answer", "slot"):
        builder.append(name)
        waiting.append(builder.awaits_close())
    assert waiting == [False, True, True, False, False, True]


def test_a_layout_already_built_does_not_grow_with_its_builder():
    builder = LayoutBuilder(["question"])
    builder.append("open")
    before = builder.build()
    builder.append("slot")
    assert (len(before), before.segments) == (2, (Segment(1, (), None),))


def test_a_builder_given_an_unknown_role_cannot_be_built():
    builder = LayoutBuilder(["question"])
    builder.append("thought")
    with pytest.raises(SubsetError, match=r"unknown roles \['thought'\]"):
        builder.build()
