"""L1: a member of a pack collects what it would collect alone."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from runner.config import Config
from runner.torch import Runner
from runner.torch import train as train_module
from runner.torch.rollout import Rollout
from runner.training.state import MemberState
from tests.runner.builders import TASKS, make_config, make_env

SEEDS = (5, 6, 7)


def trained(task: str, configs: list[Config]) -> list[MemberState]:
    runner = Runner(make_env(task, 3, TASKS[task][1]), configs[0], configs=configs, threads=1)
    for _ in runner.reports():
        pass
    return runner.states()


@pytest.fixture
def rollouts(monkeypatch: pytest.MonkeyPatch) -> list[Rollout]:
    """Every rollout that is learned from, in order."""
    seen: list[Rollout] = []
    update = train_module.update

    def recording(learner: Any, rollout: Rollout, *rest: Any, **more: Any) -> Any:
        seen.append(copy.deepcopy(rollout))
        return update(learner, rollout, *rest, **more)

    monkeypatch.setattr(train_module, "update", recording)
    return seen


@pytest.mark.parametrize("task", TASKS)
def test_a_rollout_of_a_pack_is_that_of_the_solo_runs(task: str, rollouts: list[Rollout]) -> None:
    configs = [make_config({"seed": seed}, TASKS[task][0]) for seed in SEEDS]
    trained(task, configs)
    for index, config in enumerate(configs):
        trained(task, [config])
        for name in ("observations", "rewards", "terminated", "ended", "valid"):
            one, other = getattr(rollouts[0], name)[index], getattr(rollouts[index + 1], name)[0]
            np.testing.assert_allclose(one.float(), other.float(), rtol=1e-5, atol=1e-6, err_msg=name)
