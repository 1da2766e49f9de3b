import io
import json

import pytest
from PIL import Image

from latentprobe.benchmarks import Problem
from latentprobe.generation import Decoding
from latentprobe.studies.example import attention_maps, keep_example
from latentprobe.tokens import SLOTS
from latentprobe.trajectory import Structure


@pytest.fixture(scope="module")
def made(marker_only, problems):
    return marker_only.generate(problems[0], keep_logits=False)


def test_an_example_holds_picture_tokens_roles_and_answer(marker_only, problems, made, tmp_path):
    keep_example(tmp_path, marker_only, made)
    kept = json.loads((tmp_path / "example.json").read_text())
    assert (kept["question"], kept["gold"]) == (problems[0].question, problems[0].answer)
    assert (kept["text"], kept["answer"]) == (made.text, made.answer)
    assert kept["problem_name"] == "mini-attribute/test/0"
    assert kept["options"] == list(problems[0].options)
    assert tuple(kept["roles"]) == made.layout.roles
    assert len(kept["tokens"]) == len(kept["roles"])
    assert kept["tokens"][made.layout.n_prompt] == "<|organism_open|>"
    picture = Image.open(io.BytesIO((tmp_path / "example.png").read_bytes()))
    assert (picture.size, picture.tobytes()) == ((56, 56), problems[0].pictures[0].tobytes())


def test_maps_are_the_head_means_of_attention_at_slots_and_answer(marker_only, made):
    maps = attention_maps(marker_only, made)
    answers = made.layout.roles.count("answer")
    layers = marker_only.parts.backend.decoder.config.num_hidden_layers
    assert [(one["layer"], one["position_label"]) for one in maps] == [
        (layer, label)
        for layer in range(layers)
        for label in ("slot 0", "slot 1", *["answer"] * answers)
    ]
    grid = made.layout.images[0]
    pattern = marker_only.read(made, "blocks.1.attn.hook_pattern", where=SLOTS)
    (found,) = [m for m in maps if (m["layer"], m["position_label"]) == (1, "slot 1")]
    rows = pattern["blocks.1.attn.hook_pattern"][:, 1].tolist()
    for row in range(grid.rows):
        for column in range(grid.columns):
            key = grid.start + row * grid.columns + column
            mean = sum(head[key] for head in rows) / len(rows)
            assert found["weights"][row][column] == pytest.approx(mean, abs=1e-6)
    assert found["image_mass"] == pytest.approx(sum(map(sum, found["weights"])))


def test_a_response_without_slots_or_answer_has_no_maps(marker_only, problems):
    cut = marker_only.generate(
        problems[0], structure=Structure(slots=False), decoding=Decoding(max_new_tokens=1)
    )
    assert attention_maps(marker_only, cut) == []


def test_a_problem_without_a_picture_is_kept_as_text(marker_only, tmp_path):
    asked = Problem("What color is it?", options=["red", "blue"], answer="red")
    keep_example(tmp_path, marker_only, marker_only.generate(asked, keep_logits=False))
    kept = json.loads((tmp_path / "example.json").read_text())
    assert (kept["problem_name"], kept["maps"]) == ("What color is it?", [])
    assert not (tmp_path / "example.png").exists()
