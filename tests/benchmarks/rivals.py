"""PPO of other libraries over the same EnvPool pool with the same work, for an honest speed comparison.

    python -m tests.benchmarks.rivals skrl Pendulum-v1 --num-envs 64 --timesteps 1600 --seed 0

prints one JSON line. The libraries are no dependencies of Sunflower: run this in an environment of its own,

    python3 -m venv /tmp/rivals && /tmp/rivals/bin/pip install "torch>=2.7,<2.14"
    /tmp/rivals/bin/pip install "envpool>=1.2.5,<1.3" gymnasium skrl==2.1.1 stable-baselines3 rl_games

The work is the PPO of skrl's own Runner page: 16 steps of every environment, then 8 epochs of one minibatch
of all rows through a shared [32, 32] ELU trunk (or, with --work wide, other sizes, see WORKS), a tanh mean,
TensorBoard scalars after every rollout and a checkpoint every five of them. Where a library has no such option the
cheaper choice is taken for it and a comment says so. All of it runs on the CPU, like the pool. EnvPool's next-step
reset is passed on as it is, which is cheapest: the dummy row after an episode end is trained on and counted as a step.
A time limit is not bootstrapped (skrl's default).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from typing import Any

import numpy as np

POOL_THREADS = 2


@dataclass(frozen=True)
class Work:
    """Sizes of PPO, the same for every program: layers, steps of a rollout, epochs, minibatches, seeds of a launch."""

    units: tuple[int, ...]
    rollouts: int
    epochs: int
    mini_batches: int
    seeds: int

    @property
    def checkpoint_interval(self) -> int:
        """Timesteps from checkpoint to checkpoint."""
        return 5 * self.rollouts


WORKS = {"page": Work((32, 32), 16, 8, 1, 8), "wide": Work((256, 256), 64, 5, 2, 4)}
"""Name → work: that of skrl's Runner page, and a network of 256 x 256, whose arithmetic is most of it."""
WORK = WORKS["page"]

# torch's threads. On 2 quiet cores the libraries' default (0 here: all cores) was level for SB3 and everywhere on
# HalfCheetah, and 10-20% faster for skrl and rl_games on Pendulum; as soon as anything else ran on the machine
# it fell to a tenth, its threads spinning for a core. So 1 is what survives a shared machine, and a table that is
# published takes the better median of this and `--torch-threads 0`, each measured on a quiet machine.
TORCH_THREADS = {"skrl": 1, "stable_baselines3": 1, "rl_games": 1, "cleanrl": 1}


@dataclass(frozen=True)
class Timing:
    """Seconds until training could start, imports included; of training; steps of single environments.

    Where they were counted, also the seconds of processor time of training.
    """

    setup_seconds: float
    train_seconds: float
    env_steps: int
    processor_seconds: float | None = None


def make_pool(task: str, num_envs: int, seed: int, threads: int = POOL_THREADS) -> Any:
    """Build the pool that every library trains on."""
    import envpool

    return envpool.make(task, env_type="gymnasium", num_envs=num_envs, seed=seed, num_threads=threads)


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set torch's thread count, which is global to the process, and put it back; 0 leaves it alone."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------------------------------------------- skrl


