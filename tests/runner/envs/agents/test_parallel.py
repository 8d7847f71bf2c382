"""PettingZoo's parallel environments as rows: agents that die, come late and differ, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from runner.envs.agents.vector import Parallel
from runner.envs.base import ABSENT, VectorEnv
from runner.envs.named.measure import step_seconds
from runner.envs.spaces import LEGAL, PRIVILEGED
from runner.envs.wrap import wrap_env
from runner.errors import FailedEnvironmentError, UserError
from tests.parallel import TIMETABLE, Lone, Masked, Stated, Timetable, Unlike

SEEDS = [5, 6, 7, 8]


def several(make: Callable[..., Any], environments: int = 2, share: Any = False, states: bool = False) -> VectorEnv:
    """A task of two trials, if `SEEDS` are its seeds."""
    return wrap_env(make, environments).arranged(share, states)


def oracle(env: Timetable, seed: int, actions: Iterator[Mapping[str, Any]]) -> Iterator[dict[str, tuple[Any, ...]]]:
    """Of one environment, stepped by itself as PettingZoo says: agent → (row, action counts, reward, ends, after)."""
    seen, _ = env.reset(seed=seed)
    while True:
        present = {name for name in env.possible_agents if name in env.agents}
        chosen = next(actions)
        if not env.agents:
            seen, _ = env.reset()
            yield {name: (False, 0.0, False, False, seen.get(name)) for name in env.possible_agents}
            continue
        after, rewards, terminated, truncated, _ = env.step({name: chosen[name] for name in env.agents})
        yield {
            name: (
                name in present,
                rewards[name] if name in present else 0.0,
                name in present and terminated[name],
                name in present and truncated[name],
                after.get(name),
            )
            for name in env.possible_agents
        }


@pytest.mark.parametrize("share", [False, True, [["late", "early"], ["whole"]]])
@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.cluster)])
def test_equals_environments_stepped_one_by_one(share: Any, threads: int) -> None:
    task, rng = several(Timetable, share=share), np.random.default_rng(0)
    assert task.agents is not None
    agents = task.agents
    taken = rng.integers(0, 4, (20, len(SEEDS), 3))
    ones = [
        oracle(Timetable(), seed, iter([dict(zip(TIMETABLE, row, strict=True)) for row in taken[:, number]]))
        for number, seed in enumerate(SEEDS)
    ]
    with task.opened(SEEDS, threads) as env:
        observations, info = env.reset()
        absent = info[ABSENT]
        for actions in taken:
            rows = env.step(agents.rows_of(actions, 2))
            filled = agents.fillers(2, 2)
            assert not rows[1][filled].any() and rows[4][ABSENT][filled].all() and absent[filled].all()
            cells = [agents.of_rows(x, 2) for x in (~absent, *rows[1:4], rows[0], ~rows[4][ABSENT])]
            for number, one in enumerate(ones):
                for place, told in enumerate(next(one).values()):
                    found = [cell[number, place] for cell in cells]
                    assert tuple(found[:4]) == told[:4]
                    if told[4] is not None and (told[0] or found[5]):
                        assert np.array_equal(found[4], told[4])
            absent = rows[4][ABSENT]
    assert observations.shape == (env.num_envs, 4)


def test_only_wanted_rows_are_stepped() -> None:
    with several(Lone).opened(SEEDS) as env:
        env.reset()
        # A trial has two members of two rows each: this is an agent of environment 2.
        observations, rewards, *_, info = env.step_some(np.full(8, 3), np.array([4]))
        assert observations.tolist() == [[7, 0, 1, 0]] and rewards.tolist() == [3] and info[ABSENT].tolist() == [False]
        assert env.step(np.zeros(8, int))[0][:, 2].tolist() == [1, 1, 1, 1, 2, 1, 2, 1]


@pytest.mark.parametrize("make", [Masked, partial(gymnasium.make, "Taxi-v4")], ids=["agents", "one"])
def test_masks_that_nobody_reads_are_said_once(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    with wrap_env(make, 2).opened(SEEDS) as env:
        env.reset()
        env.reset()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("info says which actions are possible (action_mask), and nobody reads it there: put it into")


def test_one_that_is_made_already() -> None:
    env = wrap_env(Lone())
    assert isinstance(env, Parallel) and env.environments == 1 and not env.rebuilds
    arranged = env.arranged(True, True)
    with arranged.opened([3]) as opened:
        both = [[3, 0, 0, 0], [3, 0, 0, 1]]
        assert opened.reset()[0].tolist() == [[*own, *both[0], *both[1]] for own in both]


def test_a_row_shows_its_environment() -> None:
    with several(Lone).opened(SEEDS) as env:
        env.reset()
        env.step_some(np.zeros(8, int), np.array([4]))
        assert env.render([0, 4, 6, 7])[:, 0, 0, 0].tolist() == [0, 40, 40, 0]


def test_the_shared_state_is_its_own_or_all_observations() -> None:
    env = several(Stated, states=True)
    assert env.observation_space[PRIVILEGED] == Stated.state_space  # type: ignore[index]
    with env.opened(SEEDS) as opened:
        opened.reset()
        observations = opened.step(np.zeros(8, int))[0]
    assert observations[:, 4:].tolist() == [[5, 1], [6, 1], [5, 1], [6, 1], [7, 1], [8, 1], [7, 1], [8, 1]]
    assert env.layout.states.start == 4 and env.layout.observed.stop == 4


def test_spaces_that_differ_are_padded_and_masked() -> None:
    env = several(Unlike, share=True, states=True)
    assert env.action_space == Discrete(5)
    assert env.layout.observed.stop == 4 and env.layout.states.stop - env.layout.states.start == 6
    made: list[Unlike] = []

    def make() -> Unlike:
        made.append(Unlike())
        return made[-1]

    env = several(make, 1, share=True, states=True)
    with env.opened([9]) as opened:
        first, second = opened.reset()[0]
        opened.step(np.array([2, 4]))
    parts = dict(env.layout.children)
    mask = slice(parts[LEGAL].start, parts[LEGAL].stop)
    assert first[:4].tolist() == [9, 0, 0, 0] and first[mask].tolist() == [1, 1, 1, 0, 0]
    assert second[:4].tolist() == [9, 0, 0, 1] and second[mask].tolist() == [1, 1, 1, 1, 1]
    assert first[mask.stop :].tolist() == second[mask.stop :].tolist() == [9, 0, 9, 0, 0, 1]
    assert made[0].taken[0] == {"agent_0": 3, "agent_1": 4}  # counted from 1


@pytest.mark.parametrize(
    "space", [Discrete(4, start=-2), MultiDiscrete([3, 4]), Box(-1, 2, (2,), np.float32), Box(0, 1, (2, 2), np.float64)]
)
def test_actions_arrive_as_the_environment_takes_them(space: Any) -> None:
    made: list[Timetable] = []

    def make() -> Timetable:
        made.append(Timetable({"a": TIMETABLE["whole"], "b": TIMETABLE["whole"]}, space))
        return made[-1]

    with several(make, 1).opened([1]) as env:
        env.reset()
        space.seed(0)
        actions = [space.sample() for _ in range(2)]
        env.step(np.array(actions))
    for action, taken in zip(actions, made[0].taken[0].values(), strict=True):
        assert np.allclose(action, taken, 1e-6) and np.asarray(taken).dtype == space.dtype
        assert space.contains(np.asarray(taken) if space.shape else taken)


def test_what_has_nothing_to_close_is_closed_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with several(Lone).opened(SEEDS) as env:
        env.reset()
    assert not caplog.records


class Deserter(Lone):
    """An agent leaves and says nothing."""

    def step(self, actions: Mapping[str, Any]) -> Any:
        """See the base class."""
        answer = super().step(actions)
        self.agents = self.agents[1:]
        return answer


class Stranger(Lone):
    """An agent that nobody announced."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """See the base class."""
        answer = super().reset(seed)
        self.agents.append("stranger")
        return answer


class Deserted(Lone):
    """Nobody is there to begin with."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """See the base class."""
        super().reset(seed)
        self.agents = []
        return {}, {}


class Nameless(Lone):
    """A reward too few."""

    def step(self, actions: Mapping[str, Any]) -> Any:
        """See the base class."""
        answer = super().step(actions)
        answer[1].pop("agent_1")
        return answer


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Deserter, "agent_0 is no longer in agents"),
        (Stranger, "stranger is in agents, but not in possible_agents"),
        (Nameless, "no reward of agent_1"),
        (Deserted, "nobody is in agents after a reset"),
    ],
)
def test_wrong_environments_are_refused(make: Any, words: str) -> None:
    with several(make).opened(SEEDS) as env, pytest.raises((UserError, FailedEnvironmentError), match=words):
        env.reset()
        env.step(np.zeros(8, int))


class Sized(Lone):
    """Agents whose real actions are of different sizes."""

    def action_space(self, agent: str) -> Any:
        """Wider for the second."""
        return Box(-1, 1, (2 if agent == "agent_0" else 3,), np.float32)


def test_real_actions_of_different_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="agents have different action spaces"):
        wrap_env(Sized())


def test_turns_are_refused() -> None:
    class Turns(Lone):
        def agent_iter(self) -> None:
            """Turns."""

    with pytest.raises(UserError, match="agents act in turns"):
        wrap_env(Turns())
    with pytest.raises(UserError, match="agents act in turns"):
        wrap_env(Turns, num_envs=2)


def test_an_agent_twice_is_refused() -> None:
    twins = Lone()
    twins.possible_agents = ["agent_0", "agent_0"]
    with pytest.raises(UserError, match="possible_agents has agent_0 twice; allowed: each agent once"):
        wrap_env(twins)


def test_one_agent_has_no_groups() -> None:
    with pytest.raises(UserError, match="this environment has one agent"):
        VectorEnv(1, Box(0, 1, (1,)), Discrete(2)).arranged(True, False)


def test_a_step_is_measured_for_an_environment() -> None:
    assert step_seconds(several(Lone), 0.01) > 0
