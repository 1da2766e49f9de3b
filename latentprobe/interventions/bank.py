"""A bank: activations of many trajectories at the same hook points, for means and donors.

`mean` needs the average over a benchmark, `resample` and distribution-matched `noise` need other
problems' values. A bank holds them per problem and per row, in float32 on the CPU.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from latentprobe.edits import Activations, Context
from latentprobe.errors import EditError


@dataclass(frozen=True)
class Bank:
    """Activations by hook point, donor by donor.

    Attributes:
        keys: One name per donor (a problem's content hash).
        tensors: Hook point -> one tensor per donor, rows first ("row ...").
        steps: Latent step of each row, the same for every donor; None outside slots.

    Example:
        >>> acts = Activations({"latent.hook_fed": torch.ones(2, 3)}, (5, 6), ("slot",) * 2, (0, 1))
        >>> Bank.of({"p": acts}).mean("latent.hook_fed").shape
        torch.Size([3])
    """

    keys: tuple[str, ...]
    tensors: dict[str, tuple[Tensor, ...]] = field(repr=False)
    steps: dict[str, tuple[int | None, ...]] = field(repr=False)

    @classmethod
    def of(cls, activations: dict[str, Activations]) -> "Bank":
        """Make a bank from what `model.read` gave for each donor.

        Raises:
            EditError: There is nothing in it.
        """
        if not activations:
            raise EditError("a bank needs the activations of at least one trajectory, got none")
        names = list(next(iter(activations.values())))
        tensors = {
            name: tuple(acts[name].detach().float().cpu() for acts in activations.values())
            for name in names
        }
        steps = {key: acts.steps for key, acts in activations.items()}
        return cls(tuple(activations), tensors, steps)

    def mean(self, hook: str) -> Tensor:
        """Return the mean over all donors and rows at one hook point (float64 accumulation)."""
        rows = torch.cat(list(self._at(hook))).double()
        return rows.mean(dim=0).float()

    def std(self, hook: str) -> Tensor:
        """Return the standard deviation over all donors and rows (population, per feature)."""
        rows = torch.cat(list(self._at(hook))).double()
        return rows.std(dim=0, correction=0).float()

    def rows(self, hook: str, donor: str, context: Context) -> Tensor:
        """Return a donor's rows for the positions being edited, aligned by latent step.

        Raises:
            EditError: The donor is unknown, or has no row for one of the steps.
        """
        if donor not in self.keys:
            raise EditError(f"the bank has no donor {donor!r}; it holds {len(self.keys)} donors")
        theirs = self.steps[donor]
        missing = [step for step in context.steps if step not in theirs or step is None]
        if missing:
            raise EditError(
                f"{context.hook}: the donor has latent steps {theirs}, the edit needs "
                f"{context.steps}; donors are aligned by latent step, so edit slots only, of "
                "donors with as many slots"
            )
        values = self._at(hook)[self.keys.index(donor)]
        return values[[theirs.index(step) for step in context.steps]]

    def save(self, path: Path) -> None:
        """Write the bank to one safetensors file."""
        tensors = {
            f"{hook}|{key}": tensor.contiguous()
            for hook, rows in self.tensors.items()
            for key, tensor in zip(self.keys, rows, strict=True)
        }
        steps = {
            f"steps|{key}": ",".join("" if s is None else str(s) for s in self.steps[key])
            for key in self.keys
        }
        save_file(tensors, path, metadata={"keys": ",".join(self.keys), **steps})

    @classmethod
    def open(cls, path: Path) -> "Bank":
        """Read a bank written by `save`."""
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            keys = tuple(metadata["keys"].split(","))
            hooks = dict.fromkeys(name.split("|")[0] for name in file.keys())  # noqa: SIM118
            tensors = {h: tuple(file.get_tensor(f"{h}|{key}") for key in keys) for h in hooks}
        steps = {key: _steps(metadata[f"steps|{key}"]) for key in keys}
        return cls(keys, tensors, steps)

    def _at(self, hook: str) -> Sequence[Tensor]:
        if hook not in self.tensors:
            raise EditError(
                f"the bank holds nothing at {hook!r}; it was read at {', '.join(self.tensors)}"
            )
        return self.tensors[hook]


def _steps(text: str) -> tuple[int | None, ...]:
    parts: Iterable[str] = text.split(",") if text else ()
    return tuple(int(part) if part else None for part in parts)
