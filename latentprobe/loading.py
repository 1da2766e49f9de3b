"""Loading a checkpoint: an organism, a local folder or a hub id, all through the same path.

Model, tokenizer and image processor are loaded one by one with their `from_pretrained`; no
processor class is asked for, because Qwen2.5-VL's insists on a video processor, which needs
torchvision.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
)
from transformers.utils import logging as transformers_logging

from latentprobe.architectures import Architecture, architectures
from latentprobe.errors import ModelError
from latentprobe.organisms import cards

ORGANISM = "organism:"


@dataclass(frozen=True)
class Checkpoint:
    """The parts of a loaded checkpoint."""

    name: str
    model: nn.Module
    architecture: Architecture
    tokenizer: Any
    image_processor: Any
    card: str


def open_checkpoint(source: str, *, dtype: torch.dtype | None, device: str | None) -> Checkpoint:
    """Load a checkpoint from an organism's name, a folder or a hub id.

    Args:
        source: `organism:NAME`, a folder in the Hugging Face layout, or a hub id (`owner/name`).
        dtype: Number format of the weights; None takes float32 on the CPU and the checkpoint's own
            elsewhere.
        device: `cpu`, `cuda`, ...; None takes a GPU where there is one.

    Raises:
        UnknownNameError: No such organism.
        ModelError: The folder is not a checkpoint, or its architecture is not supported.
    """
    path, name, card = _locate(source)
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    wanted = dtype or (torch.float32 if place == "cpu" else "auto")
    try:
        with _quiet():
            config = AutoConfig.from_pretrained(path)
            architecture = find_architecture(config.model_type)
            model: Any = AutoModelForImageTextToText.from_pretrained(path, dtype=wanted)
            tokenizer = AutoTokenizer.from_pretrained(path)
            image_processor = AutoImageProcessor.from_pretrained(path, backend="pil")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{source!r} could not be loaded ({error}). Give organism:NAME, a folder with "
            "config.json, model.safetensors, tokenizer and preprocessor_config.json, or a hub id"
        ) from error
    model.to(place).eval().requires_grad_(False)
    return Checkpoint(name, model, architecture, tokenizer, image_processor, card)


def _locate(source: str) -> tuple[str, str, str]:
    """Return (path or hub id, short name, card) of a source."""
    if source.startswith(ORGANISM):
        card = cards.get(source.removeprefix(ORGANISM))
        return str(card.folder), source, card.text
    path = Path(source).expanduser()
    if path.is_dir():
        return str(path), path.name, f"local checkpoint {path.name}"
    if source.count("/") != 1 or path.is_absolute() or source.startswith("."):
        raise ModelError(
            f"no model {source!r}: not an organism ({ORGANISM}NAME, one of "
            f"{', '.join(cards.names())}), not a folder here, and not a hub id (owner/name)"
        )
    return source, source, f"checkpoint {source}"


def find_architecture(model_type: str) -> Architecture:
    """Return the architecture that covers a `config.model_type`.

    Raises:
        ModelError: None does.
    """
    known = [architectures.get(name) for name in architectures]
    for architecture in known:
        if model_type in architecture.model_types:
            return architecture
    types = sorted(kind for architecture in known for kind in architecture.model_types)
    raise ModelError(
        f"model_type {model_type!r} is not supported; supported are {', '.join(types)}. "
        "Describe it with an Architecture and register that"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' progress bars off the screen while a checkpoint loads."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
