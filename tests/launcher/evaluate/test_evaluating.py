"""`launch eval` on a real Ray, `pytest -m cluster`: the same episodes for all, nothing twice, any backend."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import runner.torch
from launcher.cli.main import main
from launcher.evaluate import batches as evaluating
from launcher.evaluate.batches import Candidate, Terms, _read, batches, find
from launcher.ledger import evaluations
from launcher.ledger.ledger import Ledger
from runner.config import load_config, resolve
from runner.envs.envpool import EnvPoolTask
from runner.errors import UserError
from runner.torch import Runner
from runner.training.evaluate import Episode
from tests.launcher.faulty import write_config
from tests.launcher.local_ray import local_ray

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def ray_address() -> Iterator[list[str]]:
    with local_ray(num_cpus=2) as address:
        yield [*address, "--workers", "2"]  # as many as there are cores, for two backends


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory, ray_address: list[str]) -> Path:
    """Two seeds in JAX and two in torch, with three checkpoints each."""
    folder = tmp_path_factory.mktemp("eval")
    config = write_config(folder, 192)
    settings = ("backend=jax,torch", "agent.experiment.checkpoint_interval=64", "env.num_envs=8")
    flags = [word for setting in settings for word in ("--set", setting)]
    assert main([str(config), "--seeds", "2", *flags, "--out", str(folder), "--name", "run", *ray_address]) == 0
    return folder / "run"


def test_every_checkpoint_plays_the_same_episodes_once(
    launched: Path, ray_address: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(launched), "--episodes", "6", *ray_address]) == 0
    assert "4 checkpoints x 6 episodes\n" in capsys.readouterr().out
    first = evaluations.read(launched)
    with Ledger(launched, writer=False) as ledger:
        last = {row.id: ledger.checkpoints(row.id)[-1] for row in ledger.trials()}
    assert {(one.trial, one.sha256, one.timestep) for one in first} == {
        (trial, file.sha256, 192) for trial, file in last.items()
    }
    assert len({one.seeds for one in first}) == 1
    assert len(set(first[0].seeds)) == len(first[0].returns) == 6
    assert len({one.returns for one in first}) == 2  # of two seeds; torch and JAX trained and play the same
    assert all(np.array_equal(one.returns, one.lengths) for one in first)  # CartPole's reward is 1

    assert main(["eval", str(launched), "--episodes", "6", "--every", *ray_address]) == 0
    shown = capsys.readouterr().out
    assert "12 checkpoints x 6 episodes, 4 of them known" in shown
    again = evaluations.read(launched)
    assert len(again) == 12
    assert [one for one in again if one.timestep == 192] == first
    times = [one.made_at for one in again]
    assert main(["eval", str(launched), "--episodes", "6", "--every", *ray_address]) == 0
    assert [one.made_at for one in evaluations.read(launched)] == times


def test_in_a_batch_a_checkpoint_scores_what_it_scores_alone(launched: Path, ray_address: list[str]) -> None:
    assert main(["eval", str(launched), "--episodes", "5", "--num-envs", "3", *ray_address]) == 0
    found = [one for one in evaluations.read(launched) if json.loads(one.settings)["episodes"] == 5]
    assert len(found) == 4
    for one in found:
        config, _ = load_config(launched / "trials" / one.trial / "config.yaml")
        alone = Runner(EnvPoolTask("CartPole-v1", 8), resolve({**config.dump(), "backend": "torch"})[0], threads=1)
        alone.agent.load(launched / "trials" / one.trial / "checkpoints" / "agent_192.safetensors")
        episodes = alone.evaluate(episodes=5, seed=0, at_once=5)
        assert tuple(episode.seed for episode in episodes) == one.seeds
        assert tuple(episode.ret for episode in episodes) == one.returns


def test_other_terms_are_other_evaluations(
    launched: Path, ray_address: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = next(launched.glob("trials/*/best_agent.safetensors"))
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(file.read_bytes())
    before = len(evaluations.read(launched))
    assert main(["eval", str(file), "--episodes", "4", "--stochastic", *ray_address]) == 0
    assert main(["eval", str(file), "--episodes", "4", "--seed", "1", *ray_address]) == 0
    assert len(evaluations.read(launched)) == before + 2
    assert main(["eval", str(copy), "--episodes", "4", *ray_address]) == 0
    assert str(copy) in capsys.readouterr().out.replace("\n", "")
    assert len(evaluations.read(launched)) == before + 2


def test_a_damaged_checkpoint_spares_the_others(
    launched: Path, ray_address: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, other = sorted(launched.glob("trials/*jax*/checkpoints/agent_192.safetensors"))
    bad = tmp_path / "bad.safetensors"
    data = bytearray(other.read_bytes())
    data[-5] ^= 255
    bad.write_bytes(data)
    inside = launched / "copy.safetensors"
    inside.write_bytes(good.read_bytes())  # no checkpoint of the launch
    assert main(["eval", str(good), str(bad), str(inside), "--episodes", "3", *ray_address]) == 1
    shown = capsys.readouterr().out
    assert f"{bad}: " in shown
    assert any(json.loads(one.settings)["episodes"] == 3 for one in evaluations.read(launched))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "there is no launch in"),
        (["DIR", "--every", "--best"], "give one of --every, --last and --best"),
        (["DIR", "--episodes", "0"], "--episodes 0: allowed: 1 or more"),
        (["nowhere"], "not a launch directory"),
        (["nowhere.safetensors"], "nowhere.safetensors: cannot be read: No such file"),
    ],
)
def test_what_cannot_be_is_refused(
    launched: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["eval", *(str(launched) if word == "DIR" else word for word in arguments)]) == 2
    assert words in capsys.readouterr().err


def test_samples_do_not_depend_on_the_place_in_a_batch(launched: Path) -> None:
    file = next(launched.glob("trials/*/checkpoints/agent_192.safetensors"))
    config = resolve({**load_config(file.parents[1] / "config.yaml")[0].dump(), "backend": "torch"})[0]
    task = EnvPoolTask("CartPole-v1", 8)
    thrice = runner.torch.Runner.of_checkpoints(task, config, [file.read_bytes()] * 3, 1, 5).evaluate(False, 6, 5, 6)
    scores = [tuple(episode.ret for episode in thrice if episode.member == member) for member in range(3)]
    assert scores[0] == scores[1] == scores[2] and len(set(scores[0])) > 1


def test_a_checkpoint_that_was_replaced_is_not_taken_for_the_old_one(launched: Path) -> None:
    terms = Terms(episodes=1, seed=0, deterministic=True, env=None, num_envs=None)
    known = find([launched], "last", terms)[0]
    assert len(_read(known)) > 0
    with pytest.raises(UserError, match="was replaced meanwhile"):
        _read(replace(known, sha256="0" * 64))


def test_batches_fill_pools_and_workers_and_mix_no_policies(launched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluating, "POOL", 1050)
    configs = [load_config(path)[0] for path in sorted(launched.glob("trials/*/config.yaml"))]
    some = [
        Candidate(launched, f"t{number}", "t", number, launched, str(number), configs[2 * (number % 2)])
        for number in range(50)
    ]
    terms = Terms(episodes=100, seed=0, deterministic=True, env=None, num_envs=None)
    work = batches(some, terms, workers=2)
    assert sorted(c.trial for batch in work for c in batch) == sorted(c.trial for c in some)
    assert all(len({c.config.backend for c in batch}) == 1 for batch in work)
    assert max(len(batch) for batch in work) * 100 <= evaluating.POOL
    assert len(batches(some[:2], terms, workers=8)) == 2

    env = configs[0].env.model_copy(update={"id": "gymnasium:CartPole-v1"})
    slow = [replace(one, config=configs[0].model_copy(update={"env": env})) for one in some]
    assert max(len(batch) for batch in batches(slow, terms, workers=2)) == evaluating.OF_PYTHON // 100
    assert replace(terms, episodes=10_000).at_once(slow[0].config) == evaluating.OF_PYTHON
    env = configs[0].env.model_copy(update={"id": "gfootball/academy_empty_goal_close-v1"})
    football = [replace(one, config=configs[0].model_copy(update={"env": env})) for one in some]
    assert [len(batch) for batch in batches(football, terms, workers=2)] == [1] * len(some)  # 50 MB an episode


@pytest.mark.parametrize("kept", [True, False])
def test_what_cannot_be_kept_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    """A folder that may only be read was said before; a disk that is full by now is a failure."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluating.evaluations, "can_keep", lambda directory: kept)
    monkeypatch.setattr(evaluating.evaluations, "add", full)
    config = resolve(load_config(write_config(tmp_path, 320))[0].dump())[0]
    candidate = Candidate(tmp_path, "a", "a", 0, tmp_path / "x", "sha", config)
    failures: list[str] = []
    terms = Terms(1, 0, True, None, None)
    (found,) = evaluating._store([candidate], terms, [[Episode(0, 0, 9.0, 9, 0)]], failures)
    assert found.returns == (9.0,)
    assert len(failures) == kept
