"""The training loop of one pack on torch: collect → advantages → update.

Axes: P member · T rollout step · N environment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from runner.envs.base import VectorEnv
from runner.envs.spaces import ActionSpace, Layout
from runner.networks.parameters import LOG_STD
from runner.torch import accelerate, distributions, models
from runner.torch.preprocessors import Statistics
from runner.torch.rollout import Act, Collector, Rollout, env_actions
from runner.torch.update import Learner, Optimizer, Rules, update
from runner.training import learning
from runner.training.pack import Hyper, Pack
from runner.training.snapshots import Snapshot, StackedMoments
from runner.training.tracking import Report


class Learning(learning.Learning):
    """P members in training on torch."""

    @torch.inference_mode(False)
    def __init__(self, pack: Pack, observations: Layout, actions: ActionSpace) -> None:
        """Initialise every member from its own seed."""
        self.device = accelerate.device()
        super().__init__(pack, observations, actions)
        of_value = self._of_value
        columns = None if of_value is None else torch.from_numpy(of_value).to(self.device)
        self._rules = Rules(self.network, pack.static, self._entropy, columns)
        self._hyper = Hyper(*map(self._column, pack.hyper.effective()))

    @property
    def compiles(self) -> bool:
        """See the base class."""
        return accelerate.compiles(self.pack.static)

    @torch.no_grad()
    def choose(self, observations: np.ndarray, deterministic: bool, draw: int) -> np.ndarray:
        """Actions for the environment; see the base class."""
        rows = torch.from_numpy(observations).to(self.device).unflatten(0, (self.pack.size, -1))
        noise = np.empty(0, np.float32) if deterministic else self._noise("act", draw, 1, rows.shape[1])[0][0]
        _, chosen = self._act(deterministic)(rows, torch.from_numpy(noise).to(self.device), False)
        return self._env_actions(chosen)

    @torch.inference_mode(False)
    @torch.no_grad()
    def train(self, env: VectorEnv, stop: Callable[[], bool] = lambda: False) -> Iterator[Report]:
        """Train from where it stands to the configured length; see the base class."""
        config = self.pack.static
        steps = config.agent.rollouts
        envs = env.num_envs // self.pack.size
        with accelerate.few_threads(self._rules, self.pack.size * steps * envs):
            collector = Collector(env, self.pack.size, self._env_actions, self.device)
            step = accelerate.minibatch_stepper(self._rules)
            if self.compiles:
                accelerate.warm_up(step, self._learner, self._hyper, (steps, envs), self._rules)

            def iteration() -> tuple[np.ndarray, np.ndarray, Rollout] | None:
                noise, generators = self._noise("update", self.updates, steps, envs)
                rollout = collector.collect(self._act(), torch.from_numpy(noise).to(self.device), self._random(steps))
                if not self._learns:
                    return None
                orders = self._orders(steps * envs, generators)
                return *self._update(rollout, orders, self._shifts(steps * envs, generators), step), rollout

            yield self._ready()
            yield from self._follow(iteration, collector, stop)

    def _multiplies_bfloat16(self) -> bool:
        return self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)

    def _of(self, member: int, experience: Tensor) -> np.ndarray:
        return experience[member].cpu().numpy()

    @torch.inference_mode(False)
    def _put(self, snapshot: Snapshot) -> None:
        parameters, first, second = (torch.from_numpy(row).to(self.device, copy=True) for row in snapshot[:3])
        self._learner = Learner(
            Optimizer(parameters, first, second, self._column(snapshot.steps), self._column(snapshot.learning_rate)),
            self._statistics(snapshot.observation_statistics),
            self._statistics(snapshot.value_statistics),
        )

    def _get(self) -> Snapshot:
        parameters, first, second, steps, rate = (tensor.cpu().numpy() for tensor in self._learner.optimizer)
        observation, value = self._learner.observation_statistics, self._learner.value_statistics
        return Snapshot(parameters, first, second, steps[:, 0], rate[:, 0], _fetched(observation), _fetched(value))

    def _update(
        self,
        rollout: Rollout,
        orders: np.ndarray | None,
        shifts: np.ndarray | None,
        step: accelerate.MinibatchStep,
    ) -> tuple[np.ndarray, np.ndarray]:
        """One update of every member; its numbers `[P, len(COLUMNS)]` and which members' are finite `[P]`."""
        alive = torch.tensor(self.alive, device=self.device).unsqueeze(1)
        epochs: list[Tensor] | list[None] = [None] * self.pack.static.agent.learning_epochs
        if orders is not None:
            epochs = list(torch.from_numpy(orders).to(self.device))
        rates, moved = (None if x is None else torch.from_numpy(x).to(self.device) for x in (self._rates(), shifts))
        learner, metrics, explained = update(
            self._learner, rollout, epochs, self._hyper, self._rules, alive, step, rates, moved
        )
        spread = self._deviation(learner)
        finite = learner.optimizer.parameters.isfinite().all(1)
        # Of a rollout without experience there are no numbers.
        finite &= torch.cat(metrics, 1).isfinite().all(1) | ~rollout.valid.flatten(1).any(1)
        self._accept(learner, finite & alive.squeeze(1))
        numbers = torch.cat([*metrics, explained, learner.optimizer.learning_rate, spread], 1)
        return numbers.cpu().numpy(), finite.cpu().numpy()

    def _accept(self, learner: Learner, accepted: Bool[Tensor, " P"]) -> None:
        """Take over the learner, but for members with a number that is not finite, now or before: they stay."""
        if bool(accepted.all()):
            self._learner = learner
            return

        def keep(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(accepted.unsqueeze(1), new, old)

        def keep_statistics(new: Statistics | None, old: Statistics | None) -> Statistics | None:
            return Statistics(*map(keep, new, old)) if new is not None and old is not None else None

        before = self._learner
        self._learner = Learner(
            Optimizer(*map(keep, learner.optimizer, before.optimizer)),
            keep_statistics(learner.observation_statistics, before.observation_statistics),
            keep_statistics(learner.value_statistics, before.value_statistics),
        )

    def _act(self, deterministic: bool = False) -> Act:
        """The policies as they are now."""
        distribution = self.network.distribution
        scaler = self._rules.observation_scaler(self._learner.observation_statistics)
        named = models.cut(self.network, self._learner.optimizer.parameters)
        log_std = self._rules.log_std(named)

        def act(observations: Tensor, noise: Tensor, random: bool) -> tuple[Tensor, Tensor]:
            rows = scaler.normalize(observations) if scaler else observations
            outputs = models.policy(self.network, named, rows)
            if random:
                return outputs, distributions.uniform(distribution, outputs, noise)
            if deterministic:
                return outputs, distributions.mode(distribution, outputs, log_std)
            return outputs, distributions.sample(distribution, outputs, log_std, noise)

        return act

    def _env_actions(self, actions: Tensor) -> np.ndarray:
        """What the environment takes of actions `[P, N, K]`."""
        return env_actions(actions, self.network.distribution, self.actions, self.pack.static.models.policy.clips)

    def _deviation(self, learner: Learner) -> Float[Tensor, "P 1"]:
        """Mean standard deviation of the Gaussian; zero for a categorical policy, which reports none."""
        parameters = learner.optimizer.parameters
        if not self.network.distribution.gaussian:
            return torch.zeros_like(parameters[:, :1])
        log_std = self._rules.log_std({LOG_STD: models.cut(self.network, parameters)[LOG_STD]})
        assert log_std is not None
        return log_std.exp().mean(-1)

    def _statistics(self, moments: StackedMoments | None) -> Statistics | None:
        if moments is None:
            return None
        mean, variance, seen = (torch.from_numpy(row).to(self.device, copy=True) for row in moments)
        return Statistics(mean, variance, seen.unsqueeze(1))

    def _column(self, row: np.ndarray) -> Float[Tensor, "P 1"]:
        """`[P]` → `[P, 1]` float32 on the device."""
        return torch.tensor(row, dtype=torch.float32, device=self.device).unsqueeze(1)


def _fetched(statistics: Statistics | None) -> StackedMoments | None:
    if statistics is None:
        return None
    mean, variance, seen = (tensor.cpu().numpy() for tensor in statistics)
    return StackedMoments(mean, variance, seen[:, 0])
