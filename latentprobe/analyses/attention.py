"""How narrow attention to the image is: entropy, narrowness, image mass per layer, head and role.

For a query q, layer l, head h and the image tokens I of one sequence:

1. `A[l, h, q, :]` is the attention row (softmax over all keys), recomputed for the wanted queries
   only.
2. The image mass is `m = sum of A over I`, in [0, 1].
3. Renormalised over the image, `p_i = A_i / m`; the entropy is `H = -sum p_i ln p_i` (nats),
   normalised `H / ln |I|` in [0, 1]; **narrowness** is `1 - H / ln |I|` (1: a single patch, 0: all
   alike), and the effective number of tokens is `exp(H)`.
4. A role's value is the mean over its queries and over trajectories. Where m is near 0 the
   renormalised entropy says little: rows with `m < floor` are left out of it and counted.

References:
    "Beyond Visual Memory", arXiv 2606.01287, reports narrower attention at latent than at answer
    positions; its exact normalisation is not published, this one is stated here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from latentprobe.errors import SubsetError
from latentprobe.models import LatentModel
from latentprobe.plots import narrowness_by_layer
from latentprobe.tokens import role as role_subset
from latentprobe.trajectory import Trajectory

MASS_FLOOR = 1e-3
ENTROPIES = ("entropy_nats", "entropy_normalised", "narrowness", "effective_tokens")
RESPONSE_ROLES = ("open", "slot", "close", "reasoning", "format", "answer")


def image_entropy(weights: Float[Tensor, "*rows image"]) -> Float[Tensor, "*rows"]:
    """Return the entropy (nats) of attention renormalised over image tokens.

    Args:
        weights: Attention to the image tokens, at least 0; a row of zeros gives NaN.

    Example:
        >>> round(image_entropy(torch.tensor([0.1, 0.1])).item(), 6)  # ln 2
        0.693147
    """
    share = weights.double() / weights.double().sum(dim=-1, keepdim=True)
    return torch.special.entr(share).sum(dim=-1)


@dataclass(frozen=True)
class AttentionProfile:
    """Attention to the image, one row per layer, head and role.

    Attributes:
        frame: Columns model, layer, head, role, queries, entropy_nats, entropy_normalised,
            narrowness, effective_tokens, image_mass, skipped (queries below the mass floor).
            Entropies are None where every query was below the floor.
    """

    frame: pd.DataFrame

    def summary(self) -> pd.DataFrame:
        """Return means over heads, one row per layer and role."""
        numbers = self.frame.astype(dict.fromkeys(ENTROPIES, float)).drop(columns="head")
        groups = numbers.groupby(["model", "layer", "role"], as_index=False, sort=False)
        return _none_for_nan(pd.DataFrame(groups.mean()))

    def plot(self) -> object:
        """Return the plotly figure: narrowness and image mass by layer, one line per role."""
        return narrowness_by_layer(self.frame)


def attention_profile(
    model: LatentModel,
    trajectories: Sequence[Trajectory],
    *,
    roles: Sequence[str] = RESPONSE_ROLES,
    floor: float = MASS_FLOOR,
) -> AttentionProfile:
    """Measure attention to the image at the response positions of some trajectories.

    Args:
        model: The model that made them.
        trajectories: Responses to problems with an image of at least two merged patches.
        roles: Roles whose positions are the queries; roles a trajectory lacks are passed over.
        floor: Smallest image mass at which the renormalised entropy of a query is used, in [0, 1].

    Raises:
        SubsetError: There are no trajectories, one has fewer than two image tokens, or none has a
            position of these roles.

    Example:
        >>> from latentprobe.benchmarks import load as problems
        >>> from latentprobe.models import load
        >>> model = load("organism:marker-only")
        >>> t = model.generate(problems("mini-attribute", limit=1)[0])
        >>> profile = attention_profile(model, [t], roles=["slot", "answer"])
        >>> sorted(set(profile.frame["role"])), len(profile.frame)
        (['answer', 'slot'], 24)
    """
    if not trajectories:
        raise SubsetError("attention_profile needs at least one trajectory, got none")
    rows = [row for t in trajectories for row in _rows(model, t, roles, floor)]
    if not rows:
        raise SubsetError(f"no position of these trajectories has one of the roles {list(roles)}")
    columns = ["layer", "head", "role"]
    frame = (
        pd
        .DataFrame(rows)
        .groupby(columns, as_index=False, sort=False)
        .agg(
            queries=("image_mass", "size"),
            entropy_nats=("entropy_nats", "mean"),
            entropy_normalised=("entropy_normalised", "mean"),
            narrowness=("narrowness", "mean"),
            effective_tokens=("effective_tokens", "mean"),
            image_mass=("image_mass", "mean"),
            skipped=("skipped", "sum"),
        )
    )
    frame.insert(0, "model", model.name)
    return AttentionProfile(_none_for_nan(frame))


def _none_for_nan(frame: pd.DataFrame) -> pd.DataFrame:
    holes = [str(name) for name, empty in frame.isna().any().items() if empty]
    return frame.astype(dict.fromkeys(holes, object)).where(frame.notna(), None)


def _rows(
    model: LatentModel, trajectory: Trajectory, roles: Sequence[str], floor: float
) -> list[dict]:
    image = [p for p, role in enumerate(trajectory.layout.roles) if role == "image"]
    if len(image) < 2:
        raise SubsetError(
            "attention over the image needs at least two image tokens, this trajectory has "
            f"{len(image)}"
        )
    present = [
        role for role in roles if role in trajectory.layout.roles[trajectory.layout.n_prompt :]
    ]
    if not present:
        return []
    where = role_subset(present[0])
    for name in present[1:]:
        where = where | role_subset(name)
    acts = model.read(trajectory, "blocks.*.attn.hook_pattern", where=where)
    rows = []
    for layer, name in enumerate(acts):
        to_image = acts[name][:, :, image]  # head query image
        mass = to_image.double().sum(dim=-1).cpu().numpy()
        entropy = image_entropy(to_image).cpu().numpy()
        for (head, query), value in np.ndenumerate(entropy):
            low = mass[head, query] < floor
            rows.append({
                "layer": layer,
                "head": head,
                "role": acts.roles[query],
                **_measures(None if low else float(value), len(image)),
                "image_mass": float(mass[head, query]),
                "skipped": int(low),
            })
    return rows


def _measures(entropy: float | None, tokens: int) -> dict[str, float]:
    if entropy is None:
        entropy = float("nan")  # left out of the means below
    normalised = entropy / float(np.log(tokens))
    return {
        "entropy_nats": entropy,
        "entropy_normalised": normalised,
        "narrowness": 1.0 - normalised,
        "effective_tokens": float(np.exp(entropy)),
    }
