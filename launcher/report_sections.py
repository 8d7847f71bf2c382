"""The text of the page: tables and captions as HTML, every word of which that came from outside is escaped."""

from __future__ import annotations

import difflib
import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from launcher import stats
from launcher.ledger.rows import AttemptRow
from launcher.report_data import Configuration, Launch, Report, axes
from launcher.report_figures import styles, written
from launcher.report_html import INTERVAL, ROWS, Cell, configuration, escape, num, span, state, table, text
from launcher.report_sweeps import attempt_parts
from launcher.watch.tables import count, duration
from runner.training.tracking import STEPS_PER_SECOND

DIFFERENCES = 24
"""Configurations whose YAML is compared with the best one's at most."""


def left_out(c: Configuration) -> str:
    """Trials that are not in the statistics, by state: `2 failed, 1 running`."""
    states = Counter(
        "without an episode" if seed.row.trial.state == "finished" else seed.row.trial.state
        for seed in c.seeds
        if not seed.counts
    )
    return ", ".join(f"{n} {word}" for word, n in states.items())


# Summary


def summary(report: Report) -> str:
    """What was run, where, with what result."""
    parts = [_banners(report), _tiles(report), "<h2>Final returns</h2>", ranking(report)]
    for launch in report.launches:
        heading = "What was run" if len(report.launches) == 1 else f"What was run: {escape(launch.name)}"
        parts += [f"<h2>{heading}</h2>", about(launch)]
    return "\n".join(parts)


def _banners(report: Report) -> str:
    seeds = report.seeds
    states = Counter(seed.row.trial.state for seed in seeds)
    found = []
    lost = states["failed"] + states["diverged"]
    if lost:
        words = " and ".join(f"{states[s]} {s}" for s in ("failed", "diverged") if states[s])
        link = '<a href="#failures" data-to="failures">why, and their logs</a>'
        found.append(
            f'<div class="banner"><b>{words}</b> of {count(len(seeds), "trial")}. They are not in the statistics of '
            f"final returns, which may look better for it: {link}.</div>"
        )
    unfinished = len(seeds) - states["finished"] - lost
    if unfinished:
        words = ", ".join(f"{n} {s}" for s, n in states.items() if s not in ("finished", "failed", "diverged"))
        found.append(
            f'<div class="banner mild"><b>Not finished:</b> {words} of {count(len(seeds), "trial")}. '
            "Final returns are those of finished trials; curves show all as far as they got.</div>"
        )
    few = [c for c in report.configurations if len(c.scores) < stats.FEWEST_RUNS]
    if few:
        which = "All" if len(few) == len(report.configurations) else f"{len(few)} of {len(report.configurations)}"
        found.append(
            f'<div class="banner mild"><b>Few seeds:</b> {which} configurations have fewer than {stats.FEWEST_RUNS} '
            "finished seeds. No interval is drawn for them: so few say nothing about the spread.</div>"
        )
    return "\n".join(found)


