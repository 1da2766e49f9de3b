"""What a slot (or any position) holds, replaced: zero, mean, resample, patch, noise.

Each function returns an intervention: arithmetic on `(activation, context)` that knows no model.
Random ones draw from seeds that are a function of (trial seed, edit, hook point, position), so that
a replay and a generation with the same seed see the same draws.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from latentprobe.edits import Activations, Context, Intervention
from latentprobe.errors import EditError
from latentprobe.interventions.bank import Bank

NoiseScale = Literal["raw", "norm", "distribution"]


def zero() -> Intervention:
    """Replace by zeros. A zeroed position still takes part in attention: it is not masked.

    Example:
        >>> zero()(torch.ones(2), None)
        tensor([0., 0.])
    """
    return lambda activation, context: torch.zeros_like(activation)


def mean(bank: Bank) -> Intervention:
    """Replace every row by the bank's mean at the same hook point, over donors and rows.

    Args:
        bank: Activations read at the same hook points.

    Raises:
        EditError: (when applied) The bank holds nothing at the hook point.
    """

    def replace(activation: Tensor, context: Context) -> Tensor:
        value = bank.mean(context.hook).to(activation.device, activation.dtype)
        return _heads(value[None], context).expand_as(activation)

    return replace


def resample(bank: Bank, *, donor: str) -> Intervention:
    """Replace every row by a donor's row of the same latent step.

    Args:
        bank: Activations read at the same hook points.
        donor: The donor's name in the bank (a problem's content hash).

    Raises:
        EditError: (when applied) The bank lacks the donor, the hook point or a step.
    """

    def replace(activation: Tensor, context: Context) -> Tensor:
        rows = bank.rows(context.hook, donor, context)
        return _heads(rows.to(activation.device, activation.dtype), context)

    return replace


def patch(other: Activations | Mapping[str, Tensor] | Tensor) -> Intervention:
    """Replace by values taken elsewhere, row by row in order of position.

    Args:
        other: What `model.read` gave on another trajectory, a mapping from hook points to tensors,
            or one tensor; as many rows as positions are edited. Of what `read` gave, the rows of
            the same latent steps are taken when there are more (as while generating, where
            positions come one by one).

    Raises:
        EditError: (when applied) There is no value for the hook point, or not as many rows.

    Example:
        >>> from latentprobe.edits import Context
        >>> where = Context("latent.hook_fed", None, ("slot", "d_model"), (3,), ("slot",), (0,))
        >>> patch(torch.full((1, 2), 7.0))(torch.zeros(1, 2), where)
        tensor([[7., 7.]])
    """

    def replace(activation: Tensor, context: Context) -> Tensor:
        value = other if isinstance(other, Tensor) else _found(other, context.hook)
        if isinstance(other, Activations) and value.ndim == activation.ndim:
            value = _same_steps(value, other, activation, context)
        value = value.to(activation.device, activation.dtype)
        if context.heads is not None and value.shape != activation.shape:
            value = value.index_select(
                context.axes.index("head"), torch.tensor(context.heads, device=value.device)
            )
        if value.shape != activation.shape:
            raise EditError(
                f"patch at {context.hook}: the value has shape {tuple(value.shape)}, the edited "
                f"positions {context.positions} need {tuple(activation.shape)} ({context.axes}); "
                "read the donor at a subset of as many positions"
            )
        return value

    return replace


@dataclass(frozen=True)
class _Noise:
    sigma: float
    scale: NoiseScale
    bank: Bank | None
    additive: bool

    def __call__(self, activation: Tensor, context: Context) -> Tensor:
        noise = context.normal_like(activation)
        if self.scale == "norm":
            norms = torch.linalg.vector_norm(activation, dim=-1, keepdim=True)
            drawn = torch.linalg.vector_norm(noise, dim=-1, keepdim=True)
            noise = noise * (norms / drawn)
        noise = noise * self.sigma
        if self.bank is not None and self.scale == "distribution":
            place = {"device": activation.device, "dtype": activation.dtype}
            spread = _heads(self.bank.std(context.hook).to(**place)[None], context)
            centre = _heads(self.bank.mean(context.hook).to(**place)[None], context)
            noise = noise * spread + (0 if self.additive else centre)
        return activation + noise if self.additive else noise


def noise(
    sigma: int | float = 1.0,
    *,
    scale: NoiseScale = "raw",
    bank: Bank | None = None,
    additive: bool = False,
) -> Intervention:
    """Replace by normal noise (or add it).

    Args:
        sigma: Size of the noise in the unit that `scale` says; at least 0.
        scale: `raw`: standard deviation `sigma` per feature. `norm`: a random direction with
            `sigma` times the row's own length. `distribution`: mean and standard deviation of the
            bank's rows, per feature, the latter times `sigma`.
        bank: Activations that define the distribution; only for `distribution`.
        additive: Add the noise to the activation instead of replacing it.

    Raises:
        EditError: An unknown scale, a negative sigma, or a missing bank.
    """
    if scale not in ("raw", "norm", "distribution") or not sigma >= 0:
        raise EditError(
            f"noise({sigma}, scale={scale!r}): sigma is at least 0, scale one of 'raw', 'norm', "
            "'distribution'"
        )
    if (scale == "distribution") != (bank is not None):
        raise EditError("noise: a bank goes with scale='distribution', and with no other scale")
    return _Noise(float(sigma), scale, bank, additive)


def _same_steps(value: Tensor, other: Activations, activation: Tensor, context: Context) -> Tensor:
    """Return the rows of the steps being edited, where `other` holds more rows than are edited."""
    theirs = [step for step in other.steps if step is not None]
    rows = value.shape[context.row_axis]
    fits = len(set(theirs)) == len(theirs) == rows and set(context.steps) <= set(theirs)
    if rows == activation.shape[context.row_axis] or not fits:
        return value
    chosen = torch.tensor([theirs.index(step) for step in context.steps if step is not None])
    return value.index_select(context.row_axis, chosen.to(value.device))


def _found(values: Activations | Mapping[str, Tensor], hook: str) -> Tensor:
    if hook not in values:
        raise EditError(f"patch: no value for {hook!r}; values were given for {', '.join(values)}")
    return values[hook]


def _heads(rows: Tensor, context: Context) -> Tensor:
    """Cut rows with a head axis down to the heads being edited."""
    if context.heads is None:
        return rows
    axis = context.axes.index("head")
    return rows.index_select(axis, torch.tensor(context.heads, device=rows.device))
