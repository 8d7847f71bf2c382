"""Searches whose worker, aggregator and launcher are killed, one after another: `pytest -m cluster`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import Event, agent_path
from launcher.plan import directory as folder
from launcher.search import begin, results, tpe
from launcher.search.asha import Bracket
from launcher.search.record import chosen_of
from tests.launcher.commands import command, launch, said, session_of
from tests.launcher.faulty import aggregator_pid, wait_until, worker_pids, write_config
from tests.launcher.held import held_launch

pytestmark = pytest.mark.cluster
SETS = ["agent.learning_rate=log:1e-5..1e-2", "agent.ratio_clip=0.1..0.4"]
SEARCHES: dict[str, tuple[int, str | None, dict[str, Any]]] = {
    "asha": (12_800, "1,2", {"trials": 6, "confirm": 0, "asha": {"reduction": 2, "rungs": 3}}),
    "pbt": (5_120, None, {"confirm": 0, "pbt": {"population": 8, "interval": 1280, "frequencies": [1, 2]}}),
    "random": (6_400, "1,2", {"trials": 6, "confirm": 2}),
    "tpe": (3_200, "1,2", {"trials": 7, "confirm": 0, "tpe": {"startup": 4, "in_flight": 2}}),
}
"""Method → timesteps, seeds and section."""


def create(directory: Path, method: str) -> None:
    timesteps, seeds, section = SEARCHES[method]
    config = write_config(directory.parent, timesteps, search={"method": method, "seed": 1, **section})
    experiment, begun = begin.read([config], SETS, {}, seeds)
    assert begun is not None
    folder.create(directory, experiment.trials, True, begun.events)


def happened(directory: Path) -> int:
    """Decisions of the search, and trials that are over, so far."""
    with Ledger(directory, writer=False) as ledger:
        decided = [event for event in ledger.events() if event.kind in ("begin", "score", "exploit", "told")]
        return len(decided) + list(ledger.states().values()).count("finished")


@pytest.mark.parametrize("method", SEARCHES)
def test_a_search_goes_on_whatever_is_killed(tmp_path: Path, method: str) -> None:
    directory = tmp_path / "run"
    create(directory, method)
    # What is left after the second decision takes seconds on any machine.
    process = command([*held_launch(tmp_path / "never", pace=0.03), "resume", directory, "--workers", 2])
    ended: Callable[[], Any] = lambda: process.poll() is not None and said(process)  # noqa: E731
    wait_until(lambda: len(worker_pids(directory)) == 2, "workers", failed=ended)
    os.kill(next(iter(worker_pids(directory).values())), signal.SIGKILL)
    begun = happened(directory)
    wait_until(lambda: happened(directory) > begun, "a decision", failed=ended)
    os.kill(wait_until(lambda: aggregator_pid(directory), "the aggregator", failed=ended), signal.SIGKILL)
    seen = happened(directory)
    wait_until(lambda: happened(directory) > seen, "another decision", failed=ended)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not session_of(process.pid), "the end of Ray")
    with Ledger(directory, writer=False) as ledger:
        before = ledger.events()
    assert before[-1].kind != "over"

    again = launch("resume", directory, "--workers", 2)
    output = said(again)
    assert again.returncode == 0, output
    assert "Winner: setting" in output
    with Ledger(directory, writer=False) as ledger:
        agents, all_events = ledger.last_agents(), ledger.events()
        for row in ledger.trials():
            indices = [stored.record.index for stored in ledger.records(row.id)]
            assert indices == list(range(agents[row.id] // 32)), row.id
        # What had been decided stays, and is gone on with.
        assert all_events[: len(before)] == before
        assert [event.kind for event in all_events].count("over") == 1
        {"asha": check_rungs, "pbt": check_population, "random": check_settings, "tpe": check_proposals}[method](
            ledger, all_events
        )


def check_rungs(ledger: Ledger, happened: list[Event]) -> None:
    """Every promotion followed from the scores that had arrived before, and no setting went further or less far."""
    end = Bracket.of(happened, 3)
    assert end.in_flight() == []
    for place, event in enumerate(happened):
        if event.kind == "begin" and event.data["rung"] > 0:
            before, name, rung = Bracket.of(happened[:place], 3), event.data["setting"], event.data["rung"] - 1
            assert name in before.promotable(rung, 2) or (name, rung) == before.last_hope()
    agents, states = ledger.last_agents(), ledger.states()
    for row in ledger.trials():
        rung = max(rung for rung, names in enumerate(end.scores) if row.config in names)
        assert agents[row.id] == (3200, 6400, 12_800)[rung]
        assert states[row.id] == ("finished" if rung == 2 else "paused")


def check_settings(ledger: Ledger, happened: list[Event]) -> None:
    """All settings were trained whole, in packs that hold all their seeds, and the winner was confirmed once."""
    found = results.read(ledger)
    assert found is not None and len(found.of("search")) == 6
    assert [[trial.seed for trial in one.trials] for one in found.of("winner") + found.of("own")] == [[3, 4]] * 2
    assert set(ledger.states().values()) == {"finished"}
    homes: dict[tuple[int, str], set[str]] = {}
    names = {row.id: row.config for row in ledger.trials()}
    for member in ledger.members():
        homes.setdefault((member.attempt, names[member.trial]), set()).add(member.trial)
    assert all(len(trials) == 2 for (_, name), trials in homes.items() if "winner" not in name and "own" not in name)


def check_proposals(ledger: Ledger, happened: list[Event]) -> None:
    """Every proposal is what a study that is made of the events before it proposes; none was told or made twice."""
    found = results.read(ledger)
    assert found is not None and len(found.settings) == 7
    proposed = [(place, event) for place, event in enumerate(happened) if event.kind == "setting"][4:]
    assert [event.data["number"] for _, event in proposed] == list(range(4, 7))
    for place, event in proposed:
        again = tpe.propose(found.record, happened[:place], event.data["number"])
        assert again == chosen_of(event.data["values"])
    told = [event.key for event in happened if event.kind == "told"]
    assert len(told) == len(set(told)) >= 5


def check_population(ledger: Ledger, happened: list[Event]) -> None:
    """Every decision follows from scores and seed, and what was trained, trained again from the ledger, is the same."""
    from runner.envs.envpool import EnvPoolTask
    from runner.jax import Runner

    trials = {trial.id: trial for trial in folder.trials_of(ledger)}
    rounds = {event.data["timestep"]: event.data for event in happened if event.kind == "exploit"}
    assert list(rounds) == [1280, 2560, 3840, 5120]
    copied = [[trials[name].config.seed % 2 for name in event["copies"]] for event in rounds.values()]
    assert [set(parts) for parts in copied] == [{0}, {0, 1}, {0}, set()], "even seeds are compared twice as often"
    assert all(parts.count(part) <= 2 for parts in copied for part in (0, 1)), "of four the last, and the one above it"

    def path(trial: str, timestep: int) -> Path:
        return ledger.directory / agent_path(trial, timestep)

    for attempt, pack, at, until in lives(ledger):
        configs = [trials[trial].config for trial in pack]
        env = configs[0].env
        runner = Runner(
            EnvPoolTask(str(env.id), env.num_envs or 0, env.arguments), configs[0], configs=configs, threads=1
        )
        if at:
            runner.restore([path(trial, at).read_bytes() for trial in pack])
        copies = rounds[at]["copies"] if at in rounds else {}
        runner.exploit(
            {
                place: (path(copies[trial]["source"], at).read_bytes(), copies[trial]["hyper"], copies[trial]["rate"])
                for place, trial in enumerate(pack)
                if trial in copies
            }
        )
        for _ in runner.reports(until=until):
            pass
        for place, trial in enumerate(pack):
            stored, again = path(trial, until).read_bytes(), runner.checkpoint(place, runner.states()[place])
            kept, made = load(stored), load(again)
            assert all(np.array_equal(made[name], kept[name]) for name in kept), (attempt, trial, until)


def lives(ledger: Ledger) -> Iterator[tuple[int, list[str], int, int]]:
    """Every attempt that got anywhere: its number and pack, and from where to where its trials were trained by it."""
    ends: dict[tuple[int, str], int] = {}
    members, agents = ledger.members(), ledger.last_agents()
    for trial in agents:
        own = [member for member in members if member.trial == trial]
        for member, later in pairwise(own):
            ends[member.attempt, trial] = later.timestep
        ends[own[-1].attempt, trial] = agents[trial]
    for attempt in sorted({member.attempt for member in members}):
        pack = [member for member in members if member.attempt == attempt]
        (at,), (until,) = {member.timestep for member in pack}, {ends[attempt, member.trial] for member in pack}
        if until > at:
            yield attempt, [member.trial for member in pack], at, until
