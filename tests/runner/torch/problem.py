"""A random update problem for three members, in torch's form and in the oracle's.

Members differ in data, parameters, Adam state and every Hyper number. Axes: P member · T step · N environment ·
O observation · A action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from runner.config import Config
from runner.config.network.layers import Recurrent
from runner.networks.parameters import LOG_STD, Network
from runner.torch import preprocessors
from runner.torch.preprocessors import Statistics
from runner.torch.rollout import Rollout
from runner.torch.update import Learner, Optimizer
from runner.training.pack import Hyper, Rules
from tests import oracle
from tests.runner.builders import make_config, make_network, output_options

P, T, N, A = 3, 10, 2, 2
O = 4  # noqa: E741
ROWS = T * N
HYPER: dict[str, tuple[float, float, float]] = {
    "learning_rate": (1e-3, 3e-4, 2e-3),
    "value_learning_rate": (1e-3, 3e-4, 2e-3),
    "adam_epsilon": (1e-8, 1e-5, 3e-4),
    "discount_factor": (0.99, 0.9, 1.0),
    "gae_lambda": (0.95, 1.0, 0.5),
    "ratio_clip": (0.2, 0.1, 0.3),
    "value_clip": (0.2, np.inf, 0.05),
    "entropy_loss_scale": (0.0, 0.0, 0.0),
    "value_loss_scale": (2.5, 1.0, 0.5),
    "grad_norm_clip": (0.5, np.inf, 0.05),
    "kl_threshold": (np.inf, np.inf, np.inf),
    "rewards_shaper_scale": (1.0, 0.1, 2.0),
    "alpha": (0.5, 0.5, 0.5),
    "scheduler_kl_threshold": (0.008, 0.05, 1.0),
    "scheduler_min_lr": (1e-6, 1e-5, 1e-4),
    "scheduler_max_lr": (1e-2, 3.1e-4, 5e-3),
    "scheduler_kl_factor": (2.0, 1.5, 3.0),
    "scheduler_lr_factor": (1.5, 1.2, 2.0),
}
OUTPUTS = {"GaussianMixin": "0.5 * tanh(ACTIONS)", "CategoricalMixin": "ACTIONS"}


def hyper_of(numbers: dict[str, tuple[float, ...]]) -> Hyper:
    return Hyper(**{k: torch.tensor(v, dtype=torch.float32).unsqueeze(1) for k, v in numbers.items()})


def off_is_zero(value: float) -> float:
    """The oracle writes 0 where torch's Hyper is infinite."""
    return 0.0 if np.isinf(value) else value


