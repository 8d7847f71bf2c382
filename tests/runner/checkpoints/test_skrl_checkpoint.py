"""skrl's checkpoints act here as they act in skrl, ours load there, and no file of either kind runs code.

The fixtures are of real skrl: see tests/fixtures/skrl/make.py.
"""

from __future__ import annotations

import importlib
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import msgpack
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from runner.api import Runner
from runner.checkpoints import checkpoint, skrl
from runner.config.overrides import apply
from runner.errors import UserError
from runner.training.state import MemberState
from tests.runner.builders import assert_same, both, runner_class

FIXTURES = Path(__file__).parents[2] / "fixtures" / "skrl"
FILES = {file.stem: file for file in [*FIXTURES.glob("*.pt"), *FIXTURES.glob("*.pickle")]}
SHARED, SEPARATE, FLAX = "torch_2.1.1_shared_gaussian", "torch_2.0.0_separate_gaussian", "jax_2.1.1_separate_gaussian"
FLAX_IMAGES = f"{FLAX}_images"
ON_JAX = [SHARED, "torch_1.4.3_separate_categorical", FLAX, FLAX_IMAGES]
# skrl's JAX reads images as they come, height x width x channels; here convolutions read channels first.
CHANNELS_FIRST = {
    f"models.{role}.network.0.input": "permute(OBSERVATIONS, (0, 3, 1, 2))" for role in ("policy", "value")
}


class Spaces(gymnasium.Env[Any, Any]):
    """An environment of which nothing but the spaces is asked."""

    def __init__(self, observations: gymnasium.Space[Any], actions: gymnasium.Space[Any]) -> None:
        self.observation_space, self.action_space = observations, actions


def truth(stem: str) -> Any:
    """What skrl computed: observations, outputs, values."""
    return np.load(FIXTURES / f"{stem}.npz")


def make_runner(stem: str, backend: str = "torch", changes: dict[str, Any] | None = None) -> Runner:
    """A runner of a fixture's own YAML."""
    found = truth(stem)
    shape, actions = found["observations"].shape[1:], found["outputs"].shape[1]
    image = found["observations"].dtype == np.uint8
    observations = Box(0, 255, shape, np.uint8) if image else Box(-np.inf, np.inf, shape)
    config = Runner.load_cfg_from_yaml(FIXTURES / f"{stem}.yaml")
    changes = CHANNELS_FIRST if stem == FLAX_IMAGES and changes is None else changes
    for key, value in (changes or {}).items():
        apply(config, tuple(int(part) if part.isdigit() else part for part in key.split(".")), value)
    space = Discrete(actions) if "categorical" in stem else Box(-1, 1, (actions,))
    return runner_class(backend)(Spaces(observations, space), config)


def read(runner: Runner, stem: str, data: bytes | None = None) -> MemberState:
    file = FILES[stem]
    found = file.read_bytes() if data is None else data
    return skrl.read(found, runner._members.network, runner.config, file.name)


def write(runner: Runner, state: MemberState) -> bytes:
    return skrl.write([state], [""], runner._members.network, runner.config)


