"""How environments of Python are named, imported and made: by configuration, and what of it is refused."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from runner.config.schema import EnvConfig
from runner.envs.envpool import EnvPoolTask
from runner.envs.named import imports
from runner.envs.python import PythonTask
from runner.envs.task import task
from runner.envs.wrap import wrap_env
from runner.errors import UserError

FOLDER = Path(__file__).parents[2] / "fixtures" / "environments"


def config(name: str, num_envs: int = 3, **arguments: object) -> EnvConfig:
    return EnvConfig.model_validate({"id": name, "num_envs": num_envs, **arguments})


@pytest.fixture(autouse=True)
def _nothing_is_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(imports.VARIABLE, "{}")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def world() -> None:
    """The package of `FOLDER` is allowed."""
    imports.allow({"point_world": str(FOLDER)})


def test_the_id_chooses() -> None:
    pool, python = task(config("Pendulum-v1")), task(config("gymnasium:Pendulum-v1"))
    assert isinstance(pool, EnvPoolTask) and isinstance(python, PythonTask)
    assert python.num_envs == 3 and python.layout == pool.layout
    python.close()


@pytest.mark.parametrize(
    ("name", "arguments", "most"),
    [
        ("point_world:PointEnv", {"length": 5}, 5),
        ("point_world:MyPoint-v0", {}, 10),
        ("gymnasium:MyPoint-v0", {"length": 7}, 7),
        ("gymnasium:MyPoint-v0", {"max_episode_steps": 4}, 4),
        ("point_world:PointEnv", {"wrappers": [{"gymnasium.wrappers.TimeLimit": {"max_episode_steps": 3}}]}, 3),
        ("point_world:make_vec", {"length": 6}, 6),
        ("point_world:make_three", {"num_envs": 3}, 20),
    ],
)
@pytest.mark.usefixtures("world")
def test_every_form_of_name_makes_its_environment(name: str, arguments: dict[str, Any], most: int) -> None:
    """A point that nobody pushes is at the end of its time when its episode is over."""
    env = task(config(name, **arguments)).seeded([1, 2, 3])
    env.reset()
    for step in range(1, 25):  # noqa: B007
        *_, truncated, _ = env.step(np.zeros((3, 1), np.float32))
        if truncated.all():
            break
    assert step == most
    env.close()


@pytest.mark.usefixtures("world")
def test_wrappers_are_put_around_in_order() -> None:
    limit = {"gymnasium.wrappers.TimeLimit": {"max_episode_steps": 3}}
    made = task(config("point_world:PointEnv", wrappers=[{"point_world:Clip": {"low": -0.5}}, limit]))
    env = made._make(1)
    assert str(env).startswith("<TimeLimit<Clip<PointEnv")
    assert env.env.low == -0.5


def test_a_file_alone_imports_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    where = {"env.id": config("point_world:PointEnv"), "env.wrappers.0": config("gymnasium:Pendulum-v1")}
    where["env.wrappers.0"].__pydantic_extra__["wrappers"] = ["point_world.Clip"]
    monkeypatch.delitem(sys.modules, "point_world", raising=False)
    for place, env in where.items():
        with pytest.raises(imports.ImportRefusedError, match=f"{place}: point_world: imp.*add --import point_world"):
            task(env)
    # What gymnasium's modules import themselves, or do to files, is not theirs to give.
    system = (
        "gymnasium.wrappers.rendering:os.system",
        "gymnasium.wrappers:rendering.os.system",
        "gymnasium.utils:seeding",
    )
    for name in (*system, "gymnasium.utils.save_video:save_video", "gymnasium.vector.SyncVectorEnv", "gymnasium.make"):
        wrapped = config("gymnasium:Pendulum-v1", wrappers=[{name: {"command": f"touch {tmp_path}/made"}}])
        for env in (wrapped, *([config(name)] if ":" in name else [])):
            with pytest.raises(
                imports.ImportRefusedError, match=r"env\.(id|wrappers\.0): gymnasium.*add --import gymna"
            ):
                task(env)
    assert not list(tmp_path.glob("made"))
    # gymnasium's own way to import: an id with a module in it.
    with pytest.raises(UserError, match="gymnasium has registered no 'point_world:MyPoint-v0'"):
        task(config("gymnasium:point_world:MyPoint-v0"))
    assert "point_world" not in sys.modules


WRONG = {
    "module": ("point_wrld:PointEnv", {}, r"no module point_wrld, neither installed nor in /.*'point_world'"),
    "name": ("point_world:PointEnw", {}, r"point_world \(.*__init__.py\) has no PointEnw. Did you mean 'PointEnv'"),
    "id": ("gymnasium:MyPont-v0", {}, "gymnasium has registered no 'MyPont-v0'. Did you mean 'MyPoint-v0'"),
    "argument": ("point_world:PointEnv", {"lenght": 3}, r"env.lenght: point_world:PointEnv has no such .*'length'"),
    "of an id": ("gymnasium:MyPoint-v0", {"lenght": 3}, r"env.lenght: .* has no such argument.*'length'"),
    "ours": ("point_world:make_vec", {"size": 3}, "env.size: .*has no such argument. Allowed for .*: length"),
    "constructor": ("point_world:PointEnv", {"length": 0}, r"cannot be made: ValueError: length 0 must .*__init__.py:"),
    "another's": ("point_world:np.random.rand", {}, "env.id: numpy is another module than point_world"),
    "Python's": ("point_world:__loader__.get_data", {"path": "x"}, "env.id: __loader__ is Python's own"),
    "no class": ("point_world:gymnasium", {}, "env.id: point_world:gymnasium is <module .*; allowed: a class or func"),
    "gymnasium's wrapper": (
        "point_world:PointEnv",
        {"wrappers": ["gymnasium.wrappers.TimeLimitt"]},
        "env.wrappers.0: gymnasium.wrappers has no TimeLimitt. Did you mean 'TimeLimit'",
    ),
    "a module inside": (
        "pydoc_data:topics",
        {},
        "pydoc_data .* has no topics. It is a module of its own: allowed: pydoc_data.topics:NAME",
    ),
    "its argument": (
        "point_world:PointEnv",
        {"wrappers": ["point_world:Clip", {"point_world.Clip": {"hi": 1}}]},
        "env.wrappers.1.hi: point_world.Clip has no such argument. Allowed for point_world.Clip: low",
    ),
    "its need": (
        "point_world:PointEnv",
        {"wrappers": ["gymnasium.wrappers.TimeLimit"]},
        "env.wrappers.0.max_episode_steps: gymnasium.wrappers.TimeLimit needs it",
    ),
    "count": ("point_world:make_three", {"num_envs": 4}, "env.num_envs: found 4; allowed: 3, of which .*make_three"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.usefixtures("world")
def test_what_is_wrong_is_said(case: str) -> None:
    name, arguments, words = WRONG[case]
    imports.allow({"module": {"point_wrld": str(FOLDER)}, "a module inside": ["pydoc_data"]}.get(case, {}))
    with pytest.raises(UserError, match=words):
        task(config(name, **arguments))


def test_modules_that_fail(tmp_path: Path) -> None:
    for module, text in {
        "broken_env": "import no_such_thing",
        "lacking_env": "raise ModuleNotFoundError(name='Box2D')",
        "script_env": "raise SystemExit(3)",
        "open_env": "\n(",
        "code": "",
    }.items():
        (tmp_path / f"{module}.py").write_text(text)
        words = {
            "broken_env": r"importing broken_env failed: .*no_such_thing.* \(.*broken_env.py:1\)",
            "lacking_env": r"\(.*lacking_env.py:1\) pip install 'sunflower\[agents\]' installs Box2D",
            "script_env": r"importing script_env failed: SystemExit: 3 \(.*script_env.py:1\)",
            "open_env": r"importing open_env failed: SyntaxError: .* \(.*open_env.py:2\)",
            "code": r"code \(.*\) has no PointEnv.*/code.py has the name of an installed module and is hidden by it",
        }[module]
        with pytest.MonkeyPatch.context() as only:
            only.setenv(imports.VARIABLE, "{}")
            imports.allow({module: str(tmp_path)})
            with pytest.raises(UserError, match=words):
                task(config(f"{module}:PointEnv"))


def test_a_folder_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "colorsys.py").write_text("raise RuntimeError")
    sys.modules.pop("colorsys", None)
    imports.allow({"mine": str(tmp_path)})
    import colorsys

    assert Path(colorsys.__file__).parent != tmp_path
    with imports.scope():
        imports.allow({"other": "/there"})
    assert list(imports.allowed()) == ["mine"]


def test_an_unknown_task_of_envpool_may_be_known_to_gymnasium() -> None:
    gymnasium.register("OnlyHere-v0", "point_world:PointEnv")
    with pytest.raises(UserError, match="gymnasium has one: gymnasium:OnlyHere-v0"):
        task(config("OnlyHere-v0"))
    gymnasium.registry.pop("OnlyHere-v0")
    with pytest.raises(UserError, match=r"env\.wrappers: cannot be set: they are for environments of Python"):
        task(config("CartPole-v1", wrappers=["gymnasium.wrappers.TimeLimit"]))


def restored(record: Any) -> dict[str, str]:
    with imports.scope():
        os.environ[imports.VARIABLE] = "{}"
        imports.restore(record, "runs/one")
        return imports.allowed()


def test_a_record_allows_only_those_who_made_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    imports.allow({"point_world": str(FOLDER), "other.part": "/there"})
    record = imports.recorded()
    assert restored(record) == {"point_world": str(FOLDER), "other.part": "/there"}
    moved = record | {"other.part": record["other.part"] | {"folder": "/elsewhere"}}
    with pytest.raises(UserError, match=r"runs/one: other\.part: imported only .* add --import other\.part$"):
        restored(moved)
    imports.restore(moved, "here, where it was typed again")
    for home in (tmp_path / "another", Path("/proc/none")):
        monkeypatch.setenv("XDG_STATE_HOME", str(home))
        for found in (record, imports.recorded() if home.parent.name == "proc" else record):
            with pytest.raises(imports.ImportRefusedError, match=r"add --import point_world --import other\.part"):
                restored(found)


# ---------------------------------------------------------------------- stepping


def test_each_environment_is_what_it_is_alone() -> None:
    """Seeds, ends, reset rows and rewards, against gymnasium's own environments stepped by hand."""
    seeds, rng = [5, 6, 5], np.random.default_rng(0)
    env = task(config("gymnasium:CartPole-v1")).seeded(seeds)
    alone = [gymnasium.make("CartPole-v1") for _ in seeds]
    observations, _ = env.reset()
    np.testing.assert_array_equal(observations, [e.reset(seed=s)[0] for e, s in zip(alone, seeds, strict=True)])
    np.testing.assert_array_equal(observations[0], observations[2])
    ended, resets = np.zeros(3, bool), 0
    for _ in range(60):
        actions = rng.integers(2, size=3)
        observations, rewards, terminated, truncated, _ = env.step(actions)
        for i, one in enumerate(alone):
            if ended[i]:
                expected = (one.reset()[0], 0.0, False, False)
                resets += 1
            else:
                expected = one.step(actions[i])[:4]
            np.testing.assert_array_equal(observations[i], expected[0])
            assert (rewards[i], terminated[i], truncated[i]) == expected[1:]
            ended[i] = expected[2] or expected[3]
    assert resets > 3
    env.close()


