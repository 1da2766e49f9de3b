"""Attention to the image: numbers by hand, and against an eager forward of the same weights."""

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
import scipy.stats
import torch
from transformers import AutoModelForImageTextToText

from latentprobe.analyses import AttentionProfile, attention_profile, image_entropy
from latentprobe.analyses.attention import MASS_FLOOR, RESPONSE_ROLES
from latentprobe.benchmarks import Problem
from latentprobe.edits import Activations
from latentprobe.errors import SubsetError
from latentprobe.models import LatentModel
from latentprobe.organisms import get

ENTROPIES = ["entropy_nats", "entropy_normalised", "narrowness", "effective_tokens"]


# --- the entropy ---------------------------------------------------------------------------------


def test_entropy_by_hand_on_a_2_by_3_tensor():
    weights = torch.tensor([[0.1, 0.1, 0.2], [0.0, 0.3, 0.0]])
    # 1/4, 1/4, 1/2 -> 2 * (1/4) ln 4 + (1/2) ln 2 = 1.5 ln 2
    expected = torch.tensor([1.5 * math.log(2), 0.0], dtype=torch.float64)
    torch.testing.assert_close(image_entropy(weights), expected, atol=1e-7, rtol=0)


def test_entropy_is_scipys_on_random_weights_of_any_rank():
    weights = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0))
    expected = scipy.stats.entropy(weights.double().numpy(), axis=-1)
    np.testing.assert_allclose(image_entropy(weights).numpy(), expected, atol=1e-12)


def test_a_row_without_any_mass_has_no_entropy():
    assert image_entropy(torch.zeros(2, 4)).isnan().all()


# --- the profile against an eager forward --------------------------------------------------------


@pytest.fixture(scope="module")
def trajectories(marker_only, problems):
    return [marker_only.generate(problem, keep_logits=False) for problem in problems[:2]]


@pytest.fixture(scope="module")
def profile(marker_only, trajectories) -> AttentionProfile:
    return attention_profile(marker_only, trajectories)


