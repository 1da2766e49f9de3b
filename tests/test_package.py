"""The package as a whole: importing it is inert and quick, its names and versions agree."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import latentprobe as lp

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "transformer_lens", "nnsight", "plotly", "pandas")
LIMIT = 0.3  # seconds

PROBE = """
import json, sys, time
began = time.perf_counter()
{code}
seconds = time.perf_counter() - began
print(json.dumps([seconds, [name for name in {heavy} if name in sys.modules]]))
"""


def measure(code: str) -> tuple[float, list[str]]:
    """Run code in a fresh interpreter; return its seconds and the heavy modules it pulled in."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(code=code, heavy=HEAVY)],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, heavy = json.loads(done.stdout)
    return seconds, heavy


def test_importing_the_package_is_inert_and_quick():
    runs = [measure("import latentprobe") for _ in range(5)]
    assert [heavy for _, heavy in runs] == [[]] * 5
    assert min(seconds for seconds, _ in runs) < LIMIT


def test_the_check_of_the_import_can_fail():
    seconds, heavy = measure("import latentprobe, time, plotly; time.sleep(0.31)")
    assert heavy == ["plotly"]
    assert seconds > LIMIT


def test_token_subsets_do_not_need_torch():
    code = "import latentprobe as lp; lp.SLOTS[0:2] | lp.segment(1) | lp.image_region((0, 0, 1, 1))"
    assert measure(code)[1] == []


def test_importing_changes_no_process_wide_setting():
    code = (
        "import logging, signal, sys, warnings\n"
        "def state(): return (sys.excepthook, sys.displayhook, list(sys.path_hooks), "
        "list(sys.meta_path), list(logging.root.handlers), logging.root.level, "
        "list(warnings.filters), signal.getsignal(signal.SIGINT))\n"
        "before = state()\n"
        "import latentprobe\n"
        "assert state() == before"
    )
    assert measure(code)[1] == []


def test_all_is_sorted_and_every_name_resolves():
    assert lp.__all__ == sorted(set(lp.__all__))
    for name in lp.__all__:
        assert getattr(lp, name) is not None
    assert set(lp.__all__) <= set(dir(lp))


@pytest.mark.parametrize(
    "name", ["architectures", "backends", "benchmarks", "interventions", "methods", "organisms"]
)
def test_a_registry_lists_its_names_however_often_it_is_asked(name: str):
    # the second look finds the subpackage itself: by then it has been imported
    for _ in range(2):
        listed = getattr(lp, name).names()
        assert listed
        assert listed == sorted(listed)


@pytest.mark.parametrize("name", ["architectures", "backends", "interventions", "methods"])
def test_a_registry_gives_and_takes_entries_by_name(name: str):
    registry = getattr(lp, name)
    first = registry.names()[0]
    assert registry.get(first) is registry.get(first)
    with pytest.raises(lp.LatentProbeError, match="already registered"):
        registry.register(first, registry.get(first))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'latentprobe' has no attribute 'slots'"):
        lp.slots  # noqa: B018 - looking is what fails
    assert not hasattr(lp, "_nothing")


def test_the_version_is_pyprojects_and_the_changelogs_newest():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert lp.__version__ == project["version"] == headings[0]
