"""The processes that train one pack together, each of which steps a part of every member's environments.

All of them learn from all rows. Before an update they hand each other their parts of the rollout, so that advantages,
statistics and permutations are those of one process, bit for bit; of each minibatch every process then takes its part
of the rows, and gradients and losses are summed over the processes. A run differs from that of one process by rounding.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from runner.config import Config
from runner.envs.base import ANEW, VectorEnv
from runner.envs.tensors import TensorEnv
from runner.errors import UserError

PATIENCE_SECONDS = 1200.0
"""The time that a process waits for the others: longer than a full disk makes the first of them wait."""


@dataclass(frozen=True)
class Group:
    """A process's place among those that train together.

    Attributes:
        rank: its number; the process of number 0 is the one that reports.
        size: how many there are.
        address: HOST:PORT at which the first of them waits for the others; empty for torchrun's own.
    """

    rank: int = 0
    size: int = 1
    address: str = ""

    def own(self, envs: int) -> slice:
        """The part of a member's environments that this process steps."""
        each = envs // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    @staticmethod
    def started() -> bool:
        """Something like torchrun has started this process as one of several."""
        return "WORLD_SIZE" in os.environ or "JAX_WORLD_SIZE" in os.environ

    @classmethod
    def of_variables(cls, devices: int, variables: Mapping[str, str] = os.environ) -> Group:
        """The place that torchrun, or skrl's launcher for JAX, has given to this process.

        Raises:
            UserError: there is none, or one among another number of processes.
        """
        prefix = "JAX_" if "JAX_WORLD_SIZE" in variables else ""
        size = int(variables.get(f"{prefix}WORLD_SIZE", 1))
        if size != devices:
            found = "this process is alone" if size == 1 else f"this is one of {size} processes"
            raise UserError(
                f"trainer.devices {devices}: {found}; allowed: `launch`, which starts them all, or "
                f"`torchrun --nproc-per-node {devices}`"
            )
        return cls(int(variables[f"{prefix}RANK"]), size, variables.get("JAX_COORDINATOR_ADDR", ""))


def refuse(env: VectorEnv, config: Config, size: int) -> None:
    """Refuse what several processes cannot train together.

    Raises:
        UserError: it says what, and what could be done.
    """
    where, envs = f"trainer.devices {size}", config.env.num_envs or 0
    if envs % size:
        near = sorted({max(size, envs - envs % size), envs + size - envs % size})
        raise UserError(
            f"{where}: env.num_envs {envs} cannot be shared evenly by {size} processes; allowed: a multiple of {size}, "
            f"such as {' or '.join(map(str, near))}"
        )
    if env.agents is not None:
        raise UserError(f"{where}: environments of several agents are trained by one process; allowed: 1")
    if isinstance(env, TensorEnv) or not env.rebuilds:
        raise UserError(
            f"{where}: {type(getattr(env, 'env', env)).__name__} is made already, and each process needs environments "
            f"of its own; allowed: 1, or {ANEW}"
        )
    units = config.agent.rollouts // config.sequence * envs // config.agent.mini_batches
    if units < size:
        rows = "rows" if config.sequence == 1 else "sequences"
        raise UserError(
            f"{where}: a minibatch has {units} {rows} (agent.mini_batches {config.agent.mini_batches}), fewer than "
            f"there are processes; allowed: 1 to {units}"
        )
