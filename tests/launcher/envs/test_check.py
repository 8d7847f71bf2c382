"""`launch check`: the verb, in whose process nothing of the environment runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from launcher.cli.main import main
from launcher.envs import check
from launcher.envs.examine import Finding, findings
from runner.config.schema import EnvConfig
from runner.envs.named import imports
from runner.envs.task import task
from tests.launcher.envs.trying import HANGS
from tests.launcher.faulty import wait_until

SHORT = 6.0


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "SECONDS", 0.2)
    monkeypatch.setenv(imports.VARIABLE, json.dumps({"tests": os.getcwd()}))


def found(name: str, longest: float = 60.0) -> list[Finding]:
    return check.check(EnvConfig.model_validate({"id": f"tests.launcher.envs.trying:{name}"}), longest)


class OutOfTime(subprocess.Popen[bytes]):
    """Time is over for it as soon as its environment hangs."""

    def wait(self, timeout: float | None = None) -> int:
        if timeout == SHORT:
            wait_until(Path(os.environ[HANGS]).exists, "the environment that hangs")
            timeout = 0.1
        return super().wait(timeout)


@pytest.mark.parametrize(
    ("name", "longest", "last"),
    [
        ("printing", 60.0, "note it prints .* lines, the first: here I am"),
        ("hanging", SHORT, r"wrong it has not come to an end within 6 s \(File "),
        ("vanishing", 60.0, "wrong it ended its process: exit status 0 "),
        ("dying", 60.0, r"wrong it ended its process: SIGABRT \(File .*point.py"),
    ],
)
def test_what_becomes_of_the_process_is_told(
    name: str, longest: float, last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HANGS, str(tmp_path / "hangs"))
    monkeypatch.setattr(subprocess, "Popen", OutOfTime)
    said = found(name, longest)
    assert said[0].what.startswith("spaces: Box 3")
    assert re.match(last, " ".join(said[-1])) and said[-1].fix


def test_what_it_has_started_is_not_waited_for_and_ends_with_it() -> None:
    said = found("leaving")
    assert said[-2].what.startswith("speed: ")
    helper = int(said[-1].what.rpartition(" ")[2])
    state = Path(f"/proc/{helper}/stat")
    wait_until(lambda: not state.exists() or state.read_text().rpartition(") ")[2][0] == "Z", "the end of the helper")


def test_a_pool_is_not_asked_for_its_first_episode_again() -> None:
    said = check.check(EnvConfig.model_validate({"id": "CartPole-v1", "num_envs": 8}))
    assert [finding.level for finding in said] == ["right"] * 4, said


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Timetable", ("spaces: Box 4 → Discrete 4", "early, whole, late", r"\d+ truncated after 5 steps")),
        ("Unlike", ("spaces: Dict.* → Discrete 5", "agent_0, agent_1", r"\d+ truncated after 3 steps")),
    ],
)
def test_agents_are_tried_together(name: str, told: tuple[str, str, str]) -> None:
    env = EnvConfig.model_validate({"id": f"tests.parallel:{name}", "num_envs": 64})
    # An observation has the number of the episode, which is large where steps are fast.
    found = [finding for finding in findings(lambda: task(env), 0.2) if "as large as" not in finding.what]
    assert [finding.level for finding in found] == ["right"] * 5, found
    spaces, agents, seeding, episodes, speed = (finding.what for finding in found)
    assert re.match(told[0], spaces) and agents == f"agents, which act at once and have these spaces: {told[1]}"
    assert seeding.startswith("seeding: ") and re.match(f"episodes: {told[2]}", episodes) and "steps/s" in speed


def test_states_with_numbers_are_no_sizes() -> None:
    env = EnvConfig.model_validate({"id": "gymnasium:Taxi-v4", "num_envs": 2})
    notes = {finding.what: finding.fix for finding in findings(lambda: task(env), 0.05) if finding.level == "note"}
    (fix,) = (fix for what, fix in notes.items() if "the number of one of 500 states" in what)
    assert "one_hot_encoding(OBSERVATION_SPACE, OBSERVATIONS)" in fix and not any("as large as" in one for one in notes)


def test_agents_without_an_end_are_told_what_limits_them() -> None:
    env = EnvConfig.model_validate({"id": "tests.parallel:Lone", "num_envs": 2, "steps": 10**9})
    (endless,) = (finding for finding in findings(lambda: task(env), 0.05) if "no episode ended" in finding.what)
    assert endless.level == "note" and "max_cycles" in (endless.fix or "") and "gymnasium" not in (endless.fix or "")


@pytest.mark.parametrize("env", ["tests.parallel:Masked", "gymnasium:Taxi-v4"])
def test_what_training_warns_of_is_a_finding_and_no_printing(env: str) -> None:
    found = check.check(EnvConfig.model_validate({"id": env, "num_envs": 2}))
    said = [finding.what for finding in found if finding.what.startswith("info says which actions are possible")]
    assert len(said) == 1 and not [finding for finding in found if "it prints" in finding.what], found


def test_the_verb_shows_all_and_its_status_says_whether_something_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "tests.point:Point"]) == 0
    shown = capsys.readouterr().out
    assert "✓ spaces: Box 3 → Box 1" in shown and "steps/s on one core" in shown
    assert main(["check", "tests.point:Point", "--set", "env.length=0.5", "--set", "agent.rollouts=8"]) == 2
    assert "--set agent.rollouts=8: allowed: one value of a key below env" in capsys.readouterr().err
    assert main(["check", "tests.point:Point", "--set", "env.id=Pendulum-v1"]) == 2
    assert "but its id, which is tests.point:Point" in capsys.readouterr().err
    assert main(["check", "tests.point:Point", "--set", "env.num_envs=0"]) == 2
    assert "command line: env.num_envs: found 0; allowed: whole number from 1" in capsys.readouterr().err
    assert main(["check", "tests.point:Point", "--set", "env.lenth=5", "--json"]) == 1
    assert "Did you mean 'length'?" in capsys.readouterr().out
    assert main(["check", "tests.point:Pont", "--json"]) == 1
    (error,) = json.loads(capsys.readouterr().out)
    assert error["level"] == "wrong" and "Did you mean 'Point'" in error["what"]
