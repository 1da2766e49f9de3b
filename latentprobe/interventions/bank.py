"""A bank: activations of many trajectories at the same hook points, for means and donors.

`mean` needs the average over a benchmark, `resample` and distribution-matched `noise` need other
problems' values. A bank holds them per problem and per row, in float32 on the CPU.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from latentprobe.edits import Activations, Context
from latentprobe.errors import EditError
from latentprobe.hookpoints import BLOCK_POINTS


@dataclass(frozen=True)
class Bank:
    """Activations by hook point, donor by donor.

    Attributes:
        keys: One name per donor (a problem's content hash).
        tensors: Hook point -> one tensor per donor, rows first ("row ...").
        steps: Latent step of each position read, donor by donor; None outside slots.

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
            EditError: There is nothing in it, donors were read at different hook points, or a hook
                point has no rows to pool (attention weights).
        """
        if not activations:
            raise EditError("a bank needs the activations of at least one trajectory, got none")
        names = list(next(iter(activations.values())))
        _check_poolable(names, activations)
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
        theirs, values = self.steps[donor], self._at(hook)[self.keys.index(donor)]
        if len(values) != len(theirs):  # the recurrence's own points have rows at slots only
            theirs = tuple(step for step in theirs if step is not None)
        taken = [step for step in theirs if step is not None]
        if len(set(taken)) != len(taken):
            raise EditError(
                f"{context.hook}: the donor has latent steps {theirs}, several segments; "
                "donors are aligned by the step inside one segment"
            )
        missing = [step for step in context.steps if step not in theirs or step is None]
        if missing:
            raise EditError(
                f"{context.hook}: the donor has latent steps {theirs}, the edit needs "
                f"{context.steps}; donors are aligned by latent step, so edit slots only, of "
                "donors with as many slots"
            )
        return values[[theirs.index(step) for step in context.steps]]

    def save(self, path: Path) -> None:
        """Write the bank to one safetensors file."""
        tensors = {
            f"{hook}|{key}": tensor.clone(memory_format=torch.contiguous_format)
            for hook, rows in self.tensors.items()
            for key, tensor in zip(self.keys, rows, strict=True)
        }
        steps = [self.steps[key] for key in self.keys]
        metadata = {"keys": json.dumps(self.keys), "steps": json.dumps(steps)}
        save_file(tensors, path, metadata=metadata)

    @classmethod
    def open(cls, path: Path) -> "Bank":
        """Read a bank written by `save`."""
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            keys = tuple(json.loads(metadata["keys"]))
            hooks = dict.fromkeys(name.split("|")[0] for name in file.keys())  # noqa: SIM118
            tensors = {h: tuple(file.get_tensor(f"{h}|{key}") for key in keys) for h in hooks}
        steps = [tuple(row) for row in json.loads(metadata["steps"])]
        return cls(keys, tensors, dict(zip(keys, steps, strict=True)))

    def _at(self, hook: str) -> Sequence[Tensor]:
        if hook not in self.tensors:
            raise EditError(
                f"the bank holds nothing at {hook!r}; it was read at {', '.join(self.tensors)}"
            )
        return self.tensors[hook]


def _check_poolable(names: Sequence[str], activations: dict[str, Activations]) -> None:
    """Refuse what cannot be averaged or exchanged between trajectories, row by row."""
    for name in names:
        kind = BLOCK_POINTS.get(name.split(".", 2)[-1])
        if kind is not None and kind.axes[0] != "pos":
            raise EditError(
                f"{name} has no rows to pool: its axes are {kind.axes}, and keys differ between "
                "trajectories; make the bank at other hook points"
            )
        without = [key for key, acts in activations.items() if name not in acts]
        if without:
            raise EditError(f"donor {without[0]!r} was not read at {name!r}; read all donors alike")
