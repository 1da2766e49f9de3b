import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["latentprobe.plots", "latentprobe.report"])
def test_importing_plots_or_report_imports_no_torch(module: str) -> None:
    assert heavy_modules_after(f"import {module}") == ""


def test_the_import_test_can_fail() -> None:
    pretend = "import sys, types; sys.modules['torch'] = types.ModuleType('torch')"
    assert heavy_modules_after(f"{pretend}; import latentprobe.plots") == "torch"


def heavy_modules_after(statement: str) -> str:
    """Return which heavy libraries a fresh interpreter holds after a statement."""
    heavy = "{'torch', 'transformers', 'transformer_lens', 'nnsight'}"
    code = f"{statement}\nimport sys\nprint(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()
