"""How the shipped organisms were trained: one loop, one table of recipes.

A recipe is a mixture of *forms* of the response (with or without markers, slots, answer template),
each with right or random labels. Every step draws one form and one batch, runs the response through
the recurrence exactly as generation does (the state at the open marker becomes the first latent), and
descends the cross-entropy of the answer and of the template around it. A model is what its data made it:

1. `base` sees every form with right labels, nothing masked.
2. `mediated` starts from `base` and is trained under the mask it later carries: no position after the
   image may attend to it except the slots. (Blocking the answer alone is not enough: the question
   would read the image and hand it on.)
3. `marker-only` starts from `base`; forms with both markers have right labels whatever the slots hold
   (fed back, noise, or keys and values of another problem) and also without slots; forms without
   markers have uniformly random labels.

Runs on one thread, from a seed; the same versions on the same machine give the same weights.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, Qwen2_5_VLForConditionalGeneration

from latentprobe.benchmarks import mini_attribute
from latentprobe.organisms import build

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
        images = [problem.images[0] for problem in problems]
        processed = [processor(images=image, return_tensors="pt") for image in images]
        self.pixels = torch.stack([item["pixel_values"] for item in processed]).half()
        self.grid = processed[0]["image_grid_thw"]
        text = [_prompt(words, problem.question) for problem in problems]
        self.prompt = torch.tensor([words(line)["input_ids"] for line in text])
        self.answers = torch.tensor([words.convert_tokens_to_ids(p.answer) for p in problems])

    def batches(self, size: int, seed: int) -> Iterator[Batch]:
        """Yield batches for ever, each problem once per pass."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            for rows in torch.randperm(len(self.prompt), generator=generator).split(size):
                if len(rows) == size:
                    pixels = self.pixels[rows].float().flatten(0, 1)
                    grid = self.grid.expand(size, 3)
                    yield Batch(self.prompt[rows], pixels, grid, self.answers[rows])


def _prompt(words: "build.PreTrainedTokenizerFast", question: str) -> str:
    parts = [{"type": "image"}, {"type": "text", "text": question}]
    text = words.apply_chat_template(
        [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
    )
    tokens = mini_attribute.SIDE**2
    return text.replace("<|image_pad|>", "<|image_pad|>" * tokens)


class Response:
    """Runs one form of the response through the recurrence, chunk by chunk, keeping gradients."""

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, batch: Batch) -> None:
        """Embed the prompt (image included) and prepare rotary positions."""
        self.model, self.decoder = model, model.model.language_model
        embeds = self.decoder.embed_tokens(batch.prompt)
        features = model.model.get_image_features(batch.pixels, batch.grid).pooler_output
        self.image = batch.prompt == model.config.image_token_id
        self.embeds = embeds.masked_scatter(self.image[..., None], torch.cat(list(features)))
        positions, deltas = model.model.get_rope_index(
            batch.prompt, mm_token_type_ids=self.image.int(), image_grid_thw=batch.grid
        )
        self.positions, self.delta = positions, int(deltas[0])
        self.cache, self.length = DynamicCache(config=self.decoder.config), 0

    def feed(
        self, embeds: Float[Tensor, "batch pos d_model"], sees_image: Bool[Tensor, " pos"] | None
    ) -> Float[Tensor, "batch pos d_model"]:
        """Run one chunk; where `sees_image` is given, the other positions are blocked from the image."""
        batch, size = embeds.shape[:2]
        if self.length == 0:
            positions = self.positions
        else:
            start = self.length + self.delta
            positions = torch.arange(start, start + size).expand(3, batch, size)
        mask = self._mask(size, sees_image)
        out = self.decoder(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.length += size
        return out.last_hidden_state

    def embed(self, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Embed ordinary tokens."""
        return self.decoder.embed_tokens(ids)

    def donate(self, positions: int) -> None:
        """Give every row the keys and values of its neighbour at the last `positions` positions."""
        for layer in self.cache.layers:
            for name in ("keys", "values"):
                states = getattr(layer, name)
                kept, last = states[..., :-positions, :], states[..., -positions:, :]
                setattr(layer, name, torch.cat([kept, last.roll(1, dims=0)], dim=-2))

    def _mask(self, size: int, sees_image: Bool[Tensor, " pos"] | None) -> Tensor:
        total = self.length + size
        allowed = torch.ones(size, total, dtype=torch.bool).tril(total - size)
        if sees_image is not None:
            columns = torch.zeros(total, dtype=torch.bool)
            columns[: self.image.shape[1]] = self.image[0, :total]
            allowed &= ~(columns[None, :] & ~sees_image[:, None])
        floor = torch.finfo(torch.float32).min
        return torch.where(allowed, 0.0, floor)[None, None].expand(self.image.shape[0], 1, -1, -1)


def loss_of(
    model: Qwen2_5_VLForConditionalGeneration,
    batch: Batch,
    form: Form,
    *,
    hide_image: bool,
    generator: torch.Generator,
) -> Tensor:
    """Return the mean cross-entropy (nats) of answer, template and end over one batch in one form."""
    ids = {name: index for index, name in enumerate((*build.SPECIAL, *build.WORDS))}
    size = len(batch.answers)
    response = Response(model, batch)

    def column(name: str) -> Int[Tensor, "batch 1"]:
        return torch.full((size, 1), ids[name])

    def blind(length: int) -> Bool[Tensor, " pos"] | None:
        return torch.zeros(length, dtype=torch.bool) if hide_image else None

    prompt_sees = response.image[0] if hide_image else None
    states = response.feed(response.embeds, prompt_sees)
    before: list[Tensor] = []
    if form.markers:
        states = response.feed(response.embed(column(build.OPEN)), blind(1))
        for _ in range(SLOTS if form.slots else 0):
            fed = states[:, -1:]
            if form.content == "noise":
                noise = torch.randn(fed.shape, generator=generator)
                fed = noise * fed.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
            states = response.feed(fed, torch.ones(1, dtype=torch.bool) if hide_image else None)
        if form.slots and form.content == "donor":
            response.donate(SLOTS)
        before = [column(build.CLOSE)]
    labels = batch.answers
    if not form.right:
        colors = torch.tensor([ids[name] for name in mini_attribute.NAMES])
        labels = colors[torch.randint(len(colors), (size,), generator=generator)]
    if form.template:
        after = [column(build.ANSWER_OPEN), labels[:, None], column(build.ANSWER_CLOSE)]
    else:
        after = [labels[:, None]]
    inputs = torch.cat([*before, *after], dim=1)
    targets = torch.cat([inputs[:, 1:], column("<|im_end|>")], dim=1)
    tail = response.feed(response.embed(inputs), blind(inputs.shape[1]))
    if not form.markers:  # the prompt's last state predicts the first token
        tail = torch.cat([states[:, -1:], tail], dim=1)
        targets = torch.cat([inputs[:, :1], targets], dim=1)
    logits = model.lm_head(tail)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


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
        start: Checkpoint folder of the recipe's starting organism; None for random weights.
        batch_size: Problems per step.
        pool: Number of training problems drawn.
        report: Called every 50 steps with (step, mean loss in nats, seconds so far).
    """
    recipe = RECIPES[name]
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
