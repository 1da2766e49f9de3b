"""One self-contained HTML page per study: verdicts, figures, table, examples, manifest.

The page is built from stored rows alone (no torch), loads nothing from the network, and is the same
bytes for the same inputs.
"""

from latentprobe.plots.maps import AttentionMap
from latentprobe.report.content import Example, StudyPage
from latentprobe.report.page import report_html, write_report

__all__ = ["AttentionMap", "Example", "StudyPage", "report_html", "write_report"]
