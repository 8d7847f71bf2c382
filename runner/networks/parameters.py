"""The layers and parameters of a network, their places in one flat row per member, and their initial values.

Both backends hold parameters as `[P, n]` float32 and cut them by this layout, so checkpoints and initial values are
the same in both.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from runner.config.network.layers import Recurrent
from runner.config.schema import Config
from runner.draws import for_parameters
from runner.envs.spaces import ActionSpace, Layout
from runner.networks.blocks import Builder, Entry, Role
from runner.networks.policies import Distribution
from runner.networks.scaling import Columns, Scaling, columns, scalings

LOG_STD = "policy.log_std"
HEAD_GAINS = {"policy.head.weight": 0.01, "value.head.weight": 1.0}


@dataclass(frozen=True)
class Network:
    """Policy and value networks of one member; hashable, so that it can key compiled programs.

    Attributes:
        observations: where the parts of a flat observation are.
        scalings: which of its columns are normalised before the networks read them.
        separate: False when the value head reads the policy's blocks.
        policy: how means or logits are made.
        value: how state values are made; shares the policy's blocks when not separate.
        distribution: what means or logits are of.
        bfloat16: layers are computed in bfloat16.
        orthogonal: initial weights are orthogonal matrices.
        entries: every parameter in order.
    """

    observations: Layout
    scalings: tuple[Scaling, ...]
    separate: bool
    policy: Role
    value: Role
    distribution: Distribution
    bfloat16: bool
    orthogonal: bool
    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, config: Config, observations: Layout, actions: ActionSpace) -> Network:
        """Lay out the networks of a configuration.

        Args:
            config: models and preprocessors.
            observations: of the environment.
            actions: of the environment.
        """
        models = config.models
        distribution = Distribution.of(models.policy, actions, observations)
        found = scalings(config, observations)
        builder = Builder(observations, {"ACTIONS": actions.units, "ONE": 1}, found)
        policy, features = builder.blocks("policy", models.policy.plan)
        policy_role = builder.output("policy", models.policy.plan, policy, features, actions.units)
        if distribution.gaussian:
            builder.entries.append(Entry(LOG_STD, (actions.units,)))
        value, value_features = policy, features
        if models.separate:
            value, value_features = builder.blocks("value", models.value.plan)
        value_role = builder.output("value", models.value.plan, value, value_features, 1)
        return cls(
            observations,
            found,
            models.separate,
            policy_role,
            value_role,
            distribution,
            config.agent.mixed_precision,
            models.initialization == "orthogonal",
            tuple(builder.entries),
        )

    @property
    def observation_size(self) -> int:
        """O."""
        return self.observations.stop

    @functools.cached_property
    def scaling(self) -> Columns:
        """The numbers of `scalings` for every column."""
        return columns(self.scalings, self.observation_size)

    @property
    def size(self) -> int:
        """Number of parameters of one member (n)."""
        return sum(entry.size for entry in self.entries)

    @functools.cached_property
    def memories(self) -> dict[str, slice]:
        """Recurrent layer → its columns of what the networks remember; the policy's are the first."""
        steps = [step for role in (self.policy, self.value) for block in role.blocks for step in block.steps]
        found, end = {}, 0
        for step in steps:
            if isinstance(step.layer, Recurrent) and step.name not in found:
                found[step.name] = slice(end, end := end + step.layer.memory)
        return found

    @functools.cached_property
    def memory(self) -> int:
        """Numbers that the networks remember of an episode (M)."""
        return max((columns.stop for columns in self.memories.values()), default=0)

    @functools.cached_property
    def policy_memory(self) -> int:
        """Those of the policy, which acting needs: the first ones."""
        own = [columns.stop for name, columns in self.memories.items() if name.startswith("policy.")]
        return max(own, default=0)

    def carry(self, members: int, envs: int) -> np.ndarray | None:
        """The memory of the networks when episodes begin: zeros `[P, N, M]`; None where no layer is recurrent."""
        return np.zeros((members, envs, self.memory), np.float32) if self.memory else None

    def split(self, row: np.ndarray) -> dict[str, np.ndarray]:
        """Cut one member's flat row `[n]` into named arrays."""
        pieces = np.split(row, np.cumsum([entry.size for entry in self.entries])[:-1])
        return {entry.name: piece.reshape(entry.shape) for entry, piece in zip(self.entries, pieces, strict=True)}

    def join(self, named: dict[str, np.ndarray]) -> np.ndarray:
        """The inverse of `split`."""
        return np.concatenate([named[entry.name].reshape(-1) for entry in self.entries]).astype(np.float32)

    def of_value(self) -> np.ndarray:
        """The parameters that are the value's alone, `[n]` bool."""
        return np.concatenate([np.full(entry.size, entry.of_value) for entry in self.entries])

    def initial(self, seed: int) -> np.ndarray:
        """Initial parameters `[n]` of one member, from its own stream.

        torch's default distribution, U(−1/√inputs, 1/√inputs) for weights and biases of linear and convolutional
        layers, of hidden numbers in place of inputs for recurrent ones; or orthogonal weights (Saxe et al. 2014, gains
        as in "The 37 Implementation Details of PPO") and zero biases.
        """
        rng = for_parameters(seed)
        parts: list[np.ndarray] = []
        inputs = 1
        for entry in self.entries:
            if entry.name == LOG_STD:
                parts.append(np.broadcast_to(np.array(self.distribution.initial_log_std), entry.shape))
                continue
            weight = len(entry.shape) > 1
            if weight:
                inputs = math.prod(entry.shape[1:])
            if self.orthogonal:
                gain = HEAD_GAINS.get(entry.name, 1.0 if entry.hidden else 2**0.5)
                parts.append(gain * _orthogonal(rng, entry.shape[0], inputs) if weight else np.zeros(entry.size))
                continue
            bound = (entry.hidden or inputs) ** -0.5
            parts.append(rng.uniform(-bound, bound, entry.size))
        return np.concatenate(parts).astype(np.float32)


def _orthogonal(rng: np.random.Generator, outputs: int, inputs: int) -> np.ndarray:
    """A flat `[outputs, inputs]` matrix whose rows or columns, whichever are fewer, are orthonormal."""
    tall = rng.standard_normal((max(outputs, inputs), min(outputs, inputs)))
    q, r = np.linalg.qr(tall)
    q *= np.sign(np.diag(r))
    return (q if outputs >= inputs else q.T).ravel()
