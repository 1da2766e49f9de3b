"""Put the demo's table and picture into README.md and docs/images.

Reads runs/demo (made by `latentprobe demo`); the picture is the report's own figure, photographed
by a headless Chromium, which has to be on the PATH.
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from latentprobe.plots import accuracy_by_condition
from latentprobe.studies.demo import ORGANISMS, run_demo
from latentprobe.studies.diagnosis import Diagnosis

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "runs" / "demo"
PICTURE = ROOT / "docs" / "images" / "demo.png"
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def main() -> None:
    """Run the demo if it has not been run, then write the table and the picture."""
    if not (DEMO / "table.md").exists():
        run_demo(DEMO)
    readme = ROOT / "README.md"
    table = (DEMO / "table.md").read_text(encoding="utf-8")
    block = f"<!-- demo:start -->\n{table}<!-- demo:end -->"
    text = readme.read_text(encoding="utf-8")
    text = re.sub(r"<!-- demo:start -->.*<!-- demo:end -->", lambda _: block, text, flags=re.DOTALL)
    readme.write_text(text, encoding="utf-8")
    photograph()


def photograph() -> None:
    """Draw the condition figure and save what a browser shows of it."""
    pages = [Diagnosis.read(DEMO / name).page() for name in ORGANISMS]
    frames = [page.summary for page in pages]
    figure = accuracy_by_condition(
        type(frames[0])([row for frame in frames for row in frame.to_dict("records")]),
        chance=pages[0].chance,
    )
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("the picture needs Chromium on the PATH; the table was written")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "figure.html"
        figure.update_layout(width=1100)
        figure.write_html(page, include_plotlyjs=True, config={"displayModeBar": False})
        shot = Path(folder) / "shot.png"
        options = (f"--user-data-dir={folder}/profile", "--virtual-time-budget=8000")
        size = f"--window-size=1120,{int(figure.layout.height or 600) + 40}"
        command = [browser, *QUIET, *options, size, f"--screenshot={shot}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True)
        Image.open(shot).convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(PICTURE)


if __name__ == "__main__":
    main()
