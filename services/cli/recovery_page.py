"""The report on recoveries as a page: one file, no script, nothing from elsewhere, black on white. Pure."""

from __future__ import annotations

from html import escape
from typing import Any

from services.cli import show
from services.cli.recovery import HEADS, cells
from services.cli.spans import span

STYLE = """
body{font:10pt/1.35 serif;margin:1.5cm;color:#000;background:#fff}
h1{font-size:15pt;margin:0 0 .2cm} p{margin:.1cm 0 .4cm}
table{border-collapse:collapse;width:100%}
th,td{border:.5pt solid #777;padding:.08cm .15cm;text-align:left;vertical-align:top}
thead{display:table-header-group} tr{page-break-inside:avoid}
.late,.failed,.waits,.unprotected{font-weight:bold}
@page{size:A4 landscape;margin:1cm} @media print{body{margin:0}}
"""
GRADES = {
    "met": "its last recovery kept both promises",
    "late": "it did not",
    "going on": "it is being recovered, and both can still be kept",
    "waits": "it is being recovered, and is not started",
    "failed": "its last recovery was refused, or given up",
    "untried": "it has a backup that was never recovered from",
    "unprotected": "it has no backup that it could be recovered from",
}


def page(report: dict[str, Any]) -> str:
    heads = "".join(f"<th>{escape(head.capitalize())}</th>" for head in HEADS)
    rows = "".join(_row(row) for row in report["items"])
    first, home = span(report["first_s_max"]), span(report["home_s_max"])
    counts = [(grade, sum(row["grade"] == grade for row in report["items"])) for grade in GRADES]
    summary = ", ".join(f"{many} {grade}" for grade, many in counts if many) or "no VM"
    grades = "; ".join(f"<b>{grade}</b>: {said}" for grade, said in GRADES.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Recovery report</title>'
        f"<style>{STYLE}</style></head><body><h1>Recovery report</h1>"
        f"<p>As of {escape(show.when(report['at_us']))}. Promised: a VM runs within {first} of the order, and stands on its own "
        f"within {home}. {escape(summary)}.</p>"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        f"<p>{grades}.</p></body></html>\n"
    )


def _row(row: dict[str, Any]) -> str:
    found = cells(row)
    grade = row["grade"].replace(" ", "-")
    told = "".join(f"<td>{escape(show.clean(cell)) or '–'}</td>" for cell in found)
    return f'<tr class="{escape(grade)}">{told}</tr>'