def test_some_are_stepped_and_others_wait() -> None:
    env = task(config("gymnasium:Pendulum-v1")).seeded([1, 2, 3])
    all_of_them = task(config("gymnasium:Pendulum-v1")).seeded([1, 2, 3])
    first, _ = env.reset()
    all_of_them.reset()
    actions = np.array([[0.5], [1.0], [-1.0]], np.float32)
    whole = all_of_them.step(actions)
    some = env.step_some(actions, np.array([0, 2]))
    for column, part in zip(whole[:4], some[:4], strict=True):
        np.testing.assert_array_equal(column[[0, 2]], part)
    # The one that waited stands where it stood.
    np.testing.assert_array_equal(env.step(actions)[0][1], whole[0][1])
    assert not np.array_equal(first[1], whole[0][1])


@pytest.mark.parametrize("seeds", [[7, 8], [7, 8, 9, 10], [7, 8, 9, 10, 11, 12]])
@pytest.mark.usefixtures("world")
def test_vectors_of_any_number_are_joined(seeds: list[int]) -> None:
    """Rows of one vector environment of three, or of several, are those of environments one by one."""
    rng = np.random.default_rng(1)
    threes, ones = (task(config(f"point_world:{name}")).seeded(seeds) for name in ("make_three", "PointEnv"))
    np.testing.assert_array_equal(threes.reset()[0], ones.reset()[0])
    for step in range(1, 21):
        actions = rng.uniform(-0.1, 0.1, (len(seeds), 1)).astype(np.float32)
        joined, alone = threes.step(actions), ones.step(actions)
        for column, expected in zip(joined[1:4], alone[1:4], strict=True):
            np.testing.assert_array_equal(column, expected)
        if step < 20:
            np.testing.assert_array_equal(joined[0], alone[0])
    which, rows = joined[4]["final_observations"]
    np.testing.assert_array_equal(which, range(len(seeds)))
    np.testing.assert_array_equal(rows, alone[0])


