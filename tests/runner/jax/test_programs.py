"""What is compiled: float64 only where it must be, nothing that outlives its pool, the same numbers every time."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from runner.jax import Runner, accelerate
from runner.jax import train as train_module
from runner.jax.rollout import Collector
from tests.conftest import PROGRAMS
from tests.runner.builders import make_config, make_env
from tests.runner.jax import again

pytestmark = pytest.mark.usefixtures("optimised")

ROOT = Path(__file__).parents[3]
FULL = {"agent.learning_rate_scheduler": "KLAdaptiveLR", "agent.entropy_loss_scale": 0.01}


# ---------------------------------------------------------------------------------------------- float64


def made_by(equation: Any, around: str) -> str:
    """`file:function` of ours that an equation comes from; JAX's own cached functions do not say, so who calls them."""
    ours = [f for f in equation.source_info.traceback.frames if f.file_name.startswith(str(ROOT / "runner"))]
    if not ours:
        return around
    return f"{Path(ours[0].file_name).name}:{ours[0].function_name.rpartition('.')[2]}"


def wide(jaxpr: Any, around: str = "?") -> set[tuple[str, str]]:
    """(operation, `file:function`) of each 64-bit real number that a program makes."""
    found = set()
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        where = made_by(equation, around)
        parameters = [p if isinstance(p, tuple | list) else [p] for p in equation.params.values()]
        inner = [sub for some in parameters for sub in some if hasattr(sub, "eqns") or hasattr(sub, "jaxpr")]
        for sub in inner:
            found |= wide(sub, where)
        types = [getattr(variable.aval, "dtype", None) for variable in equation.outvars]
        if not inner and any(kind in (np.float64, np.complex128) for kind in types):
            found.add((equation.primitive.name, where))
    return found


@pytest.fixture(scope="module")
def learning() -> tuple[Any, Collector]:
    """A float64 environment's learner and collector."""
    runner = Runner(make_env("CheetahRun-v1", 3, {"max_episode_steps": 6}), make_config(FULL), threads=1)
    members: Any = runner._members
    return members, Collector(
        runner.env.seeded(runner._seeds(0)), 1, members.env_actions, lambda *now: train_module.act(members.rules, *now)
    )


def test_an_update_has_float64_in_statistics_only(learning: tuple[Any, Collector]) -> None:
    members, collector = learning
    draws, policies = members.draw(), train_module.policy(members.rules, members.learner)
    shapes = jax.eval_shape(collector._collect, collector._standing, policies, draws.noise, None)[1]
    arguments = members.learner, shapes, draws.orders, members.alive, draws.rates, draws.shifts
    traced = jax.jit(train_module._learned, static_argnums=0).trace(members.rules, *arguments).jaxpr
    users = wide(traced)
    # A member whose numbers are not finite keeps its statistics.
    assert ("select_n", "train.py:<lambda>") in users and ("sqrt", "preprocessors.py:scaler") in users
    assert {where for operation, where in users - {("select_n", "train.py:<lambda>")}} == {
        "preprocessors.py:absorb",
        "preprocessors.py:scaler",
    }
    float64 = [out for out in jax.tree.leaves(traced.out_avals) if out.dtype == np.float64]
    assert len(float64) == 6, "only the statistics come out of an update in float64"


def test_a_rollout_has_float64_around_the_environment_only(learning: tuple[Any, Collector]) -> None:
    members, collector = learning
    noise, policies = members.draw().noise, train_module.policy(members.rules, members.learner)
    traced = collector._program.trace(collector._standing, policies, noise, None).jaxpr
    users = {where for _, where in wide(traced)}
    assert "stepping.py:step" in users and users <= {"stepping.py:step", "stepping.py:_flatten"}
    assert not [out for out in traced.out_avals if out.dtype == np.float64]
    rows = np.zeros((1, 3, 17), np.float32)
    acting = train_module._samples.trace(members.rules, policies, None, rows, noise[0]).jaxpr
    assert wide(acting) == set()


# ---------------------------------------------------------------------------------------------- kept programs


def test_a_second_process_gives_the_same_bits_with_kept_programs_and_without() -> None:
    before = {file.name for file in Path(PROGRAMS).rglob("*")}
    here = again.run()
    kept = {file.name for file in Path(PROGRAMS).rglob("*")}
    assert any("jit__learn" in name for name in kept)
    assert not any("collect" in name for name in kept - before), "a program that holds a pool's address was kept"
    command = [sys.executable, "-m", "tests.runner.jax.again"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    there = json.loads(done.stdout.splitlines()[-1])
    assert there["loaded"] == here and there["compiled"] == here
    assert there["found"] >= 1 and there["found after"] == 0


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `keep_programs` sets, instead of JAX's own settings."""
    found: dict[str, Any] = {}

    class Settings:
        jax_compilation_cache_dir: str | None = None

        def update(self, name: str, value: Any) -> None:
            found[name] = value

    monkeypatch.setattr(accelerate, "_settings", Settings())
    return found


def test_programs_are_kept_in_the_users_cache_directory(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NPROC", "3")
    accelerate.keep_programs()
    assert settings["jax_compilation_cache_dir"] == str(tmp_path / "cache/sunflower/jax/threads-3")
    assert 0 < settings["jax_compilation_cache_max_size"] <= 2**31
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NPROC", "1")
    accelerate.keep_programs()
    assert settings["jax_compilation_cache_dir"] == str(tmp_path / "home/.cache/sunflower/jax/threads-1")


def test_a_user_without_a_writable_directory_trains_without_kept_programs(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unknown(_: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    (tmp_path / "file").touch()
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for variables in ({}, {"HOME": "/proc/none"}, {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "file")}):
        for name in ("HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        settings.clear()
        accelerate.keep_programs()
        assert settings == {"jax_enable_compilation_cache": False}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda *_: False)  # somebody else's
    assert accelerate.programs_folder() is None


def test_jaxs_own_setting_of_the_directory_wins(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPROC", "2")
    accelerate._settings.jax_compilation_cache_dir = "/elsewhere"
    accelerate.keep_programs()
    assert settings["jax_compilation_cache_dir"] == "/elsewhere/threads-2"
    assert "jax_compilation_cache_max_size" not in settings
    settings.clear()
    accelerate._settings.jax_compilation_cache_dir = "/elsewhere/threads-2"  # by the learner before
    accelerate.keep_programs()
    assert "jax_compilation_cache_dir" not in settings


def test_tests_keep_nothing_in_the_users_directory() -> None:
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == PROGRAMS
    assert Path(PROGRAMS) in [folder := Path(jax.config.jax_compilation_cache_dir), *folder.parents]


# ---------------------------------------------------------------------------------------------- imports


@pytest.mark.parametrize(("one", "other"), [("torch", "jax"), ("jax", "torch")])
def test_a_backend_does_not_import_the_other(one: str, other: str) -> None:
    """EnvPool imports JAX where it is installed, but not before there is a pool."""
    program = f"import runner.{one}, {one}, sys; print({one}.__file__, {other!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    file, imported = done.stdout.split()
    assert imported == "False" and "site-packages" in file
