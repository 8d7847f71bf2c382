"""Trainings on a device that is as strict as a GPU and computes on the CPU, beside the same on the CPU, as a program.

    python -m tests.runner.torch.fake_gpu

Arrays of the device and of the host do not mix, numpy does not read it, and what is recorded does not touch the host.
torch must know of such a device before its first gradient, hence a process of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from runner.envs.envpool import EnvPoolTask
from runner.torch import Runner, accelerate, train, update
from runner.torch.accelerate import Captured
from tests.runner.builders import TASKS, fingerprint, make_config, told

NAME = "fake"
COPIES = {"_to_copy", "copy_", "_foreach_copy_"}
WAITS = {"_local_scalar_dense", "equal", "nonzero"}
GAUSSIAN, CATEGORICAL = "GaussianMixin", "CategoricalMixin"


class OnDevice(Tensor):
    """A tensor on the device."""

    __module__ = "torch.fake"

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        of_inner = inner.shape, inner.stride(), inner.storage_offset()
        return Tensor._make_wrapper_subclass(cls, *of_inner, dtype=inner.dtype, device=f"{NAME}:0")  # type: ignore

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def __dlpack_device__(self) -> Any:
        return (2, 0)  # CUDA's first

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Device.run(function, args, kwargs or {})


class Device(TorchDispatchMode):
    """The device; what its operations do is checked."""

    recording = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Device.run(function, args, kwargs or {})

    @classmethod
    def run(cls, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operation, on the device if it says so, or else if its tensors are there."""
        name, named = function.overloadpacket.__name__, kwargs.get("device")
        given = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        own = {id(x.inner): x for x in given if isinstance(x, OnDevice)}
        host = [x for x in given if not isinstance(x, OnDevice)]
        there = bool(own) if named is None else torch.device(named).type == NAME
        if own and name not in COPIES:
            assert all(x.dim() == 0 for x in host), f"{function}: tensors of the device and of the host"
        if cls.recording:
            assert not host and there and name not in WAITS, f"{function}: the host, while a graph is recorded"
        args, kwargs = pytree.tree_map_only(OnDevice, lambda x: x.inner, (args, kwargs))
        if named is not None:
            kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"} | {"device": "cpu"}
        found = function(*args, **kwargs)
        if not there:
            return found
        return pytree.tree_map_only(Tensor, lambda x: own[id(x)] if id(x) in own else OnDevice(x), found)


class Recorded:
    """As `CudaGraph`: a replay writes to the memory of the first results."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        function()  # the warm-up
        self.outputs = self._recorded()

    def _recorded(self) -> Any:
        Device.recording = True
        try:
            return self._function()
        finally:
            Device.recording = False

    def replay(self) -> None:
        new = self._recorded()
        for own, result in zip(pytree.tree_leaves(self.outputs), pytree.tree_leaves(new), strict=True):
            if isinstance(own, Tensor):
                own.copy_(result.clone())


@contextmanager
def on_device() -> Iterator[None]:
    """Train on the device from now on."""
    for module in (accelerate, train):
        module.sees_gpu = lambda: True
    accelerate.device = lambda: torch.device(f"{NAME}:0")
    accelerate.captured = lambda function: Captured(function, Recorded)
    for cache in (update._step, update._gae, accelerate._constant):
        cache.cache_clear()
    torch._C._set_only_lift_cpu_tensors(True)  # which are copied afterwards, in an operation of its own
    with Device():
        yield


class Many:
    """Environments in one, whose arrays are numpy's or torch's, on the host."""

    num_envs = 8

    def __init__(self, torchs: bool, image: bool) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = Box(0, 255, (1, 8, 8), np.uint8) if image else Box(-9, 9, (3,))
        self.single_action_space = Discrete(3) if image else Box(-1, 1, (2,))
        self._rng, self._torchs = np.random.default_rng(0), torchs

    def _given(self, array: np.ndarray) -> Any:
        return torch.from_numpy(array) if self._torchs else array

    def _observed(self) -> Any:
        space = self.single_observation_space
        return self._given(self._rng.uniform(0, 9, (self.num_envs, *space.shape)).astype(space.dtype))

    def reset(self) -> Any:
        return self._observed(), {}

    def step(self, actions: Any) -> Any:
        assert type(actions) is (Tensor if self._torchs else np.ndarray)
        ended = self._rng.random((2, self.num_envs)) < 0.1
        flags = map(self._given, (ended[0], ended[1] & ~ended[0]))
        rewards = self._given(self._rng.normal(size=self.num_envs))
        return self._observed(), rewards, *flags, {"final_obs": self._observed()}


def of(task: str) -> Callable[[], Any]:
    return lambda: EnvPoolTask(task, 8, TASKS[task][1])


def layers(*found: Any) -> dict[str, Any]:
    return {f"models.{role}.network.0.layers": list(found) for role in ("policy", "value")}


CASES: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "minibatches of two sizes": (of("Pendulum-v1"), {"agent.mini_batches": 3, "agent.kl_threshold": 0.01}, GAUSSIAN),
    "means within bounds, two rates": (
        of("HalfCheetah-v4"),
        {"models.policy.clip_mean_actions": True, "agent.learning_rate": [1e-3, 1e-4], "models.separate": True},
        GAUSSIAN,
    ),
    "recurrent in half-pools": (
        of("CartPole-v1"), {**layers({"gru": 8}), "agent.sequence_length": 4, "env.half_pools": True}, CATEGORICAL
    ),
    "RPO, first at random": (
        of("Pendulum-v1"),
        {"agent.class": "RPO", "agent.learning_rate_scheduler": "linear", "agent.random_timesteps": 8},
        GAUSSIAN,
    ),
    "environments of numpy": (lambda: Many(False, False), {"agent.mini_batches": 1}, GAUSSIAN),
    "images of torch": (
        lambda: Many(True, True), {**layers({"conv2d": [4, 3]}, "flatten", 8), "agent.observation_preprocessor": None},
        CATEGORICAL,
    ),
}  # fmt: skip


def trained(make: Callable[[], Any], changes: dict[str, Any], policy: str) -> list[Any]:
    """What training, evaluating and going on from a checkpoint give."""
    seeds = None if isinstance(make(), Many) else [1, 2]
    found: list[Any] = []
    checkpoints: list[bytes] = []
    for timesteps in (16, 24):
        runner = Runner(make(), make_config({"trainer.timesteps": timesteps, **changes}, policy), seeds, threads=1)
        if checkpoints:
            runner.restore(checkpoints)
        found += [[told(report) for report in runner.reports()], *map(fingerprint, runner.states())]
        checkpoints = [made() for _, made in runner.checkpoints()]
    if runner.env.rebuilds:
        found += [[e.ret for e in runner.evaluate(deterministic, 2, 0, 2)] for deterministic in (True, False)]
    return found


def main() -> None:
    """Print as JSON which cases give the same, bit for bit."""
    torch.set_num_threads(1)  # torch's thread for the device's gradients keeps the number that there was at its start
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    host = {name: trained(*case) for name, case in CASES.items()}
    with on_device():
        print(json.dumps({name: trained(*case) == host[name] for name, case in CASES.items()}))


if __name__ == "__main__":
    main()
