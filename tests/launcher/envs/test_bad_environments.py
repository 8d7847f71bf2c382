"""Environments that go wrong in one way each: explained before and while they train, or trained with as they are."""

from __future__ import annotations

import math
import random
import re
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text

from launcher.envs import examine
from launcher.envs.examine import findings
from runner.envs.named.recipe import Recipe
from runner.envs.python import PythonTask
from runner.envs.wrap import wrap_env
from runner.errors import FailedEnvironmentError, UserError
from runner.torch import Runner
from tests.point import Point
from tests.runner.builders import make_config

TABLE: dict[str, tuple[Callable[[], Any], str, str]] = {}
"""Name → what makes it, what `launch check` says (of its lines one is like it), how training ends ("" well)."""


def entry(checked: str, trained: str = "") -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def add(make: Callable[[], Any]) -> Callable[[], Any]:
        TABLE[make.__name__] = make, checked, trained
        return make

    return add


def seeing(checked: str, trained: str, name: str, see: Callable[[Point], Any]) -> None:
    """One whose observations are so."""
    TABLE[name] = type(name, (Point,), {"seen": see}), checked, trained


def giving(checked: str, trained: str, name: str, change: Callable[..., Any]) -> None:
    """One whose step gives what `change` makes of it."""

    def step(self: Point, action: Any) -> Any:
        return change(*Point.step(self, action))

    TABLE[name] = type(name, (Point,), {"step": step}), checked, trained


FINE = "right speed: .* steps/s on one core"
seeing(FINE, "", "Float64", lambda self: np.array([self.place, self.steps, 1.0]))
seeing(FINE, "", "Integers", lambda self: np.array([self.steps, 1, 2]))
seeing(FINE, "", "ListOfNumbers", lambda self: [self.place, self.steps, 1.0])
seeing(FINE, "", "Tensor", lambda self: torch.tensor([self.place, 1.0, 2.0]))
seeing("note an observation is of type object", "", "Objects", lambda self: np.array([self.place, 1, 2.0], object))
WORDS = "does not fit its observation_space Box"
seeing(f"wrong .*{WORDS}", WORDS, "Words", lambda self: np.array(["left", "right", "up"], object))
seeing(f"wrong .*{WORDS}", WORDS, "Nothing", lambda self: None)
seeing(f"wrong .*{WORDS}", WORDS, "Ragged", lambda self: [[1.0], [2.0, 3.0]])
NAN = r"the environment with seed \d+ gave an observation of nan \(number 0 of 3\); allowed: finite numbers"
seeing(f"wrong {NAN}", NAN, "NotANumber", lambda self: np.array([math.nan if self.steps else 0, 0, 0], np.float32))
LARGE = "gave an observation of -?inf"
seeing(f"wrong .*{LARGE}", LARGE, "TooLargeForFloat32", lambda self: np.array([0.0, self.place * 1e300, 0.0]))
SHAPE = r"an observation, float32 of shape \(4,\), does not fit its observation_space Box\("
seeing(f"wrong .*{SHAPE}", SHAPE, "ShapeThatChanges", lambda self: np.zeros(3 + (self.steps > 1), np.float32))
TURNED = r"an observation, float32 of shape \(3, 1\), .*: found shape \[3, 1\]; allowed: \[3\]"
seeing(f"wrong .*{TURNED}", TURNED, "ShapeOfAColumn", lambda self: np.zeros((3, 1), np.float32))


class PartThatIsTurned(Point):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = Dict(x=Box(-9, 9, (2, 3)))

    def seen(self) -> Any:
        return {"x": np.ones((3, 2))}


PART = r"does not fit its observation_space Dict.*: \['x'\]: found shape \[3, 2\]; allowed: \[2, 3\]"
TABLE["PartThatIsTurned"] = PartThatIsTurned, f"wrong (?s:.*){PART}", PART
seeing("note all observations were the same", "", "Blind", lambda self: np.ones(3, np.float32))
scaled = lambda self: np.array([1e6 * self.place, 0, 0], np.float32)  # noqa: E731
seeing(r"note observations are as large as .*e\+0", "", "Unscaled", scaled)

