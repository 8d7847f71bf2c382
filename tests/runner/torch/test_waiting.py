"""Nothing in a rollout's step or in an update waits for the device, but for what has to be known on the host."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from runner.envs.envpool import EnvPoolTask
from runner.torch import train
from runner.torch.rollout import Collector
from runner.torch.update import update
from tests.runner.builders import TASKS, make_config, runner_class
from tests.runner.torch.problem import Problem

METHODS = ("__array__", "__bool__", "__float__", "__index__", "__int__", "cpu", "item", "numpy", "tolist")
OPERATIONS = {"_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero", "unique_dim", "_unique2"}
"""Operations whose result, or its shape, the host has to know before it goes on."""
RUNNER = Path(__file__).parents[3] / "runner"
HOT = ("torch/update.py", "torch/loss.py", "torch/models.py", "torch/advantages.py", "torch/recurrent.py",
       "torch/preprocessors.py", "torch/distributions.py", "torch/schedulers.py")  # fmt: skip


@contextmanager
def waits() -> Iterator[Counter[str]]:
    """Counts what waits for a device, or would if the tensors were on one."""
    found: Counter[str] = Counter()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = function.overloadpacket.__name__
            masks = name in ("index", "index_put_") and any(x is not None and x.dtype == torch.bool for x in args[1])
            if name in OPERATIONS or masks:
                found[name] += 1
            return function(*args, **(kwargs or {}))

    with pytest.MonkeyPatch.context() as patch, Watch():
        for name in METHODS:
            inner = getattr(Tensor, name)

            def watched(self: Tensor, *args: Any, name: str = name, inner: Any = inner, **kwargs: Any) -> Any:
                found[name] += 1
                return inner(self, *args, **kwargs)

            patch.setattr(Tensor, name, watched)
        yield found


WAITS: dict[str, Any] = {
    "bool": bool, "float": float, "int": int, "item": lambda x: x.item(), "cpu": lambda x: x.cpu(),
    "tolist": lambda x: x.tolist(), "nonzero": torch.nonzero, "numpy": np.asarray, "mask": lambda x: x[x > 0],
}  # fmt: skip


@pytest.mark.parametrize("name", WAITS)
def test_waits_are_seen(name: str) -> None:
    with waits() as found:
        WAITS[name](torch.ones(1))
    assert found


@pytest.mark.parametrize("half_pools", [False, True])
@pytest.mark.parametrize("task", ["CartPole-v1", "HalfCheetah-v4"])
def test_a_step_waits_once_for_its_actions_and_an_update_once_for_its_numbers(task: str, half_pools: bool) -> None:
    policy, arguments = TASKS[task]
    config = make_config({"trainer.timesteps": 24, "env.half_pools": half_pools}, policy)
    runner = runner_class("torch")(EnvPoolTask(task, 64, arguments), config, seeds=[1, 2], threads=1)
    counted: dict[str, list[Counter[str]]] = {"_send": [], "_receive": [], "learn": []}
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((Collector, "_send"), (Collector, "_receive"), (train, "learn")):
            inner = getattr(owner, name)

            def watched(*args: Any, inner: Any = inner, name: str = name) -> Any:
                with waits() as found:
                    result = inner(*args)
                counted[name].append(found)
                return result

            patch.setattr(owner, name, watched)
        list(runner.reports())
    parts = 2 if half_pools else 1
    assert counted["_send"] == [{"cpu": 1, "numpy": 1}] * 24 * parts
    assert counted["_receive"] == [{}] * 24 * parts
    assert counted["learn"] == [{"cpu": 1, "numpy": 1}] * 3


@pytest.mark.parametrize(
    ("changes", "policy"),
    [
        ({}, "GaussianMixin"),
        ({}, "CategoricalMixin"),
        ({"agent.mini_batches": 1, "agent.observation_statistics": "frozen"}, "GaussianMixin"),
        ({"agent.advantage_normalization": "minibatch", "agent.kl_threshold": 0.01}, "GaussianMixin"),
        ({"agent.learning_rate_scheduler": "KLAdaptiveLR", "agent.entropy_loss_scale": 0.1}, "GaussianMixin"),
    ],
)
def test_an_update_needs_no_number_on_the_host(changes: dict[str, Any], policy: str) -> None:
    """On torch's meta device, whose tensors have no numbers: whoever asks for one, or mixes devices, fails."""
    problem = Problem.random(changes, policy=policy)
    rules, orders = problem.rules, problem.orders
    alive = torch.ones_like(problem.learner.optimizer.steps, dtype=torch.bool)
    given = pytree.tree_map_only(Tensor, lambda x: x.to("meta"), (problem.learner, problem.rollout, orders, alive))
    after, metrics, explained = update(*given, rules)
    assert {x.device.type for x in pytree.tree_leaves((after, metrics, explained)) if x is not None} == {"meta"}


def test_what_is_compiled_copies_no_constants_from_the_host() -> None:
    """Which would wait at every call of a GPU's program, and could not be recorded; a CPU's has no operator of ours.

    In a process without this one's checks of shapes, and with torch's meta device for the GPU.
    """
    program = """
import torch
from runner.torch import accelerate

called = []

def compiler(graph, inputs):
    called.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
    return graph.forward

bounded = lambda x: x.clamp(*(accelerate.constant(bound, x.dtype, x.device) for bound in ((0.0, -1.0), (1.0, 2.0))))
compiled, x = torch.compile(bounded, fullgraph=True, backend=compiler), torch.randn(3, 2)
assert compiled(x).equal(bounded(x))
assert not [name for name in called if "sunflower" in name], called
called.clear()
compiled(x.to("meta"))
assert [name for name in called if name != "clamp"] == ["sunflower.constant.default"] * 2, called
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=RUNNER.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_hot_files_have_no_word_that_waits() -> None:
    found = []
    for path in (RUNNER / name for name in HOT):
        for node in ast.walk(ast.parse(path.read_text())):
            waits = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr
            if waits in {*METHODS, "nonzero", "masked_select", "unique", "argwhere", "equal"}:
                found.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")  # type: ignore[attr-defined]
    assert found == []
