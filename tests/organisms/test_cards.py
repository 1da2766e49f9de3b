"""The shipped organisms: what their cards say, and that their folders hold what they say."""

import json

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    Qwen2_5_VLForConditionalGeneration,
)

from latentprobe.benchmarks import load as load_problems
from latentprobe.errors import UnknownNameError
from latentprobe.organisms import build, get, names
from latentprobe.organisms.cards import WEIGHTS
from latentprobe.organisms.training import RECIPES

ORGANISMS = ("base", "marker-only", "mediated")


def test_three_organisms_ship_each_with_a_card_a_folder_and_a_recipe():
    assert names() == list(ORGANISMS)
    assert {path.name for path in WEIGHTS.iterdir()} == set(ORGANISMS)
    assert set(RECIPES) == set(ORGANISMS)
    for name in ORGANISMS:
        card = get(name)
        assert card.name == name
        assert card.folder.is_dir()
        assert len(card.text) > len(card.mechanism) > 10


def test_an_unknown_organism_offers_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown organism 'meditated'.* 'mediated'"):
        get("meditated")


@pytest.mark.parametrize("name", ORGANISMS)
def test_an_organisms_weights_are_half_precision_and_under_a_megabyte(name: str):
    path = get(name).folder / "model.safetensors"
    assert path.stat().st_size <= 1_000_000
    with safe_open(path, "pt") as file:
        kept = [file.get_slice(key).get_dtype() for key in file.keys()]  # noqa: SIM118 - not a dict
    assert set(kept) == {"F16"}


@pytest.mark.parametrize("name", ORGANISMS)
def test_an_organism_loads_whole_through_from_pretrained(name: str):
    model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        get(name).folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    fresh = build.untrained(0).state_dict()
    assert shapes == {key: tuple(value.shape) for key, value in fresh.items()}
    assert sum(p.numel() for p in model.parameters()) < 500_000
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("name", ORGANISMS)
def test_an_organisms_config_says_whether_only_slots_see_the_image(name: str):
    config = json.loads((get(name).folder / "config.json").read_text())
    assert config["only_slots_see_image"] is (name == "mediated")
    assert config["only_slots_see_image"] is RECIPES[name].only_slots_see_image


@pytest.mark.parametrize("name", ORGANISMS)
def test_an_organisms_tokenizer_and_image_processor_are_the_ones_built(name: str):
    shipped, built = AutoTokenizer.from_pretrained(get(name).folder), build.tokenizer()
    text = "<|im_start|> user What colour is inside the RED frame? <answer> red </answer>"
    assert shipped.get_vocab() == built.get_vocab()
    assert shipped(text)["input_ids"] == built(text)["input_ids"]
    assert shipped.chat_template == built.chat_template
    image = load_problems("mini-attribute", limit=1)[0].pictures[0]
    processor = AutoImageProcessor.from_pretrained(get(name).folder, backend="pil")
    theirs = processor(images=[image], return_tensors="pt")
    ours = build.image_processor()(images=[image], return_tensors="pt")
    torch.testing.assert_close(theirs["pixel_values"], ours["pixel_values"])
    assert theirs["image_grid_thw"].tolist() == ours["image_grid_thw"].tolist() == [[1, 4, 4]]


@pytest.mark.parametrize(("name", "floor"), [("mediated", 15), ("marker_only", 15)])
def test_an_organism_knows_its_task(request, name: str, floor: int):
    model = request.getfixturevalue(name)
    right = [model.generate(p).correct for p in load_problems("mini-attribute", limit=16)]
    assert sum(map(bool, right)) >= floor, "chance is under 3 of 16"