def skrl_config(directory: str, timesteps: int, seed: int, discrete: bool, separate: bool = False) -> dict[str, Any]:
    """Spell the Runner page's YAML as skrl 2.x wants it (the page's own spelling is rejected since 2.0)."""
    trunk = [{"name": "net", "input": "OBSERVATIONS", "layers": list(WORK.units), "activations": "elu"}]
    gaussian = {
        "class": "GaussianMixin",
        "clip_actions": True,
        "clip_log_std": True,
        "initial_log_std": 0,
        "min_log_std": -20.0,
        "max_log_std": 2.0,
        "network": trunk,
        "output": "tanh(ACTIONS)",
    }
    categorical = {"class": "CategoricalMixin", "network": trunk, "output": "ACTIONS"}
    return {
        "seed": seed,
        "models": {
            "separate": separate,
            "policy": categorical if discrete else gaussian,
            "value": {
                "class": "DeterministicMixin",
                "clip_actions": False,
                "network": trunk,
                "output": "ONE",
            },
        },
        "memory": {"class": "RandomMemory", "memory_size": -1},
        "agent": {
            "class": "PPO",
            "rollouts": WORK.rollouts,
            "learning_epochs": WORK.epochs,
            "mini_batches": WORK.mini_batches,
            "discount_factor": 0.99,
            "gae_lambda": 0.95,
            "learning_rate": 3.0e-4,
            "learning_rate_scheduler": "KLAdaptiveLR",
            "learning_rate_scheduler_kwargs": {"kl_threshold": 0.008},
            "observation_preprocessor": "RunningStandardScaler",
            "observation_preprocessor_kwargs": None,
            "value_preprocessor": "RunningStandardScaler",
            "value_preprocessor_kwargs": None,
            "grad_norm_clip": 1.0,
            "ratio_clip": 0.2,
            "value_clip": 0.2,  # above 0 also means clip_predicted_values since 2.0
            "entropy_loss_scale": 0.0,
            "value_loss_scale": 2.0,
            "kl_threshold": 0.0,
            "rewards_shaper_scale": 1.0,
            "experiment": {
                "directory": directory,
                "experiment_name": "",
                "write_interval": WORK.rollouts,
                "checkpoint_interval": WORK.checkpoint_interval,
            },
        },
        "trainer": {
            "class": "SequentialTrainer",
            "timesteps": timesteps,
            "environment_info": "log",
            # The page leaves these two at False: a render call after every step, which no pool has, and tqdm.
            "headless": True,
            "disable_progressbar": True,
            "close_environment_at_exit": False,
        },
    }


def skrl_env(pool: Any, framework: str = "torch") -> Any:
    """Wrap a pool with skrl's own gymnasium wrapper, which takes it as the VectorEnv it is."""
    import gymnasium

    GymnasiumWrapper = import_module(f"skrl.envs.wrappers.{framework}.gymnasium_envs").GymnasiumWrapper
    space = pool.observation_space
    observations = gymnasium.spaces.Box(space.low, space.high, space.shape, np.float32)

    class PoolWrapper(GymnasiumWrapper):
        @property
        def observation_space(self) -> gymnasium.Space:
            # The wrapper makes every observation float32, but the Runner sizes its lazy layers with a sample
            # of the space, which in float64 (MuJoCo) fails: "mat1 and mat2 must have the same dtype".
            return observations

    return PoolWrapper(pool)


def skrl(task: str, num_envs: int, timesteps: int, seed: int) -> Timing:
    """Train with skrl's Runner (torch)."""
    start = time.perf_counter()
    import gymnasium
    from skrl import config as skrl_settings
    from skrl.utils.runner.torch import Runner

    skrl_settings.torch.device = "cpu"
    with tempfile.TemporaryDirectory() as directory, torch_threads(TORCH_THREADS["skrl"]):
        pool = make_pool(task, num_envs, seed)
        discrete = isinstance(pool.action_space, gymnasium.spaces.Discrete)
        runner = Runner(skrl_env(pool), skrl_config(directory, timesteps, seed, discrete))
        ready = time.perf_counter()
        runner.run("train")
        end = time.perf_counter()
        runner.agent.writer.close()  # its thread writes into the directory that is about to go
        pool.close()
    return Timing(ready - start, end - ready, timesteps * num_envs)


def skrl_jax(task: str, num_envs: int, timesteps: int, seed: int) -> Timing:
    """Train with skrl's Runner (JAX), which cannot share layers between policy and value: each has its own."""
    start = time.perf_counter()
    import gymnasium
    import jax
    from skrl import config as skrl_settings
    from skrl.utils.runner.jax import Runner

    skrl_settings.jax.device = "cpu"
    skrl_settings.jax.backend = "jax"
    with tempfile.TemporaryDirectory() as directory:
        pool = make_pool(task, num_envs, seed)
        discrete = isinstance(pool.action_space, gymnasium.spaces.Discrete)
        runner = Runner(skrl_env(pool, "jax"), skrl_config(directory, timesteps, seed, discrete, separate=True))
        ready = time.perf_counter()
        runner.run("train")
        jax.block_until_ready([model.state_dict.params for model in runner.agent.models.values()])
        end = time.perf_counter()
        runner.agent.writer.close()
        pool.close()
    return Timing(ready - start, end - ready, timesteps * num_envs)


