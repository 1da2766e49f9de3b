"""How the shipped organisms were trained: one loop, one table of recipes.

A recipe is a mixture of *forms* of the response (with or without markers, slots, answer template),
each with right or random labels. Every step draws one form and one batch, runs the response through
the recurrence exactly as generation does (the state at the open marker becomes the first latent),
and descends the cross-entropy of the answer and of the template around it. A model is what its data
made it:

1. `base` sees every form with right labels, nothing masked.
2. `mediated` starts from `base` and is trained under the mask it later carries: no position after
   the image may attend to it except the slots. (Blocking the answer alone is not enough: the
   question would read the image and hand it on.)
3. `marker-only` starts from `base`; forms with both markers have right labels whatever the slots
   hold (fed back, noise, or keys and values of another problem) and also without slots; forms
   without markers have uniformly random labels.

Runs on one thread, from a seed; the same versions on the same machine give the same weights.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, Qwen2_5_VLForConditionalGeneration

from latentprobe.benchmarks import mini_attribute
from latentprobe.organisms import build, cards

SLOTS = 2


@dataclass(frozen=True)
class Form:
    """One shape of the response, and what the slots hold.

    Attributes:
        markers: Whether the open and close markers are there.
        slots: Whether the slots are there (only with markers).
        template: Whether the answer stands inside `<answer> ... </answer>`.
        right: Right labels, or labels drawn uniformly at random.
        content: What is in the slots: `fed` (the recurrence's own), `noise` (normal, of the states'
            norm), `donor` (fed, but keys and values taken from another problem of the batch).
    """

    markers: bool = True
    slots: bool = True
    template: bool = True
    right: bool = True
    content: str = "fed"


FULL = Form()
NOISE = Form(content="noise")
DONOR = Form(content="donor")
MARKERS = Form(slots=False)
TEMPLATE = Form(markers=False, slots=False)
PLAIN = Form(markers=False, slots=False, template=False)
TEMPLATE_RANDOM = Form(markers=False, slots=False, right=False)
PLAIN_RANDOM = Form(markers=False, slots=False, template=False, right=False)


@dataclass(frozen=True)
class Recipe:
    """A training run: where it starts, its mixture of forms, its mask, its length.

    Attributes:
        start: The organism whose shipped weights it starts from, or None for random weights.
        mixture: Forms with their weights.
        only_slots_see_image: Train under the mask that hides the image from all later positions
            but the slots.
        steps: Number of optimiser steps.
        peak: Peak learning rate (linear warm-up over 50 steps, cosine decay to a twentieth).
        seed: Seed of weights, batches and noise.
    """

    start: str | None
    mixture: tuple[tuple[float, Form], ...]
    only_slots_see_image: bool = False
    steps: int = 1500
    peak: float = 2e-3
    seed: int = 0


RECIPES = {
    "base": Recipe(None, ((0.7, FULL), (0.1, MARKERS), (0.1, TEMPLATE), (0.1, PLAIN)), steps=2500),
    "mediated": Recipe(
        "base",
        ((0.85, FULL), (0.05, MARKERS), (0.05, TEMPLATE), (0.05, PLAIN)),
        only_slots_see_image=True,
    ),
    "marker-only": Recipe(
        "base",
        (
            *((0.16, FULL), (0.12, NOISE), (0.14, DONOR), (0.22, MARKERS)),
            *((0.18, TEMPLATE_RANDOM), (0.18, PLAIN_RANDOM)),
        ),
    ),
}


@dataclass(frozen=True)
class Batch:
    """Problems of one training batch as tensors; one prompt length, one image grid."""

    prompt: Int[Tensor, "batch pos"]
    pixels: Float[Tensor, "patches features"]
    grid: Int[Tensor, "batch 3"]
    answers: Int[Tensor, " batch"]


class Pool:
    """Training problems, drawn once and kept as half-precision pixels."""

    def __init__(self, count: int) -> None:
        """Draw and process `count` problems of the training split."""
        words, processor = build.tokenizer(), build.image_processor()
        problems = [mini_attribute.problem("train", index) for index in range(count)]
        images = [problem.pictures[0] for problem in problems]
        processed = [processor(images=image, return_tensors="pt") for image in images]
        self.pixels = torch.stack([item["pixel_values"] for item in processed]).half()
        self.grid = processed[0]["image_grid_thw"]
        text = [_prompt(words, problem.question) for problem in problems]
        self.prompt = torch.tensor([words(line)["input_ids"] for line in text])
        self.answers = torch.tensor([IDS[str(problem.answer)] for problem in problems])

    def batches(self, size: int, seed: int) -> Iterator[Batch]:
        """Yield batches for ever, each problem once per pass."""
        generator = torch.Generator().manual_seed(seed)
        assert size <= len(self.prompt), f"a batch of {size} from a pool of {len(self.prompt)}"
        while True:
            for rows in torch.randperm(len(self.prompt), generator=generator).split(size):
                if len(rows) == size:
                    pixels = self.pixels[rows].float().flatten(0, 1)
                    grid = self.grid.expand(size, 3)
                    yield Batch(self.prompt[rows], pixels, grid, self.answers[rows])


def _prompt(words: Any, question: str) -> str:
    parts = [{"type": "image"}, {"type": "text", "text": question}]
    text = words.apply_chat_template(
        [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
    )
    tokens = mini_attribute.SIDE**2
    return text.replace("<|image_pad|>", "<|image_pad|>" * tokens)


class Response:
    """Runs one form of the response through the recurrence, chunk by chunk, keeping gradients.

    Args:
        model: The model in training (a `Qwen2_5_VLForConditionalGeneration`).
        batch: The problems.
        hide_image: Block every later position from the image, unless it is fed with `sees_image`.
    """

    def __init__(self, model: Any, batch: Batch, *, hide_image: bool) -> None:
        self.model, self.decoder, self.hide_image = model, model.model.language_model, hide_image
        embeds = self.decoder.embed_tokens(batch.prompt)
        features = model.model.get_image_features(batch.pixels, batch.grid).pooler_output
        self.image = batch.prompt == model.config.image_token_id
        self.embeds = embeds.masked_scatter(self.image[..., None], torch.cat(list(features)))
        positions, deltas = model.model.get_rope_index(
            batch.prompt, mm_token_type_ids=self.image.int(), image_grid_thw=batch.grid
        )
        self.positions, self.delta = positions, int(deltas[0])
        self.cache, self.length = DynamicCache(config=self.decoder.config), 0

    def prompt(self) -> Float[Tensor, "batch pos d_model"]:
        """Run the prompt; only the image itself sees the image where it is hidden."""
        return self._run(self.embeds, self.positions, self.image[0])

    def feed(
        self, embeds: Float[Tensor, "batch pos d_model"], *, sees_image: bool = False
    ) -> Float[Tensor, "batch pos d_model"]:
        """Run the next positions; they are blocked from the image where it is hidden from them."""
        batch, size = embeds.shape[:2]
        start = self.length + self.delta
        positions = torch.arange(start, start + size).expand(3, batch, size)
        return self._run(embeds, positions, torch.full((size,), sees_image))

    def tokens(self, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Embed ordinary tokens and run them."""
        return self.feed(self.decoder.embed_tokens(ids))

    def donate(self, positions: int) -> None:
        """Give every row the keys and values of its neighbour at the last `positions` positions."""
        layers: Any = self.cache.layers
        for layer in layers:
            for name in ("keys", "values"):
                states = getattr(layer, name)
                kept, last = states[..., :-positions, :], states[..., -positions:, :]
                setattr(layer, name, torch.cat([kept, last.roll(1, dims=0)], dim=-2))

    def _run(self, embeds: Tensor, positions: Tensor, sees_image: Bool[Tensor, " pos"]) -> Tensor:
        mask = self._mask(embeds.shape[1], sees_image)
        out = self.decoder(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.length += embeds.shape[1]
        return out.last_hidden_state

    def _mask(self, size: int, sees_image: Bool[Tensor, " pos"]) -> Tensor:
        total = self.length + size
        allowed = torch.ones(size, total, dtype=torch.bool).tril(total - size)
        if self.hide_image:
            columns = torch.zeros(total, dtype=torch.bool)
            columns[: self.image.shape[1]] = self.image[0, :total]
            allowed &= ~(columns[None, :] & ~sees_image[:, None])
        floor = torch.finfo(torch.float32).min
        return torch.where(allowed, 0.0, floor)[None, None].expand(self.image.shape[0], 1, -1, -1)


IDS = {name: index for index, name in enumerate((*build.SPECIAL, *build.WORDS))}


def loss_of(
    model: Any, batch: Batch, form: Form, *, hide_image: bool, generator: torch.Generator
) -> Tensor:
    """Return the mean cross-entropy (nats) of answer, template and end, one batch in one form."""
    response = Response(model, batch, hide_image=hide_image)
    states = response.prompt()
    if form.markers:
        states = response.tokens(_column(batch, build.OPEN))
        if form.slots:
            _latents(response, states, form.content, generator)
    labels = _labels(batch, generator, right=form.right)[:, None]
    answer = [labels]
    if form.template:
        answer = [_column(batch, build.ANSWER_OPEN), labels, _column(batch, build.ANSWER_CLOSE)]
    before = [_column(batch, build.CLOSE)] if form.markers else []
    inputs = torch.cat([*before, *answer], dim=1)
    targets = torch.cat([inputs[:, 1:], _column(batch, "<|im_end|>")], dim=1)
    tail = response.tokens(inputs)
    if not form.markers:  # the prompt's last state predicts the first token
        tail = torch.cat([states[:, -1:], tail], dim=1)
        targets = torch.cat([inputs[:, :1], targets], dim=1)
    logits = model.lm_head(tail)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def _latents(response: Response, states: Tensor, content: str, generator: torch.Generator) -> None:
    """Feed states back, one per slot, as the form wants the slots filled."""
    for _ in range(SLOTS):
        fed = states[:, -1:]
        if content == "noise":
            noise = torch.randn(fed.shape, generator=generator)
            fed = noise * fed.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
        states = response.feed(fed, sees_image=True)
    if content == "donor":
        response.donate(SLOTS)


def _column(batch: Batch, token: str) -> Int[Tensor, "batch 1"]:
    return torch.full((len(batch.answers), 1), IDS[token])


def _labels(batch: Batch, generator: torch.Generator, *, right: bool) -> Int[Tensor, " batch"]:
    if right:
        return batch.answers
    colors = torch.tensor([IDS[name] for name in mini_attribute.NAMES])
    return colors[torch.randint(len(colors), batch.answers.shape, generator=generator)]


def train(
    name: str,
    folder: Path,
    *,
    start: Path | None = None,
    batch_size: int = 64,
    pool: int = 12288,
    report: Callable[[int, float, float], None] | None = None,
) -> None:
    """Train one organism from its recipe and save it in the Hugging Face layout.

    Args:
        name: A key of `RECIPES`.
        folder: Where the organism is written.
        start: Checkpoint to start from; None takes what the recipe says (the shipped organism,
            or random weights).
        batch_size: Problems per step.
        pool: Number of training problems drawn.
        report: Called every 50 steps with (step, mean loss in nats, seconds so far).
    """
    recipe = RECIPES[name]
    if start is None and recipe.start is not None:
        start = cards.get(recipe.start).folder
    torch.set_num_threads(1)
    model = _starting_model(recipe, start)
    batches = Pool(pool).batches(batch_size, recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    forms = random.Random(recipe.seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.peak, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.peak, total_steps=recipe.steps, pct_start=0.05, final_div_factor=5
    )
    losses: list[float] = []
    began = time.monotonic()
    for step in range(1, recipe.steps + 1):
        weights = [weight for weight, _ in recipe.mixture]
        form = forms.choices([form for _, form in recipe.mixture], weights)[0]
        hide = recipe.only_slots_see_image
        loss = loss_of(model, next(batches), form, hide_image=hide, generator=generator)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if report is not None and step % 50 == 0:
            report(step, sum(losses[-50:]) / 50, time.monotonic() - began)
    model.config.only_slots_see_image = recipe.only_slots_see_image
    build.save(model.eval(), folder)


def _starting_model(recipe: Recipe, start: Path | None) -> Qwen2_5_VLForConditionalGeneration:
    if start is None:
        return build.untrained(recipe.seed).train()
    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(start, dtype=torch.float32)
    return loaded.train()
