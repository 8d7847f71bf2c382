"""What searches cost and gain: `python -m tests.benchmarks.search COMMAND …`.

- `occupancy DIR`, of a search that has ended: the share of member-steps in packs that belonged to a trial which was not
  over, and the share of its time that each worker had work.
- `exploit [jax|torch]`: the time of one exploit in a pack of 16 beside that of a minibatch step.
- `replay [REDUCTION] DIR…`, of random searches of the same space that have ended: env steps until successive halving,
  and until random search to full length, has a setting of 95% of the best. Both are replayed from the recorded curves,
  81 settings drawn with replacement each time; what is trained when is decided by the scheduler's own functions.
- `tune N`, with pandas, pyarrow and tensorboardX beside Ray: env steps a second of N settings of three seeds by
  successive halving, here and by Ray Tune with a process for every trial.
- `train OUT REPETITIONS WORDS…`: a population, and what it is compared with, as `tests.benchmarks.population` has them,
  so many times, with words for `launch`; what is there already is kept.
- `population OUT`: what became of them.
- `many N`: processor time, in all and a setting, of planning, storing and resuming a search of N settings.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from launcher.ledger.aggregator import writer
from launcher.ledger.ledger import Ledger
from launcher.ledger.storage import writing
from launcher.plan import directory as folder
from launcher.plan import resume
from launcher.plan.experiment import LARGEST_PACK
from launcher.search import begin, results
from launcher.search.asha import BEGIN, Bracket, decide, rungs_of
from launcher.search.asha import SCORE as SCORED
from launcher.search.methods import scheduler_of
from launcher.search.scheduler import Desk
from launcher.search.score import score, score_at
from runner.training.pack import static_key
from runner.training.tracking import SCORE
from tests.benchmarks import population, tune


def occupancy(directory: Path) -> None:
    """Print what the workers of a launch were busy with."""
    with Ledger(directory, writer=False) as ledger:
        attempts = {row.number: row for row in ledger.attempts() if row.closed_at is not None}
        members, records = ledger.members(), {row.id: ledger.records(row.id) for row in ledger.trials()}
        workers = ledger.revisions()[-1]["placement"]["workers"]
    packs: dict[int, list[int]] = {}
    for member in members:
        reached = [r.record.timestep for r in records[member.trial] if r.record.timestep > member.timestep]
        later = [m.timestep for m in members if m.trial == member.trial and m.attempt > member.attempt]
        end = max((step for step in reached if not later or step <= min(later)), default=member.timestep)
        packs.setdefault(member.attempt, []).append(end - member.timestep)
    live, whole = sum(map(sum, packs.values())), sum(max(steps) * len(steps) for steps in packs.values())
    began, ended = min(a.opened_at for a in attempts.values()), max(a.closed_at or 0 for a in attempts.values())
    busy = sum((a.closed_at or 0) - a.opened_at for a in attempts.values()) / (workers * (ended - began))
    sizes = sorted(len(steps) for steps in packs.values())
    print(f"member-steps of live trials: {live / whole:.3f} of {whole:,}; {len(packs)} packs of {sizes} members")
    print(f"workers with a pack: {busy:.3f} of {workers} x {ended - began:.1f} s")


@dataclass(frozen=True)
class Curves:
    """A setting that was trained to full length.

    Attributes:
        signature: what must be equal for settings to share a pack.
        scores: by rung, the last is of the full length.
        steps: env steps of all its seeds up to each rung.
        first: score of the first record, when it has hardly trained.
    """

    signature: str
    scores: tuple[float, ...]
    steps: tuple[int, ...]
    first: float


def curves_of(directory: Path, reduction: int = 3, rungs: int = 4) -> list[Curves]:
    """The settings of a search by random draws, all of whose seeds are over."""
    found = []
    with Ledger(directory, writer=False) as ledger:
        searched = results.read(ledger)
        assert searched is not None
        trials = {trial.id: trial for trial in folder.trials_of(ledger)}
        for one in searched.of("search"):
            if not one.over:
                continue
            config = trials[one.trials[0].id].config
            at = rungs_of(config, reduction, rungs)
            seeds = [row.id for row in one.trials]
            scores = [score_at(searched.record.metric, ledger, seeds, timestep) for timestep in at]
            first = score(ledger.records(t.id, 0, 1)[0].record.values.get(SCORE) for t in one.trials)
            steps = [timestep * (config.env.num_envs or 0) * len(one.trials) for timestep in at]
            found.append(Curves(static_key(config), tuple(scores), tuple(steps), first))
    return found


Leg = tuple[list[str], int]
"""Settings, and the rung to which they train."""


def played(
    settings: Mapping[str, Curves], following: Callable[[Bracket], Leg | None], workers: int, target: float
) -> float:
    """Env steps of all workers until a setting has been trained to its end and has at least `target`.

    Every member-step takes as long as any other. Infinite where the search ends before.
    """
    rungs = len(next(iter(settings.values())).scores)
    bracket, now, spent = Bracket(rungs), 0.0, 0.0
    running: list[tuple[float, Leg]] = []
    while True:
        while len(running) < workers and (leg := following(bracket)) is not None:
            names, rung = leg
            bracket.begun[rung] |= dict.fromkeys(names)
            before = [
                0 if rung == 0 or name not in bracket.scores[rung - 1] else settings[name].steps[rung - 1]
                for name in names
            ]
            lasts = sum(settings[name].steps[rung] - did for name, did in zip(names, before, strict=True))
            running.append((now + lasts, leg))
        if not running:
            return math.inf
        end, (names, rung) = min(running, key=lambda item: item[0])
        running.remove((end, (names, rung)))
        spent += (end - now) * (len(running) + 1)
        now = end
        bracket.scores[rung] |= {name: settings[name].scores[rung] for name in names}
        if rung == rungs - 1 and any(settings[name].scores[rung] >= target for name in names):
            return spent


def halving(
    settings: Mapping[str, Curves], workers: int, most: int, reduction: int = 3
) -> Callable[[Bracket], Leg | None]:
    """The decisions of successive halving."""
    signatures = {name: one.signature for name, one in settings.items()}
    return lambda bracket: decide(bracket, signatures, reduction, most, workers)


def at_random(settings: Mapping[str, Curves], workers: int, most: int) -> Callable[[Bracket], Leg | None]:
    """Settings to full length, in packs of equal signature, in order."""
    signatures = {name: one.signature for name, one in settings.items()}

    def following(bracket: Bracket) -> Leg | None:
        left = [name for name in signatures if name not in bracket.begun[-1]]
        alike = [name for name in left if signatures[name] == signatures[left[0]]]
        return (alike[: min(most, math.ceil(len(alike) / workers))], len(bracket.begun) - 1) if left else None

    return following


def replay(directories: Sequence[Path], reduction: int = 3, repetitions: int = 20) -> None:
    """Print the env steps until either search has 95% of what the random one reaches in the end."""
    pool = [one for directory in directories for one in curves_of(directory, reduction)]
    workers, most, size = 2, LARGEST_PACK // 3, min(81, len(pool))
    ratios, shares, missed = [], [], 0
    for repetition in range(repetitions):
        drawn = np.random.default_rng(repetition).integers(len(pool), size=size)
        settings = {f"s{place}": pool[index] for place, index in enumerate(drawn)}
        best = max(one.scores[-1] for one in settings.values())
        untrained = statistics.median(one.first for one in settings.values())
        target = untrained + 0.95 * (best - untrained)
        asha = played(settings, halving(settings, workers, most, reduction), workers, target)
        random = played(settings, at_random(settings, workers, most), workers, target)
        whole = sum(one.steps[-1] for one in settings.values())
        missed += math.isinf(asha)
        ratios.append(asha / random)
        shares.append(asha / whole)
    good = [one.scores[-1] for one in pool]
    print(
        f"{len(pool)} settings; final scores: best {max(good):.1f}, median {statistics.median(good):.1f}; "
        f"{repetitions} repetitions of {size}, of which {missed} never got to 95%"
    )
    for what, values in (("random search's own to 95%", ratios), ("random search to its end", shares)):
        low, middle, high = np.quantile(values, [0.1, 0.5, 0.9], method="nearest")
        print(f"env steps of asha to 95% / of {what}: median {middle:.2f}, 80% between {low:.2f} and {high:.2f}")


def many(count: int) -> None:
    """Print the processor time that it takes to plan, store and take up again a search of so many settings."""
    file = Path(__file__).parents[2] / "configs" / "classic" / "cartpole.yaml"
    sets = ["agent.learning_rate=log:1e-5..1e-2", "agent.ratio_clip=0.1..0.4"]
    flags: dict[Any, Any] = {("method",): "asha", ("trials",): count}

    def timed(what: str, act: Callable[[], Any]) -> Any:
        began = time.process_time()
        made = act()
        seconds = time.process_time() - began
        print(f"{what:8} {count:,} settings: {seconds:6.2f} s, {1e3 * seconds / count:.2f} ms a setting", flush=True)
        return made

    with tempfile.TemporaryDirectory() as temporary:
        experiment, begun = timed("planned", lambda: begin.read([file], sets, {}, "1", None, flags))
        directory = timed(
            "stored", lambda: folder.create(Path(temporary) / "run", experiment.trials, True, begun.events)
        )
        more = timed("resumed", lambda: resume.read(directory, None, [], False))
        assert len(more.todo) == count
        with writing(directory), writer(directory) as ledger:
            desk = Desk(directory, lambda call, *values: getattr(ledger, call)(*values), 2, False)
            scheduler = timed("begun", lambda: scheduler_of(directory, []))
            assert timed("decided", lambda: scheduler.next(desk)) is not None
            for kind, data in ((BEGIN, {}), (SCORED, {"score": 1.0})):
                names = [setting.name for setting in begun.settings]
                ledger.add_events([(kind, f"{name}@0", {"setting": name, "rung": 0, **data}) for name in names])
            assert timed("promoted", lambda: scheduler_of(directory, []).next(desk)) is not None


def exploit(backend: str = "jax") -> None:
    """Print milliseconds of an exploit of 4 of 16 members, and of a minibatch step of the pack, medians."""
    from importlib import import_module

    from runner.config import load_config
    from runner.envs.envpool import EnvPoolTask
    from runner.training.pack import hyper_of
    from runner.training.tracking import UPDATE_TIME

    runner_type = import_module(f"runner.{backend}").Runner
    overrides = [(("env", "id"), "Pendulum-v1"), (("env", "num_envs"), 64), (("agent", "rollouts"), 128)]
    file = Path(__file__).parents[2] / "configs" / "skrl" / "ppo.yaml"
    config = load_config(file, [*overrides, (("trainer", "timesteps"), 128 * 8), (("agent", "mini_batches"), 8)])[0]
    configs = [config.model_copy(update={"seed": seed}) for seed in range(16)]
    runner = runner_type(EnvPoolTask("Pendulum-v1", 64, {}), config, configs=configs, threads=1)
    reports = [report for report in runner.reports() if report.records[0] is not None]
    updates = [report.records[0].values[UPDATE_TIME] for report in reports[1:]]
    steps = config.agent.learning_epochs * config.agent.mini_batches
    copies = {member: (member + 4, hyper_of(config), 1.25) for member in range(4)}
    times = []
    for _ in range(20):
        began = time.perf_counter()
        runner.exploit(copies)
        times.append(time.perf_counter() - began)
    step = 1e3 * statistics.median(updates) / steps
    print(
        f"{backend}: exploit {1e3 * statistics.median(times):.2f} ms, minibatch step of 16 x 1,024 rows {step:.2f} ms"
    )


if __name__ == "__main__":
    command, *words = sys.argv[1:]
    if command == "occupancy":
        occupancy(Path(words[0]))
    elif command == "replay":
        replay([Path(word) for word in words if not word.isdigit()], *[int(word) for word in words if word.isdigit()])
    elif command == "many":
        many(int(words[0]))
    elif command == "tune":
        tune.compare(int(words[0]))
    elif command == "train":
        population.train(Path(words[0]), int(words[1]), words[2:])
    elif command == "population":
        population.table(Path(words[0]))
    else:
        exploit(*words)