# --------------------------------------------------------------------------------------- stable-baselines3


def sb3_vec_env(pool: Any) -> Any:
    """Wrap a pool as a VecEnv that also tracks episodes, which VecMonitor would do in a Python loop."""
    import gymnasium
    from stable_baselines3.common.vec_env import VecEnv

    class PoolVecEnv(VecEnv):
        def __init__(self) -> None:
            space = pool.observation_space
            # float32 from the start: SB3 would store float64 and convert it again in every epoch.
            observations = gymnasium.spaces.Box(space.low, space.high, space.shape, np.float32)
            self.action_dtype = pool.action_space.dtype
            self.returns = np.zeros(pool.num_envs)
            self.lengths = np.zeros(pool.num_envs, np.int64)
            self.no_infos: list[dict[str, Any]] = [{} for _ in range(pool.num_envs)]
            super().__init__(pool.num_envs, observations, pool.action_space)

        def reset(self) -> np.ndarray:
            return pool.reset()[0].astype(np.float32, copy=False)

        def step_async(self, actions: np.ndarray) -> None:
            self.actions = actions.astype(self.action_dtype, copy=False)

        def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
            observations, rewards, terminated, truncated, _ = pool.step(self.actions)
            ended = terminated | truncated
            self.returns += rewards
            self.lengths += 1
            infos = self.no_infos
            if ended.any():
                infos = list(infos)
                for i in ended.nonzero()[0]:
                    infos[i] = {"episode": {"r": self.returns[i], "l": self.lengths[i]}}
                self.returns[ended] = 0
                self.lengths[ended] = 0
            return observations.astype(np.float32, copy=False), rewards, ended, infos

        def close(self) -> None:
            pool.close()

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [None] * self.num_envs  # only render_mode is ever asked for

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            raise NotImplementedError

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            raise NotImplementedError

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * self.num_envs

    return PoolVecEnv()


def sb3_policy() -> tuple[Any, dict[str, Any]]:
    """Return an SB3 policy class with a shared ELU trunk and a tanh mean, and its keyword arguments."""
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from torch import nn

    class Trunk(BaseFeaturesExtractor):
        """`net_arch` cannot share layers since SB3 1.8; a features extractor is what both heads do share."""

        def __init__(self, observation_space: Any) -> None:
            super().__init__(observation_space, WORK.units[-1])
            sizes = [math.prod(observation_space.shape), *WORK.units]
            layers = [nn.Linear(i, o) for i, o in itertools.pairwise(sizes)]
            self.net = nn.Sequential(*[part for layer in layers for part in (layer, nn.ELU())])

        def forward(self, observations: Any) -> Any:
            return self.net(observations)

    class TanhMeanPolicy(ActorCriticPolicy):
        def _build(self, lr_schedule: Any) -> None:
            super()._build(lr_schedule)
            if hasattr(self, "log_std"):  # a Gaussian; after the optimiser is made, tanh has no parameters
                self.action_net = nn.Sequential(self.action_net, nn.Tanh())

    return TanhMeanPolicy, {"features_extractor_class": Trunk, "net_arch": []}


def stable_baselines3(task: str, num_envs: int, timesteps: int, seed: int) -> Timing:
    """Train with Stable-Baselines3, in its favour without the two running scalers.

    VecNormalize is its form of them and makes it slower. The learning rate is constant: SB3 has no
    KL-adaptive schedule, which would be one comparison per epoch.
    """
    start = time.perf_counter()
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import CheckpointCallback

    with tempfile.TemporaryDirectory() as directory, torch_threads(TORCH_THREADS["stable_baselines3"]):
        env = sb3_vec_env(make_pool(task, num_envs, seed))
        policy, policy_kwargs = sb3_policy()
        model = PPO(
            policy,
            env,
            learning_rate=3e-4,
            n_steps=WORK.rollouts,
            batch_size=WORK.rollouts * num_envs // WORK.mini_batches,
            n_epochs=WORK.epochs,
            gamma=0.99,
            gae_lambda=0.95,
            clip_range=0.2,
            clip_range_vf=0.2,
            vf_coef=2.0,
            max_grad_norm=1.0,
            policy_kwargs=policy_kwargs,
            tensorboard_log=directory,
            seed=seed,
            device="cpu",
        )
        checkpoints = CheckpointCallback(WORK.checkpoint_interval, directory)  # counts steps of the whole VecEnv
        ready = time.perf_counter()
        model.learn(timesteps * num_envs, callback=checkpoints, log_interval=1)
        end = time.perf_counter()
        model.logger.close()  # as above
        env.close()
    return Timing(ready - start, end - ready, model.num_timesteps)


