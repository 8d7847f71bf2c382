"""One `launch eval` from what was typed to its exit status: find, place, connect, play, tell."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from launcher import stats
from launcher.cluster.jobs import dashboard_of
from launcher.cluster.preflight import placed
from launcher.evaluate import batches
from launcher.evaluate.batches import Candidate, Terms, Which
from launcher.evaluate.remarks import remark
from launcher.ledger import evaluations
from launcher.ledger.evaluations import Evaluation, agents_of
from launcher.ledger.ledger import reading
from launcher.parts import grouped
from launcher.plan.cores import spread
from launcher.plan.resources import Resources
from launcher.watch.progress import EvaluationView
from launcher.watch.tables import Column, count, say, table
from runner.errors import UserError


def conduct(
    console: Console, paths: Sequence[Path], which: Which, terms: Terms, wanted: Resources, video: int = 0
) -> int:
    """Evaluate and show, and film `video` episodes of the best, median and worst seed of each configuration.

    Returns:
        The exit status: 0, or 1 where a checkpoint could not be evaluated or filmed.
    """
    from launcher.evaluate import film as filming

    wanted.check()
    if dashboard_of(wanted.address) is not None:
        raise UserError(
            f"command line: --address {wanted.address}: launch eval runs here (without --address and RAY_ADDRESS), or "
            "on a cluster that this machine has joined (auto, HOST:PORT); launch pull brings a launch here"
        )
    candidates = batches.find(paths, which, terms)
    if video:
        filming.check(video, candidates)
    scores = batches.known(candidates, terms)
    known = sum(candidate.sha256 in scores for candidate in candidates)
    kept = f", {known:,} of them known" if known else ""
    say(console, f"{count(len(candidates), 'checkpoint')} x {count(terms.episodes, 'episode')}{kept}")
    failures = _play(console, candidates, terms, wanted, scores)
    console.print(_table(candidates, scores, which == "every", console.width))
    for line in _remarks(candidates, scores, {path.absolute() for path in paths}, which == "every"):
        say(console, line, "yellow")
    if video:
        with console.status("") as shown:
            films, missed = filming.film(candidates, scores, terms, video, which == "every", shown.update)
        for path in films:
            say(console, str(path))
        failures += missed
    for failure in failures:
        say(console, failure, "red")
    return 1 if failures else 0


def _play(
    console: Console, candidates: Sequence[Candidate], terms: Terms, wanted: Resources, scores: dict[str, Evaluation]
) -> list[str]:
    """Add what is missing to `scores`, by sha256; returns why checkpoints could not be evaluated."""
    from launcher.cluster.connect import connected

    missing = [candidate for candidate in candidates if candidate.sha256 not in scores]
    if not missing:
        return []
    for directory in dict.fromkeys(candidate.directory for candidate in missing):
        if directory is not None and not evaluations.can_keep(directory):
            say(console, f"{directory}: nothing may be written there; what is played is shown, but not kept", "yellow")
    configs = [candidate.config for candidate in missing]
    here = placed(console, wanted, configs) if wanted.address is None else None
    with connected(wanted.address, here and here[0]):
        placement, offer = here or placed(console, wanted, configs)
        work = batches.batches(missing, terms, placement.workers)
        placement = spread(placement, work, wanted, offer)
        with EvaluationView(console, len(candidates), len(scores)) as view:

            def done(found: list[Evaluation]) -> None:
                scores.update({evaluation.sha256: evaluation for evaluation in found})
                view.show(len(scores))

            return batches.run(work, terms, placement, done)


def _table(candidates: Sequence[Candidate], scores: dict[str, Evaluation], by_timestep: bool, width: int) -> Table:
    """A row per configuration, and timestep if there are several, and below it one for each of several agents.

    A seed counts with the mean of its episodes.
    """
    groups = grouped(candidates, lambda one: (one.directory, one.name, one.timestep if by_timestep else 0))
    timesteps = [Column("timestep:")] if by_timestep else []
    numbers = Column("IQM:", 3), Column("95% interval of the IQM:", 2), Column("mean length:", 4)
    columns = [Column("config"), *timesteps, Column("seeds:", 1), Column("mean return:"), *numbers]
    rows: list[list[str]] = []
    several = len({directory for directory, _, _ in groups if directory is not None}) > 1
    for (directory, name, timestep), group in groups.items():
        played = [scores[one.sha256] for one in group if one.sha256 in scores]
        shown = f"{directory.name}: {name}" if several and directory is not None else name
        cells = ["-"] * 4
        if played:
            length = f"{np.mean([np.mean(one.lengths) for one in played]):,.1f}"
            cells = [*_scores([one.returns for one in played]), length]
        when = [f"{timestep:,}"] if by_timestep else []
        rows.append([shown, *when, str(len(played)), *cells])
        each = {agent: [one.each[agent] for one in played] for agent in agents_of(played)}
        rows += [[f"  {agent}", *("" for _ in when), "", *_scores(seeds), ""] for agent, seeds in each.items()]
    return table(columns, rows, width)


def _remarks(
    candidates: Sequence[Candidate], scores: Mapping[str, Evaluation], whole: Collection[Path], by_timestep: bool
) -> Iterator[str]:
    """Remarks on the rows of the table; of launches that were evaluated `whole` also on seeds that it lacks."""
    several = len({one.directory for one in candidates}) > 1
    for (directory, name), group in grouped(candidates, lambda one: (one.directory, one.name)).items():
        if directory is None:
            continue
        with reading(directory) as ledger:
            trials, named = {row.id: row for row in ledger.trials()}, {one.trial for one in group}
        configs = {trials[trial].config for trial in named}
        states = {
            row.id: row.state
            for row in trials.values()
            if row.id in named or (directory in whole and row.config in configs)
        }
        timesteps = {one.trial: 0 if by_timestep else one.timestep for one in group if one.sha256 in scores}
        if words := remark(states, timesteps):
            yield f"{directory.name + ': ' if several else ''}{name}: {words}"


def _scores(seeds: Sequence[Sequence[float]]) -> list[str]:
    """Mean and IQM of seeds' mean returns, and the IQM's interval."""
    mean, iqm, interval = stats.of_seeds(seeds)
    ends = f"{interval[0]:,.2f} to {interval[1]:,.2f}" if interval else "fewer than 3 seeds"
    return [f"{mean:,.2f}", f"{iqm:,.2f}", ends]
