"""Zero, mean, resample, patch and noise: by hand and against plain loops."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import latentprobe as lp
from latentprobe.edits import Activations, Context
from latentprobe.errors import EditError
from latentprobe.interventions import Bank

HOOK = "latent.hook_fed"
HEADS = "blocks.0.attn.hook_z"
SLOTS = Context(HOOK, None, ("slot", "d_model"), (5, 6), ("slot", "slot"), (0, 1))
ROWS = replace(SLOTS, hook=HEADS, layer=0, axes=("pos", "head", "d_head"))
X = torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.0, 4.0]])


def acts(tensors: dict[str, Tensor], steps: tuple[int | None, ...] = (0, 1)) -> Activations:
    count = len(steps)
    return Activations(tensors, tuple(range(5, 5 + count)), ("slot",) * count, steps)


@pytest.fixture
def bank() -> Bank:
    """Two donors of two slots; per head at the second hook point."""
    first = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 4.0]])
    second = torch.tensor([[5.0, 1.0, 6.0], [7.0, 3.0, 0.0]])
    heads = torch.arange(16.0).reshape(2, 4, 2)
    return Bank.of({
        "first": acts({HOOK: first, HEADS: heads}),
        "second": acts({HOOK: second, HEADS: heads + 100}),
    })


def test_zero_replaces_by_zeros_of_the_same_kind():
    out = lp.zero()(X.half(), SLOTS)
    assert out.dtype == torch.float16
    assert torch.equal(out, torch.zeros(2, 3, dtype=torch.float16))


# --- mean ----------------------------------------------------------------------------------------


def test_mean_is_the_mean_over_donors_and_rows(bank: Bank):
    out = lp.mean(bank)(X, SLOTS)
    torch.testing.assert_close(out, torch.tensor([[4.0, 1.0, 3.0]]).expand(2, 3))


def test_mean_takes_the_heads_being_edited(bank: Bank):
    cut = replace(ROWS, heads=(1, 3))
    out = lp.mean(bank)(torch.zeros(2, 2, 2), cut)
    # heads 1 and 3 of the mean over rows (h * 2 + d, plus 8 for row 1, plus 100 for donor 2)
    expected = torch.tensor([[2.0 + 54, 3 + 54], [6 + 54, 7 + 54]])
    torch.testing.assert_close(out, expected.expand(2, 2, 2))
    assert lp.mean(bank)(torch.zeros(2, 4, 2), ROWS).shape == (2, 4, 2)


def test_mean_of_a_hook_point_the_bank_lacks_is_an_error(bank: Bank):
    with pytest.raises(
        EditError, match=r"holds nothing at 'blocks.9.hook_mlp_out'; it was read at"
    ):
        lp.mean(bank)(X, replace(SLOTS, hook="blocks.9.hook_mlp_out"))


# --- resample ------------------------------------------------------------------------------------


def test_resample_gives_the_donors_rows_of_the_same_steps(bank: Bank):
    whole = lp.resample(bank, donor="second")(X, SLOTS)
    torch.testing.assert_close(whole, torch.tensor([[5.0, 1.0, 6.0], [7.0, 3.0, 0.0]]))
    swapped = replace(SLOTS, positions=(6, 5), steps=(1, 0))
    torch.testing.assert_close(lp.resample(bank, donor="second")(X, swapped), whole.flip(0))
    alone = replace(SLOTS, positions=(6,), roles=("slot",), steps=(1,))
    torch.testing.assert_close(lp.resample(bank, donor="second")(X[1:], alone), whole[1:])


def test_resample_takes_the_heads_being_edited(bank: Bank):
    out = lp.resample(bank, donor="first")(torch.zeros(2, 1, 2), replace(ROWS, heads=(2,)))
    torch.testing.assert_close(out, torch.tensor([[[4.0, 5.0]], [[12.0, 13.0]]]))


def test_resample_keeps_the_activations_number_format(bank: Bank):
    assert lp.resample(bank, donor="first")(X.half(), SLOTS).dtype == torch.float16


@pytest.mark.parametrize(
    ("steps", "donor", "message"),
    [
        ((0, 1), "third", r"no donor 'third'; it holds 2 donors"),
        ((0, 2), "first", r"the donor has latent steps \(0, 1\), the edit needs \(0, 2\)"),
        ((0, None), "first", r"donors are aligned by latent step, so edit slots only"),
    ],
)
def test_resample_without_the_donor_or_its_step_is_an_error(bank, steps, donor, message):
    with pytest.raises(EditError, match=message):
        lp.resample(bank, donor=donor)(X, replace(SLOTS, steps=steps))


# --- patch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: {HOOK: v}, lambda v: acts({HOOK: v})])
def test_patch_gives_the_values_of_a_tensor_a_mapping_or_activations(wrap):
    value = torch.full((2, 3), 7.0)
    assert torch.equal(lp.patch(wrap(value))(X, SLOTS), value)
    assert lp.patch(wrap(value))(X.half(), SLOTS).dtype == torch.float16


def test_patch_cuts_whole_values_down_to_the_heads_being_edited():
    value = torch.arange(16.0).reshape(2, 4, 2)
    cut = replace(ROWS, heads=(3, 0))
    out = lp.patch(value)(torch.zeros(2, 2, 2), cut)
    assert torch.equal(out, value[:, [3, 0]])
    assert torch.equal(lp.patch(out)(torch.zeros(2, 2, 2), cut), out)


def test_patch_without_a_value_for_the_hook_point_is_an_error():
    with pytest.raises(EditError, match=r"patch: no value for 'latent.hook_fed'; values were .* a"):
        lp.patch({"a": X})(X, SLOTS)


def test_patch_of_another_number_of_rows_is_an_error():
    with pytest.raises(EditError, match=r"shape \(3, 3\), the edited positions \(5, 6\) need \(2"):
        lp.patch(torch.zeros(3, 3))(X, SLOTS)


# --- noise ---------------------------------------------------------------------------------------


def lengths(rows: Tensor) -> list[float]:
    return [math.sqrt(sum(float(v) ** 2 for v in row)) for row in rows]


def test_raw_noise_is_the_drawn_noise_times_sigma():
    torch.testing.assert_close(lp.noise(2.5)(X, SLOTS), 2.5 * SLOTS.normal_like(X))
    assert torch.equal(lp.noise(0)(X, SLOTS), torch.zeros(2, 3))


@pytest.mark.parametrize("sigma", [1.0, 0.25])
def test_norm_noise_has_sigma_times_the_rows_own_length(sigma: float):
    out = lp.noise(sigma, scale="norm")(X, SLOTS)
    assert lengths(out) == pytest.approx([sigma * length for length in lengths(X)])
    # sqrt(1 + 4 + 9) and sqrt(0.25 + 16)
    assert lengths(out) == pytest.approx([sigma * 3.7416574, sigma * 4.0311289])
    drawn = SLOTS.normal_like(X)
    cosine = torch.nn.functional.cosine_similarity(out, drawn, dim=-1)
    torch.testing.assert_close(cosine, torch.ones(2))


def test_norm_noise_of_heads_keeps_the_length_of_every_head():
    values = torch.arange(1.0, 17.0).reshape(2, 4, 2)
    out = lp.noise(1.0, scale="norm")(values, ROWS)
    assert lengths(out.flatten(0, 1)) == pytest.approx(lengths(values.flatten(0, 1)))


def test_distribution_noise_has_the_banks_mean_and_spread(bank: Bank):
    out = lp.noise(2.0, scale="distribution", bank=bank)(X, SLOTS)
    # columns 1 3 5 7, 0 0 1 3 and 2 4 6 0: means 4, 1, 3; population variances 5, 1.5, 5
    spread = torch.tensor([math.sqrt(5), math.sqrt(1.5), math.sqrt(5)])
    by_hand = torch.tensor([4.0, 1.0, 3.0]) + 2.0 * spread * SLOTS.normal_like(X)
    torch.testing.assert_close(out, by_hand)


def test_distribution_noise_of_heads_takes_the_heads_being_edited(bank: Bank):
    whole = lp.noise(0.0, scale="distribution", bank=bank)(torch.zeros(2, 4, 2), ROWS)
    cut = replace(ROWS, heads=(3, 1))
    some = lp.noise(0.0, scale="distribution", bank=bank)(torch.zeros(2, 2, 2), cut)
    torch.testing.assert_close(some, whole[:, [3, 1]])
    torch.testing.assert_close(whole, lp.mean(bank)(torch.zeros(2, 4, 2), ROWS).contiguous())


def test_distribution_noise_over_many_rows_has_the_banks_moments(bank: Bank):
    count = 4000
    many = replace(
        SLOTS, positions=tuple(range(count)), roles=("slot",) * count, steps=(0,) * count
    )
    out = lp.noise(1.0, scale="distribution", bank=bank)(torch.zeros(count, 3), many)
    torch.testing.assert_close(out.mean(0), bank.mean(HOOK), atol=0.15, rtol=0)
    torch.testing.assert_close(out.std(0), bank.std(HOOK), atol=0.1, rtol=0)


@pytest.mark.parametrize("scale", ["raw", "norm"])
def test_additive_noise_is_the_activation_plus_the_replacement(scale):
    replaced = lp.noise(0.5, scale=scale)(X, SLOTS)
    added = lp.noise(0.5, scale=scale, additive=True)(X, SLOTS)
    torch.testing.assert_close(added, X + replaced)


def test_additive_distribution_noise_adds_the_spread_but_not_the_mean(bank: Bank):
    added = lp.noise(1.5, scale="distribution", bank=bank, additive=True)(X, SLOTS)
    torch.testing.assert_close(added, X + 1.5 * bank.std(HOOK) * SLOTS.normal_like(X))


@pytest.mark.parametrize("sigma", [-0.1, float("nan")])
def test_a_sigma_below_zero_or_not_a_number_is_an_error(sigma: float):
    with pytest.raises(EditError, match="sigma is at least 0, scale one of 'raw', 'norm'"):
        lp.noise(sigma)


def test_a_bank_goes_with_distribution_and_with_nothing_else(bank: Bank):
    with pytest.raises(EditError, match="a bank goes with scale='distribution'"):
        lp.noise(scale="distribution")
    with pytest.raises(EditError, match="and with no other scale"):
        lp.noise(bank=bank)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("make", ["raw", "norm", "distribution"])
def test_noise_keeps_the_activations_number_format(bank: Bank, dtype, make):
    its_bank = bank if make == "distribution" else None
    out = lp.noise(1.0, scale=make, bank=its_bank)(X.to(dtype), SLOTS)
    assert (out.dtype, out.shape) == (dtype, X.shape)
    assert bool(out.isfinite().all())


def test_interventions_leave_the_activation_they_are_given_as_it_was(bank: Bank):
    before = X.clone()
    for do in (
        lp.zero(),
        lp.mean(bank),
        lp.resample(bank, donor="first"),
        lp.patch(torch.ones(2, 3)),
        lp.noise(1.0, additive=True),
    ):
        do(X, SLOTS)
        assert torch.equal(X, before)