def test_a_factory_is_wrapped() -> None:
    made: list[str] = []

    def factory() -> Any:
        made.append("one")
        return gymnasium.make("Pendulum-v1")

    env = wrap_env(factory, num_envs=2)
    assert (env.num_envs, made, env.rebuilds) == (2, ["one"], True)
    several = env.seeded([1, 2, 3])
    several.reset()
    assert several.num_envs == 3 and len(made) == 3  # the first was at hand
    with pytest.raises(UserError, match=r"num_envs is for a class or function; this .* is made already"):
        wrap_env(gymnasium.make("Pendulum-v1"), num_envs=2)
    with pytest.raises(UserError, match=r"wrap_env: cannot use a builtins\.int"):
        wrap_env(lambda: 3)


def test_a_factory_of_single_environments_is_told_the_same_number_each_time() -> None:
    told: list[int] = []

    def factory(num_envs: int) -> Any:
        told.append(num_envs)
        return gymnasium.make("Pendulum-v1")

    wrap_env(factory, num_envs=2).seeded([1, 2, 3]).reset()
    assert told == [2, 2, 2]


def test_attributes_that_a_reset_adds_keep_their_quick_places() -> None:
    class Late(gymnasium.Env[Any, Any]):
        observation_space, action_space = Box(-1, 1, (1,), np.float32), Box(-1, 1, (1,), np.float32)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.late = 0
            return np.zeros(1, np.float32), {}

    made: list[Late] = []

    def make() -> Late:
        made.append(Late())
        return made[-1]

    with wrap_env(make, 64).opened(range(64)) as env:
        env.reset()
        # CPython's instances refer to what their attributes are; to a dict of them if there was no place for one.
        assert len(made) == 64 and not any(isinstance(x, dict) for one in made for x in gc.get_referents(one))


