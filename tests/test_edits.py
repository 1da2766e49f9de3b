"""Edits, knockouts, what an intervention gets to see, and its random numbers."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from scipy import stats
from torch import Tensor

import latentprobe as lp
from latentprobe.edits import Activations, Context, Edit, Knockout, knockout
from latentprobe.errors import EditError

HERE = Context(
    "blocks.1.attn.hook_z",
    1,
    ("pos", "head", "d_head"),
    (4, 7, 9),
    ("open", "slot", "slot"),
    (None, 0, 1),
    seed=3,
    edit=2,
)


def same(activation: Tensor, context: Context) -> Tensor:
    return activation


# --- labels and validation -----------------------------------------------------------------------


def test_an_edits_label_names_its_hook_points_and_its_subset():
    one = Edit("blocks.2.hook_resid_post", where=lp.SLOTS[0:1] | lp.MARKERS, do=same)
    two = Edit(["blocks.0.*", "latent.hook_fed"], where=lp.SLOTS, do=same)
    assert one.label == "blocks.2.hook_resid_post@(slot[0:1] | (open | close))"
    assert two.label == "blocks.0.*,latent.hook_fed@slot"


def test_a_knockouts_label_names_the_edges():
    assert knockout(queries=lp.ANSWER, keys=lp.SLOTS).label == "knockout answer->slot"
    assert knockout(queries=~lp.IMAGE, keys=lp.IMAGE).label == "knockout ~image->image"


def test_lists_become_tuples_so_that_an_edit_cannot_change_under_its_user():
    hooks, heads, layers = ["blocks.0.attn.hook_z"], [0, 2], [1]
    edit = Edit(hooks, where=lp.SLOTS, do=same, heads=heads)
    cut = knockout(queries=lp.ANSWER, keys=lp.SLOTS, layers=layers, heads=heads)
    for changed in (hooks, heads, layers):
        changed.clear()
    assert (edit.at, edit.heads) == (("blocks.0.attn.hook_z",), (0, 2))
    assert (cut.layers, cut.heads) == ((1,), (0, 2))


def test_knockout_is_the_dataclass_with_the_same_fields():
    made = knockout(queries=lp.ANSWER, keys=lp.SLOTS, layers=range(2), heads=[3], allow_empty=True)
    assert made == Knockout(lp.ANSWER, lp.SLOTS, (0, 1), (3,), True)
    assert knockout(queries=lp.ANSWER, keys=lp.SLOTS) == Knockout(lp.ANSWER, lp.SLOTS, None, None)


def test_an_edits_defaults_are_all_heads_and_no_empty_subset():
    edit = Edit("latent.hook_fed", where=lp.SLOTS, do=lp.zero())
    assert (edit.heads, edit.allow_empty) == (None, False)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Edit("latent.hook_fed", where=[3, 4], do=same),
        lambda: Edit("latent.hook_fed", where=lp.SLOTS, do=0),
        lambda: knockout(queries=[1], keys=lp.SLOTS),
        lambda: knockout(queries=lp.SLOTS, keys="slot"),
    ],
)
def test_the_type_checker_refuses_what_is_not_a_subset_or_not_callable(make):
    with pytest.raises(TypeCheckError):
        make()


WITHOUT_THE_TYPE_CHECKER = """
import latentprobe as lp
from latentprobe.errors import EditError

def refused(make):
    try:
        make()
    except EditError as error:
        return str(error)

