"""The whole command on a real Ray: what is typed, what is on disk afterwards, and what is shown."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import tarfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load

from launcher.cli.main import main
from launcher.ledger.configurations import text_of
from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import agent_path
from launcher.plan import directory as folder
from launcher.plan.experiment import trial_of
from launcher.search.asha import Bracket
from launcher.search.record import Record, Setting
from launcher.search.settings import Search
from launcher.search.space import Dimension
from runner.checkpoints import checkpoint
from runner.config import load_config
from runner.config.load import read_yaml
from runner.config.overrides import Range
from runner.training import tracking
from runner.training.tracking import RETURN_MEAN, STEPS_PER_SECOND
from tests.launcher.faulty import ENDLESS, counts, end_soon, meanwhile, wait_until
from tests.launcher.local_ray import local_ray
from tests.records import untimed

REPOSITORY = Path(__file__).parents[3]
PPO = REPOSITORY / "configs" / "skrl" / "ppo.yaml"


@pytest.fixture(scope="module")
def ray_address() -> Iterator[list[str]]:
    """One Ray for all launches of this module; the arguments that use it."""
    with local_ray(num_cpus=2) as address:
        yield address


def write_config(folder: Path) -> Path:
    """A launch of seconds: CartPole, 8 environments, 16 updates of 16 steps, a record every second one."""
    data: dict[str, Any] = yaml.safe_load((REPOSITORY / "configs" / "classic" / "cartpole.yaml").read_text())
    data["env"]["num_envs"] = 8
    data["agent"].update(rollouts=16, learning_epochs=2, mini_batches=2)
    data["agent"]["experiment"].update(write_interval=32, checkpoint_interval=128)
    data["trainer"]["timesteps"] = 256
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path)


@pytest.fixture(scope="module")
def launched(ray_address: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory of a launch of three seeds that names no backend, and what it has printed."""
    folder = tmp_path_factory.mktemp("launched")
    words = [str(write_config(folder)), "--seeds", "3,5,7", "--out", str(folder), "--name", "one", *ray_address]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert main(words) == 0
    return folder / "one", shown.getvalue()