def test_a_class_or_function_that_a_module_has_is_named(world: None) -> None:
    """As a configuration names it, with the arguments of a `partial`; others have no name."""
    import point_world

    def local() -> Any:
        return point_world.PointEnv()

    named = {"id": "point_world:PointEnv"}
    assert wrap_env(point_world.PointEnv, 2).named == named
    assert wrap_env(partial(point_world.PointEnv, length=5), 2).named == named | {"length": 5}
    assert wrap_env(partial(point_world.PointEnv, noise=np.float32(0)), 2).named == {}
    assert wrap_env(lambda: point_world.PointEnv(), 2).named == wrap_env(local, 2).named == {}
    assert wrap_env(point_world.make_vec, 2).named == {"id": "point_world:make_vec"}


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"id": "CartPole-v1"}, "env.id: the configuration says CartPole-v1, the environment is point_world:PointEnv"),
        ({"id": "point_world:PointEnv", "length": 6}, "env.length: the configuration says 6, the environment has 5"),
        ({"length": 6}, "env.length: the configuration says 6, the environment has 5"),
        ({"noise": 0.1}, "env.noise: the configuration says 0.1; point_world:PointEnv is made without it here; allo"),
        ({"wrappers": ["point_world.Clip"]}, r"env.wrappers: the configuration says \['point_world.Clip'\]; point_wo"),
        ({"id": "elsewhere:PointEnv", "length": 5}, ""),
    ],
)
def test_what_a_configuration_says_of_it_is_true(env: dict[str, Any], said: str, world: None) -> None:
    import point_world

    made, told = wrap_env(partial(point_world.PointEnv, length=5), 3), EnvConfig.model_validate(env)
    with pytest.raises(UserError, match=said) if said else nullcontext():
        made.check_described(told.id, told.model_extra or {})


def test_only_single_environments_are_split_over_cores(world: None) -> None:
    assert task(config("point_world:PointEnv")).splits
    assert not task(config("point_world:make_vec")).splits