NUMBER = "step gives as reward {}; allowed: one number"
giving(FINE, "", "RewardOfShape1", lambda o, r, *rest: (o, np.array([r]), *rest))
giving(FINE, "", "RewardOfNumpy", lambda o, r, *rest: (o, np.float64(r), *rest))
giving(FINE, "", "RewardTrue", lambda o, r, *rest: (o, r > -1, *rest))
TWO = NUMBER.format(r"float64 of shape \(2,\)")
giving(f"wrong .*{TWO}", TWO, "RewardOfShape2", lambda o, r, *rest: (o, np.array([r, r]), *rest))
NONE = NUMBER.format("NoneType None")
giving(f"wrong .*{NONE}", NONE, "RewardNone", lambda o, r, *rest: (o, None, *rest))
TEXT = NUMBER.format("str 'good'")
giving(f"wrong .*{TEXT}", TEXT, "RewardText", lambda o, r, *rest: (o, "good", *rest))
giving("wrong .*gave a reward of nan", "gave a reward of nan", "RewardNaN", lambda o, r, *rest: (o, math.nan, *rest))
giving("note the reward was 0 at each of", "", "RewardZero", lambda o, r, *rest: (o, 0.0, *rest))
giving(FINE, "", "EndsOfNumpy", lambda o, r, a, b, i: (o, r, np.bool_(a), np.array([int(b)]), i))
giving(FINE, "", "BothEnds", lambda o, r, a, b, i: (o, r, a or b, a or b, i))
ENDED = "step gives as terminated NoneType None; allowed: one number"
giving(f"wrong .*{ENDED}", ENDED, "EndNone", lambda o, r, a, b, i: (o, r, None, b, i))
FOUR = r"step gives a tuple of 4; allowed: .* \(gym before 0.26 gave four\)"
giving(f"wrong .*{FOUR}", FOUR, "OldStep", lambda o, r, a, b, i: (o, r, a or b, i))
giving(FINE, "", "StepGivesAList", lambda *all_of_it: list(all_of_it))
giving("note info is NoneType", "", "InfoNone", lambda o, r, a, b, i: (o, r, a, b, None))
giving(FINE, "", "InfoOfOddShapes", lambda o, r, a, b, i: (o, r, a, b, {"x": np.zeros((2, 3)), 5: [object()], "y": ""}))
giving("note info has a final observation", "", "Restarting", lambda o, r, a, b, i: (o, r, a, b, {"final_obs": o}))
giving("note info says which actions are possible", "", "MaskInInfo", lambda *x: (*x[:4], {"action_mask": np.ones(2)}))
limited = lambda o, r, a, b, i: (o, r, bool(b), False, i)  # noqa: E731
giving("note every episode was terminated after 20 steps", "", "LimitAsTermination", limited)
giving("note no episode ended in", "", "NeverEnding", lambda o, r, a, b, i: (o, r, False, False, i))


STOPPED = "raised in its step: StopIteration"


@entry(f"wrong .*{STOPPED}", STOPPED)
class DataThatEnds(Point):
    def step(self, action: Any) -> Any:
        return next(iter(()))


@entry("wrong .*reset gives float32 of shape", "reset gives float32 of shape")
class OldReset(Point):
    def reset(self, **arguments: Any) -> Any:
        return super().reset(**arguments)[0]


@entry("wrong .*raised in its reset: TypeError: .*seed", "raised in its reset: TypeError: .*seed")
class ResetWithoutSeed(Point):
    def reset(self) -> Any:
        return super().reset()


@entry("wrong .* cannot be made: RuntimeError: no simulator", "cannot be made: RuntimeError: no simulator")
class FailsToBegin(Point):
    def __init__(self) -> None:
        raise RuntimeError("no simulator")


@entry("wrong .*raised in its step: ZeroDivisionError", "raised in its step: ZeroDivisionError")
class FailsAtAStep(Point):
    def step(self, action: Any) -> Any:
        return super().step(action) if 1 / (3 - self.steps) else ()


@entry("wrong .*raised in its step: SystemExit: 2", "raised in its step: SystemExit: 2")
class Exits(Point):
    def step(self, action: Any) -> Any:
        raise SystemExit(2)


