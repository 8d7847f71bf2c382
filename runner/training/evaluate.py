"""Play whole episodes with fixed policies: no learning, no files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from runner.draws import environment_seeds
from runner.envs.base import VectorEnv, check_finite
from runner.errors import UserError

LONGEST_EPISODE = 1_000_000
EVALUATION_RESET = 2**31
"""The `timestep of the reset` of evaluation environments: none that training reaches."""


@dataclass(frozen=True)
class Episode:
    """One finished episode.

    Attributes:
        member: index of the policy that played it.
        number: of the episode among the member's.
        ret: sum of raw rewards.
        length: steps.
        seed: of its environment; a vector environment that takes one only has that of its first.
    """

    member: int
    number: int
    ret: float
    length: int
    seed: int


def play(
    opened: Callable[[Sequence[int]], AbstractContextManager[VectorEnv]],
    choose: Callable[[Any, np.ndarray, int], tuple[Any, np.ndarray]],
    seeds: Sequence[int],
    episodes: int,
    at_once: int,
    longest: int = LONGEST_EPISODE,
) -> list[Episode]:
    """Let every member play the same number of whole episodes, each in an environment of its own.

    So short episodes are not counted more often than long ones, and members of one seed play the same episodes however
    many of them are played at once.

    Args:
        opened: makes environments of these seeds, P·N of them, member-major, for the length of a block.
        choose: (carry, observations `[P·N, O]`, number of the draw) → (carry, actions); the carry is None when episodes
            begin, and then what the policies remember of them `[P·N, M]`, or what they make of it.
        seeds: of the members' episodes, P of them.
        episodes: of each member.
        at_once: N, environments of a member that are stepped together; the last round plays some for nothing.
        longest: steps after which an episode that has not ended is an error.

    Returns:
        P · `episodes` of them, ordered by member and number.
    """
    rounds = -(-episodes // at_once)
    numbered = [environment_seeds(seed, rounds * at_once, EVALUATION_RESET) for seed in seeds]
    found: list[Episode] = []
    for first in range(0, rounds * at_once, at_once):
        chosen = [seed for numbers in numbered for seed in numbers[first : first + at_once]]
        with opened(chosen) as env:
            returns, lengths = _round(env, choose, chosen, first * longest, longest)
        found += [
            Episode(i // at_once, first + i % at_once, float(returns[i]), int(lengths[i]), chosen[i])
            for i in range(len(chosen))
            if first + i % at_once < episodes
        ]
    return sorted(found, key=lambda episode: (episode.member, episode.number))


def _round(
    env: VectorEnv,
    choose: Callable[[Any, np.ndarray, int], tuple[Any, np.ndarray]],
    seeds: Sequence[int],
    draw: int,
    longest: int,
) -> tuple[np.ndarray, np.ndarray]:
    """One whole episode in every environment: returns and lengths; draws are numbered from `draw` on."""
    observations = np.array(env.reset()[0])
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
    # After the end of a life, which is not the episode's, a step only begins the next one: its action does nothing.
    begins = np.zeros(env.num_envs, bool)
    playing, carry, last = np.arange(env.num_envs), None, np.zeros(env.num_envs)
    check_finite(observations, last, seeds, 0, len(seeds))
    for step in range(longest):
        carry, actions = choose(carry, observations, draw + step)
        # Environments whose episode is over would be stepped for nothing: most steps, where policies differ in skill.
        observations[playing], rewards, terminated, truncated, info = env.step_some(actions, playing)
        last[playing] = rewards
        check_finite(observations, last, seeds, 0, len(seeds))
        returns[playing] += np.where(begins[playing], 0, info.get("episode_rewards", rewards))
        lengths[playing] += ~begins[playing]
        if carry is not None and begins.any():
            carry[begins] = 0
        begins[playing] = terminated | truncated
        playing = playing[~info.get("episode_ends", terminated | truncated)]
        if not len(playing):
            return returns, lengths
    raise UserError(f"evaluation: {len(playing)} of {env.num_envs} episodes did not end within {longest:,} steps")
