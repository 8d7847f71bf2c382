"""CUDA graphs without a GPU: what is recorded, copied and replayed, with a graph that calls the function again."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from runner.envs.envpool import EnvPoolTask
from runner.torch import accelerate, update
from runner.torch.accelerate import Captured, CudaGraph
from tests.runner.builders import TASKS, fingerprint, make_config, runner_class, told

MINIBATCHES = {"agent.mini_batches": 3, "agent.kl_threshold": 0.01, "agent.entropy_loss_scale": 0.1}
GRU = {"models.policy.network.0.layers": [{"gru": 8}], "models.value.network.0.layers": [{"gru": 8}]}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "minibatches of two sizes": ("Pendulum-v1", MINIBATCHES),
    "whole rollouts": ("HalfCheetah-v4", {"agent.mini_batches": 1, "agent.value_preprocessor": None}),
    "recurrent": ("CartPole-v1", {**GRU, "agent.sequence_length": 4}),
    "RPO": ("Pendulum-v1", {"agent.class": "RPO", "agent.learning_rate_scheduler": "linear"}),
    "half-pools": ("CartPole-v1", {**GRU, "env.half_pools": True}),
    "at random first": ("CartPole-v1", {"agent.random_timesteps": 8, "agent.learning_rate_scheduler": "KLAdaptiveLR"}),
}


class Again:
    """As `CudaGraph`: a replay writes to the memory of the first results."""

    made = 0

    def __init__(self, function: Callable[[], Any]) -> None:
        Again.made += 1
        self._function, self.outputs = function, function()

    def replay(self) -> None:
        new = self._function()
        for own, result in zip(pytree.tree_leaves(self.outputs), pytree.tree_leaves(new), strict=True):
            if isinstance(own, Tensor):
                own.copy_(result.clone())


def graphs(patch: pytest.MonkeyPatch, graph: Any) -> None:
    """Let what may be captured be captured by this kind of graph."""
    patch.setattr(accelerate, "captured", lambda function: Captured(function, graph))
    patch.setattr(accelerate, "kept", partial(pytree.tree_map_only, Tensor, Tensor.clone))
    update._step.cache_clear()
    update._gae.cache_clear()


def trained(task: str, changes: dict[str, Any]) -> list[Any]:
    policy, arguments = TASKS[task]
    config = make_config({"trainer.timesteps": 24, **changes}, policy)
    runner = runner_class("torch")(EnvPoolTask(task, 8, arguments), config, seeds=[1, 2], threads=1)
    return [[told(report) for report in runner.reports()], *map(fingerprint, runner.states())]


@pytest.mark.parametrize("case", CASES)
def test_replayed_training_is_bit_equal(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    eager = trained(*CASES[case])
    before = Again.made
    with monkeypatch.context() as patch:
        graphs(patch, Again)
        assert trained(*CASES[case]) == eager
    update._step.cache_clear()
    update._gae.cache_clear()
    assert 3 <= Again.made - before <= 8, "one for acting, one for advantages, one for each size of a minibatch"


def test_a_replay_reads_its_arguments_and_copies_what_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[int] = []
    inner = torch._foreach_copy_

    def watched(own: Any, given: Any, **more: Any) -> None:
        copied.append(len(own))
        inner(own, given, **more)

    monkeypatch.setattr(torch, "_foreach_copy_", watched)
    function = Captured(lambda weight, pair: (weight * pair[0] + pair[1], None), Again)
    weight, noise = torch.ones(3), torch.arange(3.0)
    first, nothing = function(weight, (torch.tensor(2.0), noise))
    assert nothing is None and first.tolist() == [2, 3, 4] and sum(copied) == 3
    second, _ = function(weight, (torch.tensor(3.0), noise))
    assert second.tolist() == [3, 4, 5] and sum(copied) == 4, "weight and noise are where they were"
    noise.add_(1)
    assert function(second, (torch.tensor(3.0), noise))[0].tolist() == [10, 14, 18]
    assert first.tolist() == [10, 14, 18], "results hold until the next call"
    gone = weakref.ref(noise)
    del noise
    assert gone() is None, "an argument is not kept"


def test_noise_is_an_argument_so_that_replays_differ() -> None:
    sample = Captured(lambda mean, noise: mean + noise, Again)
    drawn = [sample(torch.zeros(4), torch.randn(4)).clone() for _ in range(3)]
    assert not drawn[0].equal(drawn[1]) and not drawn[1].equal(drawn[2])


def test_what_cannot_be_recorded_runs_as_it_is_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(function: Callable[[], Any]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    function = Captured(lambda x: x + 1, refuse)
    with caplog.at_level(logging.WARNING):
        assert [function(torch.zeros(n)).sum().item() for n in (2, 3, 2)] == [2, 3, 2]
    assert caplog.text.count("no CUDA graph") == 1 and "not permitted when stream is capturing" in caplog.text


def test_a_strict_device_trains_as_the_cpu_does() -> None:
    """Nothing of a training mixes the device and the host, and nothing that is recorded touches the host."""
    program = [sys.executable, "-m", "tests.runner.torch.fake_gpu"]
    done = subprocess.run(program, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    same = json.loads(done.stdout.splitlines()[-1])
    assert len(same) == 6 and all(same.values()), same
    assert "no CUDA graph" not in done.stderr


def test_what_a_function_reads_is_copied_without_the_gaps_between_members() -> None:
    memory = torch.arange(2 * 100 * 3.0).reshape(2, 100, 3)
    copy = accelerate._alike(memory[:, 5])
    assert copy.equal(memory[:, 5]) and copy.untyped_storage().nbytes() == 4 * 6
    assert accelerate._alike(memory[:, 5].t()).stride() == (1, 3), "in the order of the tensor's memory"


class FakeStream:
    """As `torch.cuda.Stream`: one of them is the current one."""

    current: FakeStream

    def wait_stream(self, other: Any) -> None:
        """Nothing: there is no device."""


@contextlib.contextmanager
def within(stream: FakeStream) -> Iterator[None]:
    before, FakeStream.current = FakeStream.current, stream
    try:
        yield
    finally:
        FakeStream.current = before


def test_a_failed_recording_leaves_the_stream_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.13 raises at the end of a recording that failed, before it goes back to the stream before."""
    modes: list[str] = []

    class Recording:
        def __init__(self, graph: Any, capture_error_mode: str) -> None:
            modes.append(capture_error_mode)

        def __enter__(self) -> None:
            FakeStream.current = FakeStream()

        def __exit__(self, *raised: object) -> None:
            raise RuntimeError("operation failed due to a previous error during capture")

    FakeStream.current = default = FakeStream()
    fakes = {"Stream": FakeStream, "stream": within, "graph": Recording, "CUDAGraph": object}
    for name, fake in (fakes | {"current_stream": lambda: FakeStream.current}).items():
        monkeypatch.setattr(torch.cuda, name, fake)
    with pytest.raises(RuntimeError, match="previous error"):
        CudaGraph(lambda: None)
    assert FakeStream.current is default and modes == ["thread_local"], "threads of an environment may go on"
