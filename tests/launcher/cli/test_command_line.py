"""What is typed wrongly, or cannot be: exit status 2 and one paragraph, before anything is written or started."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.cli import commands
from launcher.cli import main as cli
from launcher.cli.main import main
from launcher.run.session import Session
from runner.errors import UserError
from tests.launcher import report_launches
from tests.launcher.refusals import CARTPOLE, CONFIGS, PPO, Refused

PENDULUM = ["--env", "Pendulum-v1", "--num-envs", "4"]


pytestmark = pytest.mark.usefixtures("no_ray")


# What is typed

TYPED = {
    "no arguments": ([], "no configuration file; usage: launch CFG.yaml"),
    "missing file": (["nothing.yaml"], "nothing.yaml: no such configuration file"),
    "missing second file": ([CARTPOLE, "more.yaml"], "more.yaml: no such configuration file"),
    "folder as file": ([CONFIGS], "configs: cannot be read: Is a directory"),
    "verb follow": (["folow", "x"], "'folow' is no file. Did you mean `launch follow`?"),
    "follow nothing": (["follow"], "parameter NAME requires an argument. See launch follow --help."),
    "follow nowhere": (["follow", "x"], "parameter --address requires an argument. See launch follow --help."),
    "stop by a joined address": (
        ["stop", "x", "--address", "127.0.0.1:6379"],
        "--address 127.0.0.1:6379: allowed here: http://HOST:8265 or ray://HOST:10001",
    ),
    "pull from nobody": (
        ["pull", "x", "--address", "http://127.0.0.1:9"],
        "--address 127.0.0.1:9: nothing answers there",
    ),
    "verb": (["resum", "x"], "'resum' is no file. Did you mean `launch resume`?"),
    "verb status": (["statu", "x"], "'statu' is no file. Did you mean `launch status`?"),
    "verb logs": (["log", "x"], "'log' is no file. Did you mean `launch logs`?"),
    "status of too many": (["status", "a", "b"], "Unused Tokens: ['b']."),
    "status no launch": (["status", CONFIGS], "configs: not a launch directory: it has no ledger.sqlite"),
    "logs missing": (["logs", "runs/x", "a"], "runs/x: not a launch directory: there is no such folder"),
    "resume on a cluster": (
        ["resume", "--address", "http://127.0.0.1:9"],
        "which launch of the cluster? Give its name: launch resume NAME --address",
    ),
    "keys of none": (
        ["keys", "rolouts"],
        "no key of a configuration has 'rolouts' in its name or in what it is. Did",
    ),
    "verb list": (["lst"], "'lst' is no file. Did you mean `launch list`?"),
    "resume no launch": (["resume", CONFIGS], "configs: not a launch directory: it has no ledger.sqlite"),
    "resume missing": (["resume", "runs/x"], "runs/x: not a launch directory: there is no such folder"),
    "resume a file": (["resume", CARTPOLE], "cartpole.yaml: not a launch directory: there is no such folder"),
    "unknown flag": ([CARTPOLE, "--sedes", "8"], "Unknown option: --sedes. Did you mean --seeds? See launch --help."),
    "unknown flag of resume": (
        ["resume", "x", "--name", "y"],
        "Unknown option: --name. --name is a flag of launch CFG. See launch resume --help.",
    ),
    "flag of resume": (
        [CARTPOLE, "--retry-failed"],
        "Unknown option: --retry-failed. --retry-failed is a flag of launch resume. See launch --help.",
    ),
    "flag of eval with a value": (
        ["status", "--episodes=3"],
        "Unknown option: --episodes=3. --episodes is a flag of launch eval. See launch status --help.",
    ),
    "no value": ([CARTPOLE, "--seeds"], "--seeds requires an argument"),
    "seeds 0": ([CARTPOLE, "--seeds", "0"], "--seeds '0': allowed: a count such as 8, a range such as 0-7"),
    "seeds -1": ([CARTPOLE, "--seeds", "-1"], "--seeds '-1': allowed: a count"),
    "seeds a": ([CARTPOLE, "--seeds", "a"], "--seeds 'a': allowed: a count"),
    "seeds 3,3": ([CARTPOLE, "--seeds", "3,3"], "--seeds '3,3': a seed is given twice"),
    "seeds 7-3": ([CARTPOLE, "--seeds", "7-3"], "--seeds '7-3': allowed: a count"),
    "seeds 1e3": ([CARTPOLE, "--seeds", "1e3"], "--seeds '1e3': allowed: a count"),
    "seeds empty": ([CARTPOLE, "--seeds", ""], "--seeds '': allowed: a count"),
    "too many seeds": ([CARTPOLE, "--seeds", "0-99999999"], "(at most 100,000)"),
    "seeds beyond": ([CARTPOLE, "--set", f"seed={2**63 - 1}", "--seeds", "2"], "the last of them, counted from seed"),
    "num-envs 0": ([CARTPOLE, "--num-envs", "0"], "command line: env.num_envs: found 0; allowed: "),
    "num-envs -4": ([CARTPOLE, "--num-envs", "-4"], "command line: env.num_envs: found -4; allowed: "),
    "num-envs 1.5": ([CARTPOLE, "--num-envs", "1.5"], 'for --num-envs: unable to convert "1.5" into int; allowed: a'),
    "workers 2.5": ([CARTPOLE, "--workers", "2.5"], 'Invalid value for --workers: unable to convert "2.5" into int'),
    "trials 2.5": ([CARTPOLE, "--trials", "2.5"], 'Invalid value for --trials: unable to convert "2.5" into int'),
    "episodes 0b1": (["eval", "--episodes", "0b1"], 'Invalid value for --episodes: unable to convert "0b1" into int'),
    "attempt 1.6": (["logs", "--attempt", "1.6"], 'Invalid value for --attempt: unable to convert "1.6" into int'),
    "num-envs abc": ([CARTPOLE, "--num-envs", "abc"], 'Invalid value for --num-envs: unable to convert "abc" into int'),
    "env unknown": ([CARTPOLE, "--env", "CartPol-v1"], "unknown environment 'CartPol-v1'. Did you mean 'CartPole-v1'"),
    "env without a module": (
        [CARTPOLE, "--env", ":Point"],
        "command line: --env :Point: '' is no module's name; allowed",
    ),
    "env in a file": ([CARTPOLE, "--env", "./my.py:Point"], "--env ./my.py:Point: './my.py' is no module's name"),
    "import of no module": (
        [CARTPOLE, "--import", "my-env"],
        "--import my-env: 'my-env' is no module's name; allowed: ",
    ),
    "import of nothing": ([CARTPOLE, "--import", "no_such_module"], "command line: there is no module no_such_module"),
    "no env": ([PPO], "ppo: env.id is required: name it in the file (env: {id: …}) or with --env"),
    "no num_envs": ([PPO, "--env", "Pendulum-v1"], "ppo: env.num_envs is required: name it in the file or with --num-"),
    "image": (
        [CARTPOLE, "--env", "Pong-v5"],
        "a linear layer would read an image of 4 x 84 x 84 (28,224 numbers); put",
    ),
    "backend": (
        [CARTPOLE, "--backend", "tensorflow"],
        "backend: found 'tensorflow'; allowed: auto, torch, jax",
    ),
    "gpus 4": ([CARTPOLE, "--gpus", "4"], "--gpus 4: Ray finds 0 on this machine"),
    "gpus hint": ([CARTPOLE, "--gpus", "4"], "--logical-gpus to only count them"),
    "gpus -1": ([CARTPOLE, "--gpus", "-1"], "--gpus -1: allowed: 0 or more"),
    "workers 0": ([CARTPOLE, "--workers", "0"], "--workers 0: allowed: 1 or more"),
    "twice": ([CARTPOLE, CARTPOLE], "is asked for twice; give each configuration once"),
    "two of one setting": (
        [CARTPOLE, "--num-envs", "7", "--set", "env.num_envs=9"],
        "env.num_envs: given twice, with different values (--set env.num_envs=9 and --num-envs 7); give one of them",
    ),
    "seeds twice": (
        [CARTPOLE, "--seeds", "9-9", "--set", "seed=4"],
        "--seeds 9-9 and --set seed=4 contradict each other; give one",
    ),
    "two settings after one flag": (
        [CARTPOLE, "--set", "agent.gae_lambda=0.9", "agent.ratio_clip=0.1"],
        "'agent.ratio_clip=0.1' is no file; each setting has its own flag: --set agent.ratio_clip=0.1",
    ),
    "a setting without a flag": (
        [CARTPOLE, "seed=1"],
        "'seed=1' is no file; each setting has its own flag: --set seed=1",
    ),
    "zip without words": ([CARTPOLE, "--zip"], "--zip requires arguments, such as agent.rollouts=16,32 agent.mini"),
    "zip before the file": (
        ["--zip", "agent.rollouts=16,32", CARTPOLE],
        "cartpole.yaml' after --zip; allowed: key=value, such as agent.rollouts=16,32; files stand before it. See",
    ),
    "zip of unequal lists": (
        [CARTPOLE, "--zip", "agent.rollouts=16,32", "agent.mini_batches=2", "--dry-run"],
        "--zip: agent.rollouts has 2 values and agent.mini_batches 1; allowed: lists of equal length",
    ),
    "twice in a sweep": ([CARTPOLE, "--set", "agent.learning_rate=1e-3,0.001"], "is asked for twice"),
    "name with slashes": ([CARTPOLE, "--name", "a/b"], "--name 'a/b': allowed: letters, digits and ._=+-"),
    "name above": ([CARTPOLE, "--name", ".."], "--name '..': allowed: letters"),
    "name too long": ([CARTPOLE, "--name", "x" * 300], "(80 at most)"),
    "address": ([CARTPOLE, "--address", "somewhere"], "--address 'somewhere': allowed: auto or HOST:PORT"),
    "address without answer": ([CARTPOLE, "--address", "127.0.0.1:1"], "nothing answers there: [Errno 111]"),
    "address port": ([CARTPOLE, "--address", "127.0.0.1:99999999"], "nothing answers there"),
}
SETTINGS = {
    "agent.learning_rate": "--set 'agent.learning_rate': write key=value, such as agent.learning_rate=3e-4",
    "=3": "--set '=3': write key=value",
    "agent..x=3": "--set 'agent..x=3': write key=value",
    "learning_rate=1": "command line: learning_rate: unknown key. Did you mean 'agent.learning_rate'?",
    "timesteps=100": "command line: timesteps: unknown key. Did you mean 'trainer.timesteps'?",
    "agent.timesteps=100": "command line: agent.timesteps: unknown key. Did you mean 'trainer.timesteps'?",
    "hiddens=[8]": "Did you mean 'models.policy.hiddens' or 'models.value.hiddens'?",
    "lambda=0.9": "command line: lambda: unknown key. Did you mean 'agent.lambda'?",
    "num_envs=8": "command line: num_envs: unknown key. Did you mean 'env.num_envs'?",
    "write_intervall=8": "Did you mean 'agent.experiment.write_interval'?",
    "kl_factor=2": "Did you mean 'agent.learning_rate_scheduler_kwargs.kl_factor'?",
    "gamma=2": "Did you mean 'agent.learning_rate_scheduler_kwargs.gamma'?",
    "foo=1": "command line: foo: unknown key. Allowed here: agent, backend,",
    "agnet.learning_rate=1": "command line: agnet: unknown key. Did you mean 'agent'?",
    "agent.lerning_rate=1": "command line: agent.lerning_rate: unknown key. Did you mean 'learning_rate'",
    "agent.experiment.directry=x": "command line: agent.experiment.directry: unknown key. Did you mean 'directory'?",
    "agent.learning_rate_scheduler_kwargs.kl=1": "kwargs.kl: unknown key. ",
    "models.policy.network.0.layer=1": "models.policy.network.0.layer: unknown key. Did you mean 'layers'?",
    "agent.²=1": "agent.²: unknown key.",
    "agent.learning_rate=[1": "not valid YAML: expected ',' or ']'",
    "agent.learning_rate=\x01": "not valid YAML: unacceptable character #x0001",
    "agent.learning_rate=": "command line: agent.learning_rate: found None; allowed: ",
    "agent.learning_rate=fast": "command line: agent.learning_rate: found 'fast'; allowed: ",
    "agent.learning_rate.x=1": "agent.learning_rate.x: agent.learning_rate is a single value without keys",
    "models.policy.network.5.name=x": "models.policy.network.5: the list has 1 entries, 0 to 0",
    "models.policy.network.x=1": "models.policy.network.x: the list has 1 entries, 0 to 0",
    "agent=5": "command line: agent: found 5; allowed: block of keys",
    "agent.mini_batches=99999": "agent.mini_batches 99999 is more than the 1024 rows of a rollout",
    "trainer.timesteps=31": "trainer.timesteps 31 is less than one rollout (agent.rollouts 32)",
    "env.stack_num=4": "env.stack_num: CartPole-v1 has no such argument. Allowed for CartPole-v1: max_episode_steps",
}
KILLERS = {  # EnvPool ends the process
    "Pong-v5 stack_num=0": "env.stack_num: found 0; allowed: 1 to",
    "Pong-v5 frame_skip=0": "env.frame_skip: found 0; allowed: 1 to",
    "Pong-v5 img_height=-5": "env.img_height: found -5; allowed: 1 to",
    "Pong-v5 mode=3": "env.mode: found 3; allowed: -1, the cartridge's default",
    "Pong-v5 repeat_action_probability=2": "env.repeat_action_probability: found 2; allowed: 0 to 1",
    "Pong-v5 base_path=/x": "env.base_path: cannot be set: a wrong path would end the process",
    "MiniGrid-Empty-5x5-v0 size=1": "env.size: cannot be set: it follows from env.id",
    "MiniGrid-Empty-5x5-v0 agent_start_pos=[9,9]": "env.agent_start_pos: cannot be set: it follows from env.id",
}


@pytest.mark.parametrize("case", TYPED)
def test_typed(refused: Refused, case: str, tmp_path: Path) -> None:
    arguments, expected = TYPED[case]
    assert expected in refused(*arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("setting", SETTINGS)
def test_set(refused: Refused, setting: str) -> None:
    assert SETTINGS[setting] in refused(CARTPOLE, "--set", setting)


@pytest.mark.parametrize("case", KILLERS)
def test_arguments_that_would_end_the_process(refused: Refused, case: str) -> None:
    task, setting = case.split(" ")
    assert KILLERS[case] in refused(CARTPOLE, "--env", task, "--set", f"env.{setting}")


def test_policies_that_do_not_fit(refused: Refused) -> None:
    assert "CategoricalMixin cannot act in an action space Box of 1 numbers" in refused(CARTPOLE, *PENDULUM)
    said = refused(PPO, "--env", "CartPole-v1", "--num-envs", "4")
    assert said.startswith("ppo: models.policy.class: GaussianMixin cannot act in an action space Discrete(2)")


def test_clip_actions_without_bounds(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    import gymnasium
    import numpy as np

    from runner.envs.envpool import EnvPoolTask
    from runner.envs.spaces import ActionSpace

    unbounded = ActionSpace.of(gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32))
    whole = EnvPoolTask.__init__

    def init(task: EnvPoolTask, *arguments: Any) -> None:
        whole(task, *arguments)
        task.actions = unbounded

    monkeypatch.setattr(EnvPoolTask, "__init__", init)
    assert "clip_actions" in refused(PPO, *PENDULUM, "--set", "models.policy.clip_actions=True")


def test_files_of_one_stem_get_their_folder_in_front(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other" / "cartpole.yaml"
    other.parent.mkdir()
    shutil.copy(CARTPOLE, other)
    assert main([str(CARTPOLE), str(other), "--workers", "1", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "classic_cartpole (seed 0)" in shown and "other_cartpole (seed 0)" in shown


def test_keys_are_printed_with_their_values_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "ratio_clip"]) == 0
    line, meaning = capsys.readouterr().out.splitlines()
    assert line == "agent.ratio_clip: number above 0; default 0.2"
    assert meaning == "    ε of PPO's clipped ratio 1 ± ε of new to old action probability."
    assert main(["keys", "asha.rungs"]) == 0
    assert capsys.readouterr().out.startswith("search.asha.rungs: whole number from 1 to 20; default 4")


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(CARTPOLE), "--seeds", "0", "--debug"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said and "in parse_seeds" in said


# Files and flags


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Gets (directory, trials) of what would be launched."""
    got: list[Any] = []

    def launch(session: Session, _command: str) -> int:
        got[:] = [session.directory, [trial for trial, _ in session.todo]]
        return 0

    monkeypatch.setattr(Session, "go_on", launch)
    return got


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        (["--env", "Acrobot-v1"], "env.id", "Acrobot-v1"),
        (["--num-envs", "7"], "env.num_envs", 7),
        (["--set", "env={id: Acrobot-v1, num_envs: 5}"], "env.num_envs", 5),
        (["--backend", "torch"], "backend", "torch"),
        (["--seeds", "5-5"], "seed", 5),
        (["--set", "seed=4"], "seed", 4),
        (["--seeds", "9-9"], "seed", 9),
        (["--num-envs", "010"], "env.num_envs", 10),
        (["--set", "agent.lambda=0.5"], "agent.gae_lambda", 0.5),
        (["--set", "models.policy.network.0.layers=[8,8]"], "models.policy.network.0.layers", [8, 8]),
    ],
)
def test_command_line_beats_the_file(
    tmp_path: Path, launched: list[Any], arguments: list[str], key: str, value: object
) -> None:
    data = yaml.safe_load(CARTPOLE.read_text())
    data["backend"], data["seed"], data["agent"]["gae_lambda"] = "torch", 3, 0.9
    path = tmp_path / "cfg.yaml"
    path.write_text(yaml.safe_dump(data))
    assert main([str(path), *arguments]) == 0
    (trial,) = launched[1]
    found: Any = trial.config.dump()
    for part in key.split("."):
        found = found[int(part) if part.isdecimal() else part]
    assert found == value


