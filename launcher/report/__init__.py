"""`launch report`: launch directories → one page that works offline, with CSV files and figures for papers beside it.

    PAGE.html    a tab for each of `panels`
    PAGE/        curves.csv aggregated.csv scores.csv evaluations.csv · every figure as .svg, .png and .csv

Nothing is written into a ledger, and a launch may be at work meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from launcher.ledger.storage import is_launch
from runner.errors import UserError


def write(directories: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page, and its CSV files and figures into the folder of its name beside it.

    Args:
        directories: of launches. Several make one comparison.
        out: the page; None for `DIR/report.html`, or with several directories `report.html` in the folder that is
            above all of them.

    Returns:
        The page.

    Raises:
        UserError: no directory, one that is none of a launch or is damaged, or the page cannot be written.
    """
    from launcher.report import export, page
    from launcher.report.data import read
    from launcher.report.panels import panels
    from runner.files import write_whole

    if not directories:
        raise UserError("command line: no launch directory; usage: launch report DIR (see launch report --help)")
    path = page_path(directories, out)
    folder = path.with_suffix("")
    try:
        with export.Curves(folder) as curves:
            report = read(directories, curves.add)
        shown = panels(report)
        export.write(report, [plot for panel in shown for plot in panel.plots], folder)
        write_whole(path, page.render(report, shown, path).encode())
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be written: {error.strerror or error}") from None
    return path


def page_path(directories: Sequence[Path], out: Path | None) -> Path:
    """Where the page goes.

    Raises:
        UserError: `out` is no name of an HTML file, or files would be added to a launch.
    """
    if out is not None:
        if out.suffix not in (".html", ".htm") or out.is_dir():
            raise UserError(f"command line: --out {out}: allowed: a file whose name ends in .html, such as report.html")
        if is_launch(out.with_suffix("")):
            raise UserError(
                f"command line: --out {out}: its CSV files would go to {out.with_suffix('')}, which is a launch; "
                "choose another name"
            )
        return out.absolute()
    folders = [directory.resolve() for directory in directories]
    if len(folders) == 1:
        return folders[0] / "report.html"
    return Path(os.path.commonpath([folder.parent for folder in folders])) / "report.html"
