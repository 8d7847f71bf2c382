"""Recurrent policies obey the laws: what is remembered, when it is forgotten, and what is learned from it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from runner.api import Runner
from runner.envs.base import Step, VectorEnv
from runner.envs.wrap import wrap_env
from runner.errors import UserError
from runner.jax import train as jax_train
from runner.jax import update as jax_update
from runner.torch import train as torch_train
from runner.torch import update as torch_update
from runner.training.evaluate import play
from runner.training.state import MemberState
from tests import oracle
from tests.runner.builders import assert_same, both, fingerprint, make_config, make_env, runner_class, told, until
from tests.runner.jax.problem import joined, learner_of, numbers_of, oracle_numbers_of, orders_of, rollout_of
from tests.runner.torch.problem import Problem
from tests.runner.torch.test_equals_oracle import close

SEEDS, ENVS, STEPS = (5, 6), 3, 12
TASK, LIMIT = "CartPole-v1", {"max_episode_steps": 9}


def network(layers: Sequence[Any], seen: str = "OBSERVATIONS") -> list[dict[str, Any]]:
    return [{"name": "net", "input": seen, "layers": list(layers), "activations": "tanh"}]


def of(*layers: Any, **agent: Any) -> dict[str, Any]:
    """Changes to the tiny configuration: both networks of these layers."""
    keys = {f"agent.{name}": value for name, value in {"rollouts": STEPS, "learning_rate": 3e-3, **agent}.items()}
    networks = {f"models.{role}.network": network(layers) for role in ("policy", "value")}
    return {**networks, "agent.experiment.write_interval": STEPS, "trainer.timesteps": 3 * STEPS, **keys}


CASES: dict[str, dict[str, Any]] = {
    "two lstms, shared": of(3, {"lstm": {"hidden_size": 2, "num_layers": 2}}, entropy_loss_scale=0.01),
    "gru, separate, sequences of half a rollout": {
        **of(3, {"gru": 2}, sequence_length=STEPS // 2, mini_batches=4, advantage_normalization="minibatch"),
        "models.separate": True,
    },
    "lstm, one minibatch, frozen": of({"lstm": 3}, mini_batches=1, observation_statistics="frozen", sequence_length=4),
}


def made(backend: str, changes: dict[str, Any], seeds: Sequence[int] = SEEDS, env: VectorEnv | None = None) -> Runner:
    return runner_class(backend)(
        env or make_env(TASK, ENVS, LIMIT), make_config(changes, "CategoricalMixin"), seeds=seeds, threads=1
    )


def trained(backend: str, changes: dict[str, Any], seeds: Sequence[int] = SEEDS) -> list[MemberState]:
    runner = made(backend, changes, seeds)
    list(runner.reports())
    return runner.states()


@functools.cache
def trained_once(backend: str, name: str) -> list[MemberState]:
    return trained(backend, CASES[name])


@dataclass
class Run:
    """Arguments and results of the updates of a run of torch, and its end."""

    updates: list[tuple[Any, ...]]
    states: list[MemberState]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def run(case: str) -> Run:
    found, update = Run([], []), torch_train.update

    def updating(*now: Any) -> Any:
        found.updates.append((now, update(*now)))
        return found.updates[-1][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_train, "update", updating)
        found.states = trained("torch", CASES[case])
    return found


def problem_of(run: Run, number: int) -> Problem:
    (learner, rollout, orders, _, rules, *_), _ = run.updates[number]
    before = ~rollout.valid[:, 0].numpy().astype(bool)
    return Problem(rules.config, {}, rules, learner, rollout, before, orders)


# ---------------------------------------------------------------------------------------------- L4


def test_a_rollout_is_the_oracles_step_by_step(run: Run) -> None:
    """Also across rollouts, with the parameters of each: what is remembered goes on, and stops where episodes end."""
    ends = 0
    for number in range(len(run.updates)):
        problem = problem_of(run, number)
        rollout, carry = problem.rollout, problem.rollout.carry
        assert carry is not None
        ends += int(rollout.ended[:, 1:-2].sum())
        for p in range(len(SEEDS)):
            outputs, _ = problem.oracle_forward(p, rollout.observations[p].numpy())
            close(rollout.outputs[p], outputs[:-1], "outputs")
            last = states_after(problem, p)
            if number + 1 < len(run.updates):
                close(problem_of(run, number + 1).rollout.carry[p, 0], last[-1], "carry")  # type: ignore[index]
            for k in range(1, carry.shape[1]):
                close(carry[p, k], last[k * STEPS // carry.shape[1] - 1], "carry of a part")
        if not number:
            assert not carry[:, 0].any()
        else:
            assert carry[:, 0].any()
    assert ends, "no episode ends inside a rollout"


def states_after(problem: Problem, p: int) -> np.ndarray:
    """What the oracle remembers after every step for the next one `[T, N, M]`: zero where that begins an episode."""
    rollout, whole = problem.rollout, problem.recurrent(p, 1)
    scaler = problem.scaler(p, problem.learner.observation_statistics)
    named, hidden = problem.named(p, problem.learner.optimizer.parameters), problem.network_options()
    found = []
    for n in range(ENVS):
        rows = rollout.observations[p, :-1, n].numpy().astype(np.float64)
        rows = scaler.normalize(rows) if scaler else rows
        parts = [
            oracle.walk(named, trunk, whole.cell, rows, whole.begins[n, :-1], start[n], hidden["hidden_activations"])[1]
            for trunk, start in whole.starts.items()
        ]
        found.append(np.concatenate(parts, 1))
    after = np.stack(found, 1)
    after[rollout.valid[p].numpy() == 0] = 0
    return after


def test_an_update_equals_the_oracles_in_both_backends(run: Run) -> None:
    (learner, rollout, orders, _, rules, *_), (after, *_) = run.updates[1]
    problem, p = problem_of(run, 1), 1
    mine, _, finite = jax_train._learned(
        rules, learner_of(learner), rollout_of(rollout), orders_of(orders), np.ones(len(SEEDS), bool), None, None
    )
    assert finite.all() and not rollout.valid.all()
    right = joined(oracle_numbers_of(problem.oracle_update(p)))
    for backend in (after, mine):
        found = joined(numbers_of(problem, backend, p))
        assert found.keys() == right.keys()
        for name, value in right.items():
            close(found[name], value, name)


@pytest.mark.parametrize("name", list(CASES)[:2])
def test_both_backends_train_alike(name: str) -> None:
    for mine, theirs in zip(trained_once("jax", name), trained_once("torch", name), strict=True):
        assert_same(mine, theirs, rtol=1e-4)


# ---------------------------------------------------------------------------------------------- L1, L2, L3, L5


def test_the_same_run_is_the_same_and_alone_what_it_is_in_a_pack(backend: str) -> None:
    one, other = trained_once(backend, next(iter(CASES))), trained(backend, CASES[next(iter(CASES))])
    assert [fingerprint(s) for s in one] == [fingerprint(s) for s in other]
    (alone,) = trained(backend, CASES[next(iter(CASES))], SEEDS[1:])
    assert_same(alone, one[1], rtol=1e-5)


@pytest.mark.parametrize(("backend", "name"), both(CASES, jax=list(CASES)[:1]))
def test_a_resumed_run_equals_the_uninterrupted_one_and_goes_on_in_the_other_backend(backend: str, name: str) -> None:
    changes = CASES[name]
    first = made(backend, changes)
    before = [told(report) for report in until(first, STEPS)]
    files = [first.checkpoint(p, state) for p, state in enumerate(first.states())]
    resumed = made(backend, changes)
    resumed.restore(files)
    rest = [told(report) for report in resumed.reports()]
    # The uninterrupted run: the same process, its environments reset at this timestep, and what is remembered of them.
    assert rest == [told(report) for report in first.reports()] and len(before) == 2 and len(rest) == 3
    for mine, theirs in zip(resumed.states(), first.states(), strict=True):
        assert fingerprint(mine) == fingerprint(theirs) and mine.counters.timestep == 3 * STEPS
    if name == "two lstms, shared":
        other = made("jax" if backend == "torch" else "torch", changes)
        other.restore(files)
        list(other.reports())
        for mine, theirs in zip(resumed.states(), other.states(), strict=True):
            assert_same(mine, theirs, rtol=1e-4)


class Poisoned(VectorEnv):
    """CartPole whose observation after a termination, which a reset row starts from, is not a number."""

    def __init__(self, inner: VectorEnv, poison: float | None) -> None:
        super().__init__(inner.num_envs, inner.observation_space, inner.action_space)
        self.inner, self.poison, self.poisoned = inner, poison, 0

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        return self.inner.reset()

    def step(self, actions: Any) -> Step:
        observations, rewards, terminated, truncated, info = self.inner.step(actions)
        if self.poison is not None:
            observations = np.where(terminated[:, None], np.float32(self.poison), observations)
            self.poisoned += int(terminated.sum())
        return observations, rewards, terminated, truncated, info

    def seeded(self, seeds: Sequence[int], threads: int | None = None) -> VectorEnv:
        self.inner = self.inner.seeded(seeds, threads)
        return self


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_reset_row_neither_advances_nor_carries(backend: str) -> None:
    changes = {**CASES["two lstms, shared"], "trainer.timesteps": 4 * STEPS}
    found = []
    for poison in (None, np.nan, 1e6):
        env = Poisoned(make_env(TASK, ENVS), poison)
        runner = made(backend, changes, [7], env)
        list(runner.reports())
        found.append(fingerprint(runner.states()[0]))
    assert env.poisoned > 2 and found[0] == found[1] == found[2] and '"diverged": "False"' in found[0]


def test_values_of_final_observations_remember_the_episode_where_environments_reset_at_once() -> None:
    env = gymnasium.make_vec(
        TASK, ENVS, "sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}, max_episode_steps=5
    )
    runner, updates = made("torch", CASES["two lstms, shared"], [5], wrap_env(env)), []
    with pytest.MonkeyPatch.context() as patch:
        update = torch_train.update
        patch.setattr(torch_train, "update", lambda *now: updates.append(now) or update(*now))  # type: ignore[func-returns-value]
        list(runner.reports())
    for learner, rollout, orders, _, rules, *_ in updates:
        problem = Problem(rules.config, {}, rules, learner, rollout, np.zeros((1, ENVS), bool), orders)
        named, options = problem.named(0, learner.optimizer.parameters), problem.network_options()
        scaler, judge = (problem.scaler(0, x) for x in (learner.observation_statistics, learner.value_statistics))
        assert scaler is not None and judge is not None and rollout.final_rows is not None
        finals = dict(zip(rollout.final_rows[0].tolist(), rollout.final_observations[0].numpy(), strict=True))
        right = np.zeros((STEPS, ENVS))
        for n in range(ENVS):
            start = rollout.carry[0, 0, n].numpy().astype(np.float64)
            for t in range(STEPS):
                after = [rollout.observations[0, t, n].numpy(), finals.get(t * ENVS + n)]
                if after[1] is None:
                    after[1] = rollout.observations[0, t + 1, n].numpy()
                given, states = oracle.walk(
                    named, "policy", "lstm", scaler.normalize(after), [False] * 2, start, options["hidden_activations"]
                )
                value = given[1] @ named["value.head.weight"][0] + named["value.head.bias"]
                right[t, n] = judge.inverse(value)[0]
                start = np.zeros_like(start) if t * ENVS + n in finals else states[0]
        found = torch_update._values(learner, torch_train.policy(rules, learner).named, rollout, rules)[2]
        close(found[0], right, "torch")

    assert finals

    def values(learner: Any, rollout: Any) -> Any:
        return jax_update._values(learner, jax_train._policy(rules, learner).named, rollout, rules)[2]

    mine = jax.jit(jax.vmap(values, (0, 1)))(learner_of(learner), rollout_of(rollout))
    close(np.asarray(mine)[0], right, "jax")


# ---------------------------------------------------------------------------------------------- acting and evaluating


def test_agent_act_takes_and_returns_what_is_remembered(backend: str) -> None:
    runner = made(backend, CASES["gru, separate, sequences of half a rollout"], [5])
    rows = np.random.default_rng(0).normal(size=(4, 6, 4)).astype(np.float32)
    _, state = runner.agent.act(rows[0], deterministic=True)
    assert state.shape == (6, 2) and state.any()
    kept, once = runner.agent.act(rows[1], state, deterministic=True)
    state[2] = 0
    _, forgot = runner.agent.act(torch.tensor(rows[1]), torch.tensor(state), deterministic=True)
    changed = np.abs(forgot.numpy() - once).max(1) > 1e-7
    assert changed.tolist() == [False, False, True, False, False, False] and kept.shape == (6,)
    _, fresh = runner.agent.act(rows[1], deterministic=True)
    np.testing.assert_array_equal(fresh[2], forgot[2])
    with pytest.raises(
        UserError, match=r"agent.act: state: found shape \[6, 3\] of float32; allowed: numbers \[6, 2\]"
    ):
        runner.agent.act(rows[0], np.zeros((6, 3), np.float32))
    with pytest.raises(UserError, match=r"agent.act: state: found numbers that are not finite"):
        runner.agent.act(rows[0], np.full((6, 2), np.nan, np.float32))
    plain = made(backend, {}, [5])
    assert plain.agent.act(rows[0], True).shape == (6,)
    with pytest.raises(UserError, match="this policy is feed-forward"):
        plain.agent.act(rows[0], state)


def test_an_evaluation_in_batches_is_that_of_each_policy_and_episode_alone(backend: str) -> None:
    runner = made(backend, CASES["two lstms, shared"], env=make_env(TASK, ENVS))
    list(runner.reports())
    together = runner.evaluate(True, 4, 9, 4)
    assert len({episode.length for episode in together}) > 2
    assert together == runner.evaluate(True, 4, 9, 1)
    alone = made(backend, CASES["two lstms, shared"], SEEDS[1:], make_env(TASK, ENVS))
    alone.agent.restore([runner.states()[1]])
    assert [(e.ret, e.length) for e in alone.evaluate(True, 4, 9, 2)] == [(e.ret, e.length) for e in together[4:]]


def test_a_life_begins_with_nothing_remembered() -> None:
    env = make_env("Breakout-v5", 1, {"episodic_life": True})
    steps, lives = [], 1

    def choose(carry: Any, observations: np.ndarray, step: int) -> tuple[Any, np.ndarray]:
        carry = np.zeros((1, 1)) if carry is None else carry
        steps.append(int(carry[0, 0]))
        return carry + 1, np.full(1, step % 4)

    play(env.opened, choose, [0], 1, 1)
    lives += sum(now == 0 for now in steps[1:])
    assert lives == 5 and max(steps) < len(steps) - 1


# ---------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"lstm": 0}, r"layers\.0\.lstm\.hidden_size: found 0; allowed: a whole number from 1 to"),
        ({"gru": {"hidden_size": 4, "num_layers": 17}}, r"layers\.0\.gru\.num_layers: found 17; allowed: .* 1 to 16"),
        ({"lstm": {"hidden": 4}}, r"lstm\.hidden: unknown argument; .* Did you mean 'hidden_size'\?"),
        ({"lstm": None}, r"lstm\.hidden_size: found None"),
        ({"lstm": {}}, r"lstm\.hidden_size: required, but not given"),
        ({"ltsm": 4}, r"unknown layer 'ltsm'; .* Did you mean 'lstm'\?"),
    ],
)
def test_a_wrong_layer_is_refused_by_its_key(layer: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_config(of(layer))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            of({"lstm": 4}, sequence_length=5),
            r"agent\.sequence_length 5 does not divide .* 12; allowed: 1, 2, 3, 4, 6, 12",
        ),
        (of(4, sequence_length=4), r"agent\.sequence_length 4: no network has a recurrent layer"),
        (of({"lstm": 4}, sequence_length=0), r"agent\.sequence_length: found 0"),
        (
            {**of({"lstm": 4}, sequence_length=6, mini_batches=7), "env.num_envs": 3},
            r"mini_batches 7 is more than the 6 sequences of a rollout \(agent\.rollouts 12 / sequence_length 6 x",
        ),
    ],
)
def test_a_wrong_length_is_refused_by_its_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_config(changes, "CategoricalMixin")
    if "env.num_envs" in changes:
        del changes["env.num_envs"]
        with pytest.raises(UserError, match=message):
            made("torch", changes)


def test_an_image_must_be_flat_in_front_of_a_recurrent_layer() -> None:
    layers = [{"conv2d": [4, 8, 4]}, {"lstm": 4}]
    with pytest.raises(UserError, match=r"network\.0\.layers\.1: a lstm layer reads 4 x 20 x 20; put flatten in front"):
        made("torch", of(*layers, mini_batches=1), [1], make_env("Pong-v5", 1))


def test_checkpoints_of_skrl_have_no_recurrent_layers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"models\.policy\.network: lstm: skrl's Runner has no recurrent layers"):
        made("torch", of({"lstm": 4}), [1]).agent.save(tmp_path / "agent.pt")


def test_chosen_places_of_an_observation_hide_the_others(backend: str) -> None:
    changes = of({"gru": 4})
    for role in ("policy", "value"):
        changes[f"models.{role}.network"] = network([{"gru": 4}], "OBSERVATIONS[:, [2, 0]]")
    runner = made(backend, changes, [1])
    rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    other = rows.copy()
    other[:, [1, 3]] += 1
    one, two, three = (runner.agent.act(x, deterministic=True)[1] for x in (rows, other, rows[:, ::-1].copy()))
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - three).max() > 1e-3
    for seen, message in (("[:, [0, 4]]", "does not fit"), ("[:, [0, 1], [2]]", "a list of places for one axis")):
        changes["models.policy.network"] = network([4], f"OBSERVATIONS{seen}")
        with pytest.raises(UserError, match=message):
            made(backend, changes, [1])
