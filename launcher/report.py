"""`launch report`: launch directories → one page that works offline, with CSV files and figures for papers beside it.

    PAGE.html    summary, curves, comparison, sweep, evaluations, throughput, failures, configurations
    PAGE/        curves.csv aggregated.csv scores.csv evaluations.csv · curves and returns as .svg and .png

Nothing is written into a ledger, and a launch may be at work meanwhile.
"""

from __future__ import annotations

import importlib.resources
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher import report_evaluations, report_export, report_figures, report_sections, report_sweeps
from launcher.report_data import Configuration, Report, read
from launcher.report_figures import Figure
from launcher.report_html import INTERVAL, escape, figure
from launcher.stats import FEWEST_RUNS
from launcher.watch.tables import count
from runner.errors import UserError
from runner.files import write_whole
from runner.training.tracking import SCORE


@dataclass(frozen=True)
class Panel:
    """One tab: its id, title, HTML, and figures by id; `alarm` is a number beside the title."""

    id: str
    title: str
    markup: str
    figures: dict[str, Figure]
    alarm: int = 0


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
    if not directories:
        raise UserError("command line: no launch directory; usage: launch report DIR (see launch report --help)")
    page = page_path(directories, out)
    folder = page.with_suffix("")
    try:
        with report_export.Curves(folder) as curves:
            report = read(directories, curves.add)
        report_export.write(report, folder)
        write_whole(page, render(report, folder.name).encode())
    except OSError as error:
        raise UserError(f"{error.filename or page}: cannot be written: {error.strerror or error}") from None
    return page


def page_path(directories: Sequence[Path], out: Path | None) -> Path:
    """Where the page goes.

    Raises:
        UserError: `out` is no name of an HTML file, or files would be added to a launch.
    """
    if out is not None:
        if out.suffix not in (".html", ".htm") or out.is_dir():
            raise UserError(f"command line: --out {out}: allowed: a file whose name ends in .html, such as report.html")
        if (out.with_suffix("") / "plan.json").exists():
            raise UserError(
                f"command line: --out {out}: its CSV files would go to {out.with_suffix('')}, which is a launch; "
                "choose another name"
            )
        return out.absolute()
    folders = [directory.resolve() for directory in directories]
    if len(folders) == 1:
        return folders[0] / "report.html"
    return Path(os.path.commonpath([folder.parent for folder in folders])) / "report.html"


def render(report: Report, folder: str) -> str:
    """The whole page.

    Args:
        report: what to tell.
        folder: name of the folder with the CSV files.
    """
    panels = list(_panels(report))
    curves = report_figures.curves(report) | {"score": bool(report.tags) and report.tags[0] == SCORE}
    data = {"figures": {name: one for panel in panels for name, one in panel.figures.items()}, "curves": curves}
    files = importlib.resources.files("launcher")
    names = " · ".join(launch.name for launch in report.launches)
    parts = {
        "title": escape(names if len(names) < 120 else f"{names[:119]}…"),
        "subtitle": escape(_subtitle(report)),
        "tabs": "".join(map(_tab, panels)),
        "panels": "\n".join(
            f'<section role="tabpanel" id="{panel.id}" aria-label="{panel.title}" hidden>{panel.markup}</section>'
            for panel in panels
        ),
        "footer": f"Written by sunflower, {time.strftime('%Y-%m-%d %H:%M:%S %Z')}. Numbers as CSV, and figures for "
        f"papers, are in the folder {escape(folder)} beside this page.",
        # Inside a script a browser looks for "</script" and "<!--" before anything else.
        "data": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        "plotly": _plotly(),
        "script": files.joinpath("report_page.js").read_text(),
    }
    template = files.joinpath("report_page.html").read_text()
    return re.sub(r"<!--(\w+)-->", lambda found: parts[found[1]], template)


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).replace("</script", "<\\/script")


def _subtitle(report: Report) -> str:
    sizes = [count(len(report.configurations), "configuration"), count(len(report.seeds), "trial")]
    tasks = report.tasks
    where = ", ".join(tasks[:4]) + (f" and {len(tasks) - 4} more" if len(tasks) > 4 else "")
    return f"{where}: {', '.join(sizes)}" if tasks else "no trials"


