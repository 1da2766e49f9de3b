"""The commands as a person types them: what they print, where they write, how they fail."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

import latentprobe
from latentprobe.cli import main, screen


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a command line in this process; returns (exit status, output, errors)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["latentprobe", *map(str, arguments)])
        monkeypatch.setattr(screen, "console", Console(width=200))
        monkeypatch.setattr(screen, "errors", Console(stderr=True, width=200))
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python process of its own."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=Path(latentprobe.__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGBA", (56, 56), (220, 40, 40, 255)).save(path)
    return path


# --- looking -------------------------------------------------------------------------------------


def test_help_names_every_command_and_imports_nothing_heavy():
    began = time.monotonic()
    done = process("-m", "latentprobe", "--help")
    assert time.monotonic() - began < 10
    assert done.returncode == 0
    for command in ("demo", "inspect", "generate", "diagnose", "report", "organisms", "bench"):
        assert f" {command} " in done.stdout
    quick = process(
        "-X", "importtime", "-c", "import latentprobe.cli.app, sys; print('torch' in sys.modules)"
    )
    assert quick.stdout == "False\n"


def test_inspect_shows_card_architecture_and_one_problem(call):
    code, out, _ = call("inspect", "organism:mediated")
    assert code == 0
    for text in ("Slots are the only route", "3 layers of width 64", "exactly 2 slots"):
        assert text in " ".join(out.split())
    assert "What color is inside the yellow frame?" in out
    assert "<|organism_slot|>" in out
    assert out.count(" nats  ") == 6


def test_organisms_are_listed_with_what_is_known_of_them(call):
    code, out, _ = call("organisms", "list")
    assert code == 0
    for name in latentprobe.organisms.names():
        assert f"organism:{name} — {latentprobe.organisms.get(name).mechanism}" in out


# --- generating ----------------------------------------------------------------------------------


def test_generate_answers_problems_of_a_benchmark(call, mediated, problems):
    code, out, _ = call("generate", "organism:mediated", "--limit", "2")
    assert code == 0
    assert out.count("stop: end") == 2
    for problem in problems[:2]:
        made = mediated.generate(problem)
        assert problem.question in out
        assert f"answer: {made.answer} ({'right' if made.correct else 'wrong'})" in out
        for option, score in zip(problem.options, made.scores, strict=True):
            assert f"{score:9.3f} nats  {option}" in out


def test_generate_answers_a_question_about_ones_own_picture(call, picture):
    code, out, _ = call(
        *("generate", "organism:marker-only", "--image", picture),
        *("--question", "What color is inside the red frame?"),
        *("--options", " red | blue |", "--answer", "A"),
    )
    assert code == 0
    assert "What color is inside the red frame?" in out
    assert [line.split()[-1] for line in out.splitlines() if " nats  " in line] == ["red", "blue"]
    assert "words this model does not know" not in out
    assert "(right)" in out or "(wrong)" in out


def test_without_a_gold_answer_nothing_is_judged(call, picture):
    code, out, _ = call(
        "generate", "organism:marker-only", "--image", picture, "--question", "What color is it?"
    )
    assert code == 0
    assert "(right)" not in out
    assert "(wrong)" not in out
    assert " nats  " not in out


def test_words_the_model_does_not_know_are_shown(call, picture):
    code, out, _ = call(
        *("generate", "organism:marker-only", "--image", picture),
        *("--question", "What zebra is inside the crimson frame?", "--options", "red|[blue]"),
    )
    assert code == 0
    (unknown,) = [line for line in out.splitlines() if "does not know" in line]
    assert "zebra" in unknown
    assert "crimson" in unknown
    assert "frame" not in unknown
    assert "nats  [blue]" in out


def test_a_picture_that_is_none_is_refused(call, tmp_path):
    path = tmp_path / "picture.png"
    question = ("--image", path, "--question", "What color?", "--options", "red|blue")
    code, _, err = call("generate", "organism:mediated", *question)
    assert code == 2
    assert f"error: image 0: no file at {path}" in err
    path.write_bytes(b"no picture")
    code, _, err = call("generate", "organism:mediated", *question)
    assert code == 2
    assert "cannot be read as a picture" in err


def test_a_gold_answer_that_is_no_option_is_refused(call):
    code, _, err = call(
        *("generate", "organism:mediated", "--question", "What?", "--options", "red|blue"),
        *("--answer", "green"),
    )
    assert code == 2
    assert "the gold answer 'green' is not among the options ['red', 'blue']" in err


@pytest.mark.parametrize("alone", [("--options", "red|blue"), ("--answer", "A")])
def test_options_and_answer_go_with_a_question(call, alone):
    code, _, err = call("generate", "organism:mediated", *alone)
    assert (code, err) == (2, "error: --image, --options and --answer go with --question\n")


# --- diagnosing ----------------------------------------------------------------------------------


def test_diagnose_writes_rows_and_report_and_report_writes_it_again_without_torch(call, tmp_path):
    folder = tmp_path / "study"
    code, out, err = call(
        *("diagnose", "organism:marker-only", "--out", folder, "--limit", "2"),
        *("--conditions", "plain,zero"),
    )
    assert code == 0
    assert "6/6" in err
    assert f"wrote rows: {folder}/trials.parquet" in out
    assert f"wrote report: {folder}/report.html" in out
    assert sorted(pd.read_parquet(folder / "trials.parquet")["condition"]) == [
        *("full", "full", "plain", "plain", "zero", "zero"),
    ]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["command"][:3] == ["latentprobe", "diagnose", "organism:marker-only"]

    before = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    done = process(
        "-c",
        "import sys\n"
        "from latentprobe.cli import main\n"
        f"sys.argv = ['latentprobe', 'report', {str(folder)!r}]\n"
        "try:\n    main()\n"
        "finally:\n    print('heavy:', {'torch', 'transformers'} & set(sys.modules))\n",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("heavy: set()\n")
    assert (folder / "report.html").read_bytes() == before

    code, out, _ = call("report", folder, "--out", tmp_path / "elsewhere.html")
    assert code == 0
    assert (tmp_path / "elsewhere.html").read_bytes() == before

    code, _, err = call("diagnose", "organism:marker-only", "--out", folder, "--limit", "3")
    assert code == 2
    assert "holds another study. They differ in problems: got 3, there 2" in err


def test_bench_attention_prints_json(call):
    code, out, _ = call(*(
        "bench",
        "attention",
        "--json",
        "--positions",
        "32",
        "--repeats",
        "3",
        "--threads",
        "1",
    ))
    assert code == 0
    result = json.loads(out)
    assert result["shapes"]["positions"] == 32
    assert [set(row) for row in result["rows"]] == [
        {"name", "median_ms", "min_ms", "max_ms", "ratio"}
    ] * 3


# --- names and usage -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("inspect", "organism:mediatd"), "unknown organism 'mediatd'. Did you mean 'mediated'?"),
        (
            ("inspect", "organism:mediated", "--benchmark", "mini-atribute"),
            "unknown benchmark 'mini-atribute'. Did you mean 'mini-attribute'?",
        ),
        (("inspect", "organism:mediated", "--split", "tset"), "'tset'. Did you mean 'test'?"),
        (
            ("diagnose", "organism:mediated", "--out", "never", "--conditions", "zero,means"),
            "unknown condition 'means'. Did you mean 'mean'",
        ),
        (("generate", "organism:mediated", "--method", "organizm"), "Did you mean 'organism'"),
        (("organisms", "train", "medated"), "unknown organism 'medated'. Did you mean 'mediated'?"),
        (("report", "never"), "never is not a study's folder"),
        (("inspect", "never/was/there"), "no model 'never/was/there'"),
    ],
)
def test_an_unknown_name_is_one_message_and_exit_status_2(call, arguments, said):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert said in err
    assert not Path("never").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("inspect", "organism:mediated", "--colour"), "No such option"),
        (("inspekt",), "No such command"),
        (("inspect",), "Missing argument"),
        (("diagnose", "organism:mediated"), "Missing option"),
        (("generate", "organism:mediated", "--limit", "0"), "Invalid value"),
        (("generate", "organism:mediated", "--seed", "one"), "Invalid value"),
        (("demo", "--limit", "9"), "Invalid value"),
        (("bench", "attention", "--positions", "31"), "Invalid value"),
    ],
)
def test_a_wrong_command_line_is_explained_and_exit_status_2(call, arguments, said):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_an_interrupt_is_exit_status_130_and_a_sentence(call, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("latentprobe.organisms.names", interrupt)
    code, _, err = call("organisms", "list")
    assert code == 130
    assert "interrupted; finished trials are kept, the same command does only the rest" in err


def test_an_error_that_is_not_ours_keeps_its_traceback(monkeypatch):
    def broken() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("latentprobe.organisms.names", broken)
    monkeypatch.setattr(sys, "argv", ["latentprobe", "organisms", "list"])
    with pytest.raises(RuntimeError, match="a bug"):
        main()


def test_the_version_is_the_packages_own(call):
    status, out, _ = call("--version")
    assert (status, out.split()) == (0, ["latentprobe", latentprobe.__version__])
