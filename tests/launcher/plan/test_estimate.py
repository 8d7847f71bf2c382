"""How long a launch will take: rates of earlier launches, which are real directories with hand-made records."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from launcher.cli.main import main
from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import Batch, Published
from launcher.plan import directory as folder
from launcher.plan import estimate as estimates
from launcher.plan.estimate import Estimate, estimate
from launcher.plan.experiment import Placement, Trial
from launcher.plan.revision import revision as revision_of
from launcher.run import session
from runner.training.tracking import STEPS_PER_SECOND, Record
from tests.launcher.builders import read_experiment
from tests.launcher.refusals import CARTPOLE

TWO = Placement(2, 0, 1)
INTERVAL = 32
"""Timesteps of a record: one update of 32 environments, 1,024 env steps."""


def trials(seeds: int, *settings: str) -> tuple[Trial, ...]:
    length = [] if any(text.startswith("trainer.timesteps=") for text in settings) else ["trainer.timesteps=320"]
    return read_experiment([CARTPOLE], [*length, *settings], {}, str(seeds)).trials


def record(index: int, speed: float, before: float = 0.0, first: int = 0) -> Record:
    """Of one second, the first since `first` after `before` seconds of earlier attempts."""
    timestep = INTERVAL * (index + 1)
    return Record(index, timestep, 32 * timestep, before + index - first + 1.0, {STEPS_PER_SECOND: speed})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time that revisions, ledgers and attempts are given."""
    now = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


class Launches:
    """A folder of launches that never ran."""

    def __init__(self, path: Path, clock: Callable[[float], None]) -> None:
        self.path = path
        self._clock = clock
        self._made = 0

    def add(
        self,
        packs: Sequence[Sequence[Trial]],
        speeds: Sequence[float],
        start_up: float = 5.0,
        placement: Placement = TWO,
        **hardware: Any,
    ) -> Path:
        """A launch whose packs recorded these env steps/s of a member, a second each, after `start_up` seconds."""
        self._made += 1
        path = self.path / f"launch{self._made}"
        folder.create(path, [trial for pack in packs for trial in pack])
        revision = revision_of("launch", placement, packs)
        revision["hardware"] |= hardware
        folder.add_revision(path, revision | {"time": float(self._made)})
        for pack in packs:
            with Ledger(path) as ledger:
                self.train(ledger, pack, revision["hardware"]["host"], speeds, start_up)
        return path

    def train(
        self,
        ledger: Ledger,
        pack: Sequence[Trial],
        host: str,
        speeds: Sequence[float],
        start_up: float,
        first: int = 0,
        before: float = 0.0,
    ) -> None:
        """An attempt at a pack whose trials have `first` records of `before` seconds; it saves at its end."""
        names = [trial.id for trial in pack]
        attempt = ledger.open(names, f"{names[0]} {first}").number
        ledger.describe_attempt(attempt, "logs/attempt.log", host, 1)
        self._clock(start_up)
        for index, speed in enumerate(speeds, first):
            self._clock(1.0)
            rows = {name: Batch(index, [record(index, speed, before, first)]) for name in names}
            assert ledger.push(attempt, rows) == dict.fromkeys(names, index + 1)
        covered = first + len(speeds)
        last = Published(INTERVAL * covered, b"weights", "agent", covered, "running")
        ledger.publish(attempt, dict.fromkeys(names, last))
        ledger.close(attempt, "stopped")


@pytest.fixture
def launches(tmp_path: Path, clock: Callable[[float], None]) -> Launches:
    return Launches(tmp_path / "runs", clock)


Packs = Sequence[Sequence[Trial]]


def guess(
    launches: Launches, packs: Packs, begin: Mapping[str, int] = MappingProxyType({}), placement: Placement = TWO
) -> Estimate | None:
    """The estimate, to the millisecond."""
    found = estimate(packs, begin, placement, launches.path)
    return found and replace(found, seconds=round(found.seconds, 3))


def seconds(
    launches: Launches, packs: Packs, begin: Mapping[str, int] = MappingProxyType({}), placement: Placement = TWO
) -> float | None:
    found = guess(launches, packs, begin, placement)
    return None if found is None else found.seconds


def test_rate_and_start_up(launches: Launches) -> None:
    # Each interval of the later half has as many steps: 3 / (1/600 + 1/1200 + 1/1200) = 900 steps/s of one member.
    path = launches.add([trials(2)], [50.0, 60.0, 600.0, 1200.0, 1200.0], start_up=5.0)
    # 320 timesteps of 32 environments are 10,240 env steps a trial.
    assert guess(launches, [trials(2)]) == Estimate(
        round(5.0 + 2 * 10_240 / 1_800, 3), f"{path}: 1,800 steps/s a worker"
    )