def _tab(panel: Panel) -> str:
    alarm = f' <span class="count">{panel.alarm}</span>' if panel.alarm else ""
    return (
        f'<button type="button" role="tab" data-tab="{panel.id}" aria-controls="{panel.id}" aria-selected="false">'
        f"{panel.title}{alarm}</button>"
    )


def _panels(report: Report) -> Iterator[Panel]:
    """The tabs that there is something for."""
    yield Panel("summary", "Summary", report_sections.summary(report), {})
    if report.tags:
        yield Panel("curves", "Learning curves", _curves(report), {})
    if len(report.configurations) > 1:
        yield _comparison(report)
        sweep = _sweep(report)
        if sweep.figures:
            yield sweep
    if report_evaluations.last(report):
        markup, figures = report_evaluations.section(report), report_evaluations.figures(report)
        yield Panel("evaluation", "Evaluation", markup, figures)
    if any(launch.standing.attempts for launch in report.launches):
        yield _throughput(report)
    lost = sum(c.lost for c in report.configurations)
    if lost:
        yield Panel("failures", "Failures", report_sections.failures(report), {}, lost)
    yield Panel("trials", "Trials", report_sections.trials(report), {})
    if report.configurations:
        yield Panel("configurations", "Configurations", report_sections.differences(report), {})


def _curves(report: Report) -> str:
    tags = "".join(
        f'<option value="{number}">{escape("Return (last 100 episodes)" if tag == SCORE else tag)}</option>'
        for number, tag in enumerate(report.tags)
    )
    tasks = "".join(f'<option value="{escape(task)}">{escape(task)}</option>' for task in report.tasks)
    task = f'<label>task <select id="task">{tasks}</select></label>' if len(report.tasks) > 1 else ""
    single = len(report.configurations) == 1
    modes = "".join(
        f'<option value="{mode}"{" selected" * (mode == ("all" if single else "hover"))}>{words}</option>'
        for mode, words in (("hover", "on hover"), ("all", "all"), ("none", "none"))
    )
    numbers = sorted({len(c.seeds) for c in report.configurations})
    seeds = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    lost = sum(c.lost for c in report.configurations)
    ends = (
        f" \u00d7 marks where {count(lost, 'trial')} failed or diverged; points after it stand on the others."
        * bool(lost)
    )
    caption = (
        f"Thick lines: interquartile mean (IQM) over the seeds of a configuration ({seeds} each). Bands, of the return "
        f"only: {INTERVAL} at each point on its own; with fewer than {FEWEST_RUNS} seeds there is none, and the line "
        f"is the mean. Thin lines: seeds. All trials are shown as far as they got, finished or not.{ends}"
    )
    return (
        f'<div class="bar">{task}<label>metric <select id="metric">{tags}</select></label>'
        f'<label>seeds <select id="seeds">{modes}</select></label></div>'
        f'<div class="legend" id="legend"></div>{figure("curves", caption, 480)}'
    )


def _comparison(report: Report) -> Panel:
    look = report_figures.styles(len(report.configurations))
    parts: list[str] = []
    figures: dict[str, Figure] = {}
    for number, task in enumerate(report.tasks):
        pairs = [(c, one) for c, one in zip(report.configurations, look, strict=True) if c.task == task]
        group, styles = [c for c, _ in pairs], [one for _, one in pairs]
        suffix = f": {escape(task)}" if len(report.tasks) > 1 else ""
        forest = report_figures.final_returns(group, styles)
        figures[f"returns-{number}"] = forest
        caption = (
            f"Diamonds: IQM of the final returns (mean of the last 100 episodes); bars: {INTERVAL}, none with fewer "
            f"than {FEWEST_RUNS} finished seeds; dots: seeds. Best first. Trials that did not finish are left out and "
            "counted."
        )
        parts += [f"<h2>Final returns{suffix}</h2>", figure(f"returns-{number}", caption, forest["layout"]["height"])]
        parts.append('<div class="two">' if len(group) <= 8 else "<div>")
        for kind, heading, one, words in _pairwise(group, styles):
            if one is not None:
                name = f"{kind}-{number}"
                figures[name] = one
                plot = figure(name, words, one["layout"]["height"], kind == "improvement")
                parts.append(f"<div><h2>{heading}{suffix}</h2>{plot}</div>")
        parts.append("</div>")
    return Panel("comparison", "Comparison", "\n".join(parts), figures)


