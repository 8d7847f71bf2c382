"""Recurrent layers among others, behind convolutions and in front of layers, of both roles or one: torch's own modules
are what they must equal, which are stepped observation by observation.

Axes: P member · T step · N sequence · M remembered number.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn

from runner.api import Runner
from runner.envs.spaces import layout
from runner.envs.wrap import wrap_env
from runner.errors import UserError
from runner.jax import models as jax_models
from runner.jax.recurrent import Memory as JaxMemory
from runner.networks.parameters import Network
from runner.torch import models
from runner.torch.recurrent import Memory
from tests.isaac_lab import INFINITE, ManagerBasedRLEnv
from tests.parallel import Stay, Timetable
from tests.runner.builders import assert_same, make_config, make_env, make_network, runner_class
from tests.runner.torch.test_equals_oracle import close

P, T, N = 2, 5, 3
BACKENDS = ["torch", pytest.param("jax", marks=pytest.mark.cluster)]
SEEN = Dict({"arm": Box(-1, 1, (2,)), "camera": Box(-1, 1, (2, 3, 4))})
CAMERA = {"name": "cnn", "input": "OBSERVATIONS['camera']", "layers": [{"conv2d": [2, 2]}, "flatten", {"gru": 2}]}
BOTH = {"name": "net", "input": "concatenate([cnn, OBSERVATIONS['arm']])", "activations": "tanh"}
LSTMS = {"lstm": {"hidden_size": 3, "num_layers": 2}}
NETWORKS: dict[str, dict[str, Any]] = {
    "shared": {"policy": [CAMERA, {**BOTH, "layers": [4, LSTMS, 3]}]},
    "one of each role": {
        "policy": [CAMERA, {**BOTH, "layers": [4, LSTMS, 3]}],
        "value": [{**CAMERA, "name": "net", "layers": [{"conv2d": [3, 3, 1]}, "flatten", {"lstm": 2}, 4]}],
    },
    "the value alone": {
        "policy": [{**BOTH, "input": "OBSERVATIONS['arm']", "layers": [4]}],
        "value": [{**BOTH, "input": "OBSERVATIONS['arm']", "layers": [{"gru": 3}]}],
    },
}


def network_of(name: str) -> Network:
    roles = NETWORKS[name]
    changes: dict[str, Any] = {f"models.{role}.network": roles.get(role, roles["policy"]) for role in roles}
    changes |= {"models.separate": "value" in roles, "agent.observation_preprocessor": None}
    if "value" not in roles:
        changes["models.value.network"] = roles["policy"]
    return make_network(make_config({**changes, "agent.mini_batches": 1}), layout(SEEN), 2)


class Alone:
    """The networks of a member as torch's modules, one observation at a time."""

    def __init__(self, named: dict[str, Tensor], roles: dict[str, Any]) -> None:
        self.named, self.roles = named, roles

    def __call__(self, observation: Tensor, state: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The policy's outputs and the value; replaces what is remembered in `state`, by layer."""
        outs = {}
        for role, head in (("policy", "policy"), ("value", "value")):
            own = role if role in self.roles else "policy"
            values = {"camera": observation[2:].view(2, 3, 4), "arm": observation[:2]}
            if role == own:
                for container in self.roles[role]:
                    values["last"] = values[container["name"]] = self._container(role, container, values, state)
                outs[role] = values["last"]
            else:
                outs[role] = outs["policy"]
            outs[f"{role} head"] = self._linear(f"{head}.head", outs[role])
        return outs["policy head"], outs["value head"][0]

    def _container(self, role: str, container: dict[str, Any], values: dict[str, Tensor], state: Any) -> Tensor:
        read = container["input"]
        x = torch.cat([values["cnn"], values["arm"]]) if "cnn" in read else values["camera" if "cam" in read else "arm"]
        for number, layer in enumerate(container["layers"]):
            name = f"{role}.{container['name']}.{number}"
            if layer == "flatten":
                x = x.flatten()
            elif isinstance(layer, int):
                x = self._linear(name, x)
                x = torch.tanh(x) if "activations" in container else x
            elif "conv2d" in layer:
                x = nn.functional.conv2d(x[None], self.named[f"{name}.weight"], self.named[f"{name}.bias"])[0]
            else:
                x = self._recurrent(name, *next(iter(layer.items())), x, state)
        return x

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.named[f"{name}.weight"], self.named[f"{name}.bias"])

    def _recurrent(self, name: str, cell: str, sizes: Any, x: Tensor, state: dict[str, Any]) -> Tensor:
        sizes = sizes if isinstance(sizes, dict) else {"hidden_size": sizes}
        module = {"lstm": nn.LSTM, "gru": nn.GRU}[cell](len(x), **sizes).double()
        own = {key: self.named[f"{name}.{key}"] for key, _ in module.named_parameters()}
        given, state[name] = torch.func.functional_call(module, own, (x[None], state.get(name)))
        return given[0]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_networks_are_torchs_modules_step_by_step(backend: str, name: str) -> None:
    network, rng = network_of(name), np.random.default_rng(0)
    flat = np.stack([network.initial(seed) for seed in range(P)])
    rows = rng.normal(size=(P, T, N, network.observation_size)).astype(np.float32)
    begins = rng.random((P, T, N)) < 0.3
    begins[:, 0] = True
    by_output, by_value = rng.normal(size=(P, T, N, 2)), rng.normal(size=(P, T, N))
    carry = np.zeros((P, N, network.memory), np.float32)

    def theirs(flat: Tensor) -> tuple[Tensor, Tensor]:
        outs = []
        for p in range(P):
            pieces = flat[p].split([entry.size for entry in network.entries])
            named = {e.name: x.view(e.shape) for e, x in zip(network.entries, pieces, strict=True)}
            member, states = Alone(named, NETWORKS[name]), [dict[str, Any]() for _ in range(N)]
            for t, n in np.ndindex(T, N):
                states[n] = {} if begins[p, t, n] else states[n]
                outs.append(member(torch.tensor(rows[p, t, n]).double(), states[n]))
        return tuple(torch.stack(x).view(P, T, N, *x[0].shape) for x in zip(*outs, strict=True))  # type: ignore[return-value]

    def solved(function: Any, parameters: Tensor) -> list[np.ndarray]:
        parameters.requires_grad_()
        outputs, values = function(parameters)
        ((torch.tensor(by_output) * outputs).sum() + (torch.tensor(by_value) * values).sum()).backward()
        return [x.detach().numpy() for x in (outputs, values, parameters.grad)]  # type: ignore[union-attr]

    def ours() -> list[np.ndarray]:
        def of_rows(flat: Tensor) -> tuple[Tensor, Tensor]:
            memory = Memory(torch.from_numpy(carry), torch.from_numpy(begins).flatten(1))
            named, seen = models.cut(network, flat), torch.from_numpy(rows).flatten(1, 2)
            outputs, values = models.policy_and_value(network, named, seen, memory)
            return outputs.unflatten(1, (T, N)), values.unflatten(1, (T, N))

        return solved(of_rows, torch.tensor(flat))

    def jaxs() -> list[np.ndarray]:
        def of_rows(flat: Any, rows: Any, begins: Any, carry: Any) -> Any:
            named, memory = jax_models.cut(network, flat), JaxMemory(carry, begins.ravel())
            outputs, values = jax_models.policy_and_value(network, named, rows.reshape(T * N, -1), memory)
            return outputs.reshape(T, N, -1), values.reshape(T, N)

        def whole(flat: Any, *given: Any) -> Any:
            outputs, values = jax.vmap(of_rows)(flat, *given)
            return (by_output * outputs).sum() + (by_value * values).sum(), (outputs, values)

        (_, found), gradient = jax.jit(jax.value_and_grad(whole, has_aux=True))(flat, rows, begins, carry)
        return [np.asarray(x) for x in (*found, gradient)]

    right, found = solved(theirs, torch.tensor(flat).double()), {"torch": ours, "jax": jaxs}[backend]()
    for kind, one, other in zip(("output", "value", "gradient"), found, right, strict=True):
        close(one, other, kind)