def test_out_and_name_beat_the_file(tmp_path: Path, launched: list[Any]) -> None:
    named = ["--set", "agent.experiment.directory=elsewhere", "--set", "agent.experiment.experiment_name=old name"]
    assert main([str(CARTPOLE), *named]) == 0
    assert launched[0] == tmp_path / "elsewhere" / "old-name"
    assert main([str(CARTPOLE), *named, "--out", str(tmp_path / "out"), "--name", "new"]) == 0
    assert launched[0] == tmp_path / "out" / "new"


def test_paths_may_have_a_home_and_variables(
    tmp_path: Path, launched: list[Any], monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WHERE", str(CARTPOLE.parent))
    elsewhere = ["--set", "agent.experiment.directory=$HOME/a", "--name", "x"]
    assert main(["$WHERE/cartpole.yaml", *elsewhere]) == 0
    assert launched[0] == tmp_path / "home" / "a" / "x"
    assert launched[1][0].config.agent.experiment.directory == "$HOME/a"
    assert main([str(CARTPOLE), "--out=~/b", "--name", "x"]) == 0
    assert launched[0] == tmp_path / "home" / "b" / "x"
    for words in (["$NONE/x.yaml"], [CARTPOLE, "--out", "$NONE/x"], ["status", "$NONE/x"], ["eval", "${NONE}"]):
        assert "the environment variable NONE is not set" in refused(*words)


def test_counted_seeds_begin_at_the_files(launched: list[Any]) -> None:
    assert main([str(CARTPOLE), "--set", "seed=3", "--seeds", "2"]) == 0
    assert [trial.config.seed for trial in launched[1]] == [3, 4]


# Errors that nobody expected


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (OSError(errno.EIO, "Input/output error"), 1, "error: OSError: [Errno 5] Input/output error\n"),
        (
            sqlite3.OperationalError("disk I/O error"),
            1,
            "error: OperationalError: disk I/O error (--debug shows where)\n",
        ),
        (RuntimeError("boo"), 1, "error: RuntimeError: boo (--debug shows where)\n"),
        (UserError("bad key"), 2, "error: bad key\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_every_error_is_a_sentence_and_a_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    expected: str,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(commands, "_refuse_words", fail)
    assert main([str(CARTPOLE)]) == status
    assert capsys.readouterr().err == expected


def test_error_of_another_process_is_told_without_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    from ray.exceptions import RayTaskError

    cause = sqlite3.OperationalError("database or disk is full")
    error = RayTaskError("open", "Traceback (most recent call last): …", cause).as_instanceof_cause()
    assert cli._explained(error) == (1, "OperationalError: database or disk is full (--debug shows where)")
    hidden = RayTaskError("open", "Traceback …", UserError("is in use")).as_instanceof_cause()
    assert cli._explained(hidden) == (2, "is in use")


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ("Cartpole-v9", "env.id: unknown environment 'Cartpole-v9'. Did you mean 'CartPole-v1'"),
        (
            "Acrobot-v1",
            "it was trained in CartPole-v1, where policy.net.0.weight is [64, 4]; in Acrobot-v1 it would be",
        ),
        ("Pendulum-v1", "CategoricalMixin"),
    ],
)
def test_evaluation_in_an_environment_that_does_not_fit(
    tmp_path: Path, refused: Refused, env: str, expected: str
) -> None:
    report_launches.build(tmp_path / "run", seeds=1, points=2)
    said = refused("eval", tmp_path / "run", "--env", env)
    assert said.startswith(f"command line: --env {env}: cartpole cannot play there: ") and expected in said


