"""gymnasium environments: vector environments of every auto-reset mode, and single ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from runner.envs.base import Step, VectorEnv
from runner.errors import UserError


class GymnasiumVector(VectorEnv):
    """A `gymnasium.vector.VectorEnv`, or one `gymnasium.Env` as a vector of one."""

    rebuilds = False

    def __init__(self, env: gymnasium.vector.VectorEnv[Any, Any, Any] | gymnasium.Env[Any, Any]) -> None:
        """Wrap `env`.

        Raises:
            UserError: a space that is not supported, or a vector environment that does not name its auto-reset mode.
        """
        if isinstance(env, gymnasium.Env):
            single = env
            env = SyncVectorEnv([lambda: single], autoreset_mode=AutoresetMode.NEXT_STEP)
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        mode = env.metadata.get("autoreset_mode")
        try:
            self._mode = mode if isinstance(mode, AutoresetMode) else AutoresetMode(mode)
        except ValueError:
            allowed = ", ".join(f"AutoresetMode.{m.name}" for m in AutoresetMode)
            raise UserError(
                f'{type(env).__name__}: metadata["autoreset_mode"] is {mode!r}; allowed: {allowed}. '
                "Without it an episode's last observation cannot be told from the next one's first"
            ) from None
        self.env = env
        self.resets_at_once = self._mode is not AutoresetMode.NEXT_STEP
        self._seeds: Any = None
        self._ended = np.zeros(self.num_envs, bool)

    def flatten(self, observations: Any, rows: int | None = None) -> np.ndarray:
        """Observations → `[N, O]` float32, a copy: some environments write the next observations over the last."""
        return super().flatten(observations, rows).copy()

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes, with the seeds of `seeded` if it was called."""
        observations, _ = self.env.reset(seed=self._seeds)
        self._ended[:] = False
        return self.flatten(observations), {}

    def step(self, actions: Any) -> Step:
        """Step every environment; see the base class."""
        observations, rewards, terminated, truncated, info = self.env.step(self.actions.checked(actions, self.num_envs))
        ended = terminated | truncated
        rewards = np.asarray(rewards, np.float32)
        if not self.resets_at_once:
            # Reset rows carry no reward by contract, whatever an environment puts there.
            rewards = np.where(self._ended, np.float32(0), rewards)
            self._ended = ended
            return self.flatten(observations), rewards, terminated, truncated, {}
        flat, extra = self.flatten(observations), {}
        if ended.any():
            which = np.flatnonzero(ended)
            if self._mode is AutoresetMode.SAME_STEP:
                extra["final_observations"] = (which, self._final(info, which))
            else:
                extra["final_observations"] = (which, flat[which].copy())
                fresh, _ = self.env.reset(options={"reset_mask": ended})
                flat = self.flatten(fresh)
        return flat, rewards, terminated, truncated, extra

    def _final(self, info: dict[str, Any], which: np.ndarray) -> np.ndarray:
        """Final observations `[K, O]` of the environments `which` from a SAME_STEP info."""
        final = info.get("final_obs", info.get("final_observation"))
        if final is None:
            raise UserError(
                f"{type(self.env).__name__}: episodes ended but info has no 'final_obs', which AutoresetMode.SAME_STEP "
                "promises"
            )
        if isinstance(final, dict):
            chosen: Any = {key: np.asarray(value)[which] for key, value in final.items()}
        elif isinstance(final[which[0]], dict):
            chosen = {key: np.stack([final[i][key] for i in which]) for key in final[which[0]]}
        else:
            chosen = np.stack([np.asarray(final[i]) for i in which])
        return self.flatten(chosen, len(which))

    def seeded(self, seeds: Sequence[int], threads: int | None = None) -> VectorEnv:
        """Reset with these seeds from now on; the number of environments cannot change."""
        if len(seeds) != self.num_envs:
            raise UserError(
                f"{type(self.env).__name__} has {self.num_envs} environments and cannot be rebuilt with {len(seeds)}: "
                "only EnvPool environments can train a pack of several seeds"
            )
        self._seeds = list(seeds)
        return self

    def close(self) -> None:
        """Close the environment."""
        self.env.close()