def _pairwise(
    group: Sequence[Configuration], styles: Sequence[report_figures.Style]
) -> list[tuple[str, str, Any, str]]:
    most = report_figures.MATRIX
    rest = f" The best {most} of {len(group)} configurations are shown." if len(group) > most else ""
    better = (
        "Probability that a run of the row's configuration scores higher than one of the column's; ties count half. "
        f"0.5: no difference. Numbers: places in the list above. Point at a cell for names and interval.{rest}"
    )
    shown = sum(colour != report_figures.OTHERS for colour, _ in styles)
    top = f" The best {shown} of {len(group)} configurations are shown." if shown < len(group) else ""
    above = (
        f"Fraction of finished runs whose final return is higher than τ.{top} Bands: 95% bootstrap intervals, none "
        f"with fewer than {FEWEST_RUNS} seeds."
    )
    return [
        ("improvement", "Probability of improvement", report_figures.improvement(group), better),
        ("profile", "Performance profile", report_figures.profiles(group, styles), above),
    ]


def _sweep(report: Report) -> Panel:
    parts: list[str] = []
    figures: dict[str, Figure] = {}
    look = report_figures.styles(len(report.configurations))

    def add(name: str, heading: str, one: Figure | None, words: str, wide: bool = False) -> None:
        if one is not None:
            figures[name] = one
            parts.append(f"<div><h2>{heading}</h2>{figure(name, words, one['layout']['height'], wide)}</div>")

    for number, task in enumerate(report.tasks):
        pairs = [(c, one) for c, one in zip(report.configurations, look, strict=True) if c.task == task]
        group, styles = [c for c, _ in pairs], [one for _, one in pairs]
        suffix = f": {escape(task)}" if len(report.tasks) > 1 else ""
        none = sum(c.iqm is None for c in group)
        left = (
            f" {count(none, 'configuration')} without a finished trial {'is' if none == 1 else 'are'} left out."
            * bool(none)
        )
        words = f"Final IQM for each value. Bars: {INTERVAL}, none with fewer than {FEWEST_RUNS} seeds.{left}"
        add(f"axis-{number}", f"Final return by setting{suffix}", report_sweeps.one_axis(group, styles), words)
        words = f"A line for each configuration in its colour; values of a setting are spaced evenly.{left}"
        add(f"parallel-{number}", f"Parallel coordinates{suffix}", report_sweeps.parallel(group, styles), words, True)
        parts.append('<div class="two">')
        for place, (heading, one) in enumerate(report_sweeps.heat_maps(group)):
            words = (
                f"Final IQM; the mean of it where other settings differ within a cell. Empty: no finished trial.{left}"
            )
            add(f"heat-{number}-{place}", f"{escape(heading)}{suffix}", one, words)
        parts.append("</div>")
    return Panel("sweep", "Sweep", "\n".join(parts), figures)


def _throughput(report: Report) -> Panel:
    parts: list[str] = []
    figures: dict[str, Figure] = {}
    for name, heading, one, words in (
        (
            "throughput",
            "Env steps per second",
            report_sweeps.throughput(report),
            "All trials together, as their records tell; a line for each host. Work that was lost with a worker and "
            "trained again is counted once.",
        ),
        (
            "timeline",
            "Attempts",
            report_sweeps.timeline(report),
            "An attempt is one life of one pack of trials in one worker process. Gaps are time without a worker.",
        ),
        (
            "split",
            "What training time goes to",
            report_sweeps.time_split(report),
            "Share of the seconds that records name, all trials of a configuration together.",
        ),
    ):
        if one is not None:
            figures[name] = one
            parts.append(f"<h2>{heading}</h2>{figure(name, words, one['layout']['height'])}")
    parts += [report_sections.attempts(report), "<h2>By configuration</h2>", report_sections.speeds(report)]
    return Panel("throughput", "Throughput", "\n".join(parts), figures)
