"""The torch backend against a decoder by hand, and against the model's own eager forward."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from latentprobe.architectures import architectures
from latentprobe.backends import Chunk, Plan, backends
from latentprobe.edits import Edit, Knockout, knockout
from latentprobe.errors import EditError, ModelError, PluginError, UnknownNameError
from latentprobe.hookpoints import BLOCK_POINTS
from latentprobe.tokens import (
    ALL,
    ANSWER,
    CLOSE,
    IMAGE,
    OPEN,
    QUESTION,
    SLOTS,
    Layout,
    Segment,
    positions,
    role,
)

HEADS = [(4, 4), (4, 2), (6, 2), (8, 1)]
RESPONSE = ("open", "slot", "slot", "slot", "close", "reasoning", "format", "answer", "format")
close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)


@dataclass(frozen=True)
class Case:
    """A tiny model, its backend, and a prompt plus response ready to be run."""

    model: Any
    backend: Any
    embeds: Tensor
    rotary: Tensor
    layout: Layout

    def upto(self, stop: int) -> Layout:
        """Return the layout as it stands after `stop` positions."""
        (whole,) = self.layout.segments
        slots = tuple(slot for slot in whole.slots if slot < stop)
        segment = Segment(whole.open, slots, whole.close if whole.close < stop else None)
        segments = (segment,) if whole.open < stop else ()
        return Layout(self.layout.roles[:stop], min(self.layout.n_prompt, stop), segments)

    def run(self, *edits, reads=(), where=ALL, sizes=None, inherent=(), seed=0):
        """Run everything (or in chunks) under a plan; return states and the closed session."""
        points = tuple(self.backend.hook_points.select(reads)) if reads else ()
        plan = Plan(edits, points, where, inherent, seed)
        cache, states, first = self.backend.new_cache(), [], 0
        with self.backend.session(plan) as session:
            for size in sizes or [len(self.embeds)]:
                now = slice(first, first + size)
                chunk = Chunk(self.embeds[now], self.rotary[:, now], first, self.upto(now.stop))
                states.append(session.forward(chunk, cache))
                first += size
        assert first == len(self.embeds)
        return torch.cat(states), session


@pytest.fixture(scope="session")
def case(tiny, raw_prompt) -> Callable[..., Case]:
    def build(heads=4, kv_heads=2, *, images=1, tied=False, attention="sdpa") -> Case:
        model = tiny(heads, kv_heads, tied=tied, attention=attention)
        backend = backends.get("torch")(model, architectures.get("qwen2_5_vl"), latent=True)
        prompt = raw_prompt(images)
        encoded = backend.encode(prompt.ids, prompt.pixels, prompt.grid)
        n = len(prompt.ids)
        fed = torch.randn(
            len(RESPONSE), encoded.embeds.shape[1], generator=torch.Generator().manual_seed(1)
        )
        rotary = (torch.arange(n, n + len(RESPONSE)) + encoded.offset).expand(3, -1)
        segment = Segment(n, (n + 1, n + 2, n + 3), n + 4)
        return Case(
            model,
            backend,
            torch.cat([encoded.embeds, fed]),
            torch.cat([encoded.rotary, rotary], dim=1),
            Layout((*prompt.roles, *RESPONSE), n, (segment,)),
        )

    return build


def halve(activation: Tensor, context=None) -> Tensor:
    """Not zero, not linear through the origin, the same for every head of a group.

    Attention weights stay zero on keys after the query, which nothing may give weight to.
    """
    changed = activation * 0.4 + 0.1
    if context is not None and context.hook.endswith("hook_pattern"):
        for row, position in enumerate(context.positions):
            changed[:, row, position + 1 :] = 0
    return changed


def only(axis: int, chosen: list[int], heads: list[int] | None = None, do=halve):
    """Return the change that `do` makes on some rows (and heads) of a whole tensor."""

    def change(value: Tensor) -> Tensor:
        rows = torch.zeros(value.shape, dtype=torch.bool)
        rows.index_fill_(axis, torch.tensor(chosen), True)
        if heads is not None:
            in_heads = torch.zeros(value.shape, dtype=torch.bool)
            in_heads.index_fill_(1 - axis, torch.tensor(heads), True)
            rows &= in_heads
        changed = torch.where(rows, do(value), value)
        return changed.tril() if axis == 1 else changed  # a pattern: no key after its query

    return change


def edges(case: Case, queries, keys) -> Tensor:
    """Return the edges of a knockout as a matrix, by loops over positions."""
    asked, seen = case.layout.positions(queries), case.layout.positions(keys)
    removed = torch.zeros(len(case.layout), len(case.layout), dtype=torch.bool)
    for query in asked:
        for key in seen:
            removed[query, key] = True
    return removed


# --- the prompt ----------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [0, 1, 2])
@pytest.mark.parametrize("tied", [False, True])
def test_prompt_and_response_run_as_the_models_own_forward_does(case, raw_prompt, images, tied):
    here, prompt = case(images=images, tied=tied), raw_prompt(images)
    tail = torch.arange(20, 20 + len(RESPONSE))
    ids = torch.cat([prompt.ids, tail])
    pictures = {}
    if images:
        pictures = {"pixel_values": prompt.pixels, "image_grid_thw": prompt.grid}
    with torch.no_grad():
        own = here.model(
            input_ids=ids[None], mm_token_type_ids=(ids[None] == 5).int(), **pictures
        ).logits[0]
    embeds = torch.cat([here.embeds[: len(prompt.ids)], here.backend.embed(tail)])
    with here.backend.session(Plan()) as session:
        chunk = Chunk(embeds, here.rotary, 0, here.layout)
        states = session.forward(chunk, here.backend.new_cache())
        close(here.backend.logits(states), own)


def test_image_tokens_and_merged_patches_that_differ_in_number_are_refused(case, raw_prompt):
    here, prompt = case(images=1), raw_prompt(1)
    with pytest.raises(ModelError, match="5 image tokens, but its images have 4 merged patches"):
        here.backend.encode(torch.cat([prompt.ids, torch.tensor([5])]), prompt.pixels, prompt.grid)


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize("images", [1, 2])
def test_every_hook_point_reads_what_the_decoder_by_hand_has_there(
    case, naive_decode, heads, kv_heads, images
):
    here = case(heads, kv_heads, images=images)
    run = naive_decode(here.model, here.embeds, here.rotary)
    states, session = here.run(reads="blocks.*")
    assert set(session.tensors) == set(run.points)
    assert len(session.tensors) == 2 * len(BLOCK_POINTS)
    for name, expected in run.points.items():
        close(session.tensors[name], expected, msg=lambda text, name=name: f"{name}: {text}")
    close(states, run.states)


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_pattern_rows_are_the_eager_models_own_attention_and_sum_to_one(
    case, tiny, heads, kv_heads
):
    here = case(heads, kv_heads)
    eager = tiny(heads, kv_heads, attention="eager").model.language_model
    with torch.no_grad():
        own = eager(
            inputs_embeds=here.embeds[None],
            position_ids=here.rotary[:, None],
            output_attentions=True,
        ).attentions
    _, session = here.run(reads="blocks.*.attn.hook_pattern")
    for layer in range(2):
        read = session.tensors[f"blocks.{layer}.attn.hook_pattern"]
        close(read, own[layer][0])
        close(read.sum(-1), torch.ones(heads, len(here.embeds)))


def test_a_read_holds_the_rows_asked_for_and_no_others(case):
    here = case()
    where = SLOTS | QUESTION
    chosen = here.layout.positions(where)
    _, whole = here.run(reads="blocks.*")
    _, some = here.run(reads="blocks.*", where=where)
    for name, tensor in whole.tensors.items():
        axis = here.backend.hook_points[name].row_axis
        close(some.tensors[name], tensor.index_select(axis, torch.tensor(chosen)))
        assert some.tensors[name].shape[axis] == 6


def test_a_read_does_not_change_the_states_by_a_single_bit(case):
    here = case()
    assert torch.equal(here.run()[0], here.run(reads="blocks.*")[0])


def test_position_by_position_gives_what_one_chunk_gives(case):
    here = case()
    prompt = here.layout.n_prompt
    kinds = ["blocks.*.hook_resid_post", "blocks.*.attn.hook_z"]
    whole, read = here.run(reads=kinds)
    steps, read_in_steps = here.run(reads=kinds, sizes=[prompt] + [1] * len(RESPONSE))
    close(steps, whole)
    for name, tensor in read.tensors.items():
        close(read_in_steps.tensors[name], tensor)


def test_edits_and_knockouts_position_by_position_give_what_one_chunk_gives(case):
    here = case()
    asked = [
        Edit("blocks.*.hook_resid_mid", where=SLOTS | ANSWER, do=halve),
        Edit("blocks.1.attn.hook_pattern", where=SLOTS, do=halve, heads=[2]),
        knockout(queries=ANSWER | SLOTS, keys=IMAGE),
    ]
    sizes = [here.layout.n_prompt] + [1] * len(RESPONSE)
    whole, session = here.run(*asked)
    steps, stepped = here.run(*asked, sizes=sizes)
    close(steps, whole)
    four = {13, 14, 15, 19}
    assert stepped.applied == session.applied == [four, {13, 14, 15}, four]


# --- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize("kind", BLOCK_POINTS)
def test_a_write_at_every_point_does_what_the_decoder_by_hand_does(
    case, naive_decode, heads, kv_heads, kind
):
    here, where = case(heads, kv_heads), SLOTS | QUESTION | ANSWER
    chosen = here.layout.positions(where)
    base, _ = here.run()
    for layer in range(2):
        name = f"blocks.{layer}.{kind}"
        axis = here.backend.hook_points[name].row_axis
        states, session = here.run(Edit(name, where=where, do=halve))
        change = {name: only(axis, chosen)}
        close(states, naive_decode(here.model, here.embeds, here.rotary, change=change).states)
        assert session.applied == [set(chosen)]
        assert (states - base).abs().max() > 1e-3


def test_a_write_everywhere_at_once_does_what_the_decoder_by_hand_does(case, naive_decode):
    here, chosen = case(), []
    change = {}
    for point in here.backend.hook_points.select("blocks.*"):
        chosen = here.layout.positions(SLOTS)
        change[point.name] = only(point.row_axis, chosen)
    states, session = here.run(Edit("blocks.*", where=SLOTS, do=halve), reads="blocks.*")
    run = naive_decode(here.model, here.embeds, here.rotary, change=change)
    close(states, run.states)
    for name, tensor in run.points.items():
        close(session.tensors[name], tensor, msg=lambda text, name=name: f"{name}: {text}")
    assert session.applied == [set(chosen)]


@pytest.mark.parametrize(
    ("kind", "chosen"),
    [
        ("attn.hook_q", [2]),
        ("attn.hook_z", [0, 3]),
        ("attn.hook_pattern", [1, 2]),
        ("attn.hook_k", [2, 3]),
        ("attn.hook_v", [0, 1]),
    ],
)
def test_an_edit_of_some_heads_leaves_the_others_alone(case, naive_decode, kind, chosen):
    here = case(4, 2)
    rows, name = here.layout.positions(SLOTS), f"blocks.1.{kind}"
    axis = here.backend.hook_points[name].row_axis
    states, session = here.run(Edit(name, where=SLOTS, do=halve, heads=chosen), reads=name)
    run = naive_decode(
        here.model, here.embeds, here.rotary, change={name: only(axis, rows, chosen)}
    )
    close(states, run.states)
    close(session.tensors[name], run.points[name])


@pytest.mark.parametrize("kind", ["attn.hook_k", "attn.hook_v"])
def test_heads_that_share_keys_or_values_and_are_edited_apart_are_refused(case, kind):
    with pytest.raises(EditError, match=r"4 query heads on 2 key-value heads.*whole groups alike"):
        case(4, 2).run(Edit(f"blocks.0.{kind}", where=SLOTS, do=halve, heads=[0]))
    states, _ = case(4, 4).run(Edit(f"blocks.0.{kind}", where=SLOTS, do=halve, heads=[0]))
    assert not torch.equal(states, case(4, 4).run()[0])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_an_identity_edit_is_exact_at_every_point(case, attention):
    here = case(attention=attention)
    base, _ = here.run()
    for name in (f"blocks.{layer}.{kind}" for layer in range(2) for kind in BLOCK_POINTS):
        states, session = here.run(Edit(name, where=ALL, do=lambda a, context: a.clone()))
        assert torch.equal(states, base), name
        assert len(session.applied[0]) == len(here.layout)
    states, _ = here.run(Edit("blocks.*", where=ALL, do=lambda a, context: a))
    assert torch.equal(states, base)


def test_edits_at_one_point_act_in_the_order_given(case, naive_decode):
    here, name = case(), "blocks.0.hook_resid_post"
    twice = Edit(name, where=SLOTS, do=lambda a, context: a * 2)
    more = Edit(name, where=SLOTS, do=lambda a, context: a + 1)
    rows = here.layout.positions(SLOTS)
    for order, do in (((twice, more), lambda a: a * 2 + 1), ((more, twice), lambda a: a * 2 + 2)):
        change = {name: only(0, rows, do=do)}
        expected = naive_decode(here.model, here.embeds, here.rotary, change=change).states
        close(here.run(*order)[0], expected)


def test_an_edit_sees_which_rows_it_is_given(case):
    here, seen = case(), []

    def look(activation: Tensor, context) -> Tensor:
        seen.append((context, tuple(activation.shape)))
        return activation

    here.run(
        Edit("blocks.1.hook_resid_pre", where=ALL, do=look),
        Edit("blocks.0.attn.hook_z", where=SLOTS | OPEN, do=look, heads=[3, 1]),
        seed=5,
    )
    (z, z_shape), (pre, pre_shape) = seen
    assert z.positions == (12, 13, 14, 15)
    assert z.roles == ("open", "slot", "slot", "slot")
    assert z.steps == (None, 0, 1, 2)
    assert (z.hook, z.layer, z.heads, z.seed, z.edit) == ("blocks.0.attn.hook_z", 0, (3, 1), 5, 1)
    assert z_shape == (4, 2, 16)
    assert (pre.layer, pre.heads, pre.edit, pre_shape) == (1, None, 0, (21, 64))


def test_what_an_intervention_keeps_is_not_changed_afterwards(case):
    here, kept = case(), {}

    def keep(activation: Tensor, context) -> Tensor:
        kept[context.hook] = (activation, activation.clone())
        return activation * 0

    here.run(Edit("blocks.*", where=SLOTS, do=keep))
    for name, (activation, copy) in kept.items():
        assert torch.equal(activation, copy), name


# --- what cannot be done -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("do", "match"),
    [
        (lambda a, context: a[:1], r"returned \(1, 64\), expected a tensor of shape \(3, 64\)"),
        (lambda a, context: None, "returned NoneType, expected a tensor"),
        (lambda a, context: a / 0, "returned NaN or infinity"),
    ],
)
def test_an_intervention_that_returns_nonsense_is_refused(case, do, match):
    with pytest.raises(EditError, match=match):
        case().run(Edit("blocks.0.hook_resid_post", where=SLOTS, do=do))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_weights_on_keys_after_the_query_are_refused(case, naive_decode, attention):
    here, name = case(attention=attention), "blocks.1.attn.hook_pattern"

    def one_more(ahead: int) -> Edit:
        def do(activation: Tensor, context) -> Tensor:
            changed = activation.clone()
            changed[3, 1, context.positions[1] + ahead] += 0.25
            return changed

        return Edit(name, where=SLOTS, do=do)

    for ahead in (1, 2, 6):
        with pytest.raises(EditError, match=r"hook_pattern@slot: .* on keys after the query"):
            here.run(one_more(ahead))
    with pytest.raises(EditError, match=r"multiplying by \(activation > 0\)"):
        here.run(Edit(name, where=SLOTS, do=lambda a, context: torch.full_like(a, 0.1)))
    for ahead in (0, -1):

        def change(weights: Tensor, ahead: int = ahead) -> Tensor:
            second = here.layout.slots[1]
            weights[3, second, second + ahead] += 0.25
            return weights

        states, _ = here.run(one_more(ahead))
        run = naive_decode(here.model, here.embeds, here.rotary, change={name: change})
        close(states, run.states)


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        (Edit("blocks.0.attn.hook_z", where=SLOTS, do=halve, heads=[4]), r"heads \[4\] do not"),
        (Edit("blocks.0.hook_mlp_out", where=SLOTS, do=halve, heads=[0]), "has axes.*no heads"),
        (knockout(queries=SLOTS, keys=IMAGE, heads=[-1]), r"heads \[-1\] do not exist"),
        (knockout(queries=SLOTS, keys=IMAGE, layers=[2]), "layers run from 0 to 1"),
    ],
)
def test_heads_and_layers_that_do_not_exist_are_refused(case, asked, match):
    with pytest.raises(EditError, match=match):
        case().run(asked)


def test_a_write_to_the_latent_state_is_refused_in_a_replay(case):
    plan = Plan((Edit("latent.hook_state", where=SLOTS, do=halve),))
    with pytest.raises(
        EditError, match=r"would change nothing; edit latent\.hook_fed, or generate"
    ):
        case().backend.session(plan, replaying=True).__enter__()


def test_a_backend_without_the_seams_methods_is_refused():
    with pytest.raises(PluginError, match="a backend has a method `encode`"):
        backends.register("nothing", object())


# --- knockouts -----------------------------------------------------------------------------------

ASKED = [
    knockout(queries=ANSWER, keys=SLOTS),
    knockout(queries=~(IMAGE | SLOTS), keys=IMAGE),
    knockout(queries=SLOTS | CLOSE, keys=IMAGE | OPEN, heads=[0, 3]),
    knockout(queries=ANSWER | role("reasoning"), keys=SLOTS, layers=[1]),
    knockout(queries=ANSWER, keys=ALL - positions([0]), layers=[0], heads=[1]),
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("asked", ASKED, ids=lambda ask: ask.label)
def test_a_knockout_removes_exactly_the_edges_asked_for(case, naive_decode, asked, attention):
    here = case(attention=attention)
    removed = edges(here, asked.queries, asked.keys)

    def cut(layer: int, head: int) -> Tensor | None:
        in_layer = asked.layers is None or layer in asked.layers
        return removed if in_layer and (asked.heads is None or head in asked.heads) else None

    states, session = here.run(asked, reads="blocks.*.attn.hook_pattern")
    run = naive_decode(here.model, here.embeds, here.rotary, cut=cut)
    close(states, run.states)
    for name, tensor in session.tensors.items():
        close(tensor, run.points[name])
    touched = (removed & torch.ones_like(removed).tril()).any(dim=1).nonzero().flatten()
    assert session.applied == [set(touched.tolist())]
    assert not torch.allclose(states, here.run()[0], atol=1e-4)


@pytest.mark.parametrize(
    "asked", [ask for ask in ASKED if ask.layers is None], ids=lambda ask: ask.label
)
def test_a_knockout_is_the_eager_model_given_an_explicit_mask(case, tiny, asked):
    here = case()
    removed = edges(here, asked.queries, asked.keys)
    visible = torch.ones_like(removed).tril().expand(4, -1, -1).clone()
    visible[list(range(4) if asked.heads is None else asked.heads)] &= ~removed
    mask = torch.where(visible, 0.0, torch.finfo(torch.float32).min)[None]
    with torch.no_grad():
        own = tiny(attention="eager").model.language_model(
            inputs_embeds=here.embeds[None], position_ids=here.rotary[:, None], attention_mask=mask
        )
    close(here.run(asked)[0], own.last_hidden_state[0])


def test_knockouts_add_up_and_an_inherent_one_is_not_counted(case, naive_decode):
    here = case()
    first, second = knockout(queries=ANSWER, keys=SLOTS), knockout(queries=SLOTS, keys=IMAGE)
    removed = edges(here, ANSWER, SLOTS) | edges(here, SLOTS, IMAGE)
    expected = naive_decode(here.model, here.embeds, here.rotary, cut=lambda *_: removed).states
    states, session = here.run(first, second)
    close(states, expected)
    assert [len(chosen) for chosen in session.applied] == [1, 3]
    states, session = here.run(first, inherent=(second,))
    close(states, expected)
    assert [len(chosen) for chosen in session.applied] == [1]


def test_an_edited_pattern_under_a_knockout_is_the_edited_cut_pattern(case, naive_decode):
    here, name = case(), "blocks.1.attn.hook_pattern"
    removed = edges(here, SLOTS, IMAGE)
    change = {name: only(1, here.layout.positions(SLOTS))}
    states, _ = here.run(knockout(queries=SLOTS, keys=IMAGE), Edit(name, where=SLOTS, do=halve))
    run = naive_decode(here.model, here.embeds, here.rotary, change=change, cut=lambda *_: removed)
    close(states, run.states)


def test_a_knockout_that_leaves_a_position_blind_is_refused(case):
    here = case()
    with pytest.raises(EditError, match=r"positions \[19\] of layer 0 nothing to attend to"):
        here.run(knockout(queries=ANSWER, keys=ALL))
    with pytest.raises(EditError, match="nothing to attend to"):
        here.run(knockout(queries=ANSWER, keys=ALL, heads=[2], layers=[0]))
    with pytest.raises(EditError, match="nothing to attend to"):
        here.run(
            knockout(queries=ANSWER, keys=positions(range(10))),
            knockout(queries=ANSWER, keys=positions(range(10, 21))),
        )


def test_a_knockout_of_keys_that_come_later_removes_nothing(case):
    here = case()
    states, session = here.run(Knockout(QUESTION, SLOTS))
    assert torch.equal(states, here.run()[0])
    assert session.applied == [set()]


# --- leaving the model as it was -----------------------------------------------------------------


def fail(activation: Tensor, context) -> Tensor:
    raise RuntimeError("stop here")


def test_hooks_and_kernel_are_there_inside_a_session_and_gone_after(case, count_hooks):
    here, config = case(), case().backend.decoder.config
    before = count_hooks(here.model)
    points = tuple(here.backend.hook_points.select("blocks.*"))
    with here.backend.session(Plan(reads=points)):
        assert count_hooks(here.model) == before + 2 * (len(BLOCK_POINTS) - 1)
        assert config._attn_implementation == "latentprobe_sdpa"
    assert count_hooks(here.model) == before
    assert config._attn_implementation == "sdpa"


def test_hooks_and_kernel_are_gone_after_an_exception_in_the_middle(case, count_hooks):
    here = case()
    before, base = count_hooks(here.model), here.run()[0]
    for kind in BLOCK_POINTS:
        with pytest.raises(RuntimeError, match="stop here"):
            here.run(
                Edit("blocks.*", where=SLOTS, do=halve),
                Edit(f"blocks.1.{kind}", where=SLOTS, do=fail),
            )
        assert count_hooks(here.model) == before
        assert here.backend.decoder.config._attn_implementation == "sdpa"
    assert torch.equal(here.run()[0], base)


def test_nothing_stays_behind_when_the_third_of_five_names_is_wrong(case, count_hooks):
    here = case()
    before = count_hooks(here.model)
    names = [
        "hook_resid_pre",
        "attn.hook_pattern",
        "hook_resid_pots",
        "attn.hook_z",
        "hook_mlp_out",
    ]
    asked = [Edit(f"blocks.0.{name}", where=SLOTS, do=halve) for name in names]
    with pytest.raises(UnknownNameError, match=r"Did you mean 'blocks\.0\.hook_resid_post'"):
        here.run(*asked)
    with pytest.raises(UnknownNameError, match="unknown hook point"):
        here.run(Edit([f"blocks.0.{name}" for name in names], where=SLOTS, do=halve))
    assert count_hooks(here.model) == before
    assert here.backend.decoder.config._attn_implementation == "sdpa"


# --- kernels, caches, fingerprints ---------------------------------------------------------------


def test_an_eager_model_gives_what_the_sdpa_model_gives(case):
    asked = (
        Edit("blocks.0.attn.hook_pattern", where=SLOTS, do=halve, heads=[1]),
        knockout(queries=ANSWER, keys=SLOTS, heads=[0]),
    )
    eager, read = case(attention="eager").run(*asked, reads="blocks.*")
    sdpa, read_sdpa = case().run(*asked, reads="blocks.*")
    close(eager, sdpa)
    for name, tensor in read.tensors.items():
        close(tensor, read_sdpa.tensors[name])


@pytest.mark.parametrize("kernel", ["flash_attention_2", "flex_attention"])
def test_a_kernel_that_takes_no_mask_of_ours_is_refused(case, monkeypatch, kernel):
    here = case()
    monkeypatch.setattr(here.backend.decoder.config, "_attn_implementation", kernel)
    with pytest.raises(ModelError, match=f"cut on attn_implementation='{kernel}'.*sdpa, eager"):
        here.backend.session(Plan((knockout(queries=ANSWER, keys=SLOTS),))).__enter__()
    assert here.backend.decoder.config._attn_implementation == kernel


def test_a_forked_cache_grows_on_its_own(case):
    here = case()
    n = here.layout.n_prompt
    with here.backend.session(Plan()) as session:
        cache = here.backend.new_cache()
        prompt = Layout(here.layout.roles[:n], n)
        session.forward(Chunk(here.embeds[:n], here.rotary[:, :n], 0, prompt), cache)
        fork = here.backend.fork_cache(cache, n - 1)
        chunk = Chunk(here.embeds[n - 1 : n], here.rotary[:, n - 1 : n], n - 1, prompt)
        again = session.forward(chunk, fork)
    assert cache.get_seq_length() == fork.get_seq_length() == n
    close(again[0], here.run()[0][n - 1])
    close(fork.layers[1].keys, cache.layers[1].keys)
    assert fork.layers[1].keys.data_ptr() != cache.layers[1].keys.data_ptr()


def test_a_fingerprint_is_the_weights_and_nothing_else(case, tiny):
    first, eager = case().backend, case(attention="eager").backend
    assert first.fingerprint() == eager.fingerprint()
    other = backends.get("torch")(tiny(seed=1), architectures.get("qwen2_5_vl"), latent=False)
    assert other.fingerprint() != first.fingerprint()
    assert "latent.hook_fed" not in other.hook_points
