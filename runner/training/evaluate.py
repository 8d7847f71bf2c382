"""Play whole episodes with fixed policies: no learning, no files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runner.draws import environment_seeds
from runner.envs.base import ABSENT, VectorEnv, check_finite
from runner.errors import UserError

LONGEST_EPISODE = 1_000_000
EVALUATION_RESET = 2**31
"""The `timestep of the reset` of evaluation environments: none that training reaches."""


@dataclass(frozen=True)
class Episode:
    """One finished episode.

    Attributes:
        member: index of the trial that played it.
        number: of the episode among the trial's.
        ret: sum of raw rewards; of several agents, the team's.
        length: steps.
        seed: of its environment; a vector environment that takes one only has that of its first.
        each: the return of each of several agents, by name.
    """

    member: int
    number: int
    ret: float
    length: int
    seed: int
    each: Mapping[str, float] = field(default_factory=dict)


def play(
    opened: Callable[[Sequence[int]], AbstractContextManager[VectorEnv]],
    choose: Callable[[Any, np.ndarray, int], tuple[Any, np.ndarray]],
    seeds: Sequence[int],
    episodes: int,
    at_once: int,
    longest: int = LONGEST_EPISODE,
    team_return: str = "sum",
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
        team_return: how the returns of several agents are one.

    Returns:
        P · `episodes` of them, ordered by member and number.
    """
    rounds = -(-episodes // at_once)
    numbered = [environment_seeds(seed, rounds * at_once, EVALUATION_RESET) for seed in seeds]
    found: list[Episode] = []
    for first in range(0, rounds * at_once, at_once):
        chosen = [seed for numbers in numbered for seed in numbers[first : first + at_once]]
        with opened(chosen) as env:
            returns, lengths = _round(env, choose, chosen, first * longest, longest, at_once)
            each: list[dict[str, float]] = [{}] * len(chosen)
            if env.agents is not None:
                returns, lengths = (env.agents.of_rows(x, at_once) for x in (returns, lengths))
                each = [dict(zip(env.agents.names, row, strict=True)) for row in returns.tolist()]
                returns, lengths = returns.mean(1) if team_return == "mean" else returns.sum(1), lengths.max(1)
        found += [
            Episode(i // at_once, first + i % at_once, float(returns[i]), int(lengths[i]), chosen[i], each[i])
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
    at_once: int,
) -> tuple[np.ndarray, np.ndarray]:
    """One whole episode in every environment: returns and lengths of rows; draws are numbered from `draw` on."""
    observations, info = env.reset()
    observations, absent = np.array(observations), np.array(info.get(ABSENT, np.zeros(env.num_envs, bool)))
    which = environments(env, at_once)
    of_rows = [seeds[number] for number in which], which.tolist(), len(seeds)
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
    # After the end of a life, which is not the episode's, a step only begins the next one: its action does nothing.
    begins = np.zeros(env.num_envs, bool)
    playing, carry, last = np.arange(env.num_envs), None, np.zeros(env.num_envs)
    check_finite(observations, last, *of_rows)
    for step in range(longest):
        carry, actions = choose(carry, observations, draw + step)
        # Environments whose episode is over would be stepped for nothing: most steps, where policies differ in skill.
        observations[playing], rewards, terminated, truncated, info = env.step_some(actions, playing)
        last[playing] = rewards
        check_finite(observations, last, *of_rows)
        returns[playing] += np.where(begins[playing], 0, info.get("episode_rewards", rewards))
        lengths[playing] += ~begins[playing]
        # A life that begins remembers nothing, nor does an agent that was not there.
        if carry is not None and (forgets := begins | absent).any():
            carry[forgets] = 0
        begins[playing] = terminated | truncated
        ended = info.get("episode_ends", terminated | truncated)
        if env.agents is not None:
            ended = _over(ended, ~absent[playing], which[playing])
            absent[playing] = info[ABSENT]
        playing = playing[~ended]
        if not len(playing):
            return returns, lengths
    left, all_of = len(np.unique(which[playing])), len(np.unique(which))
    raise UserError(f"evaluation: {left} of {all_of} episodes did not end within {longest:,} steps")


def environments(env: VectorEnv, at_once: int) -> np.ndarray:
    """The environment of each row, N of each trial."""
    if env.agents is None:
        return np.arange(env.num_envs)
    numbers = np.arange(env.num_envs // env.agents.rows)[:, None].repeat(len(env.agents.names), 1)
    rows: np.ndarray = env.agents.rows_of(numbers, at_once)
    return rows


def _over(ended: np.ndarray, valid: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Rows whose environment's episode has ended: for one agent of it, and for all that were there."""
    ends, goes_on = (np.bincount(which, rows) > 0 for rows in (valid & ended, valid & ~ended))
    over: np.ndarray = (ends & ~goes_on)[which]
    return over
