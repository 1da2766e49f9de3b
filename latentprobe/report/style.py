"""The page's style sheet: readable on a screen 1200 px wide and on paper, system fonts only."""

from latentprobe.plots.theme import FONT_FAMILY, GRID, INK, MUTED, PAPER

STYLE = f"""
:root {{ color-scheme: light; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 1160px; padding: 28px 20px 60px; background: {PAPER};
  color: {INK}; font: 16px/1.5 {FONT_FAMILY}; }}
h1 {{ font-size: 30px; line-height: 1.2; margin: 0 0 18px; }}
h2 {{ font-size: 22px; margin: 44px 0 8px; padding-top: 14px; border-top: 1px solid {GRID}; }}
h4 {{ font-size: 15px; margin: 18px 0 4px; }}
h3 {{ font-size: 17px; margin: 22px 0 6px; }}
p {{ margin: 6px 0; max-width: 90ch; }}
.note, figcaption {{ color: {MUTED}; font-size: 14px; max-width: 110ch; }}
.model {{ border-left: 5px solid; padding: 2px 0 2px 16px; margin: 0 0 22px; }}
.model h2 {{ border: 0; margin: 0; padding: 0; font-size: 18px; }}
.verdicts {{ margin: 4px 0 8px; padding: 0; list-style: none; }}
.verdicts li {{ font-size: 16px; line-height: 1.42; margin: 6px 0; max-width: 66em; }}
.verdicts li:first-child {{ font-size: 23px; line-height: 1.32; margin: 6px 0 12px; }}
.card {{ font-size: 15px; color: {MUTED}; }}
.card summary, details > summary {{ cursor: pointer; }}
figure {{ margin: 12px 0 0; }}
.plot {{ width: 100%; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: 14px; line-height: 1.35; }}
caption {{ text-align: left; font-weight: 600; font-size: 16px; padding: 14px 0 6px; }}
th, td {{ text-align: left; vertical-align: top; padding: 6px 6px;
  border-bottom: 1px solid {GRID}; }}
thead th {{ vertical-align: bottom; border-bottom: 2px solid #b6bcc4; font-size: 13px; }}
tbody th {{ font-weight: 600; min-width: 100px; }}
tbody th, td.recipe {{ overflow-wrap: anywhere; }}
td.number {{ font-variant-numeric: tabular-nums; white-space: nowrap; }}
td small, td .minor {{ display: block; color: {MUTED}; font-size: 13px; }}
td.recipe {{ min-width: 140px; }}
.absent {{ color: {MUTED}; cursor: help; }}
.undefined {{ text-decoration: underline dotted; cursor: help; }}
.word {{ display: inline-block; padding: 0 7px; border-radius: 9px; border: 1.5px solid;
  font-size: 13px; font-weight: 600; white-space: nowrap; }}
.mark {{ display: inline-block; margin-top: 3px; padding: 0 6px; border-radius: 4px;
  background: #fff1c2; color: #5c3d00; border: 1px solid #d9a400; font-size: 13px;
  white-space: nowrap; }}
.example {{ display: grid; grid-template-columns: 270px 1fr; gap: 24px; margin: 12px 0 18px; }}
.example img {{ width: 270px; height: auto; border: 1px solid {GRID};
  image-rendering: pixelated; }}
dl {{ display: grid; grid-template-columns: 125px 1fr; gap: 6px 12px; margin: 0; }}
dt {{ color: {MUTED}; }}
dd {{ margin: 0; min-width: 0; }}
ol.options {{ list-style: none; margin: 0; padding: 0; }}
pre {{ margin: 0; padding: 8px 10px; background: #f6f8fa; border-radius: 4px; font-size: 14px;
  white-space: pre-wrap; overflow-wrap: anywhere; }}
section > details {{ margin: 14px 0; }}
section > details > summary {{ font-weight: 600; }}
.manifest th {{ width: 240px; font-weight: 500; color: {MUTED}; }}
.manifest td {{ font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 13px;
  overflow-wrap: anywhere; }}
@media (max-width: 760px) {{ .example, dl {{ grid-template-columns: 1fr; }} }}
@media print {{
  @page {{ size: A4 landscape; margin: 12mm; }}
  body {{ padding: 0; max-width: none; zoom: 0.88; }}
  figure, tr, .example, .model {{ break-inside: avoid; }}
  h2, h3, caption {{ break-after: avoid; }}
  .modebar {{ display: none; }}
}}
""".strip()
