"""A checkpoint's policy as one file that acts without this program: normaliser, network and output inside.

    import gymnasium, torch
    env, policy = gymnasium.make("CartPole-v1"), torch.export.load("best_agent.pt2").module()
    observation, ended = env.reset()[0], [False]
    while not any(ended):
        observation, reward, *ended, _ = env.step(policy(torch.from_numpy(observation)[None])[0].numpy())

That of a recurrent policy has its state as explicit input and output, zeros where an episode begins:

    import gymnasium, torch
    env, policy = gymnasium.make("CartPole-v1"), torch.export.load("best_agent.pt2").module()
    observation, ended, state = env.reset()[0], [False], torch.zeros(1, 128)  # an lstm's 64 hidden numbers and cells
    while not any(ended):
        actions, state = policy(torch.from_numpy(observation)[None], state)
        observation, reward, *ended, _ = env.step(actions[0].numpy())

Several agents have a file each, such as `best_agent_speaker_0.pt2`, which maps what it sees to its own actions.

It maps observations `[B, …]`, for any B, to the most probable actions `[B, …]` in the form that the environment takes:
real numbers in float32, clipped as the policy clips them; whole numbers else. A Box or MultiBinary observation has its
own shape; of any other space, the flat row `[B, O]` that runners see (`runner.envs.spaces`): a Dict's parts by sorted
key, a Discrete one as one number. Rows are float32, or uint8 where all of the observation is.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from runner.api import Runner
from runner.checkpoints import checkpoint as files
from runner.config import Config, resolve
from runner.envs.agents import acting
from runner.envs.agents.fitting import fitted
from runner.envs.spaces import Layout
from runner.errors import UserError
from runner.files import write_whole
from runner.networks.parameters import Network
from runner.training.state import Moments

if TYPE_CHECKING:
    from runner.envs.base import VectorEnv
    from runner.torch.export import Act, Policy

Form = Literal["torch", "onnx"]
SUFFIXES: dict[Form, str] = {"torch": ".pt2", "onnx": ".onnx"}
ONNX = ("onnx", "onnxscript", "onnxruntime")
ROWS = 1_000
"""Observations on which a file's actions are compared with ours."""
ROUNDING = 1e-4
"""Greatest difference of actions, relative to those beyond 1; and of logits that may be called a tie."""


def export(checkpoint: Path, to: Form = "torch", out: Path | None = None, env: str | None = None) -> list[Path]:
    """Write the policy of a checkpoint of either backend, if its actions are those of our own runner.

    The file is one of `torch.export` or for ONNX runtimes; by default beside the checkpoint, as `.pt2` or `.onnx`. Of
    several agents each has one, with its name at the end of the file's. The spaces are those of the environment that
    the checkpoint names, or of `env`.
    """
    if to not in SUFFIXES:
        raise UserError(f"--to: found {to!r}; allowed: {' or '.join(SUFFIXES)}")
    if to == "onnx" and (missing := [name for name in ONNX if importlib.util.find_spec(name) is None]):
        raise UserError(f"--to onnx needs {', '.join(missing)}: pip install 'sunflower[onnx]'")
    from runner.torch import Runner

    if checkpoint.is_dir():
        near = next((f", such as {file}" for file in sorted(checkpoint.rglob("*agent*.safetensors"))), "")
        raise UserError(f"{checkpoint}: a directory; allowed: one of its checkpoints{near}")
    data = files.read_file(checkpoint)
    config = _configuration(data, str(checkpoint))
    if env is not None:
        config = config.model_copy(update={"env": config.env.model_copy(update={"id": env})})
    task = fitted(_environment(data, config, str(checkpoint)), config)
    if task.agents is not None and config.models.policy.reads("STATES"):
        raise UserError(f"{checkpoint}: the policy reads STATES, and observations of agents have none")
    runner = Runner(task, config)
    runner.restore([data])
    path = out or checkpoint.with_suffix(SUFFIXES[to])
    if task.agents is None:
        return [_write(runner, to, path)]
    written = []
    for agent in task.agents.names:
        name = re.sub(r"[^\w.-]+", "-", agent)
        written.append(_write(runner, to, path.with_name(f"{path.stem}_{name}{path.suffix}"), agent))
    return written


def _write(runner: Runner, to: Form, path: Path, agent: str = "") -> Path:
    """Write the policy of a runner of one trial, that of one of several agents."""
    from runner.torch import export as programs

    config, task = runner.config, runner.env
    network = Network.of(config, task.layout, task.actions)
    parts, actions, columns, member = task.layout, task.actions, None, 0
    if task.agents is not None:
        parts, actions, columns = acting.own(task, agent)
        member = task.agents.group_of(agent)
    state = runner.states()[member]
    moments = state.observation_statistics
    policy = programs.Policy(network, state, actions, config.models.policy.clips, columns)
    if moments is not None and columns is not None:
        moments = moments_of(moments, columns, parts.stop)
    inputs = [observations(parts, moments)]
    if size := network.policy_memory:
        inputs.append(np.random.default_rng(1).uniform(-1, 1, (ROWS, size)).astype(np.float32))
    write, read = {
        "torch": (programs.to_torch, programs.from_torch),
        "onnx": (programs.to_onnx, programs.from_onnx),
    }[to]
    written = write(policy, *(x[:2] for x in inputs))
    compare(read(written), policy, runner, *inputs, agent=agent)
    try:
        write_whole(path, written)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    return path


