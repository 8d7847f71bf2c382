"""The trial of an environment, which finds what is right and wrong about it: values, seeds, ends, speed.

It runs in a process of its own, see `launcher.envs.check`: what is tried may print, hang or end the process.

python -m launcher.envs.examine ENV SECONDS FILE    # a section of a configuration as JSON; findings are lines of FILE
"""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete

from launcher.envs.catalogue import in_words
from launcher.envs.misfit import misfit
from runner.config.schema import EnvConfig
from runner.cores import stepping_threads, usable_cores
from runner.envs.base import ABSENT, Step, VectorEnv
from runner.envs.loop import unread
from runner.envs.named.legal import legal
from runner.envs.named.measure import step_seconds
from runner.envs.python import InProcess, PythonTask
from runner.envs.task import task
from runner.envs.tensors import FINAL
from runner.errors import FailedEnvironmentError, UserError, last_words

SEEDS = [7, 8]
SAME = 300
"""Steps that must be the same again."""
SLOW = 5.0
"""Seconds that nobody wants to wait for one environment."""
LARGE = 100.0
"""Observations beyond it keep a network from learning."""
ANEW = "made anew with the same seed"
MISFIT = "give what observation_space says, or let it say what is given; training goes by its shape and type"
MODERATE = 10.0
"""Actions up to which a policy comes by itself."""
LEARNING = 5e-6
"""About the seconds that all else takes for a step of an environment."""


class Finding(NamedTuple):
    """One line of the result.

    Attributes:
        level: right, note (it can be trained with) or wrong.
        what: was found.
        fix: what to do about it.
    """

    level: Literal["right", "note", "wrong"]
    what: str
    fix: str = ""