def event_values(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag → (step, value) of all event files in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def logs(directory: Path) -> list[str]:
    return [path.read_text() for path in (directory / "logs").iterdir()]


def test_launch_leaves_everything_behind(launched: tuple[Path, str]) -> None:
    directory, shown = launched
    assert "3 trials in 2 packs" in shown
    assert f"tensorboard --logdir {directory}/tensorboard" in shown
    assert "small: 3 seeds, final return mean" in shown

    with Ledger(directory, writer=False) as ledger:
        rows = ledger.trials()
        assert [(row.seed, row.state, row.timesteps) for row in rows] == [(s, "finished", 256) for s in (3, 5, 7)]
        for row in rows:
            records = [stored.record for stored in ledger.records(row.id)]
            assert [r.index for r in records] == list(range(8))
            assert [r.env_steps for r in records] == [8 * 32 * (i + 1) for i in range(8)]
            assert {RETURN_MEAN, STEPS_PER_SECOND, tracking.GRADIENT_NORM} <= records[-1].values.keys()

            events = event_values(directory / "tensorboard" / "small" / f"seed_{row.seed}")
            kl = [(r.env_steps, r.values[tracking.APPROXIMATE_KL]) for r in records]
            np.testing.assert_allclose(events[tracking.APPROXIMATE_KL], kl, rtol=1e-6)

            agents = [c for c in ledger.checkpoints(row.id) if c.kind == "agent"]
            assert [c.timestep for c in agents] == [128, 256]
            assert all((directory / c.path).stat().st_size == c.bytes for c in agents)
            resolved, _ = load_config(directory / "trials" / row.id / "config.yaml")
            assert (resolved.seed, resolved.trainer.timesteps) == (row.seed, 256)
        mean = event_values(directory / "tensorboard" / "small" / "mean")[tracking.APPROXIMATE_KL]
        each = [[s.record.values[tracking.APPROXIMATE_KL] for s in ledger.records(row.id)] for row in rows]
        np.testing.assert_allclose([value for _, value in mean], np.mean(each, 0), rtol=1e-6)

    log = (directory / "logs" / "attempt-1.log").read_text().splitlines()
    assert re.fullmatch(r"[\d-]+ [\d:]+ attempt 1 begins on \S+, process \d+", log[0])
    assert re.fullmatch(r"backend: jax \S+ on cpu; cores: [\d, ]+ of \d+", log[1])
    assert log[2].startswith("pool: CartPole-v1") and log[2].endswith("; 8 environments x 2 members, 1 thread")
    assert log[3].startswith("network: policy net (") and log[3].endswith(" parameters a member")
    assert log[4] == f"members: {rows[0].id}, {rows[1].id}"
    assert log[5] == "training: from timestep 0 to 256; 16 updates of 16 timesteps"
    assert re.fullmatch(r"[\d-]+ [\d:]+ attempt 1 ends: finished; 4,096 env steps in \S+ s, \S+ steps/s", log[-1])

    plan = json.loads((directory / "plan.json").read_text())
    (revision,) = plan["revisions"]
    assert {"torch", "envpool", "python"} <= revision["versions"].keys()
    assert sorted(trial for pack in revision["packs"] for trial in pack) == sorted(
        trial["id"] for trial in plan["trials"]
    )


def test_checkpoint_of_a_launch_acts_in_a_runner(launched: tuple[Path, str]) -> None:
    from runner.envs.envpool import EnvPoolTask
    from runner.torch import Runner

    trial = next((launched[0] / "trials").iterdir())
    resolved, _ = load_config(trial / "config.yaml")
    runner = Runner(EnvPoolTask("CartPole-v1", 8), resolved, threads=1)
    before = runner.evaluate()
    runner.agent.load(trial / "checkpoints" / "agent_256.safetensors")
    actions = runner.agent.act(np.zeros((5, 4), np.float32), deterministic=True)
    assert actions.shape == (5,)
    assert [e.ret for e in runner.evaluate()] != [e.ret for e in before]


@pytest.fixture(scope="module")
def both(ray_address: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory of a launch of two updates in each backend on two cores, and what it has printed."""
    folder = tmp_path_factory.mktemp("both")
    task = ["--env", "Pendulum-v1", "--set", "backend=torch,jax", "--set", "models.policy.class=GaussianMixin"]
    length = ["--set", "trainer.timesteps=32", "--out", str(folder), "--name", "both", *ray_address]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert main([str(write_config(folder)), *task, *length, "--cores-per-worker", "2"]) == 0
    return folder / "both", shown.getvalue()


def test_both_backends_train_the_same(both: tuple[Path, str]) -> None:
    directory, shown = both
    assert "2 trials in 2 packs" in shown
    last: dict[str, dict[str, float]] = {}
    with Ledger(directory, writer=False) as ledger:
        for row in ledger.trials():
            values = ledger.records(row.id)[-1].record.values
            last[row.config.removeprefix("small_backend=")] = untimed(values)
    # Noise, minibatches and initial parameters are the same numbers; two updates apart, the rest is rounding.
    assert last["jax"] == pytest.approx(last["torch"], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_worker_of_two_cores_trains_to_the_bit_what_one_core_does(both: tuple[Path, str], backend: str) -> None:
    directory, shown = both
    assert "on 1 CPU worker, 2 cores" in shown
    (revision,) = json.loads((directory / "plan.json").read_text())["revisions"]
    assert revision["placement"]["cpus"] == 2 and revision["placement"]["threads"] == 1
    from runner.envs.envpool import EnvPoolTask

    (trial,) = (trial for trial in (directory / "trials").iterdir() if f"backend={backend}" in trial.name)
    resolved, _ = load_config(trial / "config.yaml")
    assert resolved.backend == backend
    runner = import_module(f"runner.{backend}").Runner(EnvPoolTask("Pendulum-v1", 8), resolved, threads=1)
    for _ in runner.reports():
        pass
    (state,) = runner.states()
    trained = load((trial / "checkpoints" / "agent_32.safetensors").read_bytes())
    here = load(runner.checkpoint(0, state))
    assert trained.keys() == here.keys()
    assert all(np.array_equal(trained[name], here[name]) for name in here)


def test_a_launch_without_a_backend_uses_jax_on_cpus(launched: tuple[Path, str]) -> None:
    directory, shown = launched
    assert "8 x CartPole-v1, jax, 16 updates" in shown
    for trial in (directory / "trials").iterdir():
        header = checkpoint.read_metadata((trial / "checkpoints" / "agent_256.safetensors").read_bytes(), "agent")
        assert json.loads(header["config"])["backend"] == "jax"
    with Ledger(directory, writer=False) as ledger:
        assert [row.note for row in ledger.attempts()] == ["training", "training"]


def test_sweep_trains_its_settings_in_shared_packs(
    ray_address: list[str], config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ["--set", "agent.learning_rate=1e-3,3e-4", "--set", "agent.experiment.write_interval=128"]
    assert main([str(config), "--seeds", "2", *sweep, "--out", str(tmp_path), "--name", "s", *ray_address]) == 0
    assert "4 trials in 2 packs" in capsys.readouterr().out
    with Ledger(tmp_path / "s", writer=False) as ledger:
        assert {row.config for row in ledger.trials()} == {
            "small_learning_rate=0.001",
            "small_learning_rate=0.0003",
        }
        rates = {row.config: ledger.records(row.id)[0].record.values[tracking.LEARNING_RATE] for row in ledger.trials()}
    assert rates["small_learning_rate=0.001"] > 3 * rates["small_learning_rate=0.0003"]


def test_diverged_trial_makes_the_launch_fail_and_spares_its_mates(
    ray_address: list[str], config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # One worker: both settings share a pack.
    sweep = ["--set", "agent.learning_rate=1e-3,1e38", "--workers", "1", "--set", "agent.grad_norm_clip=0"]
    assert main([str(config), *sweep, "--out", str(tmp_path), "--name", "d", *ray_address]) == 1
    with Ledger(tmp_path / "d", writer=False) as ledger:
        rows = ledger.trials()
    states = {row.config: row.state for row in rows}
    assert states == {"small_learning_rate=0.001": "finished", "small_learning_rate=1e+38": "diverged"}
    lost = next(row.id for row in rows if row.state == "diverged")
    assert any(" ends: finished; " in text and text.endswith(f"; diverged: {lost}\n") for text in logs(tmp_path / "d"))
    shown = capsys.readouterr().out
    assert "diverged" in shown
    assert "1 of 1 seed failed or diverged" in shown


def test_interrupt_saves_and_resume_finishes_without_gap_or_repeat(
    ray_address: list[str], config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "i"
    length = ["--set", f"trainer.timesteps={ENDLESS}", "--set", "agent.learning_rate_scheduler=null"]

    def interrupt_once_it_trains() -> None:
        wait_until(lambda: min(counts(directory).values(), default=0) > 3, "records")
        os.kill(os.getpid(), signal.SIGINT)

    with meanwhile(interrupt_once_it_trains):
        words = [str(config), "--seeds", "2", *length, "--out", str(tmp_path), "--name", "i"]
        assert main([*words, *ray_address]) == 130
    shown = capsys.readouterr().out
    assert f"launch resume {directory}" in shown
    with Ledger(directory, writer=False) as ledger:
        stopped = ledger.progress()
        assert {row.trial.state for row in stopped} == {"interrupted"}
        assert all(" ends: stopped; " in text for text in logs(directory))
        reached = {row.trial.id: row.records for row in stopped}
        assert all(max(c.records for c in ledger.checkpoints(trial)) == count for trial, count in reached.items())

    # The rest is long: a shorter end of the same run is what the test can afford.
    end_soon(directory)
    assert main(["resume", str(directory), *ray_address]) == 0
    with Ledger(directory, writer=False) as ledger:
        for trial, count in reached.items():
            indices = [stored.record.index for stored in ledger.records(trial)]
            assert indices == list(range(len(indices)))
            assert len(indices) > count
        assert {row.state for row in ledger.trials()} == {"finished"}
    assert len(json.loads((directory / "plan.json").read_text())["revisions"]) == 2
    assert main(["resume", str(directory), *ray_address]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_resume_adds_seeds_and_length_and_trains_nothing_twice(
    ray_address: list[str], config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "more"
    constant = ["--set", "agent.learning_rate_scheduler=null", "--workers", "1"]
    assert main([str(config), "--seeds", "2", *constant, "--out", str(tmp_path), "--name", "more", *ray_address]) == 0
    capsys.readouterr()
    more = ["--seeds", "3", "--set", "trainer.timesteps=512"]
    assert main(["resume", str(directory), *more, *ray_address]) == 0
    shown = capsys.readouterr().out
    assert "As before: --workers 1" in shown
    assert "3 trials in 2 packs on 1 CPU worker, one core; 8,192 env steps in all" in shown
    with Ledger(directory, writer=False) as ledger:
        rows = ledger.trials()
        assert [(row.seed, row.state, row.timesteps) for row in rows] == [(s, "finished", 512) for s in range(3)]
        for row in rows:
            assert [stored.record.timestep for stored in ledger.records(row.id)] == list(range(32, 513, 32))
        begun = sorted(member.timestep for member in ledger.members())
    assert begun == [0, 0, 0, 256, 256]


def test_a_directory_of_version_0_1_0_is_shown_reported_and_goes_on(
    ray_address: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(REPOSITORY / "tests" / "fixtures" / "launches" / "0.1.0.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    directory = tmp_path / "layout_1"
    with Ledger(directory, writer=False) as ledger:
        before = {row.id: [stored.record for stored in ledger.records(row.id)] for row in ledger.trials()}

    assert main(["status", str(directory), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["counts"]["finished"], told["revisions"], told["started"]) == (4, 1, 1795897644.296685)
    assert [row["trial"] for row in told["trials"]] == [
        "tiny_learning_rate=0.001_s0_57e4d008",
        "tiny_learning_rate=0.001_s1_ed33f98e",
        "tiny_learning_rate=0.0003_s0_a3e3095d",
        "tiny_learning_rate=0.0003_s1_15e094da",
    ]
    assert main(["list", "--out", str(tmp_path)]) == 0
    assert re.search(r"layout_1 +finished .* 4 +2,048 +100%", capsys.readouterr().out)
    page = tmp_path / "page.html"
    assert main(["report", str(directory), "--out", str(page)]) == 0
    assert "learning_rate=0.0003" in page.read_text()
    capsys.readouterr()

    more = ["--set", "trainer.timesteps=256", "--seeds", "3", "--workers", "1"]
    assert main(["resume", str(directory), *more, *ray_address]) == 0
    assert "Changed since the last time: code 444574338" in capsys.readouterr().out
    with Ledger(directory, writer=False) as ledger:
        rows = ledger.trials()
        assert [(row.seed, row.state, row.timesteps) for row in rows] == [(s, "finished", 256) for s in (0, 1, 2)] * 2
        begun = {(member.trial, member.timestep) for member in ledger.members() if member.attempt > 2}
        assert begun == {(row.id, 128 if row.id in before else 0) for row in rows}
        for trial, records in before.items():
            after = [stored.record for stored in ledger.records(trial)]
            assert after[: len(records)] == records and after[-1].timestep == 256
    assert main(["report", str(directory), "--out", str(page)]) == 0
    assert main(["resume", str(directory), *ray_address]) == 0
    assert "6 of 6 trials are finished; nothing to do" in capsys.readouterr().out


def test_dry_run_shows_the_plan_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [str(PPO), "--env", "Pendulum-v1", "--num-envs", "64", "--seeds", "8", "--workers", "2", "--dry-run"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "8 trials in 2 packs on 2 CPU workers" in shown
    assert "819,200 env steps" in shown
    assert not list(tmp_path.iterdir())


def test_logical_gpus_are_said_loudly(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    assert main([str(config), "--seeds", "4", "--gpus", "4", "--logical-gpus", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "4 logical GPUs" in shown
    assert "nothing about GPUs" in shown.replace("\n", " ")


def test_help_is_short_and_ends_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.rstrip().splitlines()
    assert len(lines) <= 54
    assert sum(line.strip().startswith("launch ") for line in lines[-6:]) == 3


def test_a_search_by_halving_pauses_settings_and_goes_on_from_anywhere(
    ray_address: list[str], config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "search"
    rates = [1e-2, 3e-3, 1e-3, 1e-4]
    files = [(f"s{n}", load_config(config, [(("agent", "learning_rate"), rate)])[0]) for n, rate in enumerate(rates)]
    trials = [trial_of(name, one.model_copy(update={"seed": seed})) for name, one in files for seed in (1, 2)]
    folder.create(directory, trials)
    search = Search.model_validate({"method": "asha", "confirm": 0, "asha": {"reduction": 2, "rungs": 3}})
    with Ledger(directory) as ledger:
        ledger.add_events([Record(search, "return", (1, 2), "s", {}, (), (), text_of(files[0][1])).event])
        ledger.add_events([Setting(n, name, {}).event for n, (name, _) in enumerate(files)])
        # As after a crash: two settings had begun and had no worker yet.
        ledger.add_events([("begin", f"s{n}@0", {"setting": f"s{n}", "rung": 0}) for n in (0, 1)])

    assert main(["resume", str(directory), *ray_address]) == 0
    assert "paused" in capsys.readouterr().out
    with Ledger(directory, writer=False) as ledger:
        events, states, agents = ledger.events(), ledger.states(), ledger.last_agents()
        assert [event.kind for event in events].count("over") == 1 and events[-1].kind == "over"
        bracket = Bracket.of(events, 3)
        # Of a third that comes late to the middle rung, two may be promoted.
        every, middle, last = (len(scores) for scores in bracket.scores)
        assert every == 4 and middle in (2, 3) and last in (1, middle - 1)
        for trial in trials:
            rung = max(rung for rung, names in enumerate(bracket.scores) if trial.name in names)
            assert agents[trial.id] == (64, 128, 256)[rung]
            assert states[trial.id] == ("finished" if rung == 2 else "paused")
            stored = [row.record for row in ledger.records(trial.id)]
            assert [record.env_steps for record in stored] == [8 * 32 * (i + 1) for i in range(agents[trial.id] // 32)]

    assert main(["resume", str(directory), *ray_address]) == 0
    assert "the search is over; nothing to do" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.cluster
def test_a_population_copies_its_best_and_its_schedule_can_be_replayed(
    ray_address: list[str], config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "population"
    rates = [1e-2, 3e-3, 1e-3, 1e-5]
    files = [(f"s{n}", load_config(config, [(("agent", "learning_rate"), rate)])[0]) for n, rate in enumerate(rates)]
    trials = {(one := trial_of(name, of.model_copy(update={"seed": 1}))).id: one for name, of in files}
    folder.create(directory, list(trials.values()))
    options = {"population": 4, "interval": 96, "truncation": 0.25, "perturbation": 1.25, "resample": 0.0}
    rate = Dimension((("agent", "learning_rate"),), Range(1e-6, 1e-1, "log"))
    search = Search.model_validate({"method": "pbt", "trials": 4, "seeds": 1, "seed": 1, "confirm": 2, "pbt": options})
    about = Record(search, "return", (1,), "s", read_yaml(config)[0], (), (rate,), text_of(files[0][1]))
    with Ledger(directory) as ledger:
        settings = [Setting(n, name, {"agent.learning_rate": rates[n]}) for n, (name, _) in enumerate(files)]
        ledger.add_events([about.event, *(setting.event for setting in settings)])
    assert main(["resume", str(directory), *ray_address]) == 0

    with Ledger(directory, writer=False) as ledger:
        assert set(ledger.states().values()) == {"finished"}
        rounds = {e.data["timestep"]: e.data["copies"] for e in ledger.events() if e.kind == "exploit"}
        members = [member for member in ledger.members() if member.trial in trials]
        confirmed = [row for row in ledger.trials() if row.config == "s_winner"]
        changes = json.loads(ledger.configurations()[confirmed[0].id])["agent"]["changes"]
    shown = " ".join(capsys.readouterr().out.split())
    assert "Winner: setting" in shown and "Confirmed on fresh seeds: the winner" in shown
    winner = load_config(directory / "report" / "winner.yaml")[0]
    assert [row.seed for row in confirmed] == [2, 3]
    assert winner.dump()["agent"]["changes"] == changes and winner.seed == 4
    numbers = {copy["hyper"]["learning_rate"] for copies in rounds.values() for copy in copies.values()}
    assert {change["learning_rate"] for change in changes} <= numbers
    assert list(rounds) == [96, 192, 256] and [len(copies) for copies in rounds.values()] == [1, 1, 0]

    def path(trial: str, timestep: int) -> Path:
        return directory / agent_path(trial, timestep)

    from runner.envs.envpool import EnvPoolTask
    from runner.jax import Runner

    for attempt in sorted({member.attempt for member in members}):
        pack = [member.trial for member in members if member.attempt == attempt]
        begin = next(member.timestep for member in members if member.attempt == attempt)
        end = next(timestep for timestep in rounds if timestep > begin)
        configs = [trials[trial].config for trial in pack]
        env = configs[0].env
        runner = Runner(EnvPoolTask(str(env.id), 8, env.arguments), configs[0], configs=configs, threads=1)
        if begin:
            runner.restore([path(trial, begin).read_bytes() for trial in pack])
            copies = {place: rounds[begin][trial] for place, trial in enumerate(pack) if trial in rounds[begin]}
            sources = {place: path(copy["source"], begin).read_bytes() for place, copy in copies.items()}
            runner.exploit({place: (sources[place], copy["hyper"], copy["rate"]) for place, copy in copies.items()})
        for _ in runner.reports(until=end):
            pass
        for place, trial in enumerate(pack):
            state, stored = runner.states()[place], load(path(trial, end).read_bytes())
            again = load(runner.checkpoint(place, state))
            assert all(np.array_equal(again[name], stored[name]) for name in stored), (trial, end)
            known = json.loads(checkpoint.read_metadata(path(trial, end).read_bytes(), trial).get("hyper", "{}"))
            changed = [copies[trial]["hyper"] for at, copies in rounds.items() if at < end and trial in copies]
            assert known == (changed[-1] if changed else {})