def outputs_and_values(backend: str, runner: Runner, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means or logits `[B, A]`, and values `[B]` in reward units."""
    (state,), network = runner.states(), runner._members.network
    models = importlib.import_module(f"runner.{backend}.models")
    rows = runner.env.flatten(observations, len(observations)).astype(np.float32)
    if (seen := state.observation_statistics) is not None:
        rows = np.clip((rows - seen.mean) / (np.sqrt(seen.variance) + 1e-8), -5, 5).astype(np.float32)
    if backend == "torch":
        parameters = models.cut(network, torch.from_numpy(state.parameters)[None])
        found = [x[0].numpy() for x in models.policy_and_value(network, parameters, torch.from_numpy(rows)[None])]
    else:
        import jax

        both_of = jax.jit(lambda row, x: models.policy_and_value(network, models.cut(network, row), x))
        found = [np.asarray(x) for x in both_of(state.parameters, rows)]
    outputs, values = found
    if (seen := state.value_statistics) is not None:
        values = np.clip(values, -5, 5) * np.sqrt(seen.variance) + seen.mean
    return outputs, values


@pytest.mark.parametrize(("backend", "stem"), both(sorted(FILES), ON_JAX))
def test_a_file_of_skrl_gives_skrls_actions_and_values(backend: str, stem: str) -> None:
    runner, expected = make_runner(stem, backend), truth(stem)
    runner.agent.restore([read(runner, stem)])
    outputs, values = outputs_and_values(backend, runner, expected["observations"])
    np.testing.assert_allclose(outputs, expected["outputs"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(values, expected["values"], rtol=0, atol=1e-5)
    actions = runner.agent.act(expected["observations"], deterministic=True)
    if "categorical" in stem:
        np.testing.assert_array_equal(actions, expected["outputs"].argmax(1))
    else:
        np.testing.assert_allclose(actions, expected["outputs"], rtol=0, atol=1e-5)


def test_there_is_a_fixture_of_every_kind() -> None:
    kinds = {(*stem.split("_")[:2], word) for stem in FILES for word in stem.split("_")[2:]}
    for version in ("1.2.0", "1.3.0", "1.4.3", "2.0.0", "2.1.1"):
        assert {("torch", version, "shared"), ("torch", version, "separate")} & kinds
    assert {("jax", "1.4.3", "gaussian"), ("jax", "2.1.1", "categorical"), ("torch", "2.1.1", "images")} <= kinds
    assert sum(file.stat().st_size for file in FIXTURES.iterdir() if file.suffix not in (".py", ".json")) < 300_000


def torch_modules(stem: str) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(FILES[stem], weights_only=True)
    return found


def torch_file(modules: Any) -> bytes:
    out = io.BytesIO()
    torch.save(modules, out)
    return out.getvalue()


def test_moments_and_learning_rate_go_on() -> None:
    runner = make_runner(SHARED)
    state, modules = read(runner, SHARED), torch_modules(SHARED)
    first, second = (runner._members.network.split(row) for row in (state.first_moment, state.second_moment))
    for index, name in ((0, "policy.log_std"), (1, "policy.net.0.weight"), (8, "value.head.bias")):
        there = modules["optimizer"]["state"][index]
        np.testing.assert_array_equal(first[name], there["exp_avg"])
        np.testing.assert_array_equal(second[name], there["exp_avg_sq"])
    counters = state.counters
    assert counters.learning_rate == modules["optimizer"]["param_groups"][0]["lr"] != runner.config.agent.learning_rate
    assert (counters.optimizer_steps, counters.update, counters.timestep, counters.env_steps) == (16, 0, 0, 0)


def of_another_optimizer() -> bytes:
    modules = torch_modules(SHARED)
    modules["optimizer"]["param_groups"][0]["params"].pop()
    return torch_file(modules)


@pytest.mark.parametrize(("stem", "data", "rate"), [(FLAX, None, 0.005), (SHARED, of_another_optimizer, 0.01)])
def test_moments_that_are_not_there_begin_at_zero(
    stem: str, data: Callable[[], bytes] | None, rate: float, caplog: pytest.LogCaptureFixture
) -> None:
    state = read(make_runner(stem), stem, data and data())
    assert not state.first_moment.any() and not state.second_moment.any()
    assert (state.counters.optimizer_steps, state.counters.learning_rate) == (0, rate)
    assert f"{FILES[stem].name}: has no optimizer state of these parameters" in caplog.text


def test_a_fixed_log_std_is_the_configurations_in_a_jax_file() -> None:
    runner = make_runner(FLAX, changes={"models.policy.fixed_log_std": True, "models.policy.initial_log_std": -1.5})
    packed = pickle.loads(FILES[FLAX].read_bytes())
    policy = msgpack.unpackb(packed["policy"], ext_hook=msgpack.ExtType)
    del policy["params"]["log_std_parameter"]
    packed["policy"] = msgpack.packb(policy)
    state = read(runner, FLAX, pickle.dumps(packed, protocol=4))
    np.testing.assert_array_equal(runner._members.network.split(state.parameters)["policy.log_std"], [-1.5, -1.5])


# Files of ours.


def assert_alike(ours: Any, theirs: Any, where: str) -> None:
    """The same keys in the same order, types, shapes and numbers."""
    assert isinstance(ours, dict if isinstance(theirs, dict) else type(theirs)), where
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs), where
        for key in theirs:
            assert_alike(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), where
        for one, other in zip(ours, theirs, strict=True):
            assert_alike(one, other, where)
    elif isinstance(theirs, torch.Tensor):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), where
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    else:
        assert ours == theirs, where


@pytest.mark.parametrize("stem", sorted(stem for stem in FILES if stem.startswith("torch") and "_1.2.0_" not in stem))
def test_a_file_of_ours_is_what_skrl_2_writes(stem: str) -> None:
    runner = make_runner(stem)
    ours = torch.load(io.BytesIO(write(runner, read(runner, stem))), weights_only=True)
    names = {"state_preprocessor": "observation_preprocessor"}
    assert_alike(ours, {names.get(key, key): module for key, module in torch_modules(stem).items()}, stem)


@pytest.mark.parametrize("stem", [SEPARATE, "torch_1.2.0_shared_gaussian", FLAX_IMAGES])
def test_a_file_of_ours_comes_back(stem: str) -> None:
    runner = make_runner(stem)
    state = read(runner, stem)
    assert_same(read(runner, stem, write(runner, state)), state, rtol=1e-6)


def test_a_run_that_has_not_begun_can_be_saved() -> None:
    runner = make_runner(SEPARATE, changes={"agent.adam_epsilon": 1e-5})
    (state,) = runner.states()
    found = torch.load(io.BytesIO(write(runner, state)), weights_only=True)
    assert found["optimizer"]["state"] == {} and found["optimizer"]["param_groups"][0]["eps"] == 1e-5
    assert_same(read(runner, SEPARATE, write(runner, state)), state)


# Files that are refused.


def changed(stem: str, change: Callable[[dict[str, Any]], Any]) -> bytes:
    modules = torch_modules(stem)
    change(modules)
    return torch_file(modules)


NET = "models.policy.network.0"
OTHER_CONFIGURATION: dict[str, tuple[str, dict[str, Any], str]] = {
    "width": (SHARED, {f"{NET}.layers": [6, 5]}, r"net_container.2.weight of policy is \[4, 6\] there and \[5, 6\]"),
    "depth": (
        SHARED,
        {f"{NET}.layers": [6]},
        "policy lacks parameters .none. or has unknown ones .net_container.2.bias",
    ),
    "name": (
        SHARED,
        {f"{NET}.name": "mlp"},
        "lacks parameters .mlp_container.0.bias, .*; needed by the configuration: ",
    ),
    "activation": (SHARED, {f"{NET}.activations": "gelu"}, "skrl computes without gelu; needed: none, or elu, "),
    "output": (
        SEPARATE,
        {"models.policy.output": "ACTIONS + 0 * second[:, :2]"},
        "skrl's second includes the output's",
    ),
    "shared": (
        SEPARATE,
        {"models.separate": False},
        "holds separate networks .* needed: models.separate: True, found Fal",
    ),
    "separate": (SHARED, {"models.separate": True}, "holds one network .* needed: models.separate: False, found True"),
    "flax shared": (FLAX, {"models.separate": False}, "skrl's JAX has separate networks whatever"),
    "no statistics": (
        SHARED,
        {"agent.observation_preprocessor": None},
        "statistics of observation_preprocessor, value_",
    ),
    "flax statistics": (
        FLAX,
        {"agent.value_preprocessor": None},
        "needed by the configuration: observation_preprocessor",
    ),
    "channels last": (FLAX_IMAGES, {}, r"features_container.0.weight of policy is \[3, 2, 3, 2\] there and \[3, 7,"),
}


@pytest.mark.parametrize("case", OTHER_CONFIGURATION)
def test_a_file_of_another_configuration_is_refused(case: str) -> None:
    stem, changes, message = OTHER_CONFIGURATION[case]
    with pytest.raises(UserError, match=message) as error:
        read(make_runner(stem, changes=changes), stem)
    assert str(error.value).startswith(f"{FILES[stem].name}: ")


@pytest.mark.parametrize("change", ["activation", "output"])
def test_what_skrl_cannot_have_is_not_written(change: str) -> None:
    stem, changes, message = OTHER_CONFIGURATION[change]
    runner = make_runner(stem, changes=changes)
    with pytest.raises(UserError, match=f"agent.save: models.policy.*{message}"):
        write(runner, runner.states()[0])


def flax_file(**modules: Any) -> bytes:
    return pickle.dumps({**pickle.loads(FILES[FLAX].read_bytes()), **modules}, protocol=4)


def not_a_number(modules: dict[str, Any]) -> None:
    modules["policy"]["policy_layer.bias"][0] = float("nan")


DAMAGED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "not finite": (
        SHARED,
        lambda: changed(SHARED, not_a_number),
        "policy_layer.bias of policy holds numbers that are not",
    ),
    "no value": (
        SHARED,
        lambda: changed(SHARED, lambda m: m.pop("value")),
        "holds policy, optimizer, .*; needed: policy",
    ),
    "other agent": (
        SHARED,
        lambda: changed(SHARED, lambda m: m.update(critic_1={})),
        "holds policy, .*, critic_1; needed:",
    ),
    "one module": (
        SHARED,
        lambda: torch_file(torch_modules(SHARED)["policy"]),
        "holds log_std_parameter, net_container",
    ),
    "a list": (SHARED, lambda: torch_file([1.0]), "holds list; needed: policy and value"),
    "no tensors": (
        SHARED,
        lambda: changed(SHARED, lambda m: m.update(policy={"a": "b"})),
        "'a' is no array of numbers",
    ),
    "statistics": (
        SHARED,
        lambda: changed(SHARED, lambda m: m["value_preprocessor"].update(running_mean=torch.zeros(2))),
        r"value_preprocessor has \[2, 1, 1\] means, variances and counts; needed: \[1, 1, 1\]",
    ),
    "negative variance": (
        SHARED,
        lambda: changed(SHARED, lambda m: m["value_preprocessor"]["running_variance"].neg_()),
        "statistics that are not finite or below 0",
    ),
    "flax module": (FLAX, lambda: flax_file(policy=b"\xc1"), "not a skrl checkpoint, or cut short"),
    "flax text": (FLAX, lambda: flax_file(policy="text"), "not a skrl checkpoint, or cut short"),
    "flax code": (FLAX, lambda: flax_file(policy=msgpack.packb({"params": msgpack.ExtType(9, b"")})), "data of type 9"),
    "flax objects": (
        FLAX,
        lambda: flax_file(policy=msgpack.packb({"params": msgpack.ExtType(1, msgpack.packb(([1], "O", b"12345678")))})),
        "an array of O",
    ),
    "text": (SHARED, lambda: b"PK no archive", "not a skrl checkpoint, or cut short .13 bytes.*; needed: an agent_"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_refused(case: str) -> None:
    stem, data, message = DAMAGED[case]
    with pytest.raises(UserError, match=message) as error:
        read(make_runner(stem), stem, data())
    assert str(error.value).startswith(f"{FILES[stem].name}: ") and "needed: " in str(error.value)


@pytest.mark.parametrize("stem", [SHARED, FLAX])
def test_a_file_that_is_cut_short_is_refused(stem: str) -> None:
    runner, data = make_runner(stem), FILES[stem].read_bytes()
    for length in range(2, len(data), len(data) // 11):
        with pytest.raises(UserError, match=f"{FILES[stem].name}: .*needed: ") as error:
            read(runner, stem, data[:length])
        assert "trust" not in str(error.value), "advice to read it with less care"


class Code:
    """Unpickled without care, it runs a program."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._marker}",)