def test_what_acts_remembers_step_by_step_what_the_value_needs() -> None:
    """A rollout carries the memory of both roles, though its actions are the policy's alone."""
    for name in NETWORKS:
        network = network_of(name)
        flat, rng = torch.tensor(network.initial(3))[None], np.random.default_rng(1)
        rows, named = torch.tensor(rng.normal(size=(1, T, N, 26)), dtype=torch.float32), models.cut(network, flat)
        carry: Any = torch.zeros(1, N, network.memory)
        memory = Memory(carry, torch.zeros(1, T * N, dtype=torch.bool))
        outputs, policys = models.policy(network, named, rows.flatten(1, 2), memory)
        _, values = models.value(network, named, rows.flatten(1, 2), memory)
        for t in range(T):
            outputs_of_step, carry = models.acted(network, named, rows[:, t], carry)
            close(outputs_of_step, outputs.unflatten(1, (T, N))[:, t].numpy(), "outputs")
        assert policys is not None and values is not None
        last = policys[:, -1].clone()
        last[..., network.policy_memory :] = values[:, -1, :, network.policy_memory :]
        close(carry, last.numpy(), "carry")


@pytest.mark.parametrize("share", [False, True, [["a", "c"], ["b"]]])
def test_agents_act_with_states_by_their_names(share: Any) -> None:
    names, rng = ("a", "b", "c"), np.random.default_rng(0)
    env = wrap_env(partial(Timetable, {name: Stay(0, 5) for name in names}, Box(-1, 1, (1,))), 2)
    changes = {"agent.class": "IPPO", "agent.share_parameters": share, "models.policy.network.0.layers": [{"gru": 2}]}
    act = runner_class("torch")(env, make_config(changes)).agent.act
    first, second = ({name: rng.normal(size=(4, 4)).astype(np.float32) for name in names} for _ in range(2))
    _, state = act(first, deterministic=True)
    assert {name: own.shape for name, own in state.items()} == dict.fromkeys(names, (4, 2))
    on, after = act(second, state, deterministic=True)
    left, fresh = act(second, {"a": state["a"], "c": state["c"]}, deterministic=True), act(second, deterministic=True)
    for name in names:
        np.testing.assert_array_equal(left[1][name], (fresh[1] if name == "b" else after)[name])
        assert np.abs(fresh[1][name] - after[name]).max() > 1e-3
    some, its = act({"b": second["b"]}, {"b": state["b"]}, deterministic=True)
    np.testing.assert_allclose(some["b"], on["b"], atol=1e-6)
    assert list(its) == ["b"]
    for wrong, why in (
        (state["a"], "state: found no mapping; allowed: by agent, a, b, c"),
        ({"d": state["a"]}, "state: found d; allowed: by agent"),
        ({"a": state["a"][:3]}, r"state: found shape \[3, 2\] of float32; allowed: numbers \[4, 2\]"),
    ):
        with pytest.raises(UserError, match=why):
            act(second, wrong)


