"""Every example runs as it stands and ends in what it promises."""

import importlib.util
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *args):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(*args)


def test_no_example_is_left_out():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        "activation_patching",
        "attention_study",
        "custom_intervention",
    }


def test_patching_slots_before_the_last_layer_brings_the_twins_answer(problems, mediated):
    found = dict(run("activation_patching"))
    twin = mediated.generate(problems[1].twin).answer
    assert twin != problems[1].answer
    assert twin in found.values()
    assert found["blocks.2.hook_resid_post"] == problems[1].answer  # too late to be read


def test_a_custom_intervention_and_a_knockout_give_an_answer_each(problems):
    answers = run("custom_intervention")
    assert answers["full"] == problems[1].answer
    assert all(answer in problems[1].options for answer in answers.values())


def test_the_attention_example_writes_its_figure(tmp_path):
    difference = run("attention_study", tmp_path / "attention.html")
    assert -1 < difference < 1
    assert "narrowness" in (tmp_path / "attention.html").read_text(encoding="utf-8")