@entry(FINE)
class FailsToClose(Point):
    def close(self) -> None:
        raise RuntimeError("never opened")


@entry("note reset seeds, or draws from, numpy.random, which all environments")
class SeedsAll(Point):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            np.random.seed(seed)
        return super().reset(seed=seed)


@entry("wrong beside another one it gives something else")
class DrawsFromAll(SeedsAll):
    def step(self, action: Any) -> Any:
        self.place += np.random.normal()
        return super().step(action)


@entry("wrong reset a second time with its seed it gives something else, from step 0 on")
class NeverForgets(Point):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        before = self.place
        super().reset(seed=seed)
        self.place += before
        return self.seen(), {}


@entry("wrong reset a second time with its seed it gives something else")
class Unseeded(Point):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset()
        self.place = random.SystemRandom().random()
        return self.seen(), {}


@entry("wrong made anew with the same seed it gives something else")
class Numbered(Point):
    made = 0

    def __init__(self) -> None:
        super().__init__()
        Numbered.made += 1
        self.number = Numbered.made

    def seen(self) -> Any:
        return np.array([self.number, self.steps, self.place], np.float32)


@entry(FINE)
class WritesIntoWhatItGets(Point):
    def step(self, action: Any) -> Any:
        action[:] = 7.0
        return super().step(action)


@entry(FINE)
class OneBuffer(Point):
    buffer = None

    def seen(self) -> Any:
        self.buffer = np.zeros(3, np.float32) if self.buffer is None else self.buffer
        self.buffer[:] = self.place, self.steps, 1.0
        return self.buffer


@entry(FINE)
class CannotBePickled(Point):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


@entry("note each has threads of its own: 1")
class Threaded(Point):
    def __init__(self) -> None:
        super().__init__()
        self.done = threading.Event()
        threading.Thread(target=self.done.wait, daemon=True).start()

    def close(self) -> None:
        self.done.set()


@entry("note actions have no bounds")
class UnboundedActions(Point):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = Box(-np.inf, np.inf, (1,), np.float32)


@entry("note actions are between 0 and 1000")
class ActionsFarAway(Point):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = Box(0, 1000, (1,), np.float32)


@entry(r"note an observation number 2 is 1\.0, its space says 0\.0 to 0\.5")
class OutOfBounds(Point):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = Box(0, 0.5, (3,), np.float32)


BYTES = "found numbers of type float64 that uint8 does not hold; allowed: 0 to 255"


@entry(f"wrong .*{BYTES}", BYTES)
class ScaledPicture(Point):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = Box(0, 255, (4, 4, 3), np.uint8)

    def seen(self) -> Any:
        return np.full((4, 4, 3), 0.5)


@entry("wrong .*an observation, dict .*, does not fit its observation_space Dict.*: 'b'", "'b'")
class LacksAPart(Point):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = Dict(a=Discrete(30), b=Discrete(3))

    def seen(self) -> Any:
        return {"a": self.steps}


@entry("note an observation has 'c' beside what its space says")
class HasMore(LacksAPart):
    def seen(self) -> Any:
        return {"a": self.steps, "b": 0, "c": 9}


@entry("wrong observation space: Text is not supported", "observation space: Text is not supported")
class SpaceOfWords(Point):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = Text(9)


@entry("wrong action space: Dict.* is not supported", "action space: Dict.* is not supported")
class ActionsOfParts(Point):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = Dict(a=Discrete(2))


@entry("wrong .*has as observation_space None; allowed: a space of gymnasium", "has as observation_space None")
class WithoutSpaces(Point):
    def __init__(self) -> None:
        super().__init__()
        del self.observation_space


@entry("wrong env: .*Leaving cannot be made: SystemExit: 0 ", "Leaving cannot be made: SystemExit: 0 ")
class Leaving(Point):
    def __init__(self) -> None:
        sys.exit(0)


@entry("wrong .*cannot use a .*NoEnvironment", "cannot use a .*NoEnvironment")
class NoEnvironment:
    """It only looks like one."""

    observation_space, action_space = Box(0, 1, (3,)), Discrete(2)

    def reset(self) -> Any:
        return np.zeros(3)