def _tiles(report: Report) -> str:
    seeds = report.seeds
    done = sum(seed.row.trial.state == "finished" for seed in seeds)
    steps = sum(seed.row.env_steps for seed in seeds)
    lost = sum(c.lost for c in report.configurations)
    numbers = sorted({len(c.seeds) for c in report.configurations})
    each = "-".join(map(str, dict.fromkeys([numbers[0], numbers[-1]]))) if numbers else "0"
    tiles = [
        (f"{done:,} of {len(seeds):,}", "trials finished", False),
        (f"{len(report.configurations):,} \u00d7 {each}", "configurations \u00d7 seeds", False),
        (brief(steps), "env steps trained", False),
        (f"{lost:,}", "failed or diverged", lost > 0),
    ]
    best = [c for c in report.configurations if c.iqm is not None]
    if best and len(report.tasks) == 1:
        tiles.insert(0, (written(best[0].iqm or 0.0), f"best IQM: {best[0].label}"[:60], False))
    cells = "".join(
        f'<div class="tile{" bad" * bad}"><b>{escape(number)}</b><span>{escape(words)}</span></div>'
        for number, words, bad in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def brief(value: float) -> str:
    """`950`, `12.3 k`, `4.5 M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:,.3g} {letter}"
    return f"{value:,.3g}"


def ranking(report: Report) -> str:
    """Configurations, best first, one table for each task."""
    look = styles(len(report.configurations))
    parts = []
    for task in report.tasks:
        rows = []
        pairs = [(c, one) for c, one in zip(report.configurations, look, strict=True) if c.task == task]
        best = pairs[0][0]
        for place, (c, one) in enumerate(pairs, 1):
            scores = c.scores
            spread = Cell(span(c.interval), None, "n") if c.interval else _no_interval(c)
            rows.append(
                [
                    num(place, "d"),
                    configuration(c, one),
                    num(c.iqm),
                    spread,
                    num(float(scores.mean()) if len(scores) else None),
                    num(float(scores.min()) if len(scores) else None),
                    num(float(scores.max()) if len(scores) else None),
                    _better(best, c),
                    num(len(scores), "d"),
                    text(left_out(c) or "-"),
                ]
            )
        headings = ["#:", "configuration", "IQM:", "95% interval:", "mean:", "min:", "max:"]
        headings += ["P(best &gt; this):", "seeds:", "not counted"]
        parts += [f"<h3>{escape(task)}</h3>", table(headings, rows)]
    note = (
        f"Return: mean of a trial's last 100 episodes at its end. IQM: mean of the middle half of the seeds. Interval: "
        f"{INTERVAL}; with fewer than {stats.FEWEST_RUNS} finished seeds there is none. P(best &gt; this): "
        "probability that a run of the first configuration scores higher than one of this. Seeds: finished trials, the "
        "only ones that count."
    )
    return "\n".join([*parts, f'<p class="note">{note}</p>'])


def _no_interval(c: Configuration) -> Cell:
    n = len(c.scores)
    return Cell(f"{n} seed{'s' * (n != 1)}: none", None, "n") if n else num(None)


def _better(best: Configuration, c: Configuration) -> Cell:
    if best is c or not len(best.scores) or not len(c.scores):
        return num(None)
    return num(stats.probability_of_improvement(best.scores, c.scores), ".2f")


def about(launch: Launch) -> str:
    """Command, machine, versions and code of a launch, and what of it changed with each resume."""
    revision, standing = launch.revision, launch.standing
    hardware, placement = launch.block("hardware"), launch.block("placement")
    gpus = f" on {count(placement['gpus'], 'GPU')}" if placement.get("gpus") else ""
    logical = " (logical: all ran on the CPU)" if placement.get("logical") else ""
    running = {True: "running", False: "not running", None: "whether it runs cannot be told"}[standing.running]
    began = revision.get("time")
    cores = f"{count(hardware['cores'], 'core')}" if isinstance(hardware.get("cores"), int) else ""
    rows = [
        ("directory", str(standing.directory)),
        ("started", time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(began)) if began else "not yet"),
        ("state", running),
        ("machine", ", ".join(str(x) for x in (hardware.get("host"), hardware.get("processor"), cores) if x)),
        ("system", str(hardware.get("system", ""))),
        ("workers", f"{placement['workers']}{gpus}{logical}" if "workers" in placement else ""),
        ("versions", ", ".join(f"{name} {value}" for name, value in launch.block("versions").items())),
        ("code", str(revision.get("git_commit") or "")),
    ]
    shown = "".join(f"<tr><td>{key}</td><td class='wrap'>{escape(value)}</td></tr>" for key, value in rows if value)
    commands = [str(one.get("command")) for one in standing.revisions if one.get("command")]
    texts = "".join(
        f'<div class="copied"><button class="copy" type="button">copy</button>'
        f'<pre class="command">{escape(command)}</pre></div>'
        for command in commands
    )
    resumed = f'<p class="note">Resumed {count(len(commands) - 1, "time")}: commands in order.</p>' * (
        len(commands) > 1
    )
    return f'{texts}{resumed}<div class="scroll"><table class="key"><tbody>{shown}</tbody></table></div>'


# Trials and failures


def trials(report: Report) -> str:
    """Every trial."""
    look = dict(zip([c.name for c in report.configurations], styles(len(report.configurations)), strict=True))
    rows = [
        [
            configuration(c, look[c.name]),
            num(seed.row.trial.seed, "d"),
            state(seed.row.trial.state),
            num(seed.score),
            num(seed.row.env_steps, ",d"),
            num(100 * seed.row.env_steps / max(seed.row.trial.timesteps * seed.row.trial.num_envs, 1), ".0f"),
            num(seed.row.steps_per_second, ",.0f"),
            num(len(report.launches[seed.launch].standing.attempts_of(seed.row)), "d"),
            text(seed.row.trial.error or "", "wrap"),
        ]
        for c in report.configurations
        for seed in c.seeds
    ]
    headings = [
        "configuration",
        "seed:",
        "state",
        "return:",
        "env steps:",
        "done, %:",
        "steps/s:",
        "attempts:",
        "error",
    ]
    note = "Return: mean of the last 100 episodes so far; in the statistics only where the trial finished."
    return f'{table(headings, rows)}<p class="note">{note}</p>'


def failures(report: Report) -> str:
    """Why trials failed or diverged, with the ends of logs."""
    parts = []
    for launch in report.launches:
        if len(report.launches) > 1 and launch.failures:
            parts.append(f"<h2>{escape(launch.name)}</h2>")
        for failure in launch.failures:
            who = failure.trials[0] + (f" and {len(failure.trials) - 1:,} more" if len(failure.trials) > 1 else "")
            parts.append(f'<h3>{escape(who)} <span class="state {failure.state}">{failure.state}</span></h3>')
            parts.append(f"<p>{escape(failure.reason)}</p>")
            if len(failure.trials) > 1:
                names = ", ".join(map(escape, failure.trials[:ROWS]))
                parts.append(f"<details><summary>all {len(failure.trials):,} trials</summary><p>{names}</p></details>")
            if failure.log:
                parts.append(f'<p class="note">{escape(failure.log)}{", last lines:" if failure.lines else ""}</p>')
            if failure.lines:
                parts.append(f'<pre class="log">{escape(chr(10).join(failure.lines))}</pre>')
    return "\n".join(parts)


# Throughput


def attempts(report: Report) -> str:
    """Every attempt, and what its time went to."""
    rows = []
    spent = np.zeros(3)
    for index, launch in enumerate(report.launches):
        members = Counter(number for numbers in launch.standing.members.values() for number in numbers)
        for attempt, (*parts, steps) in attempt_parts(report, index).items():
            spent += parts
            rows.append(
                _attempt(
                    launch, launch.standing.attempts[attempt], members[attempt], parts, steps, len(report.launches) > 1
                )
            )
    heads = [
        "attempt:",
        "host",
        "trials:",
        "start-up, s:",
        "training, s:",
        "closing, s:",
        "env steps:",
        "steps/s:",
        "outcome",
    ]
    if len(report.launches) > 1:
        heads.insert(0, "launch")
    total = float(spent.sum()) or 1.0
    shares = ", ".join(
        f"{name} {part / total:.0%}" for name, part in zip(("start-up", "training", "closing"), spent, strict=True)
    )
    note = (
        f"Of {duration(float(spent.sum()))} of worker time: {shares}. Start-up lasts from the opening of "
        "an attempt to the first step that its records tell of, imports and compilation included; closing is what "
        "follows the last record. Steps/s: env steps of all trials of the pack over its training time."
    )
    return f'{table(heads, rows)}<p class="note">{note}</p>'


def _attempt(
    launch: Launch, row: AttemptRow, members: int, parts: Sequence[float], steps: int, named: bool
) -> list[Cell]:
    outcome = row.outcome or ("not closed" if launch.standing.running is False else "open")
    error = f": {row.error}" if row.error else ""
    cells = [
        num(row.number, "d"),
        text(row.host or "-"),
        num(members, "d"),
        *(num(part, ",.1f") for part in parts),
        num(steps, ",d"),
        num(steps / parts[1] if parts[1] else None, ",.0f"),
        text(f"{outcome}{error}"[:300], "wrap"),
    ]
    return [text(launch.name), *cells] if named else cells


def speeds(report: Report) -> str:
    """Env steps per second of a trial, by configuration."""
    look = styles(len(report.configurations))
    rows = []
    for c, one in zip(report.configurations, look, strict=True):
        told = [seed.curves[STEPS_PER_SECOND] for seed in c.seeds if STEPS_PER_SECOND in seed.curves]
        values = np.concatenate(told) if told else np.zeros(0)
        values = values[np.isfinite(values)]
        steps = sum(seed.row.env_steps for seed in c.seeds)
        middle = float(np.median(values)) if len(values) else None
        rows.append([configuration(c, one), num(len(c.seeds), "d"), num(steps, ",d"), num(middle, ",.0f")])
    return table(["configuration", "trials:", "env steps:", "steps/s of a trial, median:"], rows)


# Configurations


def differences(report: Report) -> str:
    """Settings that differ, by configuration, and the YAML of each against the best one's."""
    found = axes(report.configurations)
    look = styles(len(report.configurations))
    rows = []
    for place, (c, one) in enumerate(zip(report.configurations, look, strict=True)):
        values = [
            text(_plain(column[place]), "differs" * (str(column[place]) != str(column[0]))) for column in found.values()
        ]
        rows.append([configuration(c, one), num(c.iqm), *values])
    parts = ["<h2>Settings that differ</h2>"]
    if found:
        parts.append(table(["configuration", "IQM:", *map(escape, found)], rows))
        parts.append('<p class="note">Marked: other than in the first row. Seeds, names and logging are left out.</p>')
    else:
        parts.append("<p>None: all configurations have the same settings.</p>")
    return "\n".join([*parts, *_yaml(report)])


def _plain(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def _yaml(report: Report) -> list[str]:
    best, *rest = report.configurations
    parts = []
    if rest:
        parts.append(f"<h2>YAML, against {escape(best.label)}</h2>")
    for c in rest[:DIFFERENCES]:
        lines = list(difflib.unified_diff(_lines(best), _lines(c), best.name, c.name, "", "", 2, ""))
        shown = "".join(map(_diff_line, lines[2:])) or "the same"
        openness = " open" if len(rest) <= 3 else ""
        parts.append(f"<details{openness}><summary>{escape(c.label)}</summary><pre>{shown}</pre></details>")
    if len(rest) > DIFFERENCES:
        parts.append(f'<p class="note">… and {count(len(rest) - DIFFERENCES, "more configuration")}.</p>')
    parts.append("<h2>Whole configuration</h2>" if not rest else "<h2>Whole configuration of the first</h2>")
    parts.append(f"<details><summary>{escape(best.name)}</summary><pre>{escape(best.text)}</pre></details>")
    return parts


def _lines(c: Configuration) -> list[str]:
    """Its YAML without the seed, which is not part of it."""
    return [line for line in c.text.splitlines() if not line.startswith("seed:")]


def _diff_line(line: str) -> str:
    kind = {"+": "ins", "-": "del"}.get(line[:1])
    return f"<{kind}>{escape(line)}</{kind}>" if kind else f"{escape(line)}\n"
