"""Searches whose worker, aggregator and launcher are killed, one after another: `pytest -m cluster`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.ledger.configurations import text_of
from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import Event
from launcher.plan import directory as folder
from launcher.plan.experiment import Trial, trial_of
from launcher.search.asha import Bracket
from launcher.search.record import Record, Setting
from launcher.search.settings import Search
from launcher.search.space import Dimension
from runner.config import load_config
from tests.launcher.commands import launch, session_of
from tests.launcher.faulty import aggregator_pid, wait_until, worker_pids, write_config

pytestmark = pytest.mark.cluster
RATE = {"keys": [["agent", "learning_rate"]], "distribution": "log", "low": 1e-6, "high": 1e-1}
SEARCHES: dict[str, dict[str, Any]] = {
    "asha": {"reduction": 2, "rungs": 3},
}


def create(directory: Path, method: str) -> list[Trial]:
    """A search of six settings with a seed or two, of 400 updates."""
    config = write_config(directory.parent, 12_800)
    rates = [1e-2, 5e-3, 3e-3, 1e-3, 3e-4, 1e-5]
    files = [(f"s{n}", load_config(config, [(("agent", "learning_rate"), rate)])[0]) for n, rate in enumerate(rates)]
    seeds = (1, 2) if method == "asha" else (1,)
    trials = [trial_of(name, one.model_copy(update={"seed": seed})) for name, one in files for seed in seeds]
    folder.create(directory, trials)
    search = Search.model_validate({"method": method, "confirm": 0, "seed": 1, method: SEARCHES[method]})
    record = Record(search, "return", seeds, "s", {}, (), (Dimension.of_json(RATE),), text_of(files[0][1]))
    with Ledger(directory) as ledger:
        ledger.add_events([record.event, *(Setting(n, name, {}).event for n, (name, _) in enumerate(files))])
    return trials


def events(directory: Path, *kinds: str) -> list[Event]:
    with Ledger(directory, writer=False) as ledger:
        return [event for event in ledger.events() if event.kind in kinds]


@pytest.mark.parametrize("method", SEARCHES)
def test_a_search_goes_on_whatever_is_killed(tmp_path: Path, method: str) -> None:
    directory = tmp_path / "run"
    trials = create(directory, method)
    process = launch("resume", directory, "--workers", 2)
    ended: Callable[[], Any] = lambda: process.poll() is not None and process.communicate()[0]  # noqa: E731
    wait_until(lambda: len(worker_pids(directory)) == 2, "workers", failed=ended)
    os.kill(next(iter(worker_pids(directory).values())), signal.SIGKILL)
    wait_until(lambda: events(directory, "score", "exploit"), "a score", failed=ended)
    os.kill(wait_until(lambda: aggregator_pid(directory), "the aggregator", failed=ended), signal.SIGKILL)
    seen = len(events(directory, "begin", "score", "exploit"))
    wait_until(lambda: len(events(directory, "begin", "score", "exploit")) > seen, "a decision", failed=ended)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not session_of(process.pid), "the end of Ray", 120)
    assert not events(directory, "over")

    again = launch("resume", directory, "--workers", 2)
    output, _ = again.communicate(timeout=240)
    assert again.returncode == 0, output
    with Ledger(directory, writer=False) as ledger:
        agents, states, all_events = ledger.last_agents(), ledger.states(), ledger.events()
        for trial in trials:
            indices = [stored.record.index for stored in ledger.records(trial.id)]
            assert indices == list(range(agents[trial.id] // 32)), trial.id
    assert [event.kind for event in all_events].count("over") == 1
    check_rungs(trials, all_events, agents, states)


def check_rungs(trials: list[Trial], happened: list[Event], agents: dict[str, int], states: dict[str, str]) -> None:
    """Every promotion followed from the scores that had arrived before, and no setting went further or less far."""
    end = Bracket.of(happened, 3)
    assert end.in_flight() == []
    for place, event in enumerate(happened):
        if event.kind == "begin" and event.data["rung"] > 0:
            before, name, rung = Bracket.of(happened[:place], 3), event.data["setting"], event.data["rung"] - 1
            assert name in before.promotable(rung, 2) or (name, rung) == before.last_hope()
    for trial in trials:
        rung = max(rung for rung, names in enumerate(end.scores) if trial.name in names)
        assert agents[trial.id] == (3200, 6400, 12_800)[rung]
        assert states[trial.id] == ("finished" if rung == 2 else "paused")
