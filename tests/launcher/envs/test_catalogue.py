"""`launch envs`: families without making anything, spaces of those that are asked for, and what cannot be made here."""

from __future__ import annotations

import json

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Dict, Text
from rich.console import Console

from launcher.cli.main import main
from launcher.envs.catalogue import Entry, described, families, in_words, matching, show
from runner.errors import UserError

KNOWN = {
    "mujoco.gym": ["Hopper-v4", "Hopper-v5", "Ant-v5"],
    "gymnasium.box2d": ["gymnasium:CarRacing-v3"],
    "MyPkg": ["gymnasium:Point-v0"],
}


@pytest.mark.parametrize(
    ("pattern", "ids"),
    [
        ("hopper", "Hopper-v4 Hopper-v5"),
        ("*-v5", "Hopper-v5 Ant-v5"),
        ("BOX2D", "gymnasium:CarRacing-v3"),
        ("MyPkg", "gymnasium:Point-v0"),
        ("", "Hopper-v4 Hopper-v5 Ant-v5 gymnasium:CarRacing-v3 gymnasium:Point-v0"),
    ],
)
def test_a_pattern_is_looked_for_in_ids_and_families(pattern: str, ids: str) -> None:
    assert " ".join(entry.id for entry in matching(pattern, KNOWN)) == ids


def test_what_nothing_is_like_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"name or family is like 'Hoper-v4'\. Did you mean 'Hopper-v4'"):
        matching("Hoper-v4", KNOWN)


def test_families_have_every_task_once() -> None:
    import envpool

    found = families()
    ids = [name for names in found.values() for name in names]
    assert len(ids) == len(set(ids))
    assert set(envpool.list_all_envs()) == {name for name in ids if ":" not in name}
    assert "gymnasium:CartPole-v1" in found["gymnasium.classic_control"] and "HopperHop-v1" in found["mujoco.dmc"]


def test_spaces_policies_and_needs_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = EnvSpec("Gone-v0", entry_point="gymnasium.envs.gone:Gone", disable_env_checker=True)
    monkeypatch.setitem(gymnasium.registry, "Gone-v0", spec)
    (gone,) = matching("gone-v0", families())
    assert gone == Entry("gymnasium:Gone-v0", "gymnasium.gone")
    assert "No module named 'gymnasium.envs.gone'" in described(gone).needs
    pong = described(Entry("Pong-v5", "atari"))
    assert (pong.observations, pong.actions, pong.needs) == ("Box 4x84x84 uint8", "Discrete 6", "")
    assert pong.policies == ("CategoricalMixin",)
    crossing = described(Entry("IntersectionMultiAgent-v1", "highway"))
    assert (crossing.observations, crossing.actions, crossing.needs) == ("2 agents, each Box 5x5", "Discrete 3", "")
    assert "several players" in described(Entry("Go9x9-v1", "pgx")).needs


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (gymnasium.spaces.Box(0, 1, ()), "Box number"),
        (Dict(a=gymnasium.spaces.MultiDiscrete([3, 2]), b=Text(3)), "Dict(a: MultiDiscrete 3x2, b: Text"),
        (gymnasium.spaces.MultiDiscrete([2] * 9), "MultiDiscrete 9 of 2"),
        (gymnasium.spaces.Tuple([gymnasium.spaces.MultiBinary((4, 2))]), "Tuple(MultiBinary 4x2)"),
    ],
)
def test_spaces_in_words(space: gymnasium.Space, words: str) -> None:
    assert in_words(space).startswith(words)


def test_the_verb_prints_families_tables_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envs"]) == 0
    assert "mujoco.dmc" in capsys.readouterr().out
    assert main(["envs", "Acrobot-v1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["id"] for row in rows} >= {"Acrobot-v1", "gymnasium:Acrobot-v1"}
    assert main(["envs", "Breakout-v5"]) == 0
    assert "img_height: 84" in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 200])
def test_ids_are_whole_and_nothing_is_cut_in_every_terminal(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    hopper = Entry(
        "Hopper-v4", "mujoco.gym", "Box 11 float64", "Box 3 float64", ("GaussianMixin", "MultivariateGaussianMixin")
    )
    gone = Entry("gymnasium:BipedalWalkerHardcore-v3", "gymnasium.box2d", needs='run `pip install "gymnasium[box2d]"`')
    show(Console(width=width), [hopper, gone])
    shown = capsys.readouterr().out
    assert gone.id in shown and "…" not in shown
