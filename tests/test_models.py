"""Replays, reads and scores against what was generated and against full forwards by hand."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from latentprobe.benchmarks import Problem
from latentprobe.conditions import Condition
from latentprobe.edits import Edit, knockout
from latentprobe.errors import (
    EditError,
    EmptySubsetError,
    MethodMismatchError,
    ModelError,
    ProblemError,
    SubsetError,
    UnknownNameError,
)
from latentprobe.generation import Decoding
from latentprobe.interventions import noise, zero
from latentprobe.methods import AnswerSpec, PromptSpec, methods
from latentprobe.models import LatentModel, load
from latentprobe.tokens import ALL, ANSWER, IMAGE, MARKERS, SLOTS, positions, segment
from latentprobe.trajectory import Structure, Trajectory

close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
FREE = replace(methods.get("organism"), entry="predicted", max_segments=None)


def halve(activation: Tensor, context=None) -> Tensor:
    return activation * 0.4 + 0.1


# --- replaying -----------------------------------------------------------------------------------


def test_a_replay_gives_the_logits_and_scores_of_the_generation(
    mediated, marker_only, random_latent, problems
):
    cases = [(mediated, 0), (marker_only, 1), (random_latent(FREE, 35), 1)]
    for model, which in cases:
        t = model.generate(problems[which], max_new_tokens=20)
        out = model.replay(t)
        assert out.positions == tuple(t.layout.response)
        close(out.logits, t.logits)
        close(torch.tensor(out.option_scores), torch.tensor(t.scores))
        assert out.applied == ()


def test_identity_edits_in_a_replay_change_no_bit(mediated, problems):
    t = mediated.generate(problems[0])
    plain = mediated.replay(t)
    for where in (SLOTS, ALL):
        edit = Edit("blocks.*", where=where, do=lambda a, context: a.clone())
        fed = Edit("latent.hook_fed", where=where, do=lambda a, context: a.clone())
        out = mediated.replay(t, edits=[edit, fed])
        assert torch.equal(out.logits, plain.logits)
        assert out.option_scores == plain.option_scores


def test_a_replay_under_edits_is_the_decoder_by_hand_under_the_same_change(
    marker_only, naive_decode, problems
):
    t = marker_only.generate(problems[0])
    backend = marker_only.parts.backend
    slots = t.layout.slots
    embeds = torch.cat([t.prompt.encoded.embeds, backend.embed(torch.tensor(t.response_ids))])
    embeds[slots] = halve(t.latents)
    after = torch.arange(t.layout.n_prompt, len(t.layout)) + t.prompt.encoded.offset
    rotary = torch.cat([t.prompt.encoded.rotary, after.expand(3, -1)], dim=1)

    def change(value: Tensor) -> Tensor:
        value[slots] = halve(value[slots])
        return value

    run = naive_decode(backend.model, embeds, rotary, change={"blocks.1.hook_resid_mid": change})
    out = marker_only.replay(
        t,
        edits=[
            Edit("latent.hook_fed", where=SLOTS, do=halve),
            Edit("blocks.1.hook_resid_mid", where=SLOTS, do=halve),
        ],
    )
    expected = run.states @ backend.model.lm_head.weight.T
    torch.testing.assert_close(out.logits, expected[t.layout.n_prompt :], atol=1e-4, rtol=1e-5)
    assert out.applied == (2, 2)


def test_a_replay_gives_the_positions_asked_for(mediated, problems):
    t = mediated.generate(problems[0])
    chosen = (3, t.layout.n_prompt, len(t.layout) - 1)
    out = mediated.replay(t, positions=chosen)
    assert out.positions == chosen
    close(out.logits, mediated.replay(t, positions=range(len(t.layout))).logits[list(chosen)])


def test_the_same_noise_is_drawn_in_a_replay_and_while_generating(random_latent, problems):
    model = random_latent(replace(methods.get("organism"), slots=4), 19)
    edits = [
        Edit("latent.hook_fed", where=SLOTS, do=noise(1.0)),
        Edit("blocks.1.hook_resid_post", where=SLOTS | MARKERS, do=noise(0.3, additive=True)),
    ]
    generated = model.generate(problems[0], seed=3, edits=edits, max_new_tokens=10)
    plain = model.generate(problems[0], seed=3, max_new_tokens=10)
    forced = replace(plain, token_ids=generated.token_ids, layout=generated.layout)
    out = model.replay(forced, edits=edits)
    close(out.logits, generated.logits)
    assert out.applied == generated.applied == (4, 4 + len(generated.layout.positions(MARKERS)))
    other = model.replay(forced, edits=edits, seed=4)
    assert not torch.allclose(other.logits, out.logits, atol=1e-2)
    twice = model.replay(forced, edits=[edits[0]])
    assert torch.equal(twice.logits, model.replay(forced, edits=[edits[0]], seed=3).logits)


def test_a_replay_refuses_what_would_change_nothing(mediated, problems):
    t = mediated.generate(problems[0])
    with pytest.raises(EditError, match=r"latent\.hook_state would change nothing"):
        mediated.replay(t, edits=[Edit("latent.hook_state", where=SLOTS, do=zero())])
    with pytest.raises(EmptySubsetError, match=r"positions\(\[\]\) holds no position"):
        mediated.replay(t, edits=[Edit("blocks.0.hook_resid_pre", positions([]), zero())])
    with pytest.raises(EmptySubsetError, match="was applied at no position"):
        mediated.replay(t, edits=[Edit("latent.hook_fed", where=IMAGE, do=zero())])
    with pytest.raises(EmptySubsetError, match=r"knockout image->answer.*applied at no position"):
        mediated.replay(t, edits=[knockout(queries=IMAGE, keys=ANSWER)])
    allowed = [
        Edit("blocks.0.hook_resid_pre", positions([]), zero(), allow_empty=True),
        Edit("latent.hook_fed", where=IMAGE, do=zero(), allow_empty=True),
        knockout(queries=IMAGE, keys=ANSWER, allow_empty=True),
    ]
    out = mediated.replay(t, edits=allowed)
    assert out.applied == (0, 0, 0)
    assert torch.equal(out.logits, mediated.replay(t).logits)


def test_an_error_in_a_replay_leaves_no_hook_behind(mediated, problems, count_hooks):
    t = mediated.generate(problems[0])
    network = mediated.parts.backend.model
    before = count_hooks(network)
    for edits, error in (
        ([Edit("blocks.0.hook_resid_pre", where=IMAGE, do=lambda a, context: a[:1])], EditError),
        ([Edit("latent.hook_fed", where=IMAGE, do=zero())], EmptySubsetError),
        ([Edit("blocks.9.hook_resid_pre", where=IMAGE, do=zero())], UnknownNameError),
    ):
        with pytest.raises(error, match=r"returned|applied at no position|unknown hook point"):
            mediated.replay(t, edits=edits)
        assert count_hooks(network) == before
        assert mediated.parts.backend.decoder.config._attn_implementation == "sdpa"


# --- option scores -------------------------------------------------------------------------------


def naive_scores(
    model: LatentModel, t: Trajectory, decode, options: list[str], *, after: int, prefix: str
) -> list[float]:
    """Concatenate everything up to `after`, the prefix and an option; run it all; add up."""
    words, network = model.parts.tokenizer, model.parts.backend.model
    table = network.model.language_model.embed_tokens.weight
    embeds = [*t.prompt.encoded.embeds]
    fed = list(t.latents)
    for position in t.layout.response:
        slot = t.layout.roles[position] == "slot"
        embeds.append(fed.pop(0) if slot else table[t.token_ids[position]])
    lead = words(prefix, add_special_tokens=False)["input_ids"] if prefix else []
    totals = []
    for option in options:
        ids = words(option, add_special_tokens=False)["input_ids"]
        vectors = torch.stack([
            *embeds[:after],
            *[table[i] for i in lead],
            *[table[i] for i in ids],
        ])
        steps = torch.arange(t.layout.n_prompt, len(vectors)) + t.prompt.encoded.offset
        rotary = torch.cat([t.prompt.encoded.rotary, steps.expand(3, -1)], dim=1)
        logits = decode(network, vectors, rotary).states @ network.lm_head.weight.T
        chances = logits.log_softmax(-1)
        first = len(vectors) - len(ids)
        totals.append(sum(float(chances[first + i - 1, token]) for i, token in enumerate(ids)))
    return totals


LONG = ["red", "yellow blue", "blue red green", "green"]


@pytest.mark.parametrize("options", [["red", "blue", "green"], LONG], ids=["one token", "several"])
@pytest.mark.parametrize(
    "structure",
    [Structure(), Structure(markers=False, template="forced"), Structure(template="banned")],
    ids=["method", "format only", "no template"],
)
def test_options_are_scored_as_full_forwards_score_them(
    random_latent, naive_decode, problems, options, structure
):
    asked = Problem(problems[0].question, problems[0].images, options, options[0])
    for answer in (AnswerSpec("<answer>", "</answer>"), AnswerSpec("color is", "?")):
        model = random_latent(replace(FREE, answer=answer), 42)
        t = model.generate(asked, structure=structure, max_new_tokens=12)
        prefix = "" if t.parsed.in_template or structure.template == "banned" else answer.open
        after = t.context.length
        expected = naive_scores(model, t, naive_decode, options, after=after, prefix=prefix)
        close(torch.tensor(t.scores), torch.tensor(expected), atol=5e-5)
        close(torch.tensor(model.replay(t).option_scores), torch.tensor(expected), atol=5e-5)
        assert t.score_tokens == tuple(len(option.split()) for option in options)


def test_options_stand_right_after_the_templates_opening(mediated, problems):
    t = mediated.generate(problems[0])
    assert t.parsed.in_template
    opening = mediated.parts.tokenizer.convert_tokens_to_ids("<answer>")
    assert t.token_ids[t.context.length - 1] == opening
    assert t.context.prefix == ()
    best = max(range(len(t.scores)), key=lambda i: t.scores[i])
    assert problems[0].options[best] == t.answer


def test_without_a_template_options_stand_after_the_last_span_behind_a_written_opening(
    random_latent, problems
):
    model = random_latent(methods.get("organism"), 9)
    t = model.generate(problems[0], max_new_tokens=14)
    assert not t.parsed.in_template
    assert t.context.length == t.layout.segments[-1].close + 1
    assert t.context.prefix == model.parts.template
    bare = model.generate(problems[0], max_new_tokens=3, structure=Structure(markers=False))
    assert bare.context.length == bare.layout.n_prompt


def test_edits_act_on_the_scored_options_too_but_are_not_counted_there(random_latent, problems):
    asked = Problem(problems[0].question, problems[0].images, LONG, "red")
    model = random_latent(replace(FREE, entry="forced", close_forced=True, max_segments=1), 9)
    t = model.generate(asked, max_new_tokens=8)
    edit = Edit("blocks.1.hook_resid_post", where=ANSWER, do=halve, allow_empty=True)
    out = model.replay(t, edits=[edit])
    assert out.applied == (len(t.layout.positions(ANSWER)),)
    moved = [abs(a - b) > 1e-3 for a, b in zip(out.option_scores, t.scores, strict=True)]
    assert moved == [False, True, True, False]  # only longer options run answer positions


def test_letters_are_what_is_scored_where_the_prompt_shows_letters(random_latent, problems):
    spec = replace(FREE, prompt=PromptSpec(options="letters"))
    model = random_latent(spec)
    t = model.generate(problems[0], max_new_tokens=4)
    assert len(t.scores) == len(problems[0].options)
    assert set(t.score_tokens) == {1}


# --- reading -------------------------------------------------------------------------------------


def test_a_read_is_what_stands_there_in_a_replay(mediated, problems):
    t, kept = mediated.generate(problems[0]), {}

    def keep(activation: Tensor, context) -> Tensor:
        kept[context.hook] = activation.clone()
        return activation

    names = ["blocks.1.hook_resid_post", "blocks.2.attn.hook_pattern", "blocks.0.attn.hook_v"]
    acts = mediated.read(t, names, where=SLOTS | ANSWER)
    # At these positions replay would also visit the options' positions, which come later.
    no_options = replace(t, problem=None)
    mediated.replay(no_options, edits=[Edit(names, where=SLOTS | ANSWER, do=keep)])
    assert list(acts) == sorted(names)
    assert len(acts) == 3
    for name in names:
        assert torch.equal(acts[name], kept[name]), name
    assert acts.positions == tuple(t.layout.positions(SLOTS | ANSWER))
    assert acts.roles == ("slot", "slot", "answer")
    assert acts.steps == (0, 1, None)
    assert "blocks.1.hook_resid_post" in acts
    assert acts.to(dtype=torch.float64)["blocks.1.hook_resid_post"].dtype == torch.float64


def test_patterns_of_the_mediated_organism_leave_the_image_to_slots(mediated, problems):
    t = mediated.generate(problems[0])
    image = t.layout.positions(IMAGE)
    acts = mediated.read(t, "blocks.*.attn.hook_pattern", where=~IMAGE)
    for tensor in (acts[name] for name in acts):
        on_image = tensor[:, :, image].sum(-1)
        for row, role in enumerate(acts.roles):
            assert bool((on_image[:, row] > 0).any()) == (role == "slot")


def test_the_latent_points_are_what_the_loop_recorded(mediated, problems):
    t = mediated.generate(problems[0])
    acts = mediated.read(t, "latent.*", where=SLOTS)
    assert torch.equal(acts["latent.hook_fed"], t.latents)
    assert torch.equal(acts["latent.hook_state"], t.states)
    second = mediated.read(t, "latent.hook_fed", where=SLOTS[1] | MARKERS)
    assert torch.equal(second["latent.hook_fed"], t.latents[1:])
    with pytest.raises(EmptySubsetError, match="stands at slots only"):
        mediated.read(t, "latent.*", where=IMAGE)


def test_a_state_is_the_final_norm_state_before_the_slot(marker_only, naive_decode, problems):
    t = marker_only.generate(problems[0])
    network = marker_only.parts.backend.model
    table = network.model.language_model.embed_tokens.weight
    embeds = [*t.prompt.encoded.embeds, table[t.token_ids[t.layout.n_prompt]]]
    rotary = torch.arange(len(embeds)) + t.prompt.encoded.offset
    rotary = rotary.expand(3, -1).clone()
    rotary[:, : t.layout.n_prompt] = t.prompt.encoded.rotary
    states = naive_decode(network, torch.stack(embeds), rotary).states
    close(t.states[0], states[-1])


def test_a_read_sees_the_value_after_the_edits_at_its_own_point(mediated, problems):
    t = mediated.generate(problems[0])
    names = ["blocks.1.hook_mlp_out", "latent.hook_fed"]
    plain = mediated.read(t, names, where=SLOTS)
    acts = mediated.read(t, names, where=SLOTS, edits=[Edit(names, where=SLOTS[1:], do=zero())])
    for name in names:
        assert not acts[name][1].any(), name
    assert torch.equal(acts["latent.hook_fed"][0], plain["latent.hook_fed"][0])
    only_latent = mediated.read(
        t, "latent.hook_fed", where=SLOTS, edits=[Edit("latent.hook_fed", SLOTS, zero())]
    )
    assert not only_latent["latent.hook_fed"].any()


def test_what_cannot_be_read_is_refused_with_the_nearest_names(mediated, problems):
    t = mediated.generate(problems[0])
    with pytest.raises(UnknownNameError, match=r"Did you mean 'blocks\.1\.hook_resid_post'"):
        mediated.read(t, "blocks.1.hook_resid_pots")
    with pytest.raises(UnknownNameError, match=r"unknown hook point 'vision\.\*'"):
        mediated.read(t, ["blocks.0.*", "vision.*"])
    with pytest.raises(EmptySubsetError, match=r"nothing to read: positions\(\[\]\)"):
        mediated.read(t, "blocks.*", where=positions([]))
    with pytest.raises(EmptySubsetError, match="say allow_empty=True"):
        mediated.read(t, "latent.hook_fed", edits=[Edit("blocks.*", positions([]), zero())])


# --- counting from the end -----------------------------------------------------------------------


def test_a_replay_counts_from_the_end_of_the_trajectory(random_latent, problems):
    model = random_latent(replace(FREE, entry="forced", slots=3, close_forced=True), 19)
    t = model.generate(problems[1], max_new_tokens=14)
    last, segments = len(t.layout) - 1, t.layout.segments
    assert len(segments) >= 2
    same = {
        SLOTS[-1]: positions([span.slots[-1] for span in segments if span.slots]),
        segment(-1): segment(len(segments) - 1),
        positions([-1]): positions([last]),
        SLOTS[-1] | IMAGE: positions([span.slots[-1] for span in segments if span.slots]) | IMAGE,
        ALL - positions([-2]): ALL - positions([last - 1]),
    }
    for from_the_end, from_the_start in same.items():
        one, other = (
            model.replay(t, edits=[Edit("blocks.1.hook_resid_post", where, halve)])
            for where in (from_the_end, from_the_start)
        )
        assert one.applied == other.applied == (len(t.layout.positions(from_the_start)),)
        assert torch.equal(one.logits, other.logits), str(from_the_end)
        one, other = (
            model.replay(t, edits=[knockout(queries=where, keys=IMAGE - positions([4]))])
            for where in (from_the_end, from_the_start)
        )
        assert torch.equal(one.logits, other.logits), str(from_the_end)


@pytest.mark.parametrize("from_the_end", [False, True])
def test_an_edit_after_the_place_of_the_answer_leaves_option_scores_alone(
    mediated, problems, from_the_end
):
    asked = Problem(problems[0].question, problems[0].images, LONG, "green")
    t = mediated.generate(asked)
    last = len(t.layout) - 1
    assert last >= t.context.length + 2, "it lies beyond every scored option's own tokens"
    where = positions([-1 if from_the_end else last])
    out = mediated.replay(t, edits=[Edit("blocks.0.hook_resid_post", where, halve)])
    assert out.applied == (1,)
    close(torch.tensor(out.option_scores), torch.tensor(t.scores))
    assert not torch.allclose(out.logits[-1], t.logits[-1], atol=1e-3)
    if not from_the_end:
        edit = Edit("blocks.0.hook_resid_post", positions([last - 1]), halve)
        again = mediated.generate(asked, edits=[edit])
        assert again.applied == (1,)


# --- conditions by name --------------------------------------------------------------------------

BY_HAND = {
    "full": (Structure(), []),
    "plain": (Structure(markers=False, slots=False, template="banned"), []),
    "format-only": (Structure(markers=False, slots=False, template="forced"), []),
    "markers-only": (Structure(slots=False), []),
    "zero": (Structure(), [Edit("latent.hook_fed", SLOTS, zero())]),
    "noise-norm": (Structure(), [Edit("latent.hook_fed", SLOTS, noise(1.0, scale="norm"))]),
    "cut-slots-image": (Structure(), [knockout(queries=SLOTS, keys=IMAGE)]),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_condition_by_name_is_its_structure_and_edits_by_hand(marker_only, problems, name):
    structure, edits = BY_HAND[name]
    more = Edit("blocks.1.hook_resid_post", IMAGE, halve)
    for given, hand in (((), edits), ([more], [*edits, more])):
        t = marker_only.generate(problems[1], condition=name, edits=given, seed=3)
        expected = marker_only.generate(problems[1], structure=structure, edits=hand, seed=3)
        assert t.token_ids == expected.token_ids
        assert torch.equal(t.logits, expected.logits)
        assert (t.scores, t.applied) == (expected.scores, expected.applied)
        assert t.structure == structure
    full = marker_only.generate(problems[1], seed=3)
    again = marker_only.generate(problems[1], seed=3, condition=name)
    assert (torch.equal(full.logits, again.logits)) == (name == "full")


def test_a_conditions_edits_come_before_the_callers(marker_only, problems):
    mine = Edit("latent.hook_fed", SLOTS, lambda a, context: a + 1)
    t = marker_only.generate(problems[1], condition="zero", edits=[mine])
    assert torch.equal(t.latents, torch.ones_like(t.latents))
    assert t.applied == (2, 2)


def test_a_condition_of_ones_own_can_be_given_as_it_is(marker_only, problems):
    mine = Condition("mine", "attention", "", cuts=(knockout(queries=SLOTS, keys=IMAGE),))
    one = marker_only.generate(problems[1], condition=mine)
    other = marker_only.generate(problems[1], condition="cut-slots-image")
    assert torch.equal(one.logits, other.logits)


def test_conditions_that_cannot_be_run_are_refused(mediated, problems):
    with pytest.raises(EditError, match="'markers-only' has a structure of its own; give one or"):
        mediated.generate(problems[0], condition="markers-only", structure=Structure())
    for name in ("mean", "donor-different-answer"):
        with pytest.raises(EditError, match=f"{name}.*other problems.*run it with .*diagnose"):
            mediated.generate(problems[0], condition=name)
    with pytest.raises(UnknownNameError, match=r"'markers-onyl'.*Did you mean 'markers-only'"):
        mediated.generate(problems[0], condition="markers-onyl")


# --- sharing a prefill ---------------------------------------------------------------------------


def test_a_shared_prefill_changes_nothing(mediated, problems):
    shared = mediated.prefill(problems[0])
    for structure in (Structure(), Structure(slots=False), Structure(markers=False)):
        for edits in ((), [Edit("blocks.1.hook_resid_post", where=ALL - IMAGE, do=halve)]):
            alone = mediated.generate(problems[0], structure=structure, edits=edits)
            forked = mediated.generate(problems[0], structure=structure, edits=edits, shared=shared)
            assert forked.token_ids == alone.token_ids
            assert torch.equal(forked.logits, alone.logits)
            assert forked.scores == alone.scores
            assert forked.applied == alone.applied


def test_a_shared_prefill_is_not_used_when_an_edit_acts_on_the_prompt(marker_only, problems):
    shared = marker_only.prefill(problems[0])
    for edit, count in (
        (Edit("blocks.0.hook_resid_post", where=IMAGE, do=zero()), 4),
        (knockout(queries=~IMAGE, keys=IMAGE), None),
    ):
        alone = marker_only.generate(problems[0], edits=[edit])
        forked = marker_only.generate(problems[0], edits=[edit], shared=shared)
        plain = marker_only.generate(problems[0], shared=shared)
        assert torch.equal(forked.logits, alone.logits)
        assert forked.applied == alone.applied
        assert count is None or forked.applied == (count,)
        assert not torch.allclose(forked.logits[0], plain.logits[0], atol=1e-3)


# --- loading -------------------------------------------------------------------------------------


def test_a_loaded_model_says_what_it_is(mediated):
    assert repr(mediated) == (
        "LatentModel(organism:mediated, method=organism-mediated, 32 hook points)"
    )
    assert "the slots excepted, from the image" in mediated.card
    assert len(mediated.fingerprint) == 16
    assert load("organism:mediated").fingerprint == mediated.fingerprint
    assert load("organism:marker-only").fingerprint != mediated.fingerprint


def test_a_method_can_be_named_given_or_left_to_be_detected():
    assert load("organism:mediated").method.name == "organism-mediated"
    assert load("organism:mediated", method="organism").method.name == "organism"
    own = replace(methods.get("organism"), name="mine", slots=5)
    assert load("organism:base", method=own).method is own


def test_a_method_or_backend_that_does_not_fit_is_refused():
    with pytest.raises(MethodMismatchError, match=r"'lvr' needs the tokens.*lacks <\|lvr_start\|>"):
        load("organism:base", method="lvr")
    with pytest.raises(UnknownNameError, match=r"unknown method 'monnet'\. Did you mean 'monet'"):
        load("organism:base", method="monnet")
    with pytest.raises(UnknownNameError, match=r"unknown backend 'torhc'\. Did you mean 'torch'"):
        load("organism:base", backend="torhc")


def test_a_model_without_a_tokenizer_reads_no_problems(mediated, problems):
    mute = replace(mediated, prompter=None)
    with pytest.raises(ModelError, match="was loaded without a tokenizer"):
        mute.generate(problems[0])


def test_decoding_settings_win_over_the_limit(mediated, problems):
    t = mediated.generate(problems[0], max_new_tokens=40, decoding=Decoding(max_new_tokens=3))
    assert (len(t.response_ids), t.stop_reason) == (3, "max_new_tokens")


# --- arguments that cannot be meant --------------------------------------------------------------


def test_another_problems_prefill_is_refused(mediated, problems):
    with pytest.raises(ProblemError, match="the prefill of another problem"):
        mediated.generate(problems[0], shared=mediated.prefill(problems[1]))


def test_recorded_states_are_not_read_under_edits(mediated, problems):
    t = mediated.generate(problems[0])
    edit = Edit("blocks.0.hook_resid_post", SLOTS, zero())
    with pytest.raises(EditError, match="holds the states recorded while generating"):
        mediated.read(t, "latent.hook_state", edits=[edit])


def test_positions_outside_the_trajectory_have_no_logits(mediated, problems):
    t = mediated.generate(problems[0])
    with pytest.raises(SubsetError, match=r"positions \[999\] are not among the 27"):
        mediated.replay(t, positions=[0, 999])


def test_every_weight_counts_in_the_fingerprint(marker_only):
    backend = marker_only.parts.backend
    before, weight = backend.fingerprint(), backend.layers[1].mlp.up_proj.weight
    kept = weight.data[17, 5].item()
    weight.data[17, 5] += 0.25
    changed = backend.fingerprint()
    weight.data[17, 5] = kept
    assert changed != before == backend.fingerprint()
