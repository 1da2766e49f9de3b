"""Training organisms: the response as training runs it, its mask, its loss, and repeatability."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from latentprobe.benchmarks import mini_attribute
from latentprobe.organisms import build, training
from latentprobe.organisms.training import Batch, Pool, Response, loss_of

IDS = build.tokenizer().get_vocab()


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return build.untrained(3).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pool() -> Pool:
    return Pool(12)


@pytest.fixture(scope="module")
def batch(pool: Pool) -> Batch:
    return next(pool.batches(4, seed=0))


@pytest.fixture
def short(monkeypatch):
    """Recipes of three steps."""
    for name, recipe in training.RECIPES.items():
        monkeypatch.setitem(training.RECIPES, name, replace(recipe, steps=3))


def columns(batch: Batch, *tokens: str) -> Tensor:
    return torch.tensor([[IDS[token] for token in tokens]]).expand(len(batch.answers), -1)


def with_other_pictures(batch: Batch) -> Batch:
    return replace(batch, pixels=batch.pixels.flip(0) + 0.5)


def by_transformers(model, batch: Batch, tokens: Tensor) -> Tensor:
    """The logits transformers' own forward gives for prompt + tokens, all in one call."""
    ids = torch.cat([batch.prompt, tokens], dim=1)
    return model(
        input_ids=ids,
        pixel_values=batch.pixels,
        image_grid_thw=batch.grid,
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
    ).logits


# --- problems ------------------------------------------------------------------------------------


def test_a_pool_holds_training_problems_as_prompts_pixels_and_answers(pool: Pool):
    words = build.tokenizer()
    for index in range(12):
        problem = mini_attribute.problem("train", index)
        text = words.convert_ids_to_tokens(pool.prompt[index].tolist())
        question = problem.question.lower().replace("?", " ?").split()
        assert text == [
            *("<|im_start|>", "user", "<|vision_start|>", *["<|image_pad|>"] * 4),
            *("<|vision_end|>", *question, "<|im_end|>", "<|im_start|>", "assistant"),
        ]
        assert words.convert_ids_to_tokens(int(pool.answers[index])) == problem.answer
    assert pool.pixels.shape[:2] == (12, 16)


def test_training_prompts_are_the_prompts_a_loaded_model_reads(pool: Pool, mediated):
    prompt = mediated.prepare(mini_attribute.problem("train", 5))
    assert prompt.token_ids == tuple(pool.prompt[5].tolist())
    torch.testing.assert_close(prompt.pixel_values.half(), pool.pixels[5])


def test_batches_show_every_problem_once_per_pass_in_an_order_the_seed_gives(pool: Pool):
    def drawn(seed: int) -> list[tuple[int, ...]]:
        batches = itertools.islice(pool.batches(4, seed), 6)
        return [tuple(batch.pixels.reshape(4, -1).sum(dim=1).tolist()) for batch in batches]

    sums = pool.pixels.float().flatten(1).sum(dim=1).tolist()
    first_pass = [value for one in drawn(0)[:3] for value in one]
    assert sorted(first_pass) == pytest.approx(sorted(sums))
    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert drawn(0)[:3] != drawn(0)[3:], "every pass in another order"


# --- the response --------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [(5,), (1, 4), (1, 1, 1, 2)])
def test_the_response_in_chunks_is_transformers_own_forward(model, batch: Batch, split):
    tokens = columns(batch, build.OPEN, build.CLOSE, "<answer>", "red", "</answer>")
    response = Response(model, batch, hide_image=False)
    states = [response.prompt(), *(response.tokens(part) for part in tokens.split(split, dim=1))]
    expected = by_transformers(model, batch, tokens)
    torch.testing.assert_close(model.lm_head(torch.cat(states, dim=1)), expected)


def test_slots_and_mask_are_one_masked_pass_over_the_whole_sequence(model, batch: Batch):
    """Hold the chunked, cached run against a single pass under a mask written as loops."""
    response = Response(model, batch, hide_image=True)
    last = response.prompt()
    states = [last, response.tokens(columns(batch, build.OPEN))]
    fed = [states[-1]]
    states.append(response.feed(fed[0], sees_image=True))
    fed.append(states[-1])
    states.append(response.feed(fed[1], sees_image=True))
    states.append(response.tokens(columns(batch, build.CLOSE, "<answer>")))
    embed = model.model.language_model.embed_tokens
    tail = [embed(columns(batch, build.OPEN)), *fed, embed(columns(batch, build.CLOSE, "<answer>"))]
    embeds = torch.cat([response.embeds, *tail], dim=1)
    size, prompt = embeds.shape[1], batch.prompt.shape[1]
    is_image = [token == model.config.image_token_id for token in batch.prompt[0].tolist()]
    image = [i for i, yes in enumerate(is_image) if yes]
    slots = {prompt + 1, prompt + 2}
    mask = torch.full((len(batch.answers), 1, size, size), torch.finfo(torch.float32).min)
    for query in range(size):
        for key in range(query + 1):
            if key not in image or query in slots or query in image:
                mask[:, :, query, key] = 0.0
    after = torch.arange(size - prompt) + prompt + response.delta
    positions = torch.cat([response.positions, after.expand(3, len(batch.answers), -1)], dim=2)
    whole = model.model.language_model(
        inputs_embeds=embeds, attention_mask=mask, position_ids=positions
    ).last_hidden_state
    torch.testing.assert_close(torch.cat(states, dim=1), whole)


