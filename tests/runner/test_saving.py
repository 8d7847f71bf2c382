"""What `agent.save` writes, and what `agent.load` takes and goes on from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.errors import UserError
from tests.runner.builders import TASKS, both, fingerprint, make_runner, tree

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.parametrize(("backend", "task"), both(TASKS, jax=["Pendulum-v1"]))
def test_a_saved_agent_acts_the_same_when_loaded(backend: str, task: str, elsewhere: Path) -> None:
    runner = make_runner(task, {"trainer.timesteps": 16}, backend)
    list(runner.reports())
    runner.agent.save(elsewhere / "new/folder/agent.safetensors")
    other = make_runner(task, {"seed": 99}, backend)
    observations = np.random.default_rng(0).normal(size=(7, runner.env.observation_size)).astype(np.float32)
    actions = runner.agent.act(observations, deterministic=True)
    other.agent.load(elsewhere / "new/folder/agent.safetensors")
    np.testing.assert_array_equal(other.agent.act(observations, deterministic=True), actions)
    assert fingerprint(other.states()[0], but=()) == fingerprint(runner.states()[0], but=())
    assert [e.ret for e in make_runner(task, backend=backend).evaluate()] != [e.ret for e in other.evaluate()]


def test_members_are_saved_and_loaded_one_by_one(elsewhere: Path) -> None:
    pack = make_runner(changes={"trainer.timesteps": 16}, seeds=[1, 2])
    list(pack.reports())
    for member in range(2):
        pack.agent.save(f"{member}.safetensors", member)
    with pytest.raises(UserError, match=r"agent\.save: found one\.pt for 2 of 2 members; allowed: a path for each"):
        pack.agent.save("one.pt")
    with pytest.raises(UserError, match=r"agent\.save: found a, a for 2 of 2 members"):
        pack.agent.save(["a", "a"])
    assert tree(elsewhere) == ["0.safetensors", "1.safetensors"]
    pack.agent.save(["a.safetensors", Path("b.safetensors")])
    assert [Path(f"{a}.safetensors").read_bytes() for a in "ab"] == [
        Path(f"{m}.safetensors").read_bytes() for m in (0, 1)
    ]
    with pytest.raises(UserError, match=r"runner\.config: this runner trains 2 members; runner\.configs has them all"):
        _ = pack.cfg
    with pytest.raises(UserError, match=r"agent\.save: no member 2; allowed: 0 to 1"):
        pack.agent.save("2.safetensors", 2)
    swapped = make_runner(seeds=[1, 2])
    swapped.agent.load(["1.safetensors", "0.safetensors"])
    assert [fingerprint(s) for s in swapped.states()] == [fingerprint(s) for s in pack.states()[::-1]]
    with pytest.raises(UserError, match=r"agent\.load: 1 checkpoints for 2 members; give one per member"):
        swapped.agent.load("0.safetensors")


@pytest.mark.parametrize(("rollouts", "goes_on_from"), [(4, 16), (12, 12)])
def test_a_checkpoint_of_other_rollouts_goes_on_from_its_own_timestep(
    rollouts: int, goes_on_from: int, elsewhere: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runner = make_runner(changes={"trainer.timesteps": 16})
    list(runner.reports())
    runner.agent.save("a.safetensors")
    other = make_runner(changes={"agent.rollouts": rollouts, "trainer.timesteps": 24})
    other.agent.load("a.safetensors")
    assert other.timestep == goes_on_from
    said = "timestep 16 of the checkpoint is no multiple of agent.rollouts 12; training would go on from 12"
    assert (said in caplog.text) == (goes_on_from < 16)
    list(other.reports())
    assert other.timestep == 24


def test_a_learning_rate_goes_on_unless_the_configuration_has_another_now(elsewhere: Path) -> None:
    runner = make_runner()
    state = runner.states()[0]
    adapted = dataclasses.replace(state, counters=dataclasses.replace(state.counters, learning_rate=5e-4))
    Path("a.safetensors").write_bytes(runner.checkpoint(0, adapted))
    for changes, rate in (({}, 5e-4), ({"agent.learning_rate": 1e-5}, 1e-5)):
        other = make_runner(changes=changes)
        other.agent.load("a.safetensors")
        assert other.states()[0].counters.learning_rate == pytest.approx(rate)


def test_numbers_that_have_changed_by_a_checkpoints_timestep_are_those_of_what_goes_on_from_it() -> None:
    changes = [{"at": 8, "entropy_loss_scale": 0.5}, {"at": 16, "entropy_loss_scale": 0.25}]
    runner = make_runner(changes={"agent.changes": changes, "trainer.timesteps": 32})
    state = dataclasses.replace(runner.states()[0], hyper=None)
    for timestep, scale in ((0, 0.0), (8, 0.0), (16, 0.5), (24, 0.25)):
        counters = dataclasses.replace(state.counters, timestep=timestep)
        runner.agent.restore([dataclasses.replace(state, counters=counters)])
        hyper = runner.states()[0].hyper
        assert hyper is not None and hyper.entropy_loss_scale == scale, timestep


def test_an_interrupt_in_an_update_leaves_the_policy_as_it_was(
    backend: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make_runner(changes={"trainer.timesteps": 32}, backend=backend)
    list(runner.reports(until=8))
    before, learn = fingerprint(runner.states()[0]), runner.numerics.learn

    def interrupted(*given: Any) -> None:
        learn(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        reports = runner.reports()
        next(reports)
        patched.setattr(runner.numerics, "learn", interrupted)
        list(reports)
    assert fingerprint(runner.states()[0]) == before
    runner.agent.save("a.safetensors")
    list(runner.reports())
    assert runner.finished


def test_what_is_no_path_or_member_is_refused(elsewhere: Path) -> None:
    runner = make_runner()
    for wrong in (None, 1000, [3], b"abc"):
        with pytest.raises(UserError, match=r"agent\.load: found .*; allowed: a path, or a list of them"):
            runner.agent.load(wrong)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=r"agent\.save: found .*; allowed: a path, or a list of them"):
            runner.agent.save(wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"agent\.save: member: found 'a'; allowed: a whole number of 0 or more"):
        runner.agent.save("a.safetensors", "a")  # type: ignore[arg-type]
    assert not tree(elsewhere)


def test_checkpoints_that_do_not_fit_together_or_here_are_refused(elsewhere: Path) -> None:
    runner = make_runner()
    state = runner.states()[0]
    later = dataclasses.replace(state, counters=dataclasses.replace(state.counters, update=3, timestep=24))
    pack = make_runner(seeds=[1, 2])
    with pytest.raises(UserError, match="the members' checkpoints are of different timesteps; a pack advances"):
        pack.restore([runner.checkpoint(0, state), runner.checkpoint(0, later)])
    plain = make_runner(changes={"agent.value_preprocessor": None})
    with pytest.raises(UserError, match=r"agent\.value_preprocessor is None, but the checkpoint carries statistics"):
        plain.restore([runner.checkpoint(0, state)])
    with pytest.raises(UserError, match="is 'RunningStandardScaler', but the checkpoint has no statistics for it"):
        runner.restore([plain.checkpoint(0, plain.states()[0])])
    runner.agent.save("a.safetensors")
    before = fingerprint(pack.states()[0])
    for name, data in (("cut", Path("a.safetensors").read_bytes()[:-9]), ("empty", b"")):
        Path(name).write_bytes(data)
        with pytest.raises(UserError, match=f"^{name}: "):
            pack.agent.load([name, "a.safetensors"])
    assert fingerprint(pack.states()[0]) == before, "a refused checkpoint changed the agent"
    with pytest.raises(UserError, match=r"a\.pickle: pickles are not written; allowed: a name ending in \.safetensors"):
        runner.agent.save("a.pickle")
    for name in ("a.onnx", "a.pt2"):
        with pytest.raises(UserError, match=f"{name}: exported policies are not written; .* `launch export` makes"):
            runner.agent.save(name)
        assert not Path(name).exists()
    with pytest.raises(UserError, match="nowhere: cannot be read: No such file"):
        runner.agent.load("nowhere")
