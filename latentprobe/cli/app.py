"""`latentprobe`: demo, inspect, generate, diagnose, report, organisms, bench.

Everything heavy is imported by the command that needs it, so that `--help` and `report` are quick
and the latter needs no torch.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from latentprobe import __version__
from latentprobe.cli import screen
from latentprobe.errors import LatentProbeError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Mechanistic interpretability for latent visual reasoning.",
)
organisms_app = typer.Typer(no_args_is_help=True, help="The shipped organisms.")
bench_app = typer.Typer(no_args_is_help=True, help="Measure what the docs claim.")
app.add_typer(organisms_app, name="organisms")
app.add_typer(bench_app, name="bench")

Model = Annotated[
    str, typer.Argument(help="organism:NAME, a checkpoint folder, or a hub id.", metavar="MODEL")
]
MethodOption = Annotated[
    str | None, typer.Option("--method", help="Method; detected when left out.")
]
Threads = Annotated[
    int, typer.Option(min=0, help="CPU threads; 0 is one for organisms, half the cores otherwise.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**31, help="First seed of everything random.")]
Benchmark = Annotated[str, typer.Option("--benchmark", "-b", help="Name of a benchmark.")]
Split = Annotated[str, typer.Option(help="Split of the benchmark.")]

INTERRUPTED = 130


def main() -> None:
    """Run the command line; expected errors are one message and exit status 2."""
    try:
        app()
    except (LatentProbeError, OSError) as error:
        screen.failed(error)
        raise SystemExit(2) from None
    except SystemExit as leaving:  # typer's way out of everything, an interrupt included
        if leaving.code == INTERRUPTED:
            screen.interrupted()
        raise


def _version(asked: bool | None) -> None:
    if asked:
        typer.echo(f"latentprobe {__version__}")
        raise typer.Exit


@app.callback()
def options(
    show: Annotated[
        bool | None,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = None,
) -> None:
    """Mechanistic interpretability for latent visual reasoning."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for rows and report.")] = Path("runs/demo"),
    limit: Annotated[int | None, typer.Option(min=10, help="Number of problems.")] = None,
    seed: Seed = 0,
) -> None:
    """Diagnose two organisms of known mechanism and write a page about it."""
    _set_threads("organism:", 1)
    from latentprobe.studies.demo import PROBLEMS, run_demo

    with screen.Bars() as bars:
        made = run_demo(
            out, limit=limit or PROBLEMS, seed=seed, command=_command(), progress=bars.update
        )
    screen.comparison([one.page() for one in made.diagnoses])
    screen.wrote("report", made.report)


@app.command()
def inspect(
    model: Model,
    method: MethodOption = None,
    benchmark: Benchmark = "mini-attribute",
    split: Split = "test",
    threads: Threads = 0,
) -> None:
    """Show a model's method card, architecture, hook points, and one problem's tokens by role."""
    from latentprobe.benchmarks import load as load_problems

    problem = load_problems(benchmark, split=split, limit=1)[0]
    loaded = _load(model, method, threads)
    screen.model_card(loaded)
    screen.trajectory(loaded, loaded.generate(problem, keep_logits=False))


@app.command()
def generate(
    model: Model,
    image: Annotated[list[Path] | None, typer.Option(help="A picture; repeat for several.")] = None,
    question: Annotated[str | None, typer.Option(help="The question about it.")] = None,
    options: Annotated[str | None, typer.Option(help="Options, separated by |.")] = None,
    answer: Annotated[
        str | None, typer.Option(help="Gold answer: an option or its letter.")
    ] = None,
    benchmark: Benchmark = "mini-attribute",
    split: Split = "test",
    limit: Annotated[int, typer.Option(min=1, help="Problems of the benchmark to answer.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most response positions.")] = 64,
    method: MethodOption = None,
    seed: Seed = 0,
    threads: Threads = 0,
) -> None:
    """Answer a question about your own picture, or problems of a benchmark."""
    problems = _own_problem(image, question, options, answer)
    if not problems:
        from latentprobe.benchmarks import load as load_problems

        problems = list(load_problems(benchmark, split=split, limit=limit))
    loaded = _load(model, method, threads)
    for problem in problems:
        made = loaded.generate(problem, seed=seed, max_new_tokens=max_new_tokens, keep_logits=False)
        screen.trajectory(loaded, made)