@pytest.mark.parametrize("form", ["torch", "torch's old form", "flax", "flax, an older pickle"])
def test_code_in_a_file_does_not_run(form: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    modules = {"policy": Code(marker), "value": {}}
    out = io.BytesIO()
    if form.startswith("torch"):
        torch.save(modules, out, _use_new_zipfile_serialization=form == "torch")
    else:
        pickle.dump(modules, out, protocol=4 if form == "flax" else 2)
    data = out.getvalue()
    assert checkpoint.pickled(data)
    with pytest.raises(UserError, match=r"was not read: it asks to run .*system; needed: a file of numbers alone"):
        read(make_runner(SHARED), SHARED, data)
    assert not marker.exists()


def test_the_same_code_would_run_if_it_were_read_without_care(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Code(tmp_path / "ran"), protocol=4))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("stem", [SHARED, FLAX])
def test_skrls_files_are_told_from_ours(stem: str) -> None:
    runner = make_runner(SHARED)
    assert checkpoint.pickled(FILES[stem].read_bytes())
    assert not checkpoint.pickled(runner.checkpoint(0, runner.states()[0]))


def test_an_agent_loads_skrls_file_and_saves_one_for_it(tmp_path: Path) -> None:
    runner = make_runner(SHARED)
    runner.agent.load(FILES[SHARED])
    assert_same(runner.states()[0], read(runner, SHARED, FILES[SHARED].read_bytes()), 1e-7)
    runner.agent.save(tmp_path / "again.pt")
    other = make_runner(SHARED)
    other.agent.load(str(tmp_path / "again.pt"))
    assert_same(other.states()[0], runner.states()[0], 1e-7)
    with pytest.raises(UserError, match=r"nothing\.pt: cannot be read: No such file"):
        runner.agent.load(tmp_path / "nothing.pt")
