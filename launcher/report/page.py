"""The page: its panels through `page.html`, figures as data for `page.js`, and plotly, all in one file."""

from __future__ import annotations

import importlib.resources
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from launcher.report.data import Report
from launcher.report.parts import Panel
from launcher.report.plots import Arrays, plot
from launcher.watch.tables import count, cut

ROWS = 1000
"""Rows of a table at most."""


def render(report: Report, panels: Sequence[Panel], path: Path) -> str:
    """The whole page, with the panels as tabs; files beside it are named relative to its `path`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    loader = PackageLoader("launcher.report", ".")
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.globals["link"] = lambda file: quote(os.path.relpath(file, path.parent))
    return pages.get_template("page.html").render(
        title=cut(" · ".join(launch.name for launch in report.launches), 120),
        subtitle=_subtitle(report),
        panels=panels,
        folder=path.with_suffix(""),
        written=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        most=ROWS,
        data=Markup(_data(panels)),
        plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")),
        script=Markup(importlib.resources.files("launcher.report").joinpath("page.js").read_text()),
    )


def _data(panels: Sequence[Panel]) -> str:
    """Figures for the script."""
    arrays = Arrays()
    figures = {one.name: plot(one.figure, arrays) for panel in panels for one in panel.plots}
    data = {"figures": figures, "arrays": arrays.all()}
    # Inside a script a browser looks for "</script" and "<!--" before anything else.
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _subtitle(report: Report) -> str:
    sizes = f"{count(len(report.configurations), 'configuration')}, {count(len(report.seeds), 'trial')}"
    tasks = report.tasks
    where = ", ".join(tasks[:4]) + (f" and {len(tasks) - 4} more" if len(tasks) > 4 else "")
    return f"{where}: {sizes}" if tasks else "no trials"