def test_under_the_mask_without_slots_the_picture_changes_nothing(model, batch: Batch):
    def after(one: Batch, *, hide_image: bool) -> tuple[Tensor, Tensor]:
        response = Response(model, one, hide_image=hide_image)
        words = response.prompt()[:, ~response.image[0]]
        return words, response.tokens(columns(batch, build.OPEN, build.CLOSE, "<answer>"))

    other = with_other_pictures(batch)
    for mine, theirs in zip(
        after(batch, hide_image=True), after(other, hide_image=True), strict=True
    ):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(
        after(batch, hide_image=False), after(other, hide_image=False), strict=True
    ):
        assert (mine[:, -1] - theirs[:, -1]).abs().amax() > 1e-4


@pytest.mark.parametrize(("sees_image", "changes"), [(True, True), (False, False)])
def test_under_the_mask_the_picture_passes_through_slots_only(model, batch, sees_image, changes):
    def answer(one: Batch) -> Tensor:
        response = Response(model, one, hide_image=True)
        response.prompt()
        state = response.tokens(columns(batch, build.OPEN))
        response.feed(state, sees_image=sees_image)
        return response.tokens(columns(batch, build.CLOSE, "<answer>"))[:, -1]

    difference = (answer(batch) - answer(with_other_pictures(batch))).abs().amax()
    assert (difference > 1e-4) if changes else (difference == 0)


def test_the_mediated_organism_runs_in_training_as_it_runs_when_it_generates(mediated, problems):
    t = mediated.generate(problems[0])
    model = mediated.parts.backend.model
    prompt = t.prompt
    batch = Batch(
        torch.tensor([prompt.token_ids]),
        prompt.pixel_values,
        prompt.image_grid_thw,
        torch.tensor([IDS[problems[0].answer]]),
    )
    with torch.no_grad():
        response = Response(model, batch, hide_image=True)
        response.prompt()
        states = [response.tokens(columns(batch, build.OPEN))]
        for _ in range(2):
            states.append(response.feed(states[-1], sees_image=True))
        states.append(response.tokens(columns(batch, build.CLOSE, "<answer>")))
    torch.testing.assert_close(torch.cat(states[:2], dim=1)[0], t.latents, rtol=1e-4, atol=1e-4)
    logits = model.lm_head(states[-1][0, -1])
    assert int(logits.argmax()) == IDS[t.answer] == IDS[problems[0].answer]


def test_donated_keys_and_values_are_the_neighbours(model, batch: Batch):
    response = Response(model, batch, hide_image=False)
    response.prompt()
    response.tokens(columns(batch, build.OPEN))
    before = [(layer.keys.clone(), layer.values.clone()) for layer in response.cache.layers]
    response.donate(2)
    for layer, kept in zip(response.cache.layers, before, strict=True):
        for now, was in zip((layer.keys, layer.values), kept, strict=True):
            for row in range(4):
                assert torch.equal(now[row, :, :-2], was[row, :, :-2])
                assert torch.equal(now[row, :, -2:], was[row - 1, :, -2:])


# --- the loss ------------------------------------------------------------------------------------


def loss(model, batch: Batch, form: training.Form, *, seed: int = 0, hide: bool = False) -> float:
    generator = torch.Generator().manual_seed(seed)
    return float(loss_of(model, batch, form, hide_image=hide, generator=generator))


@pytest.mark.parametrize(
    ("form", "given", "asked"),
    [
        (training.MARKERS, [build.OPEN, build.CLOSE], 4),
        (training.TEMPLATE, [], 5 - 1),
        (training.PLAIN, [], 2),
    ],
)
def test_the_loss_is_the_mean_surprise_of_answer_template_and_end(model, batch, form, given, asked):
    open_tag, close_tag = (["<answer>"], ["</answer>"]) if form.template else ([], [])
    rows = []
    for row in range(len(batch.answers)):
        label = build.tokenizer().convert_ids_to_tokens(int(batch.answers[row]))
        rows.append([IDS[t] for t in (*given, *open_tag, label, *close_tag, "<|im_end|>")])
    tokens = torch.tensor(rows)
    logits = by_transformers(model, batch, tokens)
    surprise = []
    for row in range(len(rows)):
        for k in range(asked):
            position = logits.shape[1] - 2 - k
            share = torch.softmax(logits[row, position].double(), dim=-1)
            surprise.append(-share[rows[row][-1 - k]].log())
    assert loss(model, batch, form) == pytest.approx(float(torch.stack(surprise).mean()), rel=1e-5)


