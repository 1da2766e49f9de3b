"""One finished study that several files look at, and the command that makes the same one."""

from pathlib import Path

import pytest

from latentprobe.benchmarks import load as load_problems
from latentprobe.models import LatentModel
from latentprobe.studies.diagnose import diagnose
from latentprobe.studies.diagnosis import Diagnosis

CONDITIONS = "plain,zero,mean,noise-norm,donor-different-answer,cut-slots-image"
LIMIT = 6


@pytest.fixture(scope="session")
def finished(mediated: LatentModel, tmp_path_factory: pytest.TempPathFactory) -> Diagnosis:
    """A study of `mediated` run without interruption: 6 problems, 7 conditions, 11 trials each."""
    return diagnose(
        mediated,
        load_problems("mini-attribute", limit=LIMIT),
        conditions=CONDITIONS,
        out=tmp_path_factory.mktemp("finished") / "study",
        benchmark="mini-attribute",
        split="test",
    )


@pytest.fixture(scope="session")
def study_arguments() -> list[str]:
    """What the command line needs to run the same study; `--out` is left to the caller."""
    return [
        *("diagnose", "organism:mediated", "--limit", str(LIMIT)),
        *("--conditions", CONDITIONS),
    ]


@pytest.fixture
def empty_folder(tmp_path: Path) -> Path:
    return tmp_path / "study"
