"""One `launch eval` from what was typed to its exit status: find, place, connect, play, tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from launcher import stats
from launcher.cluster.jobs import dashboard_of
from launcher.evaluate import batches as evaluating
from launcher.evaluate.batches import Candidate, Terms, Which
from launcher.ledger import evaluations
from launcher.ledger.evaluations import Evaluation
from launcher.plan.cores import spread
from launcher.plan.resources import Resources, gpu_note, look, place
from launcher.watch.progress import EvaluationView
from launcher.watch.tables import Column, count, table
from runner.errors import UserError


def conduct(
    console: Console, paths: Sequence[Path], which: Which, terms: Terms, wanted: Resources, video: int = 0
) -> int:
    """Evaluate and show, and film `video` episodes of the best, median and worst seed of each configuration.

    Returns:
        The exit status: 0, or 1 where a checkpoint could not be evaluated or filmed.

    Raises:
        UserError: nothing was begun.
    """
    from launcher.cluster import connect as cluster
    from launcher.cluster import preflight
    from launcher.evaluate import film as filming

    wanted.check()
    if dashboard_of(wanted.address) is not None:
        raise UserError(
            f"command line: --address {wanted.address}: launch eval runs here (without --address and RAY_ADDRESS), or "
            "on a cluster that this machine has joined (auto, HOST:PORT); launch pull brings a launch here"
        )
    candidates = evaluating.find(paths, which, terms)
    if video:
        filming.check(video, candidates)
    scores = evaluating.known(candidates, terms)
    missing = [candidate for candidate in candidates if candidate.sha256 not in scores]
    kept = f", {len(candidates) - len(missing):,} of them known" if len(missing) < len(candidates) else ""
    what = f"{count(len(candidates), 'checkpoint')} x {count(terms.episodes, 'episode')}{kept}"
    console.print(what, highlight=False)
    for directory in dict.fromkeys(candidate.directory for candidate in missing):
        if directory is not None and not evaluations.can_keep(directory):
            text = f"{directory}: nothing may be written there; what is played is shown, but not kept"
            console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
    failures: list[str] = []
    if missing:
        placement = place(wanted, look(wanted)) if wanted.address is None else None
        if (note := gpu_note(wanted)) is not None:
            console.print(note, style="yellow", highlight=False, soft_wrap=True)
        with cluster.connected(wanted.address, placement):
            offer = look(wanted)
            if placement is None:
                placement = place(wanted, offer)
                preflight.check(console, {placement.backend(one.config) for one in missing}, placement.on_gpus)
            work = evaluating.batches(missing, terms, placement.workers)
            placement = spread(placement, work, wanted, offer)
            with EvaluationView(console, len(candidates), len(scores)) as view:

                def done(found: list[Evaluation]) -> None:
                    scores.update({evaluation.sha256: evaluation for evaluation in found})
                    view.show(len(scores))

                failures = evaluating.run(work, terms, placement, done)
    console.print(_table(candidates, scores, which == "every", console.width))
    if video:
        with console.status("") as shown:
            films, missed = filming.film(candidates, scores, terms, video, which == "every", shown.update)
        for path in films:
            console.print(str(path), markup=False, highlight=False, soft_wrap=True)
        failures += missed
    for failure in failures:
        console.print(failure, style="red", markup=False, highlight=False, soft_wrap=True)
    return 1 if failures else 0


def _table(candidates: Sequence[Candidate], scores: dict[str, Evaluation], by_timestep: bool, width: int) -> Table:
    """A row per configuration, and timestep if there are several; a seed counts with the mean of its episodes."""
    groups: dict[tuple[Path | None, str, int], list[Evaluation]] = {}
    for candidate in candidates:
        key = (candidate.directory, candidate.name, candidate.timestep if by_timestep else 0)
        group = groups.setdefault(key, [])
        if candidate.sha256 in scores:
            group.append(scores[candidate.sha256])
    ranks = {"seeds:": 1, "mean return:": 0, "IQM:": 3, "95% interval of the IQM:": 2, "mean length:": 4}
    timesteps = [Column("timestep:")] if by_timestep else []
    columns = [Column("config"), *timesteps, *(Column(*one) for one in ranks.items())]
    rows: list[list[str]] = []
    several = len({directory for directory, _, _ in groups if directory is not None}) > 1
    for (directory, name, timestep), played in groups.items():
        shown = f"{directory.name}: {name}" if several and directory is not None else name
        returns = np.array([np.mean(one.returns) for one in played])
        numbers = ["-"] * 4
        if played:
            interval = stats.bootstrap_interval(returns, stats.interquartile_mean, np.random.default_rng(0))
            numbers = [
                f"{returns.mean():,.2f}",
                f"{stats.interquartile_mean(returns):,.2f}",
                f"{interval[0]:,.2f} to {interval[1]:,.2f}" if interval else "fewer than 3 seeds",
                f"{np.mean([np.mean(one.lengths) for one in played]):,.1f}",
            ]
        rows.append([shown, *([f"{timestep:,}"] if by_timestep else []), str(len(played)), *numbers])
    return table(columns, rows, width)
