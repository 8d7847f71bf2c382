"""The Runner's contract: construction, modes, files, evaluation and acting."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runner.checkpoints import checkpoint
from runner.config import load_config
from runner.errors import UserError
from runner.torch import Runner, wrap_env
from tests.probe_envs import TwoSteps, make_vector
from tests.runner.builders import both, fingerprint, make_config, make_env, make_runner, plain_config, tree

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.usefixtures("elsewhere")


# ---------------------------------------------------------------------------------------------- construction


def test_the_issues_snippet_runs(elsewhere: Path) -> None:
    import envpool

    env = wrap_env(envpool.make("Pendulum-v1", env_type="gymnasium", num_envs=4, num_threads=1))
    cfg = Runner.load_cfg_from_yaml(ROOT / "configs/skrl/ppo.yaml")
    cfg["trainer"]["timesteps"] = 16
    runner = Runner(env, cfg)
    assert runner.run("train") is None
    episodes = runner.run("eval")
    assert episodes is not None and [e.length for e in episodes] == [200] * 4
    assert runner.cfg["agent"]["gae_lambda"] == 0.95 and runner.config.seed == 42


def test_loading_a_bad_file_is_logged_and_gives_nothing(elsewhere: Path, caplog: pytest.LogCaptureFixture) -> None:
    (elsewhere / "bad.yaml").write_text("a: [1")
    for name, message in (("none.yaml", "no such configuration file"), ("bad.yaml", "not valid YAML")):
        caplog.clear()
        assert Runner.load_cfg_from_yaml(elsewhere / name) == {}
        assert [r.levelno for r in caplog.records] == [logging.ERROR] and message in caplog.text
    with pytest.raises(UserError, match="models: required, but not given"):
        Runner(make_env("Pendulum-v1"), {})


def test_building_acting_and_evaluating_write_nothing(elsewhere: Path, backend: str) -> None:
    runner = make_runner(changes={"agent.experiment.directory": "out"}, backend=backend)
    runner.agent.act(np.zeros((2, 3), np.float32))
    runner.run("eval")
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("mode", ["evaluate", "", "TRAIN", None])
def test_other_modes_are_refused(mode: Any) -> None:
    with pytest.raises(ValueError, match="allowed: 'train' or 'eval'"):
        make_runner().run(mode)


def test_contradictions_between_configuration_and_environment_are_refused() -> None:
    env = make_env("Pendulum-v1", 3)
    with pytest.raises(UserError, match=r"env\.num_envs: the configuration says 4, the environment has 3"):
        Runner(env, plain_config({"env.num_envs": 4}))
    with pytest.raises(UserError, match=r"agent\.mini_batches 25 is more than the 24 rows of a rollout"):
        Runner(env, plain_config({"agent.mini_batches": 25}))
    with pytest.raises(UserError, match="CategoricalMixin cannot act in an action space Box of 1 numbers"):
        Runner(env, plain_config({}, "CategoricalMixin"))
    with pytest.raises(UserError, match=r"GaussianMixin cannot act in an action space Discrete\(2\)"):
        Runner(make_env("CartPole-v1"), plain_config())
    with pytest.raises(UserError, match=r"wrap_env: cannot use a builtins\.int"):
        Runner(3, plain_config())


@pytest.mark.parametrize("seeds", [[], [-1], [3, -4], [1.5], [1.0], "12", ["1"], 3, [True], [None], [2**63]])
def test_bad_seeds_are_refused(seeds: Any) -> None:
    with pytest.raises(UserError, match="allowed: one or more whole numbers from 0 below"):
        make_runner(seeds=seeds)


@pytest.mark.parametrize("seeds", [np.arange(1, 3, dtype=np.uint8), (s for s in (1, 2)), torch.tensor([1, 2])])
def test_seeds_may_be_whole_numbers_of_any_library(seeds: Any) -> None:
    assert [config.seed for config in make_runner(seeds=seeds).configs] == [1, 2]


def test_a_seed_that_is_given_twice_is_refused_since_it_would_write_one_folder_twice() -> None:
    with pytest.raises(UserError, match="given twice"):
        make_runner(seeds=[3, 4, 3])


def test_a_pack_needs_an_environment_that_can_be_rebuilt() -> None:
    env = make_vector(TwoSteps, 2)
    with pytest.raises(UserError, match=r"SyncVectorEnv is made already.* or an EnvPool task, or a class"):
        Runner(env, plain_config({}, "CategoricalMixin"), seeds=[1, 2])
    Runner(env, plain_config({}, "CategoricalMixin"), seeds=[1])


def test_no_seed_means_a_fresh_one_that_is_written_down() -> None:
    first, second = (make_runner(changes={"seed": None}) for _ in range(2))
    assert first.config.seed != second.config.seed and first.cfg["seed"] == first.config.seed
    again = make_runner(changes={"seed": first.config.seed})
    assert fingerprint(again.states()[0]) == fingerprint(first.states()[0])


# ---------------------------------------------------------------------------------------------- files


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve of an event folder."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


FILES: dict[str, Any] = {
    "trainer.timesteps": 40,
    "agent.experiment": {
        "directory": "out",
        "experiment_name": "name",
        "write_interval": 8,
        "checkpoint_interval": 16,
    },
}


def test_training_writes_skrls_files(elsewhere: Path, backend: str) -> None:
    runner = make_runner(changes=FILES, backend=backend)
    runner.run("train")
    assert runner.agent.experiment_dir == elsewhere / "out/name"
    events = [f for f in tree(elsewhere) if "events.out.tfevents" in f]
    assert len(events) == 1 and events[0].startswith("out/name/events")
    names = ("agent_16", "agent_32", "agent_40", "best_agent")
    written = {f"out/name/checkpoints/{n}.safetensors" for n in names} | {"out/name/config.yaml"}
    assert set(tree(elsewhere)) - set(events) == written
    assert load_config(elsewhere / "out/name/config.yaml")[0] == runner.config
    curves = scalars(elsewhere / "out/name")
    steps = [24, 48, 72, 96, 120]  # env steps: timesteps × 3 environments
    for tag in (
        "Reward / Total reward (mean)", "Reward / Total reward (max)", "Reward / Instantaneous reward (mean)",
        "Episode / Total timesteps (mean)", "Loss / Policy loss", "Loss / Value loss", "Policy / Standard deviation",
        "Learning / Learning rate", "Learning / Approximate KL", "Stats / Env steps per second",
    ):  # fmt: skip
        assert [step for step, _ in curves[tag]] == steps, tag
        assert all(math.isfinite(value) for _, value in curves[tag]), tag
    assert "Loss / Entropy loss" not in curves
    assert {value for _, value in curves["Episode / Total timesteps (mean)"]} == {5.0}
    final = checkpoint.trial_from(
        (elsewhere / "out/name/checkpoints/agent_40.safetensors").read_bytes(), [""], runner._members.network
    )[0]
    assert fingerprint(final, but=()) == fingerprint(runner.states()[0], but=())


def test_tags_follow_the_policy_and_the_entropy_bonus(elsewhere: Path) -> None:
    changes = {**FILES, "agent.entropy_loss_scale": 0.01}
    make_runner("CartPole-v1", changes).run("train")
    curves = scalars(elsewhere / "out/name")
    assert "Loss / Entropy loss" in curves and "Policy / Standard deviation" not in curves


def test_a_pack_writes_a_folder_per_seed(elsewhere: Path) -> None:
    runner = make_runner(changes=FILES, seeds=[11, 12])
    runner.run("train")
    for member, seed in enumerate((11, 12)):
        folder = elsewhere / f"out/name/seed_{seed}"
        assert len(scalars(folder)["Loss / Policy loss"]) == 5
        assert load_config(folder / "config.yaml")[0] == runner.configs[member]
        data = (folder / "checkpoints/agent_40.safetensors").read_bytes()
        state = checkpoint.trial_from(data, [""], runner._members.network)[0]
        assert fingerprint(state, but=()) == fingerprint(runner.states()[member], but=())


def test_members_of_one_seed_write_apart(elsewhere: Path) -> None:
    configs = [make_config({**FILES, "agent.learning_rate": rate}) for rate in (1e-3, 1e-2)]
    Runner(make_env("Pendulum-v1", 3, {"max_episode_steps": 5}), configs[0], configs=configs).run("train")
    rates = [scalars(elsewhere / f"out/name/seed_1_member_{m}")["Learning / Learning rate"][0][1] for m in range(2)]
    assert rates == pytest.approx([1e-3, 1e-2])


def test_configurations_of_a_pack_may_be_plain_data() -> None:
    configs = [plain_config({"seed": seed}) for seed in (1, 2)]
    assert [config.seed for config in make_runner(configs=configs).configs] == [1, 2]
    for others in ([], [plain_config(), plain_config({"agent.rollouts": 4})]):
        with pytest.raises(UserError, match=rf"found {len(others)}, not of one Static signature; allowed: one or more"):
            make_runner(configs=others)


def test_no_checkpoints_where_none_are_wanted(elsewhere: Path) -> None:
    make_runner(changes={**FILES, "agent.experiment.checkpoint_interval": 0}).run("train")
    assert [f for f in tree(elsewhere) if f.endswith("safetensors")] == []


def test_skrls_default_folder_is_runs_and_the_time(elsewhere: Path) -> None:
    runner = make_runner()
    assert runner.agent.experiment_dir.parent == elsewhere / "runs"
    assert runner.agent.experiment_dir.name.endswith("_PPO")


def test_a_folder_that_cannot_be_written_is_a_users_error(elsewhere: Path) -> None:
    (elsewhere / "out").write_text("a file")
    with pytest.raises(UserError, match="out/name: cannot be written: "):
        make_runner(changes=FILES).run("train")
    runner = make_runner()
    with pytest.raises(UserError, match="cannot be written"):
        runner.agent.save(elsewhere / "out" / "agent.safetensors")


# ---------------------------------------------------------------------------------------------- act and evaluate


SHAPES = [("Pendulum-v1", (1,)), ("CartPole-v1", ()), ("HalfCheetah-v4", (6,))]


@pytest.mark.parametrize(("backend", "case"), both(SHAPES, jax=SHAPES[:2]))
@pytest.mark.parametrize("deterministic", [True, False])
def test_actions_have_the_environments_shape_for_any_number_of_observations(
    backend: str, case: tuple[str, tuple[int, ...]], deterministic: bool
) -> None:
    task, shape = case
    runner = make_runner(task, backend=backend)
    width = runner.env.observation_size
    for rows in (1, 3, 8):
        observations = np.random.default_rng(rows).normal(size=(rows, width)).astype(np.float32)
        actions = runner.agent.act(observations, deterministic)
        assert isinstance(actions, np.ndarray) and actions.shape == (rows, *shape)
        assert np.issubdtype(actions.dtype, np.integer) == (shape == ())
        tensor = runner.agent.act(torch.tensor(observations), deterministic)
        assert isinstance(tensor, torch.Tensor) and tensor.numpy().dtype == actions.dtype
        assert tuple(tensor.shape) == (rows, *shape)
        if deterministic:
            np.testing.assert_array_equal(tensor.numpy(), actions)
            np.testing.assert_array_equal(runner.agent.act(observations.astype(np.float64), True), actions)
    if rows == 3:
        runner.env.step(actions)


def test_what_skrls_agents_are_told_is_checked() -> None:
    for mode in ("train", "eval"):
        make_runner().agent.set_running_mode(mode)
    with pytest.raises(UserError, match=r"agent\.set_running_mode: found 'test'; allowed: 'train' or 'eval'"):
        make_runner().agent.set_running_mode("test")
    remembers = [{"name": "net", "input": "OBSERVATIONS", "layers": [{"gru": 2}], "activations": "tanh"}]
    runner = make_runner(changes={"models.policy.network": remembers, "models.value.network": remembers})
    with pytest.raises(UserError, match="a recurrent policy needs its state back; allowed: actions, state = "):
        runner.agent.act(np.zeros((2, 3), np.float32), timestep=0, timesteps=0)


def test_samples_differ_between_calls_and_repeat_between_runners(backend: str) -> None:
    observations = np.zeros((5, 3), np.float32)
    first, second = make_runner(backend=backend), make_runner(backend=backend)
    draws = [[r.agent.act(observations) for _ in range(3)] for r in (first, second)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0][0], draws[0][1])
    assert len(np.unique(draws[0][0])) == 5


def test_clipping_is_of_what_the_environment_gets(backend: str) -> None:
    wide = {"models.policy.initial_log_std": 2.0}
    observations = np.zeros((200, 3), np.float32)
    clips, bounded = ({**wide, "models.policy.clip_actions": how} for how in (True, "bounded"))
    clipped, free, as_1x = (
        make_runner(changes=c, backend=backend).agent.act(observations) for c in (clips, wide, bounded)
    )
    np.testing.assert_array_equal(clipped, as_1x)
    assert np.abs(clipped).max() == 2.0 < np.abs(free).max()
    np.testing.assert_array_equal(np.clip(free, -2, 2), clipped)


def test_dict_observations_are_acted_on_as_the_environment_gives_them() -> None:
    import envpool

    pool = envpool.make("CheetahRun-v1", env_type="gymnasium", num_envs=2, num_threads=1)
    runner = Runner(pool, plain_config())
    observations, _ = pool.reset()
    actions = runner.agent.act(observations, deterministic=True)
    flat = np.concatenate([observations["position"], observations["velocity"]], 1)
    np.testing.assert_array_equal(runner.agent.act(flat.astype(np.float32), deterministic=True), actions)
    assert actions.shape == (2, 6)


@pytest.mark.parametrize("observations", [np.zeros((2, 4)), np.zeros(3), 3.0, "abc", {"a": np.zeros((2, 3))}, None])
def test_observations_that_do_not_fit_are_refused(observations: Any) -> None:
    with pytest.raises(UserError, match=r"agent\.act: observations do not fit \[N, 3\]"):
        make_runner().agent.act(observations)


def test_a_pack_does_not_act_as_one() -> None:
    with pytest.raises(UserError, match="this runner trains 2 members; act with a runner of one seed"):
        make_runner(seeds=[1, 2]).agent.act(np.zeros((2, 3), np.float32))


def test_evaluation_plays_one_whole_episode_everywhere_and_repeats(
    capsys: pytest.CaptureFixture[str], backend: str
) -> None:
    runner = make_runner(seeds=[5, 6], backend=backend)
    first, second = runner.run("eval"), runner.evaluate()
    assert first == second and first is not None
    assert [(e.member, e.number, e.length) for e in first] == [(m, n, 5) for m in range(2) for n in range(3)]
    assert len({e.ret for e in first}) == 6
    printed = capsys.readouterr().out.splitlines()
    mean = np.mean([e.ret for e in first if e.member == 0])
    assert printed[0].startswith(f"seed 5: 3 episodes, return {mean:.2f} ± ") and printed[1].startswith("seed 6: ")
    solo = make_runner(seeds=[6], backend=backend).evaluate()
    assert [e.ret for e in solo] == pytest.approx([e.ret for e in first[3:]], rel=1e-6)
    assert runner.evaluate(deterministic=False) != first


def test_evaluation_is_stochastic_where_the_configuration_says_so() -> None:
    plain = make_runner()
    noisy = make_runner(changes={"trainer.stochastic_evaluation": True})
    assert noisy.run("eval") == plain.evaluate(deterministic=False) != plain.run("eval")


def test_gymnasium_environments_of_every_kind_run(elsewhere: Path) -> None:
    single = gymnasium.make("CartPole-v1", max_episode_steps=6)
    vector = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1", max_episode_steps=6)] * 2)
    for env in (single, vector):
        runner = Runner(env, make_config({"trainer.timesteps": 16}, "CategoricalMixin"))
        list(runner.reports())
        assert runner.states()[0].counters.env_steps == 16 * runner.env.num_envs
