"""Tiny random checkpoints on disk, file for file as the published ones are.

Flat Qwen2.5-VL config, the weights' published names, a byte-level BPE tokenizer in the Qwen2 style
with the method's tokens added in the published order, the published chat template.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>"),
    *("<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
QWEN_PLAIN = ("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "system\nYou are a helpful assistant.\nuser\nassistant\n",
    "What color is inside the yellow frame?\nA. red\nB. blue\nC. green\nD. yellow\n",
    "Answer with the option's letter from the given choices directly.",
    "Put your final answer in \\boxed{}. <answer> A </answer> <answer> B </answer> C D \\boxed{A}",
] * 4
TOKENS = {
    "lvr": ("<|lvr_start|>", "<|lvr|>", "<|lvr_latent_end|>", "<|lvr_end|>"),
    "monet": (
        *("<abs_vis_token_pad>", "<abs_vis_token>", "</abs_vis_token>"),
        *("<observation>", "</observation>"),
    ),
    "mirage": ("<|latent_pad|>", "<|latent_start|>", "<|latent_end|>"),
    "plain": (),
}


def config_entries(method: str, ids: dict[str, int]) -> dict[str, Any]:
    """Return what the method's training code writes into the config besides Qwen's own entries."""
    if method == "lvr":
        return {
            "lvr_head": False,
            "lvr_head_type": "simple",
            "latent_end_token": False,
            "lvr_id": ids["<|lvr|>"],
            "lvr_start_id": ids["<|lvr_start|>"],
            "lvr_end_id": ids["<|lvr_end|>"],
            "lvr_latent_end_id": ids["<|lvr_latent_end|>"],
            "loss_lvr_fct": "mse",
            "architectures": ["QwenWithLVR"],
        }
    if method == "monet":
        return {
            "stage": "sft_stage3",
            "latent_token_id": ids["<abs_vis_token_pad>"],
            "latent_start_id": ids["<abs_vis_token>"],
            "latent_end_id": ids["</abs_vis_token>"],
            "answer_start_pattern": "<|im_start|>assistant",
        }
    if method == "mirage":
        return {
            "compress_strategy": "average",
            "latent_size": 4,
            "stage": "stage2",
            "latent_token_id": ids["<|latent_pad|>"],
            "latent_start_id": ids["<|latent_start|>"],
            "latent_end_id": ids["<|latent_end|>"],
        }
    return {}


@functools.cache
def byte_level_words() -> Tokenizer:
    """Return a byte-level BPE in the Qwen2 style, trained on a few lines."""
    words = Tokenizer(models.BPE())
    words.normalizer = normalizers.NFC()
    words.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=450, initial_alphabet=alphabet, show_progress=False)
    words.train_from_iterator(CORPUS, trainer)
    return words


def write_words(folder: Path, added: tuple[str, ...]) -> dict[str, int]:
    """Write tokenizer.json and its config; return the ids of the added tokens."""
    words = Tokenizer.from_str(byte_level_words().to_str())
    words.add_special_tokens([*QWEN_SPECIAL])
    words.add_tokens([*QWEN_PLAIN])
    words.add_special_tokens([*added])
    words.save(str(folder / "tokenizer.json"))
    bpe = json.loads(words.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(bpe["vocab"]))
    (folder / "merges.txt").write_text("\n".join(" ".join(pair) for pair in bpe["merges"]))
    every = (*QWEN_SPECIAL, *QWEN_PLAIN, *added)
    listed = {t: {"content": t, "special": t not in QWEN_PLAIN} for t in every}
    ids = {token: words.token_to_id(token) for token in listed}
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": {ids[k]: plain | v for k, v in listed.items()},
            "additional_special_tokens": [*QWEN_SPECIAL[1:], *added],
            "bos_token": None,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 131072,
            "pad_token": "<|endoftext|>",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        })
    )
    return ids


def flat_config(ids: dict[str, int], vocabulary: int) -> dict[str, Any]:
    """Return config.json as published: text entries on top, only the vision tower nested."""
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 96,
        "max_position_embeddings": 4096,
        "max_window_layers": 2,
        "model_type": "qwen2_5_vl",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"mrope_section": [2, 3, 3], "rope_type": "default", "type": "default"},
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.54.0",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": 2,
            "fullatt_block_indexes": [1],
            "hidden_act": "silu",
            "hidden_size": 32,
            "in_chans": 3,
            "intermediate_size": 48,
            "model_type": "qwen2_5_vl",
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
        },
        "vocab_size": vocabulary,
    }


def write_checkpoint(folder: Path, method: str, shake: Callable, **entries: Any) -> Path:
    """Write a random checkpoint of a method; `entries` replace config entries."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = write_words(folder, TOKENS[method])
    vocabulary = max(ids.values()) + 1 + 23  # published tables have more rows than tokens
    config = flat_config(ids, vocabulary) | config_entries(method, ids) | entries
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(
        json.dumps({
            "bos_token_id": ids["<|endoftext|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
            "do_sample": True,
            "temperature": 0.000001,
            "repetition_penalty": 1.05,
        })
    )
    (folder / "preprocessor_config.json").write_text(
        json.dumps({
            "min_pixels": 3136,
            "max_pixels": 12845056,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
        })
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config))
    shake(model, 0)
    published = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): value
        for name, value in model.state_dict().items()
    }
    save_file(
        {name: value.contiguous() for name, value in published.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


@pytest.fixture(scope="session")
def published(tmp_path_factory, shake_weights) -> Callable[..., Path]:
    """Factory of checkpoint folders: `published("lvr", lvr_head=True)`; equal ones are shared."""
    written: dict[str, Path] = {}

    def write(method: str, **entries: Any) -> Path:
        key = json.dumps([method, entries], sort_keys=True)
        if key not in written:
            folder = tmp_path_factory.mktemp("checkpoints") / f"{method}-7b"
            written[key] = write_checkpoint(folder, method, shake_weights, **entries)
        return written[key]

    return write
