"""`launch report`: launch directories → one page that works offline, with CSV files and figures for papers beside it.

    PAGE.html    a tab for each of `panels`
    PAGE/        curves.csv aggregated.csv scores.csv evaluations.csv · every figure as .svg, .png and .csv
                 winner.yaml of a search, winner_NAME.yaml where there are several launches

Nothing is written into a ledger, and a launch may be at work meanwhile.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from launcher.ledger.storage import is_launch
from runner.errors import UserError


def write(directories: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page, and its CSV files and figures into the folder of its name beside it.

    Args:
        directories: of launches, or that `run("train")` of a Runner wrote. Several make one comparison.
        out: the page; None for `DIR/report.html`, or with several directories `report.html` in the folder that is
            above all of them.

    Returns:
        The page.
    """
    from launcher.report import data, export, page
    from launcher.report.panels import panels, search
    from runner.files import write_whole

    if not directories:
        raise UserError("command line: no launch directory; usage: launch report DIR (see launch report --help)")
    path = page_path(directories, out)
    folder = path.with_suffix("")
    with tempfile.TemporaryDirectory() as read_in:
        launches = data.find(directories, Path(read_in))
        try:
            launches = search.write_winners(launches, folder)
            with export.curves(folder) as add:
                report = data.read(launches, add)
            shown = panels(report)
            export.write(report, [plot for panel in shown for plot in panel.plots], folder)
            write_whole(path, page.render(report, shown, path).encode())
        except OSError as error:
            raise UserError(f"{error.filename or path}: cannot be written: {error.strerror or error}") from None
    return path


def page_path(directories: Sequence[Path], out: Path | None) -> Path:
    """The file of the page, which is no other kind of file, and whose folder is no launch."""
    if out is None:
        folders = [directory.resolve() for directory in directories]
        above = [folders[0]] if len(folders) == 1 else [folder.parent for folder in folders]
        return Path(os.path.commonpath(above)) / "report.html"
    if out.suffix not in (".html", ".htm") or out.is_dir():
        raise UserError(f"command line: --out {out}: allowed: a file whose name ends in .html, such as report.html")
    if is_launch(out.with_suffix("")):
        raise UserError(
            f"command line: --out {out}: its CSV files would go to {out.with_suffix('')}, which is a launch; "
            "choose another name"
        )
    return out.absolute()