@app.command()
def diagnose(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder of the study; resumed when it is this one.")],
    benchmark: Benchmark = "mini-attribute",
    conditions: Annotated[
        str, typer.Option(help="Comma-separated names, or `standard`.")
    ] = "standard",
    limit: Annotated[int | None, typer.Option(min=1, help="Number of problems.")] = None,
    split: Split = "test",
    seed: Seed = 0,
    method: MethodOption = None,
    threads: Threads = 0,
) -> None:
    """Run conditions on a benchmark, keep every trial, write a report; resumes where it stopped."""
    from latentprobe.benchmarks import load as load_problems

    problems = load_problems(benchmark, split=split, limit=limit)
    from latentprobe.conditions import resolve

    chosen = resolve(conditions)
    loaded = _load(model, method, threads)
    from latentprobe.studies.diagnose import diagnose as run

    with screen.Bars() as bars:
        made = run(
            loaded,
            problems,
            conditions=chosen,
            out=out,
            seed=seed,
            benchmark=benchmark,
            split=split,
            command=_command(),
            progress=lambda done, total: bars.update(model, done, total),
        )
    screen.comparison([made.page()])
    screen.wrote("rows", out / "trials.parquet")
    screen.wrote("report", made.report())


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A study's folder.", metavar="DIR")],
    out: Annotated[Path | None, typer.Option(help="Page to write; report.html in DIR.")] = None,
) -> None:
    """Write a study's report again from its rows (no model, no torch)."""
    from latentprobe.studies.diagnosis import Diagnosis

    made = Diagnosis.read(folder)
    screen.comparison([made.page()])
    screen.wrote("report", made.report(out))


@organisms_app.command("list")
def list_organisms() -> None:
    """List the shipped organisms and what is known of each."""
    from latentprobe.organisms import get, names

    for name in names():
        screen.organism(get(name))


@organisms_app.command("train")
def train_organism(
    name: Annotated[str, typer.Argument(help="Organism to rebuild.", metavar="NAME")],
    out: Annotated[Path | None, typer.Option(help="Folder; runs/organisms/NAME.")] = None,
) -> None:
    """Train an organism again from its recipe, on one thread (under ten minutes)."""
    from latentprobe.organisms import get

    get(name)
    from latentprobe.organisms.training import train

    folder = out or Path("runs/organisms") / name
    train(name, folder, report=screen.training_step)
    screen.wrote(f"organism {name}", folder)


@bench_app.command("attention")
def bench_attention(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    positions: Annotated[int, typer.Option(min=32, help="Length of the sequence.")] = 1088,
    repeats: Annotated[int, typer.Option(min=3, help="Timed rounds.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Time attention rows at 8 latent positions against a plain forward."""
    from latentprobe.bench.attention import run

    screen.bench(run(positions=positions, repeats=repeats, threads=threads), as_json=json)


def _own_problem(
    image: list[Path] | None, question: str | None, options: str | None, answer: str | None
) -> list[Any]:
    """Return the user's own problem as a list of one, or an empty list when none was given."""
    from latentprobe.benchmarks import Problem
    from latentprobe.errors import ProblemError

    if question is None:
        if image or options or answer:
            raise ProblemError("--image, --options and --answer go with --question")
        return []
    texts = [text.strip() for text in (options or "").split("|") if text.strip()]
    return [Problem(question, [str(path) for path in image or ()], options=texts, answer=answer)]


def _load(model: str, method: str | None, threads: int) -> Any:
    _set_threads(model, threads)
    from latentprobe.models import load

    return load(model, method=method)


def _set_threads(model: str, threads: int) -> None:
    """Give torch as many threads as help: small models run fastest on one."""
    import torch

    many = max(1, (os.cpu_count() or 2) // 2)
    torch.set_num_threads(threads or (1 if model.startswith("organism:") else many))


def _command() -> list[str]:
    return ["latentprobe", *sys.argv[1:]]