def made(name: str, num_envs: int = 2) -> PythonTask:
    return PythonTask(Recipe.of(TABLE[name][0]), num_envs, wrap_env)


def test_there_are_many() -> None:
    assert len(TABLE) >= 55


@pytest.fixture
def own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of a trial are those that this process computes: on a busy machine it would come to too few steps."""
    monkeypatch.setattr(examine, "time", SimpleNamespace(perf_counter=time.process_time))


@pytest.mark.parametrize("name", TABLE)
def test_a_check_says_what_is_wrong(name: str, own_time: None, recwarn: pytest.WarningsRecorder) -> None:
    lines = [" ".join(finding) for finding in findings(lambda: made(name), 0.05)]
    assert any(re.match(TABLE[name][1], line) for line in lines), lines
    assert sum(line.endswith(examine.MISFIT) for line in lines) <= 1, lines
    wrong = [line for line in lines if line.startswith("wrong")]
    assert bool(wrong) == TABLE[name][1].startswith("wrong"), wrong
    if wrong:
        assert len(wrong) == 1 and ("allowed" in wrong[0] or len(wrong[0].split()) > 6)


class Picky(Point):
    """Raises at actions that its mask, another one at every step, says are impossible."""

    def __init__(self, action_space: Any, shape: tuple[int, ...], combined: bool = False) -> None:
        super().__init__()
        self.action_space, self.combined = action_space, combined
        self.observation_space = Dict(action_mask=Box(0, 1, shape, np.int8), place=Box(-np.inf, np.inf, (3,)))

    def seen(self) -> Any:
        self.mask = self.np_random.integers(0, 2, self.observation_space["action_mask"].shape, np.int8)
        self.mask[:, 1] = True
        return {"action_mask": self.mask, "place": super().seen()}

    def step(self, action: Any) -> Any:
        taken = [self.mask[tuple(action)]] if self.combined else self.mask[range(len(self.mask)), action]
        assert all(taken), f"{action} is not among {self.mask}"
        return super().step(np.zeros(1))


class Far(Point):
    """Raises at actions beyond its bounds, which are far from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = Box(2, 4, (1,), np.float32)

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        return super().step(action)


@pytest.mark.parametrize(
    "make",
    [
        Far,
        partial(Picky, MultiDiscrete([3, 2]), (2, 3)),
        partial(Picky, MultiDiscrete([3, 2]), (3, 2), True),
        partial(Picky, MultiDiscrete([3]), (1, 3)),
    ],
)
def test_a_check_takes_actions_that_are_possible(make: Callable[[], Any], own_time: None) -> None:
    lines = [" ".join(finding) for finding in findings(lambda: PythonTask(Recipe.of(make), 2), 0.05)]
    assert lines[-1].startswith("right speed: ") and not any(line.startswith("wrong") for line in lines), lines


def test_the_time_to_make_one_is_told_though_the_first_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Point):
        def __init__(self) -> None:
            super().__init__()
            time.sleep(0.1)

    monkeypatch.setattr(examine, "SLOW", 0.05)
    found = [finding.what for finding in findings(lambda: PythonTask(Recipe.of(Slow), 2), 0.05)]
    assert sum(what.startswith("to make one takes") for what in found) == 1, found


@pytest.mark.parametrize("name", TABLE)
def test_training_goes_well_or_says_what_is_wrong(name: str, recwarn: pytest.WarningsRecorder) -> None:
    try:
        task = made(name)
        policy = "CategoricalMixin" if task.actions.discrete else "GaussianMixin"
        runner = Runner(task, make_config({"trainer.timesteps": 24}, policy), seeds=[1, 2], threads=1)
        for _ in runner.reports():
            pass
    except (UserError, FailedEnvironmentError) as error:
        assert TABLE[name][2] and re.search(TABLE[name][2], str(error)), error
        assert isinstance(error, UserError) or error.member(2) == 0
    else:
        assert not TABLE[name][2]
        assert all(np.isfinite(state.parameters).all() for state in runner.states())