# ---------------------------------------------------------------------------------------------- training


def trained(backend: str, changes: dict[str, Any], seeds: Sequence[int], task: str) -> Runner:
    changes = {"agent.sequence_length": 4, "agent.observation_preprocessor": None, **changes}
    config = make_config({"trainer.timesteps": 16, **changes}, "CategoricalMixin")
    runner = runner_class(backend)(make_env(task, 3, {"max_episode_steps": 5}), config, seeds=seeds, threads=1)
    list(runner.reports())
    return runner


@pytest.mark.parametrize("backend", BACKENDS)
def test_convolutions_and_an_lstm_train_in_a_pack_as_alone(backend: str) -> None:
    layers = [{"conv2d": [2, 3, 2]}, "flatten", {"lstm": 3}, 4]
    net = {"name": "net", "input": "permute(OBSERVATIONS['image'], (0, 3, 1, 2)) / 10", "layers": layers}
    changes: dict[str, Any] = {f"models.{role}.network": [net] for role in ("policy", "value")}
    for separate in (False, True) if backend == "jax" else (True,):
        changes["models.separate"] = separate
        pack, alone = (trained(backend, changes, seeds, "MiniGrid-Empty-5x5-v0").states() for seeds in ([5, 6], [6]))
        assert_same(alone[0], pack[1], 1e-5)
        if backend == "jax":
            other = trained("torch", changes, [5, 6], "MiniGrid-Empty-5x5-v0").states()
            for mine, theirs in zip(pack, other, strict=True):
                assert_same(mine, theirs, 1e-4)