print(refused(lambda: lp.Edit("latent.hook_fed", where=[3, 4], do=lp.zero())))
print(refused(lambda: lp.Edit("latent.hook_fed", where=lp.SLOTS, do=0)))
print(refused(lambda: lp.knockout(queries=[1], keys=lp.SLOTS)))
print(refused(lambda: lp.knockout(queries=lp.SLOTS, keys="slot")))
print(refused(lambda: lp.noise(1.0, scale="loud")))
"""


def test_without_the_type_checker_wrong_kinds_are_refused_in_words():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_TYPE_CHECKER],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("`where` is a token subset such as lp.SLOTS, got [3, 4]")
    assert lines[1] == "`do` is a callable (activation, context), got 0"
    assert lines[2] == "`queries` is a token subset, got [1]"
    assert lines[3] == "`keys` is a token subset, got 'slot'"
    assert lines[4].startswith("noise(1.0, scale='loud'): sigma is at least 0, scale one of 'raw'")


# --- random numbers ------------------------------------------------------------------------------


def test_the_row_axis_is_the_one_that_runs_over_positions():
    assert HERE.row_axis == 0
    assert replace(HERE, axes=("head", "query", "key")).row_axis == 1
    assert replace(HERE, axes=("slot", "d_model")).row_axis == 0


def test_row_seeds_are_the_first_seven_bytes_of_a_hash():
    by_hand = hashlib.sha256(b"3/2/blocks.1.attn.hook_z//7").hexdigest()[:14]
    assert HERE.row_seeds()[1] == int(by_hand, 16)
    salted = hashlib.sha256(b"3/2/blocks.1.attn.hook_z/again/9").hexdigest()[:14]
    assert HERE.row_seeds("again")[2] == int(salted, 16)


def test_noise_agrees_with_torchs_own_generator_row_by_row():
    drawn = HERE.normal_like(torch.empty(3, 4, 8))
    for row, position in enumerate(HERE.positions):
        text = f"3/2/blocks.1.attn.hook_z//{position}".encode()
        seed = int.from_bytes(hashlib.sha256(text).digest()[:7], "big")
        alone = torch.randn(4, 8, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(drawn[row], alone, rtol=0, atol=0)


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=6, unique=True).map(sorted),
    st.integers(1, 40),
    st.integers(0, 5),
)
def test_noise_is_the_same_one_position_at_a_time_and_all_at_once(positions, width, seed):
    count = len(positions)
    together = Context(
        "latent.hook_fed",
        None,
        ("slot", "d_model"),
        tuple(positions),
        ("slot",) * count,
        tuple(range(count)),
        seed=seed,
    )
    all_at_once = together.normal_like(torch.empty(count, width))
    for row in range(count):
        alone = replace(
            together,
            positions=(positions[row],),
            roles=("slot",),
            steps=together.steps[row : row + 1],
        )
        torch.testing.assert_close(alone.normal_like(torch.empty(1, width))[0], all_at_once[row])


def test_noise_is_laid_along_the_row_axis():
    pattern = replace(HERE, axes=("head", "query", "key"))
    across = pattern.normal_like(torch.empty(2, 3, 5))
    rows_first = HERE.normal_like(torch.empty(3, 2, 5))
    assert across.shape == (2, 3, 5)
    torch.testing.assert_close(across, rows_first.transpose(0, 1))


@pytest.mark.parametrize(
    "changed",
    [{"seed": 4}, {"edit": 3}, {"hook": "blocks.2.attn.hook_z"}, {"positions": (5, 8, 10)}],
)
def test_noise_differs_by_seed_edit_hook_point_and_position(changed: dict):
    shape = torch.empty(3, 4, 8)
    other = replace(HERE, **changed)
    assert not set(HERE.row_seeds()) & set(other.row_seeds())
    assert not torch.isclose(HERE.normal_like(shape), other.normal_like(shape)).any()


@pytest.mark.parametrize(
    "changed", [{"roles": ("slot",) * 3}, {"steps": (0, 1, 2)}, {"heads": (1,)}, {"layer": 7}]
)
def test_noise_does_not_depend_on_anything_else(changed: dict):
    shape = torch.empty(3, 4, 8)
    again = replace(HERE, **changed).normal_like(shape)
    torch.testing.assert_close(again, HERE.normal_like(shape), rtol=0, atol=0)


def test_noise_leaves_the_global_generator_alone_and_keeps_the_dtype():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    drawn = HERE.normal_like(torch.empty(3, 4, 8, dtype=torch.float16))
    assert drawn.dtype == torch.float16
    torch.testing.assert_close(torch.rand(3), expected)


def test_noise_is_standard_normal():
    many = replace(HERE, positions=tuple(range(200)), roles=("slot",) * 200, steps=(0,) * 200)
    drawn = many.normal_like(torch.empty(200, 5, 10)).flatten().numpy()
    assert stats.kstest(drawn, "norm").pvalue > 0.001
    assert stats.kstest(drawn, "norm", args=(0, 1.1)).pvalue < 0.001


# --- activations ---------------------------------------------------------------------------------


def test_activations_are_read_by_hook_point():
    tensors = {"a": torch.ones(2, 3), "b": torch.zeros(2, 3)}
    acts = Activations(tensors, (5, 6), ("slot", "slot"), (0, 1))
    assert list(acts) == ["a", "b"]
    assert len(acts) == 2
    assert "a" in acts
    assert "c" not in acts
    assert acts["b"].sum() == 0
    with pytest.raises(KeyError, match="c"):
        acts["c"]


def test_activations_change_their_number_format_and_nothing_else():
    acts = Activations({"a": torch.tensor([[1.5]])}, (5,), ("slot",), (0,))
    half = acts.to(dtype=torch.float16)
    assert half["a"].dtype == torch.float16
    assert half["a"].item() == 1.5
    assert acts["a"].dtype == torch.float32
    assert (half.positions, half.roles, half.steps) == ((5,), ("slot",), (0,))


def test_edit_errors_are_value_errors():
    assert issubclass(EditError, ValueError)