def moments_of(moments: Moments, columns: np.ndarray, size: int) -> Moments:
    """The statistics of an agent's own observation, by those of the networks' `columns` of it."""
    mean, variance = np.zeros(size), np.ones(size)
    own = columns < size
    mean[columns[own]], variance[columns[own]] = moments.mean[own], moments.variance[own]
    return replace(moments, mean=mean, variance=variance)


def _configuration(data: bytes, name: str) -> Config:
    """A checkpoint's configuration, in float32: a policy that was trained in bfloat16 acts in it as well."""
    metadata = files.read_metadata(data, name)
    try:
        config = resolve(json.loads(metadata["config"]))[0]
    except (KeyError, ValueError) as error:
        raise UserError(f"{name}: its configuration cannot be read: {error}") from None
    return config.model_copy(update={"agent": config.agent.model_copy(update={"mixed_precision": False})})


def _environment(data: bytes, config: Config, name: str) -> VectorEnv:
    from runner.envs.task import task

    if config.env.id is None and config.agent.several:
        raise UserError(f"{name}: its environment of several agents had no name; allowed: --env ID of such a one")
    if config.env.id is None:
        return files.environment(files.read_metadata(data, name), config, name)
    env = task(config.env)
    env.close()
    return env


def observations(layout: Layout, statistics: Moments | None) -> np.ndarray:
    """Random ones `[ROWS, …]`, always the same: around the statistics, whole numbers where there are no others."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((ROWS, layout.stop))
    if statistics is not None:
        rows = statistics.mean + np.sqrt(statistics.variance) * rows
    for part in _leaves(layout):
        columns = rows[:, part.start : part.stop]
        if part.categories:
            columns[:] = rng.integers(part.offset, np.add(part.offset, part.categories), columns.shape)
        elif part.byte:
            columns[:] = rng.integers(256, size=columns.shape)
    if (mask := layout.mask) is not None:
        rows[:, mask.start : mask.stop] = rng.integers(2, size=(ROWS, mask.stop - mask.start))
    return rows.astype(layout.dtype).reshape(ROWS, *layout.shape)


def _leaves(layout: Layout) -> Iterator[Layout]:
    for _, child in layout.children:
        yield from _leaves(child)
    if not layout.children:
        yield layout


def compare(act: Act, policy: Policy, runner: Runner, *inputs: np.ndarray, agent: str = "") -> float:
    """The greatest difference between what a file gives and our runner does, also for a row alone; ties aside.

    `act` is what the file does with the inputs, observations `[B, …]` and a recurrent policy's states `[B, M]`, and
    `runner` is one of the same trial on torch, `agent` the one of several whose file it is.
    """
    from runner.torch import export as programs

    count = len(inputs[0])
    with programs.exactly():
        ours = _acts(runner, agent, *inputs)
    differences = []
    for whole, alone, right in zip(act(*inputs), act(*(x[:1] for x in inputs)), ours, strict=True):
        found, wanted = (x.astype(np.float64).reshape(len(x), -1) for x in (whole, right))
        found, wanted = np.append(found, alone.reshape(1, -1), 0), np.append(wanted, wanted[:1], 0)
        differences.append(np.abs(found - wanted) / np.maximum(1, np.abs(wanted)))
    if runner.env.actions.discrete:
        lead = programs.lead(policy, *inputs)
        differences[0][np.append(lead, lead[0]) < ROUNDING] = 0
    each = np.concatenate(differences, 1)
    greatest = float(each.max())
    if not greatest <= ROUNDING:
        raise UserError(
            f"the exported policy acts otherwise than ours on {int((each > ROUNDING).any(1).sum())} of "
            f"{count:,} random observations, by up to {greatest:.2g}; nothing was written"
        )
    return greatest


def _acts(runner: Runner, agent: str, observations: np.ndarray, state: np.ndarray | None = None) -> tuple[Any, ...]:
    """The actions of our runner, and the state after."""
    rows = observations.reshape(len(observations), -1)
    if not agent:
        found = runner.agent.act(rows, state, True)
        return (found,) if state is None else found
    if state is None:
        return (runner.agent.act({agent: rows}, None, True)[agent],)
    actions, after = runner.agent.act({agent: rows}, {agent: state}, True)
    return actions[agent], after[agent]
