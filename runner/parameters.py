"""Which parameters a network has, where they lie in one flat row per member, and their initial values.

Both backends hold parameters as `[P, n]` float32 and cut them by this layout, so checkpoints and initial values are
the same in both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from runner.config.network import Output
from runner.config.schema import Models

LOG_STD = "policy.log_std"


@dataclass(frozen=True)
class Entry:
    """One parameter: `[outputs, inputs]` for a weight, as torch has it, `[outputs]` for a bias."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Network:
    """Policy and value networks of one member; hashable, so that it can key compiled programs.

    Attributes:
        observation_size: O.
        separate: False when the value head reads the policy's hidden layers.
        policy: (units, activation) of the policy's hidden layers.
        value: the same for the value network; empty when not separate.
        policy_output: how the policy head's output is shaped.
        value_output: how the value head's output is shaped.
        gaussian: the policy has a state-independent log standard deviation.
        entries: every parameter in order.
    """

    observation_size: int
    separate: bool
    policy: tuple[tuple[int, str], ...]
    value: tuple[tuple[int, str], ...]
    policy_output: Output
    value_output: Output
    gaussian: bool
    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, models: Models, observation_size: int, action_size: int) -> Network:
        """Lay out the networks of a configuration for O inputs and A outputs."""
        policy = tuple(models.policy.hidden)
        value = tuple(models.value.hidden) if models.separate else ()
        gaussian = models.policy.cls == "GaussianMixin"
        entries: list[Entry] = []

        def dense(name: str, inputs: int, outputs: int) -> int:
            entries.append(Entry(f"{name}.weight", (outputs, inputs)))
            entries.append(Entry(f"{name}.bias", (outputs,)))
            return outputs

        width = observation_size
        for index, (units, _) in enumerate(policy):
            width = dense(f"policy.net.{index}", width, units)
        dense("policy.head", width, action_size)
        if gaussian:
            entries.append(Entry(LOG_STD, (action_size,)))
        if models.separate:
            width = observation_size
        for index, (units, _) in enumerate(value):
            width = dense(f"value.net.{index}", width, units)
        dense("value.head", width, 1)
        return cls(
            observation_size,
            models.separate,
            policy,
            value,
            models.policy.head,
            models.value.head,
            gaussian,
            tuple(entries),
        )

    @property
    def size(self) -> int:
        """Number of parameters of one member (n)."""
        return sum(entry.size for entry in self.entries)

    def split(self, row: np.ndarray) -> dict[str, np.ndarray]:
        """Cut one member's flat row `[n]` into named arrays."""
        pieces = np.split(row, np.cumsum([entry.size for entry in self.entries])[:-1])
        return {entry.name: piece.reshape(entry.shape) for entry, piece in zip(self.entries, pieces, strict=True)}

    def join(self, named: dict[str, np.ndarray]) -> np.ndarray:
        """The inverse of `split`."""
        return np.concatenate([named[entry.name].reshape(-1) for entry in self.entries]).astype(np.float32)

    def initial(self, seed: int, initial_log_std: float) -> np.ndarray:
        """Initial parameters `[n]` of one member: torch's default distribution for linear layers,
        U(−1/√inputs, 1/√inputs) for weights and biases, from the member's own stream.
        """
        rng = np.random.default_rng(np.random.SeedSequence((seed, 0x1217)))
        parts: list[np.ndarray] = []
        inputs = 1
        for entry in self.entries:
            if entry.name == LOG_STD:
                parts.append(np.full(entry.size, initial_log_std))
                continue
            if len(entry.shape) == 2:
                inputs = entry.shape[1]
            bound = inputs**-0.5
            parts.append(rng.uniform(-bound, bound, entry.size))
        return np.concatenate(parts).astype(np.float32)
