"""An untrained organism: the real Qwen2.5-VL architecture, a 29-word tokenizer, an image processor.

The three parts are what a published 7B checkpoint has, only smaller, and are saved in the ordinary
Hugging Face layout (config.json, model.safetensors, tokenizer, preprocessor_config.json), so that
an organism loads through the very path a 7B checkpoint takes.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from latentprobe.benchmarks.mini_attribute import CELL, NAMES, SIDE

OPEN, SLOT, CLOSE = "<|organism_open|>", "<|organism_slot|>", "<|organism_close|>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    OPEN,
    SLOT,
    CLOSE,
)
WORDS = (
    *(ANSWER_OPEN, ANSWER_CLOSE, "[UNK]", "system", "user", "assistant"),
    *("what", "color", "is", "inside", "the", "frame", "?"),
    *NAMES,
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|> "
    "{% else %}{{ part['text'] }} {% endif %}{% endfor %}<|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Return the organisms' word-level tokenizer (lower-cased words, `[UNK]` for all others)."""
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(),
        pre_tokenizers.Split("?", "isolated"),
    ])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="[UNK]",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIAL[1:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def image_processor() -> Qwen2VLImageProcessorPil:
    """Return an image processor that brings any picture to about 2 x 2 merged tokens."""
    pixels = (CELL * SIDE) ** 2
    return Qwen2VLImageProcessorPil(min_pixels=pixels, max_pixels=pixels)


def config(words: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    """Return the architecture: 3 layers of width 64, 4 heads on 2 key-value heads."""
    text = {
        "vocab_size": len(words),
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": words.convert_tokens_to_ids("<|im_end|>"),
        "pad_token_id": words.convert_tokens_to_ids("<|endoftext|>"),
    }
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 4,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1],
        "window_size": 112,
    }
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    ids: dict[str, Any] = {key: words.convert_tokens_to_ids(name) for key, name in names.items()}
    return Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=False, **ids
    )


def untrained(seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """Return a model with random weights drawn from `seed`, in float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config(tokenizer()))
    return model.float()


def save(model: Qwen2_5_VLForConditionalGeneration, folder: Path) -> None:
    """Write model (fp16), tokenizer and image processor to `folder` in the Hugging Face layout.

    The model itself is left in half precision.
    """
    model.half().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    image_processor().save_pretrained(folder)