# ------------------------------------------------------------------------------------------------ rl_games


def rl_games_vec_env(pool: Any) -> Any:
    """Wrap a pool as rl_games' IVecEnv; its own Envpool class does not cast actions to float64."""
    import gymnasium
    import torch
    from rl_games.common.ivecenv import IVecEnv

    space = pool.observation_space
    action_dtype = pool.action_space.dtype

    class PoolVecEnv(IVecEnv):
        # Tensors, not arrays, go to rl_games: it then takes them as they are instead of copying them.
        def reset(self) -> Any:
            return torch.from_numpy(pool.reset()[0].astype(np.float32, copy=False))

        def step(self, actions: Any) -> tuple[Any, Any, Any, dict[str, Any]]:
            actions = actions.numpy().astype(action_dtype, copy=False)
            observations, rewards, terminated, truncated, _ = pool.step(actions)
            return (
                torch.from_numpy(observations.astype(np.float32, copy=False)),
                torch.from_numpy(rewards.astype(np.float32, copy=False)),
                torch.from_numpy(terminated | truncated),
                {},
            )

        def get_env_info(self) -> dict[str, Any]:
            observations = gymnasium.spaces.Box(space.low, space.high, space.shape, np.float32)
            actions = pool.action_space
            if isinstance(actions, gymnasium.spaces.Box):
                actions = gymnasium.spaces.Box(actions.low, actions.high, actions.shape, np.float32)
            return {"observation_space": observations, "action_space": actions}

    return PoolVecEnv()


def rl_games_params(
    env: Any, directory: str, num_envs: int, max_epochs: int, seed: int, discrete: bool
) -> dict[str, Any]:
    """Spell the same PPO as rl_games' parameters; an rl_games epoch is one rollout and its update."""
    gaussian = {
        "mu_activation": "tanh",
        "sigma_activation": "None",
        "mu_init": {"name": "default"},
        "sigma_init": {"name": "const_initializer", "val": 0},
        "fixed_sigma": True,
    }
    return {
        "seed": seed,
        "torch_threads": 0,  # torch_threads() above decides
        "algo": {"name": "a2c_discrete" if discrete else "a2c_continuous"},
        "model": {"name": "discrete_a2c" if discrete else "continuous_a2c_logstd"},
        "network": {
            "name": "actor_critic",
            "separate": False,
            "space": {"discrete": None} if discrete else {"continuous": gaussian},
            "mlp": {"units": list(WORK.units), "activation": "elu", "initializer": {"name": "default"}},
        },
        "config": {
            "name": "rival",
            "env_name": "pool",
            "env_info": env.get_env_info(),
            "vec_env": env,
            "device": "cpu",
            "train_dir": directory,
            "num_actors": num_envs,
            "horizon_length": WORK.rollouts,
            "minibatch_size": WORK.rollouts * num_envs // WORK.mini_batches,
            "mini_epochs": WORK.epochs,
            "max_epochs": max_epochs,
            "gamma": 0.99,
            "tau": 0.95,
            "learning_rate": 3e-4,
            "lr_schedule": "adaptive",
            "schedule_type": "standard",  # once per epoch, as skrl does
            "kl_threshold": 0.008,
            "normalize_input": True,
            "normalize_value": True,
            "normalize_advantage": True,
            "value_bootstrap": False,
            "reward_shaper": {"scale_value": 1.0},
            "grad_norm": 1.0,
            "truncate_grads": True,
            "e_clip": 0.2,
            "clip_value": True,
            "critic_coef": 4.0,  # rl_games halves it
            "entropy_coef": 0.0,
            "bound_loss_type": "none",
            "bounds_loss_coef": 0.0,
            "save_frequency": WORK.checkpoint_interval // WORK.rollouts,  # only once an episode has ended
            "save_best_after": max_epochs + 1,  # no second kind of checkpoint
            "print_stats": False,
        },
    }


