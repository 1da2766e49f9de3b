"""The vocabulary of hook points, laid out over layers, found by name and by pattern."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentprobe.axes import AXES
from latentprobe.errors import UnknownNameError
from latentprobe.hookpoints import BLOCK_POINTS, LATENT_POINTS, HookPoint, HookPoints

POINTS = HookPoints.for_model(n_layers=3, latent=True)


def test_a_model_has_every_kind_on_every_layer_and_the_recurrences_own_points():
    assert len(POINTS) == 3 * 10 + 2
    names = [point.name for point in POINTS]
    assert names[0] == "blocks.0.hook_resid_pre"
    assert names[29:] == ["blocks.2.hook_resid_post", "latent.hook_state", "latent.hook_fed"]
    assert len(set(names)) == 32


def test_a_model_without_latents_lacks_the_recurrences_points():
    plain = HookPoints.for_model(n_layers=3, latent=False)
    assert [p.name for p in plain] == [p.name for p in POINTS if p.layer is not None]
    assert "latent.hook_fed" not in plain


def test_the_points_of_a_block_come_in_the_order_of_the_computation():
    kinds = [point.kind for point in POINTS.select("blocks.1.*")]
    assert kinds == [
        "hook_resid_pre",
        "attn.hook_q",
        "attn.hook_k",
        "attn.hook_v",
        "attn.hook_pattern",
        "attn.hook_z",
        "hook_attn_out",
        "hook_resid_mid",
        "hook_mlp_out",
        "hook_resid_post",
    ]


def test_a_point_is_found_by_name_and_by_number():
    point = POINTS["blocks.2.attn.hook_pattern"]
    assert point is POINTS[2 * 10 + 4]
    assert (point.kind, point.layer) == ("attn.hook_pattern", 2)
    assert (point.axes, point.row_axis, point.head_axis) == (("head", "query", "key"), 1, 0)
    assert POINTS[-1].name == "latent.hook_fed"
    assert POINTS[-1].layer is None
    assert [p.name for p in POINTS[:2]] == ["blocks.0.hook_resid_pre", "blocks.0.attn.hook_q"]


@pytest.mark.parametrize(
    ("name", "row_axis", "head_axis"),
    [
        ("blocks.0.hook_resid_post", 0, None),
        ("blocks.0.attn.hook_z", 0, 1),
        ("blocks.0.attn.hook_pattern", 1, 0),
        ("latent.hook_fed", 0, None),
    ],
)
def test_a_point_knows_its_row_and_head_axes(name: str, row_axis: int, head_axis: int | None):
    assert (POINTS[name].row_axis, POINTS[name].head_axis) == (row_axis, head_axis)


def test_every_kind_names_its_axes_from_the_glossary_and_says_what_stands_there():
    for kind in (BLOCK_POINTS | LATENT_POINTS).values():
        assert set(kind.axes) <= set(AXES)
        assert kind.note
    assert all(point.readable and point.writable for point in POINTS)


def test_a_point_is_contained_by_name_and_by_itself():
    assert "blocks.2.hook_mlp_out" in POINTS
    assert "blocks.3.hook_mlp_out" not in POINTS
    assert POINTS[5] in POINTS
    elsewhere = HookPoint("blocks.9.hook_q", "hook_q", 9, ("pos",), True, True, "")
    assert elsewhere not in POINTS


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("*", 32),
        ("blocks.*.hook_resid_post", 3),
        ("blocks.[02].hook_resid_*", 6),
        (["blocks.0.*", "blocks.0.hook_resid_pre", "latent.*"], 12),
        ("blocks.1.attn.hook_?", 4),
    ],
)
def test_patterns_select_points(pattern, count: int):
    assert len(POINTS.select(pattern)) == count


def test_a_selection_keeps_the_models_order_whatever_the_order_of_patterns():
    chosen = POINTS.select(["latent.hook_fed", "blocks.1.hook_resid_mid", "blocks.0.hook_mlp_out"])
    assert [point.name for point in chosen] == [
        "blocks.0.hook_mlp_out",
        "blocks.1.hook_resid_mid",
        "latent.hook_fed",
    ]


names = st.sampled_from([point.name for point in POINTS])


@given(st.lists(names, min_size=1, max_size=5))
def test_selecting_names_gives_exactly_those_points(chosen: list[str]):
    assert {point.name for point in POINTS.select(chosen)} == set(chosen)


@given(st.sampled_from(["blocks.*", "*hook_q", "*.[12].*", "latent*", "*resid*"]))
def test_a_pattern_means_what_it_means_in_a_shell(pattern: str):
    naive = [point.name for point in POINTS if fnmatch.fnmatchcase(point.name, pattern)]
    assert [point.name for point in POINTS.select(pattern)] == naive


def test_an_unknown_point_offers_the_nearest_names():
    with pytest.raises(
        UnknownNameError,
        match=r"unknown hook point 'blocks.1.hook_resid_pst'. Did you mean "
        r"'blocks.1.hook_resid_post', .* and 12 more",
    ):
        POINTS["blocks.1.hook_resid_pst"]


def test_one_pattern_without_a_match_spoils_the_selection():
    with pytest.raises(UnknownNameError, match=r"unknown hook point 'blocks\.7\.\*'"):
        POINTS.select(["blocks.0.*", "blocks.7.*"])
    with pytest.raises(IndexError):
        POINTS[99]


def test_a_registry_of_points_prints_its_kinds():
    assert repr(POINTS.select(["blocks.*.hook_mlp_out", "latent.hook_fed"])) == (
        "HookPoints(4 points: blocks.{l}.hook_mlp_out, latent.hook_fed)"
    )
