"""Train a launch again as its attempts say, without any fault, and compare what comes out: `python -m … DIR`.

The attempts table says who was in a pack together and at which timesteps environments were reset; law L3 says that
nothing else of a launch's history matters. Prints a line per trial; exits 1 where numbers differ by a bit.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load

from launcher.ledger.ledger import Ledger
from launcher.run.process import claim_cores, environment
from runner.envs.envpool import EnvPoolTask
from tests.launcher.builders import read_trials


def main(directory: Path) -> int:
    """Replay all attempts in order; returns the exit status."""
    claims = claim_cores(1)
    os.environ |= environment(1, 0)
    trials = {trial.id: trial for trial in read_trials(directory)}
    with Ledger(directory, writer=False) as ledger:
        members, ends = ledger.members(), ledger.last_agents()
        files = {name: [c for c in ledger.checkpoints(name) if c.kind == "agent"][-1].path for name in trials}
    # Trial → timestep → its checkpoint there.
    states: dict[str, dict[int, bytes]] = {name: {} for name in trials}
    for number in sorted({member.attempt for member in members}):
        pack = [member for member in members if member.attempt == number]
        later = {m.trial: [n.timestep for n in members if n.trial == m.trial and n.attempt > number] for m in pack}
        wanted = {name: begins[0] if begins else ends[name] for name, begins in later.items()}
        last = max(wanted.values())
        begin = pack[0].timestep
        if last == begin:
            continue  # it died before its first checkpoint
        configs = [trials[member.trial].config for member in pack]
        backend = importlib.import_module(f"runner.{'jax' if configs[0].backend == 'auto' else configs[0].backend}")
        env = configs[0].env
        runner = backend.Runner(
            EnvPoolTask(str(env.id), env.num_envs or 0, env.arguments), configs[0], configs=configs, threads=1
        )
        if begin:
            runner.restore([states[member.trial][begin] for member in pack])
        for report in runner.reports():
            now = runner.states()
            if report.checkpoint or runner.finished:
                for place, member in enumerate(pack):
                    if now[place].counters.timestep == wanted[member.trial]:
                        states[member.trial][wanted[member.trial]] = runner.checkpoint(place, now[place])
            if now[0].counters.timestep >= last:
                break
    different = 0
    for name in trials:
        mine, theirs = load(states[name][ends[name]]), load((directory / files[name]).read_bytes())
        parts = sorted(mine.keys() | theirs.keys())
        wrong = [part for part in parts if part not in mine or not np.array_equal(mine[part], theirs.get(part))]
        different += bool(wrong)
        print(f"{name}: {f'differs in {wrong}' if wrong else 'equal to the bit'}")
    for claim in claims:
        claim.close()
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
