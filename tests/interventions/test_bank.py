"""A bank: means, spreads and donors' rows, kept in a file and read back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latentprobe.edits import Activations, Context
from latentprobe.errors import EditError
from latentprobe.interventions import Bank
from latentprobe.tokens import MARKERS, SLOTS

HOOK = "latent.hook_fed"
HERE = Context(HOOK, None, ("slot", "d_model"), (5, 6), ("slot", "slot"), (0, 1))


def acts(tensors: dict[str, Tensor], steps: tuple[int | None, ...]) -> Activations:
    count = len(steps)
    roles = tuple("slot" if step is not None else "open" for step in steps)
    return Activations(tensors, tuple(range(count)), roles, steps)


def test_mean_and_spread_run_over_donors_and_rows():
    bank = Bank.of({
        "a": acts({HOOK: torch.tensor([[1.0, 10.0], [3.0, 10.0]])}, (0, 1)),
        "b": acts({HOOK: torch.tensor([[8.0, 10.0]])}, (0,)),
    })
    # (1 + 3 + 8) / 3 = 4; ((-3)**2 + (-1)**2 + 4**2) / 3 = 26 / 3
    torch.testing.assert_close(bank.mean(HOOK), torch.tensor([4.0, 10.0]))
    torch.testing.assert_close(bank.std(HOOK), torch.tensor([(26 / 3) ** 0.5, 0.0]))


@given(st.lists(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=4), min_size=1))
def test_mean_and_spread_agree_with_numpy(donors: list[list[float]]):
    bank = Bank.of({
        str(i): acts({HOOK: torch.tensor(rows)[:, None]}, tuple(range(len(rows))))
        for i, rows in enumerate(donors)
    })
    flat = np.concatenate([np.array(rows, dtype=np.float64) for rows in donors])
    assert float(bank.mean(HOOK)) == pytest.approx(flat.mean(), abs=1e-4)
    assert float(bank.std(HOOK)) == pytest.approx(flat.std(), abs=1e-4)


def test_a_bank_keeps_float32_copies_on_the_cpu():
    half = torch.full((1, 2), 0.1, dtype=torch.float16, requires_grad=True)
    bank = Bank.of({"a": acts({HOOK: half}, (0,))})
    kept = bank.tensors[HOOK][0]
    assert (kept.dtype, kept.requires_grad, kept.device.type) == (torch.float32, False, "cpu")


def test_a_means_accumulation_does_not_lose_small_values_among_many():
    values = torch.full((200_000, 1), 0.1)
    bank = Bank.of({"a": acts({HOOK: values}, (0,) * len(values))})
    assert float(bank.mean(HOOK)) == pytest.approx(0.1, rel=1e-7)


def test_a_bank_of_nothing_is_an_error():
    with pytest.raises(EditError, match="at least one trajectory, got none"):
        Bank.of({})


def test_a_bank_of_attention_weights_is_an_error():
    weights = acts({"blocks.0.attn.hook_pattern": torch.ones(4, 2, 7)}, (0, 1))
    with pytest.raises(
        EditError, match=r"hook_pattern has no rows to pool: its axes are \('head', 'query'"
    ):
        Bank.of({"a": weights})


def test_donors_read_at_different_hook_points_are_an_error():
    rows = torch.ones(1, 2)
    with pytest.raises(EditError, match=r"'b' was not read at 'latent.hook_fed'"):
        Bank.of({"a": acts({HOOK: rows}, (0,)), "b": acts({"x": rows}, (0,))})


# --- rows of a donor -----------------------------------------------------------------------------


def test_rows_are_aligned_by_latent_step_not_by_order():
    bank = Bank.of({"a": acts({"x": torch.tensor([[9.0], [10.0], [11.0]])}, (None, 0, 1))})
    here = replace(HERE, hook="x")
    assert bank.rows("x", "a", here).flatten().tolist() == [10.0, 11.0]
    swapped = replace(here, steps=(1, 0))
    assert bank.rows("x", "a", swapped).flatten().tolist() == [11.0, 10.0]


def test_the_recurrences_own_points_have_rows_at_slots_only():
    # read at markers and slots: four positions, but the fed vectors stand at the two slots
    wide = acts({HOOK: torch.tensor([[10.0], [11.0]])}, (None, 0, 1, None))
    assert Bank.of({"a": wide}).rows(HOOK, "a", HERE).flatten().tolist() == [10.0, 11.0]


def test_a_bank_of_a_models_own_readings_gives_each_slot_its_own_row(mediated, problems):
    t = mediated.generate(problems[0])
    acts = mediated.read(t, ["latent.*", "blocks.1.hook_resid_post"], where=SLOTS | MARKERS)
    bank = Bank.of({"a": acts})
    torch.testing.assert_close(bank.rows(HOOK, "a", HERE), t.latents.float())
    residual = acts["blocks.1.hook_resid_post"][1:3].float()
    torch.testing.assert_close(bank.rows("blocks.1.hook_resid_post", "a", HERE), residual)


@pytest.mark.parametrize("steps", [(0, 1, 0, 1), (0, 0), (None, 0, None, None, 0, None)])
def test_a_donor_with_several_segments_is_refused(steps):
    rows = torch.arange(float(len(steps)))[:, None]
    bank = Bank.of({"a": acts({"x": rows}, steps)})
    for asked in ((0, 1), (0, 0)):
        here = replace(HERE, hook="x", steps=asked)
        with pytest.raises(EditError, match=r"x: the donor has latent steps .* several segments"):
            bank.rows("x", "a", here)


def test_markers_around_one_segment_are_not_several(tmp_path: Path):
    bank = Bank.of({"a": acts({"x": torch.arange(4.0)[:, None]}, (None, 0, 1, None))})
    for one in (bank, round_trip(bank, tmp_path)):
        assert one.rows("x", "a", replace(HERE, hook="x")).flatten().tolist() == [1.0, 2.0]


# --- files ---------------------------------------------------------------------------------------


def round_trip(bank: Bank, folder: Path) -> Bank:
    bank.save(folder / "bank.safetensors")
    return Bank.open(folder / "bank.safetensors")


def assert_same(one: Bank, other: Bank):
    assert (one.keys, one.steps) == (other.keys, other.steps)
    assert set(one.tensors) == set(other.tensors)
    for hook, tensors in one.tensors.items():
        for mine, theirs in zip(tensors, other.tensors[hook], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_a_bank_read_back_is_the_bank_written(tmp_path: Path):
    bank = Bank.of({
        "p,1|x": acts(
            {HOOK: torch.randn(2, 3), "blocks.0.attn.hook_z": torch.randn(2, 4, 2)}, (0, 1)
        ),
        "q": acts(
            {HOOK: torch.randn(3, 3), "blocks.0.attn.hook_z": torch.randn(3, 4, 2)}, (None, 0, 1)
        ),
    })
    assert_same(round_trip(bank, tmp_path), bank)


steps = st.lists(st.one_of(st.none(), st.integers(0, 12)), max_size=4).map(tuple)


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(st.text(max_size=5), steps, min_size=1, max_size=3))
def test_any_names_and_steps_survive_the_file(tmp_path_factory, donors):
    bank = Bank.of({name: acts({HOOK: torch.ones(len(s), 2)}, s) for name, s in donors.items()})
    assert_same(round_trip(bank, tmp_path_factory.mktemp("bank")), bank)


def test_donors_that_share_memory_can_be_written(tmp_path: Path):
    shared = torch.randn(4, 3)
    bank = Bank.of({"a": acts({HOOK: shared[:2]}, (0, 1)), "b": acts({HOOK: shared[1:3]}, (0, 1))})
    assert_same(round_trip(bank, tmp_path), bank)