KINDS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "a pool": (lambda: make_env("Pendulum-v1", 3, {"max_episode_steps": 5}), {}),
    "environments that reset at once": (
        lambda: gymnasium.make_vec(
            "Pendulum-v1", 3, "sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}, max_episode_steps=5
        ),
        {},
    ),
    "tensors": (lambda: ManagerBasedRLEnv(Box(**INFINITE, shape=(3,)), Box(**INFINITE, shape=(5,))), {}),
    "agents that die and come late": (
        lambda: wrap_env(partial(Timetable, {"whole": Stay(0, 5), "late": Stay(2, 2)}, Box(-1, 1, (1,))), 2),
        {"agent.class": "IPPO"},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_update_remembers_what_the_rollout_did(backend: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the memory at its start and where episodes begin, a rollout's outputs follow, whoever resets when."""
    make, changes = KINDS[kind]
    changes = {**changes, "agent.observation_preprocessor": None, "agent.sequence_length": 4, "trainer.timesteps": 24}
    for role in ("policy", "value"):
        changes[f"models.{role}.network.0.layers"] = [4, LSTMS]
    runner, begun = runner_class(backend)(make(), make_config(changes), threads=1), 0
    module = importlib.import_module(f"runner.{backend}.train")
    learn, found = module.learn, []

    def learning(rules: Any, learner: Any, rollout: Any, *rest: Any) -> Any:
        columns = rollout.observations, rollout.outputs, rollout.valid, rollout.ended, rollout.carry
        rows = [torch.from_numpy(np.asarray(x).copy()) for x in (learner.optimizer.parameters, *columns)]
        found.append(rows if backend == "torch" else [rows[0], *(x.swapaxes(0, 1) for x in rows[1:])])
        return learn(rules, learner, rollout, *rest)

    monkeypatch.setattr(module, "learn", learning)
    list(runner.reports())
    network = runner._members.network
    for parameters, observations, outputs, valid, ended, carry in found:
        over = ~valid.bool() | (ended if runner.env.resets_at_once else False)
        begins = torch.cat((torch.zeros_like(over[:, :1]), over[:, :-1]), 1)
        begun += int((begins & valid.bool())[:, 1:].sum())
        memory = Memory(carry[:, 0], begins.flatten(1))
        rows = observations[:, :-1].flatten(1, 2)
        again = models.policy(network, models.cut(network, parameters), rows, memory)[0].view(outputs.shape)
        close(again[valid.bool()], outputs[valid.bool()].numpy(), kind)
    assert begun > 4


def test_a_policy_without_memory_beside_a_value_that_has_one_acts_as_feed_forward() -> None:
    net = {"name": "net", "input": "OBSERVATIONS", "activations": "tanh"}
    changes = {
        "models.separate": True,
        "models.policy.network": [{**net, "layers": [4]}],
        "models.value.network": [{**net, "layers": [{"lstm": 3}]}],
    }
    pack = trained("torch", changes, [5, 6], "CartPole-v1")
    alone = trained("torch", changes, [6], "CartPole-v1")
    assert_same(alone.states()[0], pack.states()[1], 1e-5)
    assert alone.agent.act(np.zeros((2, 4), np.float32)).shape == (2,)
    assert [episode.length for episode in alone.evaluate(episodes=4)] == [5] * 4
