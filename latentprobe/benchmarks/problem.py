"""A problem: one question with its images, options and gold answer.

Everything a trial needs to be asked and judged is in one frozen record; where the evidence is known
(boxes) or can be changed (the counterfactual twin), the problem carries that too, so that
interventions and attention analyses have a ground truth to be held against.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from PIL import Image, ImageOps

from latentprobe.errors import ProblemError

ImageLike = Image.Image | str | Path


@dataclass(frozen=True)
class Box:
    """A rectangle on one image, in pixels of the original image.

    Attributes:
        left: First column inside, counted from 0 at the left edge.
        top: First row inside, counted from 0 at the top edge.
        right: First column past the box.
        bottom: First row past the box.
        image: Which of the problem's images, counted from 0.
    """

    left: int | float
    top: int | float
    right: int | float
    bottom: int | float
    image: int = 0

    def __post_init__(self) -> None:
        if not (self.left < self.right and self.top < self.bottom):
            corners = (self.left, self.top, self.right, self.bottom)
            raise ProblemError(
                f"box {corners} is empty: left must be below right and top below bottom "
                "(pixels, origin at the top left)"
            )


@dataclass(frozen=True)
class Problem:
    """One question with its images, options, gold answer and, where known, evidence boxes.

    Attributes:
        question: The question as a person would read it; no options, no instructions.
        images: PIL images or paths; paths are opened (and converted to RGB) at construction.
        options: The possible answers' texts, in order; empty for an open question.
        answer: The gold answer: one of `options`, or an option's letter ("B"). None if unknown.
        evidence: Boxes that hold the evidence for the answer.
        cluster: Problems sharing a cluster are not independent (same image, pair or option
            cycle); None makes the problem its own cluster.
        twin: The same question about an image changed just enough to change the answer.
        name: A label for people; not part of the content hash.

    Raises:
        ProblemError: An image cannot be read, or the gold answer is not among the options.

    Example:
        >>> from PIL import Image
        >>> p = Problem("What color is this?", [Image.new("RGB", (56, 56), "red")],
        ...             options=["red", "blue"], answer="A")
        >>> p.answer, len(p.key)
        ('red', 16)
    """

    question: str
    images: Sequence[ImageLike] = ()
    options: Sequence[str] = ()
    answer: str | None = None
    evidence: Sequence[Box] = ()
    cluster: str | None = None
    twin: "Problem | None" = field(default=None, repr=False)
    name: str = ""

    def __post_init__(self) -> None:
        opened = tuple(_open(image, index) for index, image in enumerate(self.images))
        object.__setattr__(self, "images", opened)
        if isinstance(self.options, str) or not all(isinstance(o, str) for o in self.options):
            raise ProblemError(f"options are a list of texts, got {self.options!r}")
        object.__setattr__(self, "options", tuple(self.options))
        if not all(option.strip() for option in self.options):
            raise ProblemError(f"an option is empty: {list(self.options)}")
        object.__setattr__(self, "evidence", tuple(self.evidence))
        if len(set(self.options)) != len(self.options):
            raise ProblemError(f"options must differ from one another, got {list(self.options)}")
        object.__setattr__(self, "answer", self._resolve_answer())

    def _resolve_answer(self) -> str | None:
        if self.answer is None or not self.options or self.answer in self.options:
            return self.answer
        letters = option_letters(len(self.options))
        if self.answer in letters:
            return self.options[letters.index(self.answer)]
        raise ProblemError(
            f"the gold answer {self.answer!r} is not among the options {list(self.options)} of "
            f"problem {self.name or self.question!r}; give one of them or a letter "
            f"{letters[0]}-{letters[-1]}"
        )

    @property
    def pictures(self) -> tuple[Image.Image, ...]:
        """The images, opened, in RGB."""
        return tuple(image for image in self.images if isinstance(image, Image.Image))

    @cached_property
    def key(self) -> str:
        """Content hash (16 hex digits) of question, image pixels, options and gold answer."""
        digest = hashlib.sha256()
        for text in (self.question, *self.options, f"answer:{self.answer}"):
            digest.update(text.encode() + b"\x00")
        for image in self.pictures:
            digest.update(repr(image.size).encode() + image.tobytes())
        return digest.hexdigest()[:16]

    @property
    def answer_index(self) -> int | None:
        """Position of the gold answer among the options, counted from 0, or None."""
        return None if self.answer not in self.options else self.options.index(self.answer)


def option_letters(count: int) -> list[str]:
    """Return the letters of `count` options: A, B, C ... (at most 26).

    Raises:
        ProblemError: There are more options than letters.
    """
    if count > 26:
        raise ProblemError(f"{count} options, but only 26 letters to name them; shorten the list")
    return [chr(ord("A") + index) for index in range(count)]


def _upright_rgb(image: Image.Image) -> Image.Image:
    """Return an image the right way up, transparency on white, 16 bits scaled to 8."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = image.point(lambda value: value / 257).convert("L")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(opaque, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _open(image: ImageLike, index: int) -> Image.Image:
    if isinstance(image, Image.Image):
        return _upright_rgb(image)
    path = Path(image)
    try:
        return _upright_rgb(Image.open(io.BytesIO(path.read_bytes())))
    except FileNotFoundError:
        raise ProblemError(f"image {index}: no file at {path}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ProblemError(
            f"image {index}: {path} cannot be read as a picture ({error}); give a PNG, JPEG or "
            "another format Pillow opens"
        ) from error
