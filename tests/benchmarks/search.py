"""The costs of a search: `python -m tests.benchmarks.search occupancy DIR` of one that has ended, and `… exploit`.

`occupancy` prints the share of member-steps in packs that belonged to a trial which was not over, and the share of its
time that each worker had work. `exploit` prints the time of one exploit in a pack of 16 beside
that of a minibatch step.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

from launcher.ledger.ledger import Ledger


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
    files = [runner.checkpoint(member, state) for member, state in enumerate(runner.states())]
    copies = {member: (files[member + 4], hyper_of(config), 1.25) for member in range(4)}
    times = []
    for _ in range(20):
        began = time.perf_counter()
        runner.exploit(copies)
        runner.states()
        times.append(time.perf_counter() - began)
    step = 1e3 * statistics.median(updates) / steps
    print(
        f"{backend}: exploit {1e3 * statistics.median(times):.2f} ms, minibatch step of 16 x 1,024 rows {step:.2f} ms"
    )


if __name__ == "__main__":
    if sys.argv[1] == "occupancy":
        occupancy(Path(sys.argv[2]))
    else:
        exploit(*sys.argv[2:])
