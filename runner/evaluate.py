"""Play whole episodes with fixed policies: no learning, no files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from runner.envs.base import VectorEnv
from runner.errors import UserError

LONGEST_EPISODE = 1_000_000


@dataclass(frozen=True)
class Episode:
    """One finished episode.

    Attributes:
        member: index of the policy that played it.
        env: index of the environment among the member's.
        ret: sum of raw rewards.
        length: steps.
    """

    member: int
    env: int
    ret: float
    length: int


def play(
    env: VectorEnv,
    choose: Callable[[np.ndarray, int], np.ndarray],
    members: int,
    longest: int = LONGEST_EPISODE,
) -> list[Episode]:
    """One whole episode in every environment, so that short episodes are not counted more often than long ones.

    Args:
        env: P·N environments, member-major.
        choose: (observations `[P·N, O]`, number of the step) → actions.
        members: P.
        longest: steps after which an episode that has not ended is an error.

    Returns:
        P·N episodes, ordered by member and environment.

    Raises:
        UserError: an episode did not end.
    """
    observations, _ = env.reset()
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
    playing = np.ones(env.num_envs, bool)
    for step in range(longest):
        observations, rewards, terminated, truncated, info = env.step(choose(observations, step))
        returns += np.where(playing, info.get("episode_rewards", rewards), 0)
        lengths += playing
        playing &= ~info.get("episode_ends", terminated | truncated)
        if not playing.any():
            break
    else:
        raise UserError(
            f"evaluation: {int(playing.sum())} of {env.num_envs} episodes did not end within {longest:,} steps"
        )
    envs = env.num_envs // members
    return [Episode(i // envs, i % envs, float(returns[i]), int(lengths[i])) for i in range(env.num_envs)]