def eager_attention(trajectory) -> torch.Tensor:
    """All attention ("layer head query key") of an eager copy, fed the recorded vectors."""
    copy = AutoModelForImageTextToText.from_pretrained(
        get("marker-only").folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    prompt = trajectory.prompt.encoded
    response = copy.get_input_embeddings()(torch.tensor(trajectory.response_ids))
    embeds = torch.cat([prompt.embeds, response])
    embeds[trajectory.layout.slots] = trajectory.latents
    later = torch.arange(len(prompt.embeds), len(embeds)) + prompt.offset
    rotary = torch.cat([prompt.rotary, later.expand(3, -1)], dim=1)
    with torch.inference_mode():
        out = copy.model.language_model(
            inputs_embeds=embeds[None], position_ids=rotary[:, None], output_attentions=True
        )
    return torch.stack(out.attentions)[:, 0]


def test_the_profile_is_that_of_an_eager_forward_computed_in_plain_loops(trajectories, profile):
    found, masses = defaultdict(list), defaultdict(list)
    for trajectory in trajectories:
        roles, whole = trajectory.layout.roles, eager_attention(trajectory).double().numpy()
        image = [p for p, role in enumerate(roles) if role == "image"]
        response = range(trajectory.layout.n_prompt, len(roles))
        for layer, head, query in itertools.product(range(3), range(4), response):
            weights = whole[layer, head, query, image]
            masses[layer, head, roles[query]].append(weights.sum())
            if weights.sum() >= MASS_FLOOR:
                entropy = scipy.stats.entropy(weights)
                share = entropy / math.log(len(image))
                measures = (entropy, share, 1 - share, math.exp(entropy))
                found[layer, head, roles[query]].append(measures)
    frame = profile.frame.set_index(["layer", "head", "role"])
    assert set(frame.index) == set(masses)
    assert 0 < sum(frame["skipped"]) < sum(frame["queries"]) / 2
    for key, mass in masses.items():
        row, kept = frame.loc[key], found[key]
        assert (row["queries"], row["skipped"]) == (len(mass), len(mass) - len(kept))
        assert row["image_mass"] == pytest.approx(np.mean(mass), abs=1e-5)
        if kept:
            measured = row[ENTROPIES].to_numpy(float)
            np.testing.assert_allclose(measured, np.mean(kept, axis=0), atol=1e-5)
        else:
            assert list(row[ENTROPIES]) == [None] * 4


def test_every_role_of_the_response_is_there_once_per_layer_and_head(profile, trajectories):
    present = {role for t in trajectories for role in t.layout.roles[t.layout.n_prompt :]}
    assert set(profile.frame["role"]) == present <= set(RESPONSE_ROLES)
    assert not profile.frame.duplicated(["layer", "head", "role"]).any()
    assert set(profile.frame["model"]) == {"organism:marker-only"}


def test_the_summary_is_the_mean_over_heads(profile):
    summary = profile.summary()
    assert "head" not in summary
    for row in summary.to_dict("records"):
        chosen = profile.frame[
            (profile.frame["layer"] == row["layer"]) & (profile.frame["role"] == row["role"])
        ]
        assert len(chosen) == 4
        for name in (*ENTROPIES, "image_mass", "queries"):
            assert row[name] == pytest.approx(sum(chosen[name]) / 4)


def test_the_plot_names_roles_and_both_axes(profile):
    figure = profile.plot()
    titles = {axis.title.text for axis in figure.select_yaxes() if axis.title.text}
    assert any(title.startswith("narrowness") for title in titles)
    assert any(title.startswith("image mass") for title in titles)
    named = {trace.name for trace in figure.data}
    assert {"slot", "answer"} <= named


# --- rows made by hand ---------------------------------------------------------------------------


@pytest.fixture
def looks(monkeypatch, trajectories):
    """Make every head of every layer look at the image in a stated way."""

    def patch(rows: dict[str, list[float]]) -> None:
        def read(self, trajectory, at, *, where, edits=()):
            layout = trajectory.layout
            positions = layout.positions(where)
            image = [p for p, role in enumerate(layout.roles) if role == "image"]
            pattern = torch.zeros(2, len(positions), len(layout))
            for row, position in enumerate(positions):
                pattern[:, row, image] = torch.tensor(rows[layout.roles[position]])
            roles = tuple(layout.roles[p] for p in positions)
            tensors = {f"blocks.{layer}.attn.hook_pattern": pattern for layer in range(2)}
            return Activations(tensors, tuple(positions), roles, (None,) * len(roles))

        monkeypatch.setattr(LatentModel, "read", read)

    return patch


def measured(model, trajectories, role: str, **options) -> list[dict]:
    frame = attention_profile(model, trajectories, roles=[role], **options).frame
    return frame.to_dict("records")


def test_uniform_attention_is_not_narrow_and_one_patch_is(marker_only, trajectories, looks):
    looks({"slot": [0.2] * 4, "answer": [0.0, 0.6, 0.0, 0.0]})
    for row in measured(marker_only, trajectories, "slot"):
        assert row["narrowness"] == pytest.approx(0, abs=1e-12)
        assert row["effective_tokens"] == pytest.approx(4)
        assert row["image_mass"] == pytest.approx(0.8)
    for row in measured(marker_only, trajectories, "answer"):
        assert (row["narrowness"], row["entropy_nats"], row["effective_tokens"]) == (1, 0, 1)


def test_a_role_below_the_mass_floor_has_no_entropy_and_is_counted(
    marker_only, trajectories, looks
):
    looks({"slot": [0.0] * 4, "answer": [2e-4] * 4})
    for role in ("slot", "answer"):
        for row in measured(marker_only, trajectories, role):
            assert [row[name] for name in ENTROPIES] == [None] * 4
            assert row["skipped"] == row["queries"] > 0
            assert row["image_mass"] == pytest.approx(0.0 if role == "slot" else 8e-4)
    for row in measured(marker_only, trajectories, "answer", floor=1e-4):
        assert (row["narrowness"], row["skipped"]) == (pytest.approx(0, abs=1e-6), 0)


def test_a_hole_stays_none_in_the_summary_and_can_be_drawn(marker_only, trajectories, looks):
    looks({"slot": [0.0] * 4, "answer": [0.1] * 4})
    profile = attention_profile(marker_only, trajectories, roles=["slot", "answer"])
    by_role = {row["role"]: row for row in profile.summary().to_dict("records")}
    assert by_role["slot"]["narrowness"] is None
    assert by_role["slot"]["skipped"] == 4
    assert by_role["answer"]["narrowness"] == pytest.approx(0, abs=1e-6)
    assert {"slot", "answer"} <= {trace.name for trace in profile.plot().data}


# --- what is refused -----------------------------------------------------------------------------


def test_no_trajectories_are_refused(marker_only):
    with pytest.raises(SubsetError, match="needs at least one trajectory, got none"):
        attention_profile(marker_only, [])


def test_a_trajectory_without_an_image_is_refused(marker_only):
    text = marker_only.generate(Problem("What color?", options=["red", "blue"], answer="red"))
    with pytest.raises(SubsetError, match="at least two image tokens, this trajectory has 0"):
        attention_profile(marker_only, [text])


def test_roles_that_are_missing_are_passed_over_unless_all_are(marker_only, trajectories):
    some = attention_profile(marker_only, trajectories, roles=["reasoning", "slot"])
    assert set(some.frame["role"]) == {"slot"}
    with pytest.raises(SubsetError, match=r"has one of the roles \['reasoning'\]"):
        attention_profile(marker_only, trajectories, roles=["reasoning"])
