"""Two compiled runs and an eager one, as a program: the shape checks of tests/conftest.py cannot be compiled."""

from __future__ import annotations

import json

from runner.torch import Runner
from runner.training.state import MemberState
from tests.runner.builders import fingerprint, make_config, make_env, numbers

CHANGES = {"trainer.timesteps": 16, "agent.mini_batches": 1, "models.policy.network.0.layers": [4]}


def run(compiles: bool) -> MemberState:
    """Two updates of Pendulum."""
    config = make_config({**CHANGES, "compile": compiles})
    runner = Runner(make_env("Pendulum-v1", 3, {"max_episode_steps": 5}), config, threads=1)
    for _ in runner.reports():
        pass
    return runner.states()[0]


def main() -> None:
    """Print fingerprints and parameters as JSON."""
    first, second, eager = run(True), run(True), run(False)
    parameters = [numbers(state)["parameters"].tolist() for state in (first, eager)]
    prints = [fingerprint(state) for state in (first, second, eager)]
    print(json.dumps({"prints": prints, "parameters": parameters}))


if __name__ == "__main__":
    main()