@dataclass
class Problem:
    """One update, to be solved by both."""

    config: Config
    numbers: dict[str, tuple[float, ...]]
    rules: Rules
    learner: Learner
    rollout: Rollout
    ended_before: np.ndarray
    orders: torch.Tensor | None

    @property
    def network(self) -> Network:
        return self.rules.network

    @property
    def hyper(self) -> Hyper:
        return self.learner.hyper

    @classmethod
    def random(
        cls,
        changes: dict[str, Any] | None = None,
        numbers: dict[str, tuple[float, ...]] | None = None,
        policy: str = "GaussianMixin",
        seed: int = 0,
    ) -> Problem:
        rng = np.random.default_rng(seed)
        changes = {"models.policy.output": OUTPUTS[policy], "models.policy.max_log_std": 0.5, **(changes or {})}
        config = make_config({"agent.rollouts": T, "trainer.timesteps": T, **changes}, policy)
        numbers = {**HYPER, **(numbers or {})}
        network = make_network(config, O, A)
        gaussian = network.distribution.gaussian
        parameters = np.stack([network.initial(seed + p) for p in range(P)])
        parameters += rng.normal(size=parameters.shape).astype(np.float32) * 0.1
        if gaussian:  # of member 1, one dimension is above its bound
            named = [network.split(row) for row in parameters]
            named[1][LOG_STD][:] = [0.9, -0.4]
            parameters = np.stack([network.join(n) for n in named])
        first = rng.normal(size=parameters.shape) * 1e-2
        second = rng.uniform(1e-4, 1e-2, size=parameters.shape)
        agent = config.agent
        learner = Learner(
            Optimizer(
                torch.tensor(parameters),
                torch.tensor(first, dtype=torch.float32),
                torch.tensor(second, dtype=torch.float32),
                torch.tensor([[3.0], [0.0], [40.0]]),
                hyper_of(numbers).learning_rate.clone(),
            ),
            _statistics(rng, O) if agent.observation_preprocessor else None,
            _statistics(rng, 1) if agent.value_preprocessor else None,
            hyper_of(numbers),
        )
        rules = Rules.of(network, config, Hyper(**{k: np.array(v) for k, v in numbers.items()}), compiled=False)
        problem = cls(config, numbers, rules, learner, None, np.zeros(0), None)  # type: ignore[arg-type]
        problem.rollout, problem.ended_before = problem._rollout(rng)
        drawn = [[rng.permutation(ROWS) for _ in range(P)] for _ in range(agent.learning_epochs)]
        problem.orders = None if agent.mini_batches == 1 else torch.tensor(np.array(drawn))
        return problem

    def _rollout(self, rng: np.random.Generator) -> tuple[Rollout, np.ndarray]:
        """Experience with ends and reset rows; the reset rows carry rewards, which nothing may use."""
        observations = (rng.normal(size=(P, T + 1, N, O)) * 2 + 1).astype(np.float32)
        ended_before = np.tile(np.arange(N) == 0, (P, 1))
        ends = rng.random((P, T, N)) < 0.4
        for t in range(T):
            ends[:, t] &= ~(ends[:, t - 1] if t else ended_before)
        terminated = ends & (rng.random(ends.shape) < 0.5)
        valid = np.stack([oracle.valid_rows(ends[p], ended_before[p]) for p in range(P)])
        assert terminated.any() and (ends & ~terminated).any() and not valid[:, 0].all()
        outputs = np.empty((P, T, N, A), np.float32)
        for p in range(P):
            outputs[p] = self.oracle_forward(p, observations[p, :-1])[0] + rng.normal(size=(T, N, A)) * 0.1
        if self.network.distribution.gaussian:
            actions: Any = torch.tensor(outputs + rng.normal(size=outputs.shape), dtype=torch.float32)
        else:
            actions = torch.tensor(rng.integers(0, A, (P, T, N, 1)))
        rollout = Rollout(
            torch.tensor(observations),
            actions,
            torch.tensor(outputs),
            torch.tensor(rng.normal(size=(P, T, N)), dtype=torch.float32),
            torch.tensor(terminated),
            torch.tensor(ends),
            torch.tensor(valid).float(),
            None,
            torch.empty(P, 0, O),
        )
        return rollout, ended_before

    # ------------------------------------------------------------------ the oracle's side

    def number(self, name: str, p: int) -> float:
        """A Hyper number as torch holds it, off written as 0."""
        return off_is_zero(float(getattr(self.hyper, name)[p, 0]))

    def named(self, p: int, row: torch.Tensor) -> oracle.Parameters:
        """Row p of `[P, n]` by name, float64."""
        return {k: v.astype(np.float64) for k, v in self.network.split(row[p].numpy()).items()}

    def scaler(self, p: int, statistics: Statistics | None) -> oracle.RunningStandardScaler | None:
        if statistics is None:
            return None
        out = oracle.RunningStandardScaler(statistics.mean.shape[1])
        out.mean, out.variance = statistics.mean[p].numpy(), statistics.variance[p].numpy()
        out.count = float(statistics.seen[p, 0])
        return out

    def network_options(self) -> dict[str, Any]:
        return {
            "hidden_activations": [
                step.activation
                for block in self.network.policy.blocks
                for step in block.steps
                if not isinstance(step.layer, Recurrent)
            ],
            **output_options(self.network),
            "separate": self.network.separate,
        }

    def oracle_forward(self, p: int, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Policy outputs and normalised values of raw observations `[…, O]`; of recurrent networks of a rollout's."""
        scaler = self.scaler(p, self.learner.observation_statistics)
        by_env = observations.swapaxes(0, 1) if self.network.memory else observations
        rows = by_env.reshape(-1, observations.shape[-1]).astype(np.float64)
        rows = rows if scaler is None else scaler.normalize(rows)
        named = self.named(p, self.learner.optimizer.parameters)
        if not self.network.memory:
            outputs, values = oracle.forward(named, rows, **self.network_options())
            shape = observations.shape[:-1]
            return outputs.reshape(*shape, -1), values.reshape(shape)
        envs = self.rollout.rewards.shape[2]
        whole = self.recurrent(p, 1)
        forward, _ = whole.functions(np.arange(envs), rows, np.ones(len(rows), bool))
        outputs, values = forward(named, rows, **self.network_options())
        return outputs.reshape(envs, -1, outputs.shape[-1]).swapaxes(0, 1), values.reshape(envs, -1).T

    def recurrent(self, p: int, parts: int) -> oracle.Recurrent:
        """The rollout as this many sequences of every environment; as one it goes on to the observation after it."""
        layers = [step.layer for block in self.network.policy.blocks for step in block.steps]
        (cell,) = (layer.cell for layer in layers if isinstance(layer, Recurrent))
        over = self.rollout.valid[p].numpy() == 0
        begins = np.concatenate([np.zeros_like(over[:1]), over])
        if parts > 1:
            begins = begins[:-1]
        begins = begins.reshape(parts, -1, over.shape[1]).transpose(0, 2, 1).reshape(parts * over.shape[1], -1)
        assert self.rollout.carry is not None
        carry = self.rollout.carry[p, :parts].flatten(0, 1).numpy().astype(np.float64)
        columns = {name.partition(".")[0]: columns for name, columns in self.network.memories.items()}
        return oracle.Recurrent(cell, begins, {trunk: carry[:, own] for trunk, own in columns.items()})

    def log_probs(self, p: int) -> np.ndarray:
        """Of the rollout's actions, `[T, N]`."""
        outputs = self.rollout.outputs[p].numpy().astype(np.float64)
        outputs = outputs.reshape(-1, outputs.shape[-1])
        actions = self.rollout.actions[p].numpy()
        if self.network.distribution.gaussian:
            policy = self.config.models.policy
            log_std = self.named(p, self.learner.optimizer.parameters)[LOG_STD]
            flat = oracle.gaussian_log_prob(
                outputs, log_std, actions.reshape(outputs.shape), policy.min_log_std, policy.max_log_std
            )
        else:
            flat = oracle.categorical_log_prob(outputs, actions.reshape(-1))
        return flat.reshape(self.rollout.rewards.shape[1:])

    def loss_options(self, p: int) -> dict[str, Any]:
        policy = self.config.models.policy
        return {
            "distribution": "gaussian" if self.network.distribution.gaussian else "categorical",
            "ratio_clip": self.number("ratio_clip", p),
            "value_clip": self.number("value_clip", p),
            "value_loss_scale": self.number("value_loss_scale", p),
            "entropy_loss_scale": self.number("entropy_loss_scale", p),
            "value_loss": self.config.agent.value_loss,
            "min_log_std": policy.min_log_std,
            "max_log_std": policy.max_log_std,
            "fixed_log_std": policy.fixed_log_std,
            **self.network_options(),
        }

    def adam(self, p: int) -> oracle.Adam:
        adam, optimizer = oracle.Adam(eps=self.number("adam_epsilon", p)), self.learner.optimizer
        adam.step_count = int(optimizer.steps[p, 0])
        adam.first = self.named(p, optimizer.first_moment)
        adam.second = self.named(p, optimizer.second_moment)
        return adam

    def schedule(self, p: int) -> Any:
        if self.config.agent.learning_rate_scheduler != "KLAdaptiveLR":
            return None
        options = {k: self.number(f"scheduler_{k}", p) for k in ("kl_factor", "lr_factor", "min_lr", "max_lr")}
        return lambda lr, kl: oracle.kl_adaptive(lr, kl, self.number("scheduler_kl_threshold", p), **options)

    def oracle_update(self, p: int) -> oracle.Update:
        """What the oracle makes of member p."""
        agent, rollout = self.config.agent, self.rollout
        ended, terminated = rollout.ended[p].numpy(), rollout.terminated[p].numpy()
        recurrent, sequences = None, ended.size
        if rollout.carry is not None:
            parts = rollout.carry.shape[1]
            recurrent, sequences = self.recurrent(p, parts), parts * ended.shape[1]
            recurrent.begins = recurrent.begins[:, : len(ended) // parts]
        every = np.tile(np.arange(sequences), (agent.learning_epochs, 1))
        if self.orders is not None:
            every = self.orders[:, p].numpy()
        return oracle.update(
            self.named(p, self.learner.optimizer.parameters),
            self.adam(p),
            observations=rollout.observations[p, :-1].numpy(),
            actions=rollout.actions[p].numpy()
            if self.network.distribution.gaussian
            else rollout.actions[p, ..., 0].numpy(),
            log_probs=self.log_probs(p),
            values=self.oracle_forward(p, rollout.observations[p].numpy())[1],
            rewards=rollout.rewards[p].numpy(),
            terminated=terminated,
            truncated=ended & ~terminated,
            ended_before=self.ended_before[p],
            permutations=every,
            mini_batches=agent.mini_batches,
            learning_rate=float(self.learner.optimizer.learning_rate[p, 0]),
            observation_scaler=self.scaler(p, self.learner.observation_statistics),
            value_scaler=self.scaler(p, self.learner.value_statistics),
            discount_factor=self.number("discount_factor", p),
            gae_lambda=self.number("gae_lambda", p),
            time_limit_bootstrap=agent.time_limit_bootstrap,
            rewards_shaper_scale=self.number("rewards_shaper_scale", p),
            advantage_normalization=agent.advantage_normalization,
            observation_statistics={"first_epoch": "skrl", "frozen": "frozen"}[agent.observation_statistics],
            grad_norm_clip=self.number("grad_norm_clip", p),
            kl_threshold=self.number("kl_threshold", p),
            schedule=self.schedule(p),
            recurrent=recurrent,
            **self.loss_options(p),
        )


def _statistics(rng: np.random.Generator, features: int) -> Statistics:
    """As after some training, different for every member."""
    return preprocessors.Statistics(
        torch.tensor(rng.normal(size=(P, features))),
        torch.tensor(rng.uniform(0.5, 4.0, size=(P, features))),
        torch.tensor([[1.0], [50.0], [1000.0]], dtype=torch.float64),
    )