class Witness(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Takes note of what is odd in what an environment gives, while someone else steps it."""

    def __init__(self, env: gymnasium.Env[Any, Any], odd: dict[str, str]) -> None:
        """Watch `env`; `odd` is what was found → what to do about it."""
        super().__init__(env)
        self._odd = odd

    def reset(self, **arguments: Any) -> Any:
        """Also whether the generators of all the process were touched."""
        before = _generators()
        answer = self.env.reset(**arguments)
        after = _generators()
        for name, was, now in zip(("numpy.random", "random"), before, after, strict=True):
            if was != now:
                self._odd[f"reset seeds, or draws from, {name}, which all environments of a process share"] = (
                    "draw from self.np_random, which super().reset(seed=seed) seeds"
                )
        self._look(answer, 2)
        return answer

    def step(self, action: Any) -> Any:
        """Also what its info has."""
        answer = self.env.step(action)
        self._look(answer, 5)
        return answer

    def _look(self, answer: Any, length: int) -> None:
        if not isinstance(answer, tuple) or len(answer) != length:
            return  # whoever steps it will say so
        if MISFIT not in self._odd.values() and (wrong := misfit(self.env.observation_space, answer[0])):
            self._odd[f"an observation {wrong}"] = MISFIT
        info = answer[-1]
        if not isinstance(info, dict):
            self._odd[f"info is {type(info).__name__}"] = "a dict; training does not read it"
            return
        if any(name in info for name in FINAL):
            self._odd["info has a final observation: it seems to reset itself at the end of an episode"] = (
                "give the last observation of the episode, and leave it to the caller to reset"
            )
        if said := unread(info):
            self._odd[said] = ""


class Warnings(logging.Handler):
    """Takes note of what we warn of ourselves, once."""

    def __init__(self, odd: dict[str, str]) -> None:
        """Note it in `odd`, as `Witness` does; a warning says itself what to do."""
        super().__init__(logging.WARNING)
        self._odd = odd

    def emit(self, record: logging.LogRecord) -> None:
        """Note it."""
        self._odd[record.getMessage()] = ""


@contextlib.contextmanager
def warned_of(odd: dict[str, str]) -> Iterator[None]:
    """Meanwhile what we warn of is noted, not printed, where it would look like the environment's printing."""
    ours, handler = logging.getLogger("runner"), Warnings(odd)
    ours.addHandler(handler)
    propagates, ours.propagate = ours.propagate, False
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.propagate = propagates


def _generators() -> tuple[Any, Any]:
    """The state of those that a whole process shares."""
    return pickle.dumps(np.random.get_state(legacy=False)), random.getstate()


def examine(env: VectorEnv, seconds: float) -> Iterator[Finding]:
    """Try an environment for about so many seconds; an error ends it."""
    yield Finding("right", f"spaces: {in_words(env.observation_space)} → {in_words(env.action_space)}")
    if env.agents is not None:
        yield Finding("right", f"agents, which act at once and have these spaces: {', '.join(env.agents.names)}")
        env = env.of_each(1)
    yield from _spaces(env)
    first = env.seeded(SEEDS[:1], 1)
    numbers = _numbers(env, np.random.default_rng(0), SAME)
    seen = _trace(first, numbers, seconds / 8)
    yield from _repeats(env, first, seen, numbers)
    yield from _ends(first, env, seconds / 2)
    first.close()


def _spaces(env: VectorEnv) -> Iterator[Finding]:
    seen, space = env.observation_space, env.actions
    if isinstance(seen, Discrete):
        what = f"an observation is the number of one of {seen.n} states, which a network takes for a size"
        yield Finding("note", what, "input: one_hot_encoding(OBSERVATION_SPACE, OBSERVATIONS), in each network")
    if space.discrete:
        return
    if not space.bounded:
        yield Finding("note", "actions have no bounds", "give action_space bounds: clip_actions keeps policies in them")
        return
    low, high = space.low.min(), space.high.max()
    if np.isfinite([low, high]).all() and (high > MODERATE or low < -MODERATE or low >= 0 or high <= 0):
        rescaled = "{gymnasium.wrappers.RescaleAction: {min_action: -1.0, max_action: 1.0}}"
        what = f"actions are between {low:g} and {high:g}, and policies begin around 0 with a spread of 1"
        yield Finding("note", what, f"env.wrappers: [{rescaled}]")


def _numbers(env: VectorEnv, rng: np.random.Generator, steps: int) -> np.ndarray:
    """Random ones that choose actions, `[steps, A]`."""
    return rng.random((steps, len(env.actions.low)))


def _trace(env: VectorEnv, numbers: np.ndarray, seconds: float) -> list[tuple[np.ndarray, ...]]:
    """All that the first environment gives, for as many steps as there is time for; the same numbers choose for all."""
    rows = 1 if env.agents is None else env.agents.rows
    seen = env.reset()[0]
    found: list[tuple[np.ndarray, ...]] = [(seen[:rows],)]
    end = time.perf_counter() + seconds
    for some in numbers:
        answer = env.step(legal(env, seen, some))[:4]
        seen = answer[0]
        found.append(tuple(column[:rows] for column in answer))
        if time.perf_counter() > end:
            break
    return found


def _repeats(
    env: VectorEnv, first: VectorEnv, seen: Sequence[tuple[np.ndarray, ...]], numbers: np.ndarray
) -> Iterator[Finding]:
    """Findings on seeds, which should decide everything: again, in a new one, and beside another one."""
    own = (
        "take all that is random from self.np_random, which super().reset(seed=seed) seeds, and nothing from the clock"
    )
    # Pools are made anew for other seeds, and are not reset to them.
    twice = ("reset a second time with its seed", lambda: first, "let reset forget all that was before")
    trials: tuple[tuple[str, Callable[[], VectorEnv], str], ...] = (
        *([twice] if isinstance(first, InProcess) else []),
        (ANEW, lambda: env.seeded(SEEDS[:1], 1), own),
        ("beside another one", lambda: env.seeded(SEEDS, 1), "keep nothing in globals or in the class; " + own),
    )
    for how, make, fix in trials:
        threads, began = threading.active_count(), time.perf_counter()
        other = make()
        if how == ANEW:  # the first may have been there, to know its spaces
            yield from _made(time.perf_counter() - began, threading.active_count() - threads)
        again = _trace(other, numbers[: len(seen) - 1], float("inf"))
        if other is not first:
            other.close()
        step = next((n for n, (a, b) in enumerate(zip(seen, again, strict=True)) if not _same(a, b)), None)
        if step is not None:
            yield Finding("wrong", f"{how} it gives something else, from step {step} on", fix)
            return
    yield Finding("right", f"seeding: {len(seen) - 1} steps are the same again, anew and beside another one")
    if not any(row[0].any() for row in seen) or all(_same(row[:1], seen[0]) for row in seen):
        yield Finding("note", "all observations were the same", "give what a policy can act on")


def _made(seconds: float, threads: int) -> Iterator[Finding]:
    """Findings on what it took to make one."""
    if seconds > SLOW:
        yield Finding(
            "note", f"to make one takes {seconds:.1f} s", "load what is large when it is first needed, or once"
        )
    if threads > 0:
        yield Finding(
            "note", f"each has threads of its own: {threads}", "packs have hundreds of environments; use none"
        )


def _same(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def _ends(one: VectorEnv, env: VectorEnv, seconds: float) -> Iterator[Finding]:
    """Findings on episodes under random actions: how they end, and what they give."""
    rng, end = np.random.default_rng(1), time.perf_counter() + seconds
    lengths: dict[str, list[int]] = {"terminated": [], "truncated": []}
    steps = length = 0
    rewards: Counter[float] = Counter()
    observations = one.reset()[0]
    largest = float(np.abs(observations).max(initial=0))
    while time.perf_counter() < end:
        for numbers in _numbers(env, rng, 100):
            answer = one.step(legal(one, observations, numbers))
            observations, (reward, terminated, truncated) = answer[0], _of_first(one, answer)
            steps, length = steps + 1, length + 1
            rewards[reward] += 1
            largest = max(largest, float(np.abs(observations).max(initial=0)))
            if terminated or truncated:
                lengths["terminated" if terminated else "truncated"].append(length)
                length = -1 if not one.resets_at_once else 0  # the next row is a reset
            if time.perf_counter() > end:
                break
    limit = "env.wrappers: [{gymnasium.wrappers.TimeLimit: {max_episode_steps: 1000}}]"
    if env.agents is not None:  # which gymnasium's wrappers do not take
        limit = "truncate every agent after so many steps; PettingZoo's own environments take max_cycles"
    if not any(lengths.values()):
        yield Finding("note", f"no episode ended in {steps:,} random steps: evaluation waits for ends", limit)
    else:
        told = ", ".join(
            f"{len(some):,} {how} after {np.mean(some):,.0f} steps" for how, some in lengths.items() if some
        )
        yield Finding("right", f"episodes: {told}")
    ends = lengths["terminated"]
    if len(ends) > 3 and set(ends) == {ends[0]} and ends[0] > 1 and not lengths["truncated"]:
        fix = "a time limit is truncated=True, not terminated=True: else values learn that there is nothing after it"
        yield Finding("note", f"every episode was terminated after {ends[0]:,} steps", fix)
    if len(rewards) == 1:
        yield Finding(
            "note",
            f"the reward was {next(iter(rewards)):g} at each of {steps:,} random steps",
            "see that it can be found",
        )
    if largest > LARGE and not (env.layout.has_image or isinstance(env.observation_space, Discrete)):
        fix = "agent.state_preprocessor: RunningStandardScaler, or give numbers around 1"
        yield Finding("note", f"observations are as large as {largest:,.3g}", fix)


def _of_first(env: VectorEnv, answer: Step) -> tuple[float, bool, bool]:
    """The reward of the first environment and whether its episode has ended: for all its agents."""
    _, rewards, terminated, truncated, info = answer
    if env.agents is None:
        return float(rewards[0]), bool(terminated[0]), bool(truncated[0])
    over, cut = bool(info[ABSENT].all()), bool(truncated.any())
    return float(rewards.sum()), over and not cut, over and cut


def speed(env: VectorEnv) -> str:
    """The cost of a step, and what a launch may make of it."""
    step, cores = step_seconds(env), usable_cores()
    launch = cores / (step + LEARNING)
    processes = stepping_threads(cores if env.splits else 1, env.environments, step, LEARNING)
    single = 1 / (step / processes + LEARNING)
    text = f"{1 / step:,.0f} steps/s on one core ({1e6 * step:,.1f} µs a step)"
    if cores == 1:
        return f"{text}; launch here: about {launch:,.0f} steps/s"
    several = f", stepped by {processes} cores" if processes > 1 else ""
    text += f"; launch with {cores} seeds or more on these {cores} cores: about {launch:,.0f} steps/s"
    return f"{text}, with one{several}: {single:,.0f}"


def watched(env: VectorEnv, odd: dict[str, str]) -> VectorEnv:
    """The same environment, which takes note of what is odd."""
    if not isinstance(env, PythonTask) or not env.single:
        return env
    wrappers = [*env.recipe.wrappers, (Witness, {"odd": odd})]
    return PythonTask(replace(env.recipe, wrappers=wrappers), env.num_envs)


def findings(make: Callable[[], VectorEnv], seconds: float) -> Iterator[Finding]:
    """All of them: an error or the speed comes last."""
    odd: dict[str, str] = {}
    error: Finding | None = None
    with warned_of(odd):
        try:
            env = make()
            yield from examine(watched(env, odd), seconds)
        except (UserError, FailedEnvironmentError) as raised:
            error = Finding("wrong", str(raised))
        except Exception as raised:
            error = Finding("wrong", last_words(raised))
        yield from (Finding("note", what, fix) for what, fix in odd.items())
        yield error or Finding("right", f"speed: {speed(env)}")


def main(env: str, seconds: str, file: str) -> None:
    """Write findings, each as soon as it is there, and null after the last."""
    with Path(file).open("w") as out:
        for finding in findings(lambda: task(EnvConfig.model_validate_json(env)), float(seconds)):
            out.write(json.dumps(finding) + "\n")
            out.flush()
        out.write("null\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