def test_nearest_size(launches: Launches) -> None:
    launches.add([trials(8)], [500.0], start_up=0.0)  # a pack of 8 runs at 4,000 steps/s
    launches.add([trials(2)], [1000.0], start_up=0.0)  # a pack of 2 at 2,000, which is not 4 times less
    for members, rate in ((1, 2_000), (2, 2_000), (3, 2_000), (5, 4_000), (8, 4_000), (30, 4_000)):
        assert seconds(launches, [trials(members)]) == members * 10_240 / rate


def test_median_of_equal_size(launches: Launches, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest launch may have been disturbed, the oldest ones be of slower code."""
    for speed, start_up in ((10.0, 900.0), (20.0, 800.0), (1024.0, 0.0), (4096.0, 1.0), (1.0, 500.0)):
        newest = launches.add([trials(1)], [speed], start_up)
    monkeypatch.setattr(estimates, "RATES", 3)
    assert guess(launches, [trials(1)]) == Estimate(1.0 + 10.0, f"{newest}: 1,024 steps/s a worker")


def test_packs_wait_for_workers(launches: Launches) -> None:
    launches.add([trials(1)], [1024.0], start_up=2.0)
    packs = [[trial] for trial in trials(5)]  # 12 s each
    assert seconds(launches, packs, placement=Placement(1, 0, 1)) == 60.0
    assert seconds(launches, packs, placement=TWO) == 36.0
    # 12, 7, 7 s on two workers: the second one takes both short ones.
    begin = {packs[1][0].id: 160, packs[2][0].id: 160}
    assert seconds(launches, packs[:3], begin) == 14.0


def test_begin(launches: Launches) -> None:
    launches.add([trials(2)], [1024.0], start_up=1.0)
    pack = trials(2)
    assert seconds(launches, [pack], {trial.id: 256 for trial in pack}) == 1.0 + 2.0
    assert seconds(launches, [pack], {trial.id: 320 for trial in pack}) == 1.0


def test_every_pack_has_its_own_rate(launches: Launches) -> None:
    wide = trials(1, "env.num_envs=64")  # 20,480 env steps
    packs = [wide, trials(1)]
    launches.add([trials(1)], [1024.0], start_up=0.0)
    assert seconds(launches, packs) is None
    newest = launches.add([wide], [2048.0], start_up=3.0)
    assert guess(launches, packs) == Estimate(13.0, f"{newest}: 1,536 steps/s a worker")


def test_attempt_after_a_resume(launches: Launches) -> None:
    """Records before the checkpoint that it went on from are of another attempt; their seconds are not its own."""
    pack = trials(1)
    path = launches.add([pack], [100.0] * 4)
    with Ledger(path) as ledger:
        launches.train(ledger, pack, revision_of("", TWO, [])["hardware"]["host"], [1024.0] * 2, 7.0, 4, 4.0)
    assert seconds(launches, [trials(1)]) == 7.0 + 10.0


@pytest.mark.parametrize(
    "settings",
    [
        ("trainer.timesteps=640",),
        ("trainer.timesteps=640", "agent.experiment.write_interval=64", "agent.experiment.checkpoint_interval=0"),
        ("trainer.timesteps=640", "agent.learning_rate=0.5"),
        ("trainer.timesteps=640", "backend=jax"),
    ],
)
def test_what_may_differ(launches: Launches, settings: Sequence[str]) -> None:
    launches.add([trials(1)], [1024.0], start_up=0.0)
    assert seconds(launches, [trials(1, *settings)]) == 20.0


@pytest.mark.parametrize(
    "setting",
    ["backend=torch", "env.id=Acrobot-v1", "env.num_envs=64", "agent.rollouts=16", "agent.learning_epochs=4"],
)
def test_what_may_not_differ(launches: Launches, setting: str) -> None:
    launches.add([trials(1)], [1024.0])
    assert seconds(launches, [trials(1, setting)]) is None


def test_other_network(launches: Launches) -> None:
    launches.add([trials(1)], [1024.0])
    (other,) = trials(1)
    other.config.models.policy.network[0].layers[0] = 128
    assert seconds(launches, [[other]]) is None


@pytest.mark.parametrize("hardware", [{"host": "elsewhere"}, {"processor": "faster"}, {"cores": 1024}])
def test_other_machine(launches: Launches, hardware: dict[str, Any]) -> None:
    launches.add([trials(1)], [1024.0], **hardware)
    assert seconds(launches, [trials(1)]) is None


@pytest.mark.parametrize(
    "placement",
    [Placement(1, 1, 2), Placement(1, 0, 2), Placement(4096, 0, 1)],
    ids=["a GPU", "two cores", "many on a core"],
)
def test_other_workers(launches: Launches, placement: Placement) -> None:
    packs = [[trial] for trial in trials(1000)] if placement.workers > 1000 else [trials(1)]
    launches.add([trials(1)], [1024.0])
    assert seconds(launches, packs, placement=placement) is None


def test_workers_of_the_same_kind(launches: Launches) -> None:
    launches.add([trials(1)], [1024.0], start_up=0.0)
    assert seconds(launches, [trials(1)], placement=Placement(1, 1, 0, logical=True)) == 10.0


def test_before_the_last_revision(launches: Launches, clock: Callable[[float], None]) -> None:
    """What ran before it ran who knows where."""
    path = launches.add([trials(1)], [1024.0])
    clock(60.0)
    folder.add_revision(path, revision_of("launch resume", TWO, [trials(1)]))
    assert seconds(launches, [trials(1)]) is None


def test_without_records(launches: Launches) -> None:
    assert seconds(launches, [trials(1)]) is None
    launches.add([trials(1)], [])
    assert seconds(launches, [trials(1)]) is None


DAMAGED_REVISIONS = [{"placement": {"nodes": 3}}, {"hardware": {"host": "here"}}, {"hardware": None}, {"time": "now"}]


def test_damaged_launches(launches: Launches) -> None:
    pack = trials(1)
    fine = launches.add([pack], [1024.0], start_up=0.0)
    with Ledger(fine, writer=False) as ledger:
        (revision,) = ledger.revisions()
    for damage in DAMAGED_REVISIONS:
        with Ledger(launches.add([pack], [1.0])) as ledger:
            ledger.add_revision(revision | {"time": 9.0} | damage)
    (launches.add([pack], [1.0]) / "ledger.sqlite").unlink()
    for file in launches.add([pack], [1.0]).glob("ledger.sqlite*"):
        file.write_bytes(b"no database, but long enough to be looked at" * 100)
    (launches.path / "folder" / "ledger.sqlite").mkdir(parents=True)
    (launches.path / "file").write_text("mine")
    assert seconds(launches, [pack]) == 10.0


def test_reads_little(launches: Launches, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a launch one attempt per configuration and size, the newest first; of all launches the last ones."""
    monkeypatch.setattr(estimates, "LAUNCHES", 3)
    read: list[str] = []

    def texts(ledger: Ledger, *arguments: Any) -> dict[str, str]:
        read.append(ledger.directory.name)
        return configurations(ledger, *arguments)

    configurations = Ledger.configurations
    monkeypatch.setattr(Ledger, "configurations", texts)
    launches.add([trials(1)], [1.0])
    swept = trials(2, "agent.learning_rate=0.1,0.2")
    launches.add([swept], [1.0])  # one attempt at trials of two names
    launches.add([[trial] for trial in swept], [1.0])  # two of each name
    launches.add([[trial] for trial in trials(3)], [1.0])
    assert seconds(launches, [trials(1)]) is not None
    assert read == ["launch4", "launch3", "launch3", "launch2"]
    monkeypatch.setattr(estimates, "CONFIGURATIONS", 2)
    monkeypatch.setattr(estimates, "ATTEMPTS", 1)
    read.clear()
    assert seconds(launches, [trials(1)]) is not None
    assert read == ["launch4", "launch3"]


@pytest.mark.usefixtures("no_ray")
def test_of_a_search_no_time_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It stops some of the trials that it plans, and adds others."""
    monkeypatch.setattr(session, "estimate", lambda *_: Estimate(60.0, "runs/x"))
    assert main([str(CARTPOLE), "--dry-run"]) == 0
    plain = capsys.readouterr().out
    assert "98,304 env steps in all" in plain and "About 1:00 of training" in plain
    search = ["--search", "asha", "--trials", "9", "--set", "agent.learning_rate=log:1e-4..1e-2"]
    assert main([str(CARTPOLE), *search, "--dry-run"]) == 0
    searched = capsys.readouterr().out
    assert "2,654,208 env steps if all are trained to their ends" in searched and "of training" not in searched