def rl_games(task: str, num_envs: int, timesteps: int, seed: int) -> Timing:
    """Train with rl_games, without the torch.compile that its Runner applies unless told otherwise.

    Compiling took 33 s and then saved 2% of the processor time on Pendulum: a loss in any run of these lengths.
    """
    start = time.perf_counter()
    import gymnasium
    import torch
    from rl_games.torch_runner import Runner

    with tempfile.TemporaryDirectory() as directory, torch_threads(TORCH_THREADS["rl_games"]):
        torch.manual_seed(seed)  # rl_games takes seed 0 for "none"
        pool = make_pool(task, num_envs, seed)
        discrete = isinstance(pool.action_space, gymnasium.spaces.Discrete)
        env = rl_games_vec_env(pool)
        epochs = math.ceil(timesteps / WORK.rollouts)
        runner = Runner()
        runner.load_config(rl_games_params(env, directory, num_envs, epochs, seed, discrete))
        # What Runner.run_train does, taken apart so that setting up and training can be timed on their own.
        agent = runner.algo_factory.create(runner.algo_name, base_name="run", params=runner.params)
        ready = time.perf_counter()
        agent.train()
        end = time.perf_counter()
        agent.writer.close()
        pool.close()
    return Timing(ready - start, end - ready, agent.frame)


# ------------------------------------------------------------------------------------------------ cleanrl


