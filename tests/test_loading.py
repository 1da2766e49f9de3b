"""Loading: organisms, folders, and everything that is not a checkpoint."""

import json
import shutil

import pytest
import torch

from latentprobe.architectures import architectures
from latentprobe.errors import ModelError, PluginError, UnknownNameError
from latentprobe.loading import find_architecture, open_checkpoint
from latentprobe.models import load
from latentprobe.organisms import cards


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(cards.get("base").folder, tmp_path / "my-model")


@pytest.mark.parametrize("name", cards.names())
def test_every_organism_loads_in_evaluation_mode_without_gradients(name):
    checkpoint = open_checkpoint(f"organism:{name}", dtype=None, device="cpu")
    assert checkpoint.name == f"organism:{name}"
    assert checkpoint.card == cards.get(name).text
    assert checkpoint.architecture.name == "qwen2_5_vl"
    assert not checkpoint.model.training
    for parameter in checkpoint.model.parameters():
        assert parameter.dtype == torch.float32
        assert not parameter.requires_grad


def test_a_folder_loads_through_the_path_an_organism_takes(folder, problems):
    copied, shipped = load(str(folder)), load("organism:base")
    assert copied.name == "my-model"
    assert copied.card == "local checkpoint my-model"
    assert copied.fingerprint == shipped.fingerprint
    a, b = copied.generate(problems[0]), shipped.generate(problems[0])
    assert a.token_ids == b.token_ids
    assert torch.equal(a.logits, b.logits)


def test_the_number_format_asked_for_is_the_one_loaded(folder):
    checkpoint = open_checkpoint(str(folder), dtype=torch.float64, device="cpu")
    assert {p.dtype for p in checkpoint.model.parameters()} == {torch.float64}


def test_an_unknown_organism_is_refused_with_the_nearest_names():
    with pytest.raises(
        UnknownNameError, match=r"unknown organism 'mediate'\. Did you mean 'mediat"
    ):
        load("organism:mediate")


@pytest.mark.parametrize("source", ["nowhere", "/no/such/folder", "./a/b", "a/b/c"])
def test_what_is_neither_organism_nor_folder_nor_hub_id_is_refused(source):
    with pytest.raises(ModelError, match=r"no model .*not a folder here, and not a hub id"):
        load(source)


def test_a_folder_that_holds_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"could not be loaded .*config\.json, model\.safetensors"):
        load(str(tmp_path))


@pytest.mark.parametrize("missing", ["model.safetensors", "preprocessor_config.json"])
def test_a_folder_that_lacks_a_part_is_refused(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(ModelError, match="could not be loaded"):
        load(str(folder))


def test_an_architecture_that_is_not_covered_is_refused(folder):
    config = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ModelError, match="model_type 'qwen3' is not supported; supported are qwen2"
    ):
        load(str(folder))
    assert find_architecture("qwen2_5_vl") is architectures.get("qwen2_5_vl")


def test_an_architecture_without_every_hook_point_is_refused():
    with pytest.raises(PluginError, match="an architecture is a latentprobe"):
        architectures.register("mine", object())
