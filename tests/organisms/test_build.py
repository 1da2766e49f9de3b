"""An untrained organism: tokenizer, image processor, architecture, saved and loaded."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from latentprobe.benchmarks.mini_attribute import NAMES
from latentprobe.organisms import build


@pytest.fixture(scope="module")
def words():
    return build.tokenizer()


def test_every_word_of_the_task_is_one_known_token(words):
    text = "What color is inside the cyan frame? " + " ".join(NAMES)
    ids = words(text)["input_ids"]
    assert len(ids) == 8 + len(NAMES)
    assert words.unk_token_id not in ids
    assert words.convert_ids_to_tokens(ids[:8]) == [
        *("what", "color", "is", "inside", "the", "cyan", "frame", "?"),
    ]


def test_special_tokens_are_read_inside_a_text_and_come_first(words):
    assert len(words) == len(build.SPECIAL) + len(build.WORDS) == 29
    text = f"red{build.OPEN}{build.SLOT} {build.CLOSE}<|im_end|>"
    assert words.convert_ids_to_tokens(words(text)["input_ids"]) == [
        *("red", build.OPEN, build.SLOT, build.CLOSE, "<|im_end|>"),
    ]
    assert words.convert_tokens_to_ids(list(build.SPECIAL)) == list(range(len(build.SPECIAL)))


def test_other_words_are_unknown(words):
    assert words("mauve")["input_ids"] == [words.unk_token_id]


@pytest.mark.parametrize("size", [(56, 56), (640, 480), (40, 90), (57, 56)])
def test_any_picture_becomes_about_four_merged_tokens(size: tuple[int, int]):
    processed = build.image_processor()(images=[Image.new("RGB", size)], return_tensors="pt")
    _, height, width = processed["image_grid_thw"][0].tolist()
    assert height % 2 == width % 2 == 0
    assert 2 <= height * width // 4 <= 6


def test_the_config_names_the_tokenizers_own_ids(words):
    config = build.config(words)
    assert config.image_token_id == words.convert_tokens_to_ids("<|image_pad|>")
    assert config.vision_start_token_id == words.convert_tokens_to_ids("<|vision_start|>")
    assert config.text_config.eos_token_id == words.eos_token_id
    assert config.text_config.vocab_size == len(words)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    one, again, other = build.untrained(7), build.untrained(7), build.untrained(8)
    torch.testing.assert_close(torch.rand(2), expected)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert {p.dtype for p in one.parameters()} == {torch.float32}


def test_a_saved_organism_is_a_checkpoint_in_the_hugging_face_layout(tmp_path: Path, words):
    model = build.untrained(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    build.save(model, tmp_path)
    present = {path.name for path in tmp_path.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "preprocessor_config.json",
    } <= present
    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value, before[name].half().float(), rtol=0, atol=0)
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == words.get_vocab()
