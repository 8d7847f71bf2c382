"""Several agents: IPPO and MAPPO are packs, each group of agents a member, so every law of a pack is one of theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from runner.api import Runner
from runner.config import load_config, resolve
from runner.draws import seed_of_group
from runner.envs.agents.fitting import fitted
from runner.envs.agents.roster import Agents
from runner.envs.wrap import wrap_env
from runner.errors import UserError
from runner.training.episodes import Teams
from runner.training.pack import Pack
from runner.training.reporting import measured
from runner.training.tracking import EVALUATION_MEAN, RETURN_MEAN, SCORE
from tests.parallel import Stay, Timetable
from tests.points import NAMES, One, Two
from tests.runner.builders import SCALER, assert_same, fingerprint, runner_class

APART = ("seconds", "score", "best")


class Frail(Two):
    """`right` is gone after two steps, and has three actions fewer; `late` comes never."""

    possible_agents = (*NAMES, "late")

    def action_space(self, agent: str) -> Any:
        return Discrete(5 if agent == "left" else 2)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset()
        self.agents, self._steps = list(NAMES), 0
        return {name: self._each[name].reset()[0] for name in NAMES}, {}

    def step(self, actions: dict[str, Any]) -> Any:
        assert all(0 <= action < self.action_space(name).n for name, action in actions.items())
        observations, rewards, terminated, truncated, infos = super().step(actions)
        self._steps += 1
        if self._steps == 2:
            terminated["right"] = True
            self.agents.remove("right")
        return observations, dict.fromkeys(rewards, 1.0), terminated, truncated, infos


def config(cls: str, **agent: Any) -> dict[str, Any]:
    def network(read: str) -> list[dict[str, Any]]:
        return [{"name": "net", "input": read, "layers": [8], "activations": "tanh"}]

    policy = agent.pop("policy", "GaussianMixin")
    return {
        "seed": 7,
        "env": {"num_envs": 2},
        "models": {
            "policy": {"class": policy, "network": network("OBSERVATIONS"), "output": "ACTIONS"},
            "value": {"network": network("STATES" if cls == "MAPPO" else "OBSERVATIONS"), "output": "ONE"},
        },
        "agent": {
            "class": cls, "rollouts": 8, "learning_epochs": 2, "observation_preprocessor": SCALER,
            "value_preprocessor": SCALER, "learning_rate_scheduler": "KLAdaptiveLR", **agent,
        },
        "trainer": {"timesteps": 24},
    }  # fmt: skip


def trained(
    backend: str, env: Any, cfg: dict[str, Any], seeds: Sequence[int] | None = None, steps: int = 3
) -> tuple[Runner, list[Any]]:
    """A runner after so many updates, and its reports."""
    runner = runner_class(backend)(wrap_env(env, 2), cfg, seeds)
    reports = list(runner.reports(lambda: runner._members.update >= steps))
    return runner, reports


# ---------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_l1_agents_that_know_nothing_of_one_another_are_as_many_runs_of_ppo(backend: str) -> None:
    together, _ = trained(backend, Two, config("IPPO"), [7])
    runs, _ = trained(backend, One, config("PPO"), [7, seed_of_group(7, 1)])
    for member, alone in zip(together.states(), runs.states(), strict=True):
        # A trial of several agents has one score, that of its team.
        assert fingerprint(member, but=APART) == fingerprint(alone, but=APART)


def test_agents_have_numbers_of_their_own(tmp_path: Path) -> None:
    rates = {"left": 1e-3, "right": [1e-2, 1e-4]}
    cfg = config("IPPO", learning_rate=rates, discount_factor={"left": 0.9, "right": 0.8})
    together, _ = trained("torch", Two, cfg, [7])
    alone = [
        resolve({**config("PPO", learning_rate=rates[name], discount_factor=discount), "seed": seed})[0]
        for name, discount, seed in (("left", 0.9, 7), ("right", 0.8, seed_of_group(7, 1)))
    ]
    runs = runner_class("torch")(wrap_env(One, 2), alone[0], configs=alone)
    list(runs.reports())
    for member, run in zip(together.states(), runs.states(), strict=True):
        assert fingerprint(member, but=APART) == fingerprint(run, but=APART)
    together.agent.save(tmp_path / "agents.safetensors")
    again = runner_class("torch")(wrap_env(Two, 2), cfg, [8])
    again.agent.load(tmp_path / "agents.safetensors")
    assert [state.hyper for state in again.states()] == [state.hyper for state in together.states()]


def test_numbers_of_agents_are_set_as_those_of_all() -> None:
    cfg = config("IPPO", learning_rate={"left": 1e-3, "right": 2e-3})

    def found(key: str, value: Any) -> tuple[Any, Any]:
        agent = resolve(cfg, None, [(("agent", *key.split(".")), value)])[0].agent
        return agent.learning_rate, agent.of_agents

    assert found("learning_rate", 5e-3) == (5e-3, {})
    assert found("learning_rate.right", 5e-3)[1] == {"learning_rate": {"left": 1e-3, "right": 5e-3}}
    assert found("learning_rate", {"left": 1.0, "right": 2.0})[1] == {"learning_rate": {"left": 1.0, "right": 2.0}}
    assert found("ratio_clip", {"left": 0.1, "right": 0.2})[1].keys() == {"learning_rate", "ratio_clip"}


@pytest.mark.parametrize(("agent", "why"), [
    ({"learning_rate": {"left": 1e-3}}, "agent.learning_rate: none of right; allowed: one of each agent"),
    ({"learning_rate": {"left": 1e-3, "rigth": 1e-3}}, "agent.learning_rate: this environment has no agent 'rigth'"),
    ({"learning_rate": {"left": 1e-3, "right": 2e-3}, "share_parameters": True}, "left, right share parameters"),
    ({"learning_rate": {"left": -1.0, "right": 1e-3}}, "learning_rate of left: found -1.0; allowed: greater than 0"),
    ({"of_agents": {"rollouts": {}}}, "of_agents: found rollouts; allowed: discount_factor, "),
    ({"mini_batches": {"left": 1, "right": 2}}, "agent.mini_batches: found "),
])  # fmt: skip
def test_numbers_of_agents_that_cannot_be_are_refused(agent: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        runner_class("torch")(wrap_env(Two, 2), config("IPPO", **agent))


def test_l1_to_l4_packs_repeat_resume_and_backends() -> None:
    cfg = config("MAPPO", policy="CategoricalMixin", share_parameters=[["left", "late"], ["right"]])
    pack, _ = trained("torch", Frail, cfg, [7, 8])
    again, _ = trained("torch", Frail, cfg, [7, 8])
    assert [*map(fingerprint, pack.states())] == [*map(fingerprint, again.states())]
    alone, _ = trained("torch", Frail, cfg, [8])
    for mine, theirs in zip(pack.states()[2:], alone.states(), strict=True):
        assert_same(mine, theirs, 1e-5)
    jax, _ = trained("jax", Frail, cfg, [7, 8])
    for mine, theirs in zip(pack.states(), jax.states(), strict=True):
        assert_same(mine, theirs, 1e-3)
    files = [made() for _, made in pack.checkpoints()]
    for backend in ("torch", "jax"):
        other = runner_class(backend)(wrap_env(Frail, 2), cfg, [7, 8])
        other.restore(files)
        assert [*map(fingerprint, other.states())] == [*map(fingerprint, pack.states())]


def test_what_is_wrong_with_one_agent_ends_its_trial() -> None:
    runner, _ = trained("torch", Two, config("IPPO"), [7, 8], steps=1)
    states = runner.states()
    states[3].parameters[:] = np.inf
    runner.agent.adopt(states)
    (report,) = [r for r in runner.reports() if r.diverged]
    assert report.diverged == [1]
    assert [state.counters.diverged for state in runner.states()] == [False, False, True, True]


# ---------------------------------------------------------------------------------------------- records and files


@pytest.mark.parametrize(("mean", "team"), [("sum", 7.0), ("mean", 7 / 3)])
def test_returns_are_those_of_the_team_and_of_each_agent(mean: str, team: float) -> None:
    cfg = config("IPPO", policy="CategoricalMixin", team_return=mean)
    runner, reports = trained("torch", Frail, cfg)
    values = reports[-1].records[0].values
    # A point of `left` each of five steps, and of `right` each of two.
    assert values[RETURN_MEAN] == values[SCORE] == pytest.approx(team)
    each = [values.get(f"{RETURN_MEAN} ({name})") for name in Frail.possible_agents]
    assert each == [5.0, 2.0, None]
    assert f"Loss / Policy loss ({NAMES[0]})" in values and "Loss / Policy loss" not in values
    assert reports[-1].records[0].env_steps == 2 * reports[-1].records[0].timestep
    played = runner.evaluate(episodes=3, at_once=2)
    assert [(e.member, e.number, e.length) for e in played] == [(0, 0, 5), (0, 1, 5), (0, 2, 5)]
    assert all(math.isclose(e.ret, team, rel_tol=1e-6) for e in played)
    assert all(e.each == {"left": 5.0, "right": 2.0, "late": 0.0} for e in played)
    scores = measured(played, 1)[0]
    assert scores[EVALUATION_MEAN] == pytest.approx(team) and scores[f"{EVALUATION_MEAN} (right)"] == 2.0


def test_agents_that_share_all_have_one_network_and_tags_without_names() -> None:
    runner, reports = trained("torch", Two, config("MAPPO", share_parameters=True, state_preprocessor=SCALER))
    assert len(runner.states()) == 1
    values = reports[-1].records[0].values
    assert "Loss / Policy loss" in values and f"{RETURN_MEAN} (left)" in values


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("share", [False, True])
def test_a_file_has_all_agents_of_a_trial(share: bool, suffix: str, tmp_path: Path) -> None:
    cfg, file = config("IPPO", share_parameters=share), tmp_path / f"agents.{suffix}"
    runner, _ = trained("torch", Two, cfg)
    runner.agent.save(file)
    other = runner_class("torch")(wrap_env(Two, 2), {**cfg, "seed": 1})
    other.agent.load(file)
    assert [*map(fingerprint, other.states())] == [*map(fingerprint, runner.states())]
    misfit = runner_class("torch")(wrap_env(Two, 2), config("IPPO", share_parameters=not share))
    with pytest.raises(UserError, match=r"left|policy and value"):
        misfit.agent.load(file)


def test_agents_of_different_spaces_are_not_written_for_skrl(tmp_path: Path) -> None:
    runner = runner_class("torch")(wrap_env(Cart, 2), config("MAPPO"))
    with pytest.raises(UserError, match="different spaces, which are padded here and not in skrl"):
        runner.agent.save(tmp_path / "agents.pt")
    runner.agent.save(tmp_path / "agents.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["agents.safetensors"]


def test_act_takes_and_gives_mappings() -> None:
    runner = runner_class("torch")(wrap_env(Frail, 2), config("IPPO", policy="CategoricalMixin"))
    seen = {name: np.zeros((4, 2), np.float32) for name in Frail.possible_agents}
    actions = runner.agent.act(seen, deterministic=True)
    assert list(actions) == list(seen) and all(x.shape == (4,) for x in actions.values())
    assert max(actions["right"]) < 2
    assert list(runner.agent.act({"right": seen["right"]})) == ["right"]
    for wrong, why in (
        (seen["left"], "observations, as the environment itself gives them: found no mapping; allowed: by agent, left"),
        ({"up": seen["left"]}, "up"),
        ({**seen, "left": np.zeros((3, 2))}, "numbers of environments differ"),
        ({"left": np.zeros((3, 5))}, r"left: found shape \[3, 5\]; allowed: \[N, 2\]"),
        ({"left": np.full((3, 2), np.nan)}, "left: found nan in row 0; allowed: finite numbers"),
    ):
        with pytest.raises(UserError, match=why):
            runner.agent.act(wrong)


def test_act_gives_what_skrl_gives_where_it_is_called_so() -> None:
    runner = runner_class("torch")(wrap_env(Frail, 2), config("IPPO", policy="CategoricalMixin"))
    seen = {name: np.zeros((4, 2), np.float32) for name in Frail.possible_agents}
    outputs = runner.agent.act(seen, timestep=0, timesteps=0)
    actions = {a: outputs[-1][a].get("mean_actions", outputs[0][a]) for a in Frail.possible_agents}
    for name, chosen in runner.agent.act(seen, deterministic=True).items():
        np.testing.assert_array_equal(actions[name], chosen[:, None])
    assert list(outputs[0]) == list(seen) and all(x.shape == (4, 1) for x in outputs[0].values())


class Parted(Two):
    """`left` sees a Dict, `right` bytes."""

    def observation_space(self, agent: str) -> Any:
        return Dict(x=Box(-9, 9, (2, 3))) if agent == "left" else Box(0, 255, (3,), np.uint8)


def test_act_takes_of_each_agent_what_its_own_space_says() -> None:
    runner = runner_class("torch")(wrap_env(Parted, 2), config("IPPO"))
    seen = {"left": {"x": np.ones((4, 2, 3))}, "right": np.full((4, 3), 255.0)}
    assert all(x.shape == (4, 1) for x in runner.agent.act(seen).values())
    for wrong, why in (
        ({"left": {"x": np.ones((4, 3, 2))}}, r"left\['x'\]: found shape \[4, 3, 2\]; allowed: \[N, 2, 3\]"),
        ({"left": {}}, "left: found no 'x'; allowed: a mapping of x"),
        ({"right": np.array([[0.7, 300, -1]])}, "right: found numbers of type float64; allowed: uint8, 0 to 255"),
    ):
        with pytest.raises(UserError, match=why):
            runner.agent.act(wrong)


def test_members_of_trials_lie_side_by_side() -> None:
    one = resolve(config("IPPO"))[0]
    agents = Agents.of(("a", "b", "c"), [["a", "c"], ["b"]])
    pack = Pack.of([one, one.model_copy(update={"seed": 9})], agents)
    assert (pack.trials, pack.groups, pack.size, pack.rows, pack.names) == (2, 2, 4, 4, ["a+c", "b"])
    assert pack.seeds == [7, seed_of_group(7, 1), 9, seed_of_group(9, 1)] and len(set(pack.seeds)) == 4
    assert list(pack.members(1)) == [2, 3]


def test_a_team_plays_on_until_nobody_is_left() -> None:
    teams = Teams(Agents.of(("a", "b")), trials=1, envs=1, mean=False)
    # Rows are a's and b's: b dies in the first step, a is cut off in the third, the fourth is a reset row.
    rewards = np.array([[1, 10], [1, 0], [1, 0], [0, 0], [2, 20]], np.float32)
    ended = np.array([[0, 1], [0, 0], [1, 0], [0, 0], [1, 1]], bool)
    valid = np.array([[1, 1], [1, 0], [1, 0], [0, 0], [1, 1]], bool)
    teams.add(rewards, ended, valid, [{}] * 5)
    (values,) = teams.drain()
    assert teams.scores() == [(13 + 22) / 2]
    assert values["Episode / Total timesteps (max)"] == 3
    assert values[f"{RETURN_MEAN} (a)"] == 2.5 and values[f"{RETURN_MEAN} (b)"] == 15


def test_a_team_plays_on_where_one_comes_as_the_last_goes() -> None:
    stays = {"first": Stay(0, 2), "second": Stay(2, 2)}
    env = wrap_env(partial(Timetable, stays), 1)
    env, teams = fitted(env, resolve(config("IPPO"))[0]).seeded([3]), Teams(Agents.of(stays), 1, 1, mean=False)
    _, info = env.reset()
    columns: list[list[Any]] = [[], [], [], []]
    for _ in range(10):  # two episodes of four steps and a reset
        valid = ~info["absent"]
        _, rewards, terminated, truncated, info = env.step(np.ones(2, int))
        for column, now in zip(columns, (rewards, terminated | truncated, valid, info), strict=True):
            column.append(now)
    teams.add(*(np.stack(column) for column in columns[:3]), columns[3])
    assert teams.drain()[0]["Episode / Total timesteps (mean)"] == 4 and teams.scores() == [4.0]


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("env", "cfg", "why"),
    [
        (One, config("IPPO"), "IPPO is of several agents, and this environment has one; allowed here: PPO, RPO, A2C"),
        (Two, config("PPO"), r"PPO is of one agent, and this environment has 2 \(left, right\); allowed here: IPPO"),
        (Two, config("IPPO", share_parameters=[["left", "rigth"]]), "no agent 'rigth'"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_the_environment_is_refused(env: Any, cfg: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        runner_class("torch")(wrap_env(env, 2), cfg)


def test_what_contradicts_itself_is_refused() -> None:
    stateless = {**config("IPPO"), "agent": config("MAPPO")["agent"]}
    shared = {**config("MAPPO"), "models": {**config("MAPPO")["models"], "separate": False}}
    for cfg, why in (
        (stateless, "MAPPO learns values of the shared state, which no container reads; allowed: a container with"),
        (shared, r"allowed: a container of its own \(separate: True\) with input: STATES, or agent\.class IPPO"),
        (config("PPO", share_parameters=True), "agent.class PPO is of one agent; allowed: False"),
    ):
        with pytest.raises(UserError, match=why):
            resolve(cfg)


class Cart(Two):
    """The spaces of Isaac Lab's cart with two pendulums; each of its agents is a point."""

    possible_agents = ("cart", "pendulum")
    state_space = Box(-np.inf, np.inf, (7,), np.float32)

    def observation_space(self, agent: str) -> Box:
        return Box(-np.inf, np.inf, (4 if agent == "cart" else 3,), np.float32)

    def action_space(self, agent: str) -> Any:
        return Box(-np.inf, np.inf, (1,), np.float32)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observations, infos = super().reset()
        return self._wide(observations), infos

    def step(self, actions: dict[str, Any]) -> Any:
        observations, *rest = super().step(actions)
        return self._wide(observations), *rest

    def state(self) -> np.ndarray:
        return np.arange(7, dtype=np.float32)

    def _wide(self, observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.resize(x, self.observation_space(name).shape) for name, x in observations.items()}


@pytest.mark.parametrize(
    ("name", "env", "read"),
    [
        ("b_lab_cart_ippo", Cart, False), ("b_lab_mappo", Two, True), ("c_lab_ippo", Two, False),
        ("c_lab_mappo", Two, True), ("c_lab_cart_ippo", Cart, False), ("d_lab_mappo", Cart, True),
        ("c_lab_template_ippo", Cart, False), ("c_lab_template_mappo", Cart, True),
    ],
)  # fmt: skip
def test_isaac_labs_files_train(name: str, env: Any, read: bool) -> None:
    parsed = load_config(Path(__file__).parents[1] / "fixtures" / "yaml" / f"{name}.yaml")[0]
    assert parsed.models.value.reads("STATES") is read and not parsed.models.policy.reads("STATES")
    assert (parsed.agent.state_preprocessor is not None) is read and parsed.agent.observation_preprocessor == SCALER
    runner, _ = trained("torch", env, parsed.dump(), steps=1)
    assert all(np.isfinite(state.parameters).all() for state in runner.states()) and len(runner.states()) == 2