@pytest.mark.cluster
def test_an_unknown_environment_is_refused_though_ray_starts_meanwhile(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "launcher.cli.main", CARTPOLE, "--env", "Cartpole-v9", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    assert done.stderr.startswith(
        "error: cartpole: env.id: unknown environment 'Cartpole-v9'. Did you mean 'CartPole-v1'"
    )


def test_the_package_is_the_command(tmp_path: Path) -> None:
    for module in ("launcher", "launcher.cli.main"):
        command = [sys.executable, "-m", module, CARTPOLE, "--seeds", "0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2 and done.stderr.startswith("error: command line: --seeds '0': allowed: a count")


def test_entry_imports_next_to_nothing() -> None:
    heavy = {"numpy", "rich", "pydantic", "ray", "cyclopts"}
    code = f"import sys, launcher.cli.main; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# The configurations as they were read

ERAS = Path(__file__).parents[2] / "fixtures" / "yaml"


@pytest.mark.parametrize("file", [CARTPOLE, PPO, *sorted(ERAS.glob("*.yaml"))], ids=lambda file: file.stem)
def test_what_show_config_prints_is_read_as_the_same_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    from tests.launcher.builders import read_experiment

    settings = ["agent.entropy_loss_scale=0.125"]
    assert main([str(file), "--set", *settings, "--seeds", "3,5", "--dry-run", "--show-config"]) == 0
    shown, said = capsys.readouterr()
    assert not said and shown.endswith("\n") and f"# {file.stem}, from {file}\n" in shown
    again = tmp_path / file.name
    again.write_text(shown)
    before, after = (read_experiment([f], s, {}, "3,5") for f, s in ((file, settings), (again, [])))
    assert after.trials == before.trials
    assert not after.notes
    assert main([str(again), "--dry-run", "--show-config"]) == 0
    assert without_comments(capsys.readouterr().out) == without_comments(shown)


def without_comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_show_config_prints_each_configuration_once_and_says_how_it_was_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = ERAS / "a_orbit_cartpole.yaml"
    sweep = ["--set", "agent.lambda=0.9,0.8", "--seeds", "2"]
    assert main([str(old), str(PPO), *sweep, "--dry-run", "--show-config"]) == 0
    shown = capsys.readouterr().out
    comments = [line for line in shown.splitlines() if line.startswith("#")]
    assert [comment.partition(";")[0] for comment in comments[:2]] == [
        f"# {old}: read as skrl 1.x (1.2 or older, as of Orbit and early Isaac Lab)",
        f"# {PPO}: read as skrl 1.x (1.3 or 1.4, layers as `hiddens`)",
    ]
    assert comments[2:] == [
        f"# a_orbit_cartpole_lambda=0.9, from {old}",
        f"# a_orbit_cartpole_lambda=0.8, from {old}",
        f"# ppo_lambda=0.9, from {PPO}",
        f"# ppo_lambda=0.8, from {PPO}",
    ]
    documents = list(yaml.safe_load_all(shown))
    assert [document["agent"]["gae_lambda"] for document in documents] == [0.9, 0.8, 0.9, 0.8]
    assert documents[0]["models"]["policy"]["class"] == "GaussianMixin"


def test_a_plan_on_cpus_says_that_mixed_precision_has_no_effect_there(capsys: pytest.CaptureFixture[str]) -> None:
    setting = ["--set", "agent.mixed_precision=true"]
    assert main([str(CARTPOLE), "--workers", "1", "--dry-run", *setting]) == 0
    assert "agent.mixed_precision: no effect on CPU workers" in capsys.readouterr().out


def test_show_config_belongs_to_a_dry_run(refused: Refused) -> None:
    assert "--show-config shows configurations and trains nothing" in refused(CARTPOLE, "--show-config")


# Sweeps


def test_every_zip_is_an_axis_of_its_own(tmp_path: Path, launched: list[Any]) -> None:
    first = ["--zip", "agent.rollouts=16,32", "agent.mini_batches=2,4"]
    second = ["--zip=agent.ratio_clip=0.1..0.3/3", "agent.value_clip=0.3..0.1/3", "--", str(CARTPOLE)]
    assert main([*first, "--set", "agent.gae_lambda=0.9,1", *second]) == 0
    assert len(launched[1]) == 2 * 2 * 3
    agents = [trial.config.agent for trial in launched[1]]
    assert {(a.rollouts, a.mini_batches) for a in agents} == {(16, 2), (32, 4)}
    assert {(a.ratio_clip, a.value_clip) for a in agents} == {(0.1, 0.3), (0.2, 0.2), (0.3, 0.1)}
