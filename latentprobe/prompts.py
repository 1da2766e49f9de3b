"""From a problem to the prompt a model reads: chat template, image tokens, roles of the positions.

Only the tokenizer and the image processor are used (no processor class, which would need
torchvision): the chat template writes one image token per image, which is repeated once per merged
patch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from latentprobe.architectures import Encoded
from latentprobe.backends import Backend
from latentprobe.benchmarks.problem import Problem, option_letters
from latentprobe.errors import ModelError, ProblemError
from latentprobe.methods import PromptSpec
from latentprobe.tokens import ImageGrid

PLACE = "latentprobe-question-place"  # stands for the question while its place is looked for


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model reads it, with the role of every position.

    Attributes:
        token_ids: Ids, image tokens repeated once per merged patch.
        roles: Role of each position.
        images: Patch grid of each image.
        encoded: Input embeddings (image features scattered in) and rotary positions.
        pixel_values: What the vision tower was given, or None without images.
        image_grid_thw: (time, height, width) of each image in unmerged patches, or None.
        text: The rendered chat, one image token per image.
        unknown: Words of the question the tokenizer does not know.
    """

    token_ids: tuple[int, ...]
    roles: tuple[str, ...]
    images: tuple[ImageGrid, ...]
    encoded: Encoded
    pixel_values: Float[Tensor, "patch features"] | None
    image_grid_thw: Int[Tensor, "image 3"] | None
    text: str
    unknown: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Prompt({len(self.token_ids)} positions, {len(self.images)} images)"


def question_text(problem: Problem, spec: PromptSpec) -> str:
    """Return the text of the user turn: question, options, instruction."""
    lines = [problem.question]
    if spec.options == "letters" and problem.options:
        letters = option_letters(len(problem.options))
        lines += [f"{a}. {text}" for a, text in zip(letters, problem.options, strict=True)]
    return "\n".join(lines) + spec.suffix


def answer_texts(problem: Problem, spec: PromptSpec) -> tuple[str, ...]:
    """Return what each option looks like as an answer: its letter, or its text."""
    if spec.options == "letters":
        return tuple(option_letters(len(problem.options)))
    return tuple(problem.options)


@dataclass(frozen=True)
class Prompter:
    """Writes prompts for one model and method.

    Attributes:
        tokenizer: The checkpoint's tokenizer (a fast one).
        image_processor: The checkpoint's image processor, or None for text only.
        spec: How a problem becomes a chat.
        image_token: The string image features replace, such as `<|image_pad|>`.
    """

    tokenizer: Any
    image_processor: Any
    spec: PromptSpec
    image_token: str

    def prepare(self, problem: Problem, backend: Backend) -> Prompt:
        """Render, tokenise and embed a problem.

        Raises:
            ProblemError: The problem has images and the model no image processor.
            ModelError: The chat template does not show the question as it was given.
        """
        text = question_text(problem, self.spec)
        rendered = self._render(text, len(problem.images))
        pixel_values, grid = self._process([
            i for i in problem.images if isinstance(i, Image.Image)
        ])
        counts = _merged(grid, self.image_processor)
        expanded, question = self._expand(rendered, text, [rows * cols for rows, cols in counts])
        ids, roles = self._tokenise(expanded, question)
        encoded = backend.encode(torch.tensor(ids), pixel_values, grid)
        images = _grids(roles, counts, problem)
        unknown = self._unknown_words(text)
        prompt = Prompt(tuple(ids), roles, images, encoded, pixel_values, grid, rendered)
        return replace(prompt, unknown=unknown)

    def _render(self, text: str, images: int) -> str:
        pictures = [{"type": "image"}] * images
        words = [{"type": "text", "text": text}]
        content = pictures + words if self.spec.image_first else words + pictures
        messages: list[dict] = [{"role": "user", "content": content}]
        if self.spec.system is not None:
            system = [{"type": "text", "text": self.spec.system}]
            messages.insert(0, {"role": "system", "content": system})
        own = self.spec.assistant
        rendered = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=own is None
        )
        rendered = rendered + (own or "")
        if rendered.count(self.image_token) != images or text.strip() not in rendered:
            raise ModelError(
                f"the checkpoint's chat template must show the question and one {self.image_token} "
                f"per image; for {images} images it gave {rendered!r}"
            )
        return rendered

    def _process(self, images: Sequence[Image.Image]) -> tuple[Tensor | None, Tensor | None]:
        if not images:
            return None, None
        if self.image_processor is None:
            raise ProblemError("the problem has images, but this model has no image processor")
        try:
            processed = self.image_processor(images=list(images), return_tensors="pt")
        except ValueError as error:
            sizes = [image.size for image in images]
            raise ProblemError(
                f"images of {sizes} pixels (width, height) are not accepted: {error}"
            ) from error
        return processed["pixel_values"], processed["image_grid_thw"]

    def _expand(self, rendered: str, text: str, counts: Sequence[int]) -> tuple[str, range]:
        """Repeat image tokens; return the text and the characters of the question in it."""
        place = self._render(PLACE, len(counts)).index(PLACE)
        start = rendered.index(text.strip(), place)
        pieces = rendered.split(self.image_token)
        expanded, shift, length = pieces[0], 0, len(pieces[0])
        for count, piece in zip(counts, pieces[1:], strict=True):
            if length <= start:
                shift += len(self.image_token) * (count - 1)
            length += len(self.image_token) + len(piece)
            expanded += self.image_token * count + piece
        return expanded, range(start + shift, start + shift + len(text.strip()))

    def _tokenise(self, text: str, question: range) -> tuple[list[int], tuple[str, ...]]:
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        image_id = self.tokenizer.convert_tokens_to_ids(self.image_token)
        roles = []
        for token, (start, stop) in zip(
            encoding["input_ids"], encoding["offset_mapping"], strict=True
        ):
            asked = start < question.stop and stop > question.start
            roles.append("image" if token == image_id else "question" if asked else "system")
        return list(encoding["input_ids"]), tuple(roles)

    def _unknown_words(self, text: str) -> tuple[str, ...]:
        unknown_id = self.tokenizer.unk_token_id
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        pairs = zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
        words = (text[a:b] for token, (a, b) in pairs if token == unknown_id)
        return tuple(dict.fromkeys(words)) if unknown_id is not None else ()


def _merged(grid: Tensor | None, processor: Any) -> list[tuple[int, int]]:
    if grid is None:
        return []
    merge = processor.merge_size
    return [(int(height) // merge, int(width) // merge) for _, height, width in grid]


def _grids(
    roles: Sequence[str], counts: Sequence[tuple[int, int]], problem: Problem
) -> tuple[ImageGrid, ...]:
    image_positions = [position for position, role in enumerate(roles) if role == "image"]
    grids, used = [], 0
    for (rows, columns), image in zip(counts, problem.pictures, strict=True):
        grids.append(ImageGrid(image_positions[used], rows, columns, *image.size))
        used += rows * columns
    return tuple(grids)