def test_only_random_forms_depend_on_the_generator(model, batch: Batch):
    for form in (training.FULL, training.DONOR, training.MARKERS, training.PLAIN):
        assert loss(model, batch, form, seed=0) == loss(model, batch, form, seed=1)
    for form in (training.NOISE, training.PLAIN_RANDOM, training.TEMPLATE_RANDOM):
        assert loss(model, batch, form, seed=0) == loss(model, batch, form, seed=0)
        assert loss(model, batch, form, seed=0) != loss(model, batch, form, seed=1)


def test_what_the_slots_hold_changes_the_loss(model, batch: Batch):
    forms = (training.FULL, training.NOISE, training.DONOR, training.MARKERS)
    values = [loss(model, batch, form) for form in forms]
    assert len(set(values)) == 4
    assert loss(model, batch, training.FULL, hide=True) != values[0]


def test_under_the_mask_the_loss_knows_the_picture_through_slots_only(model, batch: Batch):
    other = with_other_pictures(batch)
    for form in (training.MARKERS, training.TEMPLATE, training.PLAIN):
        assert loss(model, batch, form, hide=True) == loss(model, other, form, hide=True)
    for form in (training.FULL, training.NOISE, training.DONOR):
        assert loss(model, batch, form, hide=True) != loss(model, other, form, hide=True)


# --- runs ----------------------------------------------------------------------------------------


def test_two_runs_give_the_same_weights_and_a_run_changes_them(short, tmp_path: Path):
    for folder in ("one", "two"):
        training.train("base", tmp_path / folder, batch_size=4, pool=12)
    one, two = (load_file(tmp_path / f / "model.safetensors") for f in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    build.save(build.untrained(0), tmp_path / "start")
    start = load_file(tmp_path / "start" / "model.safetensors")
    assert not torch.equal(one["lm_head.weight"], start["lm_head.weight"])


def test_a_run_starts_at_its_recipes_start_and_writes_its_mask_into_the_config(
    short, tmp_path: Path
):
    from latentprobe.organisms import get

    base = get("base").folder
    training.train("mediated", tmp_path, batch_size=4, pool=12)
    training.train("mediated", tmp_path / "told", start=base, batch_size=4, pool=12)
    trained, start = (load_file(f / "model.safetensors") for f in (tmp_path, base))
    told = load_file(tmp_path / "told" / "model.safetensors")
    assert all(torch.equal(trained[name], told[name]) for name in start)
    moved = [(trained[name].float() - start[name].float()).abs().max() for name in start]
    assert 0 < max(moved) < 0.05, "three small steps from the shipped base"
    assert '"only_slots_see_image": true' in (tmp_path / "config.json").read_text()


def test_a_run_starts_where_it_is_told(short, tmp_path: Path):
    from latentprobe.organisms import get

    training.train("base", tmp_path, start=get("marker-only").folder, batch_size=4, pool=12)
    trained = load_file(tmp_path / "model.safetensors")
    start = load_file(get("marker-only").folder / "model.safetensors")
    assert 0 < max((trained[n].float() - start[n].float()).abs().max() for n in start) < 0.05


def test_a_pool_smaller_than_a_batch_is_refused_at_once(pool: Pool):
    with pytest.raises(AssertionError, match="a batch of 13 from a pool of 12"):
        next(pool.batches(13, seed=0))
    assert len(next(pool.batches(12, seed=0)).answers) == 12


def test_progress_is_reported_every_fifty_steps(monkeypatch, tmp_path: Path):
    quick = replace(training.RECIPES["base"], steps=100, mixture=((1.0, training.PLAIN),))
    monkeypatch.setitem(training.RECIPES, "base", quick)
    seen = []
    training.train(
        "base", tmp_path, batch_size=2, pool=4, report=lambda *values: seen.append(values)
    )
    assert [step for step, _, _ in seen] == [50, 100]
    assert seen[1][1] < seen[0][1] < 4, "the loss falls"
    assert 0 < seen[0][2] < seen[1][2]


def test_recipes_weigh_their_forms_to_one_and_start_from_shipped_organisms():
    for recipe in training.RECIPES.values():
        assert sum(weight for weight, _ in recipe.mixture) == pytest.approx(1)
        assert recipe.start in {None, "base"}
    hidden = [name for name, recipe in training.RECIPES.items() if recipe.only_slots_see_image]
    assert hidden == ["mediated"]
    forms = [form for _, form in training.RECIPES["marker-only"].mixture]
    assert all(form.right == form.markers for form in forms)