def cleanrl(task: str, num_envs: int, timesteps: int, seed: int) -> Timing:
    """Train as CleanRL's `ppo_atari_envpool.py` does, a script of one file that is no package: its loop, written again.

    The same network, numbers, float32 storage of observations and order of calls; one update more than is counted.
    """
    start = time.perf_counter()
    import envpool
    import torch
    from torch import nn

    steps = 128
    with torch_threads(TORCH_THREADS["cleanrl"]):
        torch.manual_seed(seed)
        pool = envpool.make(
            task,
            env_type="gymnasium",
            num_envs=num_envs,
            seed=seed,
            num_threads=POOL_THREADS,
            episodic_life=True,
            reward_clip=True,
        )
        shape = pool.observation_space.shape
        convolutions = (nn.Conv2d(4, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3, 1))
        layers = [part for layer in convolutions for part in (layer, nn.ReLU())]
        body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 7 * 7, 512), nn.ReLU())
        actor, critic = nn.Linear(512, int(pool.action_space.n)), nn.Linear(512, 1)
        parameters = [*body.parameters(), *actor.parameters(), *critic.parameters()]
        optimizer = torch.optim.Adam(parameters, 2.5e-4, eps=1e-5)

        def judged(rows: Any, actions: Any = None) -> tuple[Any, Any, Any, Any]:
            hidden = body(rows / 255.0)
            policy = torch.distributions.Categorical(logits=actor(hidden))
            actions = policy.sample() if actions is None else actions
            return actions, policy.log_prob(actions), policy.entropy(), critic(hidden).flatten()

        observations = torch.zeros((steps, num_envs, *shape))
        actions, log_probs, rewards, dones, values = (torch.zeros(steps, num_envs) for _ in range(5))
        now, done = torch.Tensor(pool.reset()[0]), torch.zeros(num_envs)
        ready, used = 0.0, 0.0
        for update in range(timesteps // steps + 1):
            if update == 1:
                ready, used = time.perf_counter(), time.process_time()
            for t in range(steps):
                observations[t], dones[t] = now, done
                with torch.no_grad():
                    actions[t], log_probs[t], _, values[t] = chosen = judged(now)
                arrays = pool.step(chosen[0].numpy().astype(np.int32))
                rewards[t] = torch.tensor(arrays[1])
                now, done = torch.Tensor(arrays[0]), torch.Tensor(arrays[2] | arrays[3])
            with torch.no_grad():
                advantages, carried, after = torch.zeros_like(rewards), torch.zeros(num_envs), judged(now)[3]
                for t in reversed(range(steps)):
                    goes_on = 1.0 - (done if t == steps - 1 else dones[t + 1])
                    delta = rewards[t] + 0.99 * after * goes_on - values[t]
                    advantages[t] = carried = delta + 0.99 * 0.95 * goes_on * carried
                    after = values[t]
            rows = [
                x.flatten(0, 1) for x in (observations, actions, log_probs, advantages, advantages + values, values)
            ]
            for _ in range(4):
                for part in np.array_split(np.random.default_rng().permutation(steps * num_envs), 4):
                    seen, taken, before, gains, returns, old = (x[part] for x in rows)
                    _, log_prob, entropy, value = judged(seen, taken.long())
                    ratio = (log_prob - before).exp()
                    gains = (gains - gains.mean()) / (gains.std() + 1e-8)
                    policy_loss = torch.max(-gains * ratio, -gains * ratio.clamp(0.9, 1.1)).mean()
                    held = old + (value - old).clamp(-0.1, 0.1)
                    value_loss = 0.5 * torch.max((value - returns) ** 2, (held - returns) ** 2).mean()
                    optimizer.zero_grad()
                    (policy_loss - 0.01 * entropy.mean() + 0.5 * value_loss).backward()
                    nn.utils.clip_grad_norm_(parameters, 0.5)
                    optimizer.step()
        end, processor = time.perf_counter(), time.process_time() - used
        pool.close()
    return Timing(ready - start, end - ready, timesteps // steps * steps * num_envs, processor)


# ------------------------------------------------------------------------------------------ no training


def environment_alone(task: str, num_envs: int, timesteps: int, threads: int = POOL_THREADS) -> Timing:
    """Step a pool with random valid actions drawn beforehand and do nothing else: every trainer's ceiling."""
    start = time.perf_counter()
    import gymnasium

    pool = make_pool(task, num_envs, seed=0, threads=threads)
    space = pool.action_space
    rng = np.random.default_rng(0)
    drawn = min(timesteps, 256)  # played round and round
    if isinstance(space, gymnasium.spaces.Discrete):
        actions = rng.integers(space.start, space.start + space.n, (drawn, num_envs)).astype(space.dtype)
    else:
        low, high = np.clip(space.low, -1e3, 1e3), np.clip(space.high, -1e3, 1e3)  # no infinite bounds
        actions = rng.uniform(low, high, (drawn, num_envs, *space.shape)).astype(space.dtype)
    pool.reset()
    ready = time.perf_counter()
    for t in range(timesteps):
        pool.step(actions[t % drawn])
    end = time.perf_counter()
    pool.close()
    return Timing(ready - start, end - ready, timesteps * num_envs)


RIVALS: dict[str, Callable[[str, int, int, int], Timing]] = {
    "skrl": skrl,
    "skrl_jax": skrl_jax,
    "stable_baselines3": stable_baselines3,
    "rl_games": rl_games,
    "cleanrl": cleanrl,
}


def main() -> None:
    """Run one library, or the environment alone, once and print one JSON line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("library", choices=[*RIVALS, "environment"])
    parser.add_argument("task")
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--timesteps", type=int, default=1600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=POOL_THREADS, help="of the pool, environment alone")
    parser.add_argument("--torch-threads", type=int, help="instead of TORCH_THREADS; 0: the library's default")
    parser.add_argument("--work", choices=WORKS, default="page")
    args = parser.parse_args()
    global WORK
    WORK = WORKS[args.work]
    if args.torch_threads is not None:
        TORCH_THREADS[args.library] = args.torch_threads
    with contextlib.redirect_stdout(sys.stderr):  # rl_games prints as it goes
        if args.library == "environment":
            timing = environment_alone(args.task, args.num_envs, args.timesteps, args.threads)
        else:
            timing = RIVALS[args.library](args.task, args.num_envs, args.timesteps, args.seed)
    package = {"environment": "envpool", "skrl_jax": "skrl", "cleanrl": "torch"}.get(args.library, args.library)
    record = {
        "library": args.library,
        "version": metadata.version(package),
        "task": args.task,
        "num_envs": args.num_envs,
        "timesteps": args.timesteps,
        "seed": args.seed,
        **asdict(timing),
        "steps_per_second": timing.env_steps / timing.train_seconds,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
