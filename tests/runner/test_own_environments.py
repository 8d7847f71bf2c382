"""L1 to L3 for environments of Python: classes, registered ids and functions that make many in one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from runner.envs.base import VectorEnv
from runner.envs.wrap import wrap_env
from runner.errors import UserError
from runner.training.state import MemberState
from tests.point import Noted
from tests.runner.builders import assert_same, both, fingerprint, make_config, runner_class

FOLDER = Path(__file__).parents[1] / "fixtures" / "environments"
SEEDS = (5, 6, 7)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [*sys.path, str(FOLDER)])
    import point_world

    return point_world


def env_of(world: Any, kind: str) -> VectorEnv:
    """Three environments of a member, whose episodes are shorter than a rollout."""
    return wrap_env(
        {"class": lambda: world.PointEnv(5), "many": lambda: world.make_vec(3, 5)}.get(kind, world.make_three), 3
    )


def trained(backend: str, env: VectorEnv, seeds: Any, timesteps: int = 24, **changes: Any) -> list[MemberState]:
    config = make_config({"trainer.timesteps": timesteps, **changes})
    runner = runner_class(backend)(env, config, seeds=seeds, threads=1)
    list(runner.reports())
    return runner.states()


@pytest.mark.parametrize(("backend", "kind"), both(("class", "many", "at once"), jax=["at once"]))
def test_pack_equals_solo_and_repeats(backend: str, kind: str, world: Any) -> None:
    pack = trained(backend, env_of(world, kind), SEEDS)
    for state, again in zip(pack, trained(backend, env_of(world, kind), SEEDS), strict=True):
        assert fingerprint(state) == fingerprint(again)
    assert len({fingerprint(state) for state in pack}) == len(SEEDS)
    for state, seed in zip(pack[:2], SEEDS, strict=False):
        (solo,) = trained(backend, env_of(world, kind), [seed])
        assert_same(state, solo, rtol=1e-6)


def test_a_resumed_run_begins_with_environments_of_its_timestep(world: Any) -> None:
    """Not with those of the beginning: it equals itself, whatever was trained before it in this process."""
    begin, go_on = (make_config({"trainer.timesteps": length, "seed": 3}) for length in (8, 16))
    first = runner_class("torch")(env_of(world, "class"), begin, threads=1)
    list(first.reports())
    files, ends = [first.checkpoint(0, first.states()[0])], []
    for env in (env_of(world, "class"), first.env):
        resumed = runner_class("torch")(env, go_on, threads=1)
        resumed.restore(files)
        list(resumed.reports())
        ends.append(resumed.states()[0])
    assert fingerprint(ends[0]) == fingerprint(ends[1]) and ends[0].counters.update == 2
    begun, gone_on = (first.env.seeded(first._seeds(timestep)).reset()[0][:, 0] for timestep in (0, 8))
    assert not set(begun) & set(gone_on)


@pytest.mark.parametrize(("backend", "threads"), both((1, 2), jax=[2]))
def test_what_a_runner_makes_it_closes(backend: str, threads: int, tmp_path: Path) -> None:
    """In the process that steps it, when its episodes or the training are over; never what a user has made."""
    folder = tmp_path / "open"
    folder.mkdir()
    env = wrap_env(lambda: Noted(folder), 3)
    config = make_config({"trainer.timesteps": 16, "evaluation.interval": 8, "evaluation.episodes": 2})
    runner = runner_class(backend)(env, config, threads=threads)
    runner.evaluate(True, 4, 9, 2)
    assert not list(folder.iterdir())
    reports = runner.reports()
    next(reports)
    assert len(list(folder.iterdir())) == 3
    list(reports)
    assert not list(folder.iterdir())
    own = wrap_env(gymnasium.vector.SyncVectorEnv([lambda: Noted(folder)] * 2))
    runner_class(backend)(own, make_config({"trainer.timesteps": 8})).evaluate()
    assert len(list(folder.iterdir())) == 2


def test_what_wrap_env_gives_of_a_class_resets_and_steps(tmp_path: Path) -> None:
    """By itself, beside those that runners make; as the README acts on environments."""
    env = wrap_env(lambda: Noted(tmp_path), 3)
    with pytest.raises(UserError, match=r"step before reset; allowed: reset\(\), then step\(actions\)"):
        env.step(np.zeros((3, 1), np.float32))
    first, _ = env.reset()
    runner = runner_class("torch")(env, make_config({"trainer.timesteps": 8}), threads=1)
    list(runner.reports())
    assert len(list(tmp_path.iterdir())) == 3 == len(first) == len({*first[:, 0].tolist()})
    second = env.step(runner.agent.act(first))[0]
    assert second.shape == first.shape and not (second == first).all()
    env.close()
    assert not list(tmp_path.iterdir())


def test_members_play_the_episodes_of_a_seed(world: Any) -> None:
    """As many at once as are wanted, of a vector of a fixed number too."""
    found = []
    for kind, at_once in (("class", 4), ("class", 2), ("many", 4)):
        runner = runner_class("torch")(env_of(world, kind), make_config(), seeds=SEEDS[:2], threads=1)
        found.append([(e.member, e.number, e.ret, e.length) for e in runner.evaluate(True, 4, 9, at_once)])
    assert found[0] == found[1] == found[2]
    assert [length for *_, length in found[0]] == [5] * 8
