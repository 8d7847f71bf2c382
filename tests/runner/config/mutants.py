"""Files to mutate, what must hold of every mutant, places in a file, and what may stand there instead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from hypothesis import strategies as st

from runner.config import Config, load_config, resolve
from runner.config.load import Key, plain_copy, read_yaml
from runner.config.network.expressions import ACTIVATIONS, ALIASES, FUNCTIONS, SPACES, TOKENS
from runner.config.schedules import SCHEDULES
from runner.config.skrl.eras import LEGACY_AGENT, LEGACY_MODEL
from runner.envs.spaces import ActionSpace, layout
from runner.errors import UserError
from runner.networks.parameters import Network

ROOT = Path(__file__).parents[3]
FILES = sorted([*(ROOT / "tests/fixtures/yaml").glob("*.yaml"), *(ROOT / "configs").rglob("*.yaml")])
IMAGE = spaces.Box(0, 255, (4, 84, 84), np.uint8)
JOINTS = spaces.Dict({"STATES of joints": spaces.Box(-1, 1, (2,)), "joint-velocities": spaces.Box(-1, 1, (3,))})
GRID = spaces.Dict({"image": spaces.Box(0, 255, (7, 7, 3), np.uint8), "direction": spaces.Discrete(4)})
VECTOR, TORQUES = spaces.Box(-1, 1, (5,)), spaces.Box(-1, 1, (2,))
ENVIRONMENTS: list[tuple[spaces.Space[Any], spaces.Space[Any]]] = [
    (VECTOR, TORQUES),
    (VECTOR, spaces.Discrete(3)),
    (spaces.Discrete(6), spaces.Discrete(3)),
    (IMAGE, spaces.Discrete(6)),
    (spaces.Box(-1, 1, (84, 84, 3)), TORQUES),
    (JOINTS, spaces.MultiDiscrete([2, 3])),
    (GRID, spaces.Discrete(7)),
    (spaces.Dict({"grid": spaces.Box(0, 1, (12, 12, 5))}), spaces.Discrete(4)),
    (spaces.Dict({"observation": spaces.MultiBinary((4, 4, 31))}), spaces.Discrete(4)),
    (spaces.Box(0, 255, (72, 96, 4), np.uint8), spaces.Discrete(6)),
]
FREE = (("env",), ("agent", "experiment", "wandb_kwargs"))
"""Blocks whose keys are not the configuration's own."""
LEAKS = ("Input should be", "Traceback", "pydantic", "validation error", "function-", "Keys should", "<class")
"""What no message may contain: words of the machinery."""


@dataclass(frozen=True)
class Original:
    """A file as it is, and its network in the first environment that it fits."""

    name: str
    text: str
    data: dict[str, Any]
    config: Config
    environment: int
    network: Network


def network_of(config: Config, environment: int) -> Network:
    observations, actions = ENVIRONMENTS[environment]
    return Network.of(config, layout(observations), ActionSpace.of(actions))


@cache
def original(path: Path) -> Original:
    config = load_config(path)[0]
    for environment in range(len(ENVIRONMENTS)):
        try:
            network = network_of(config, environment)
        except UserError:
            continue
        return Original(path.stem, path.read_text(), read_yaml(path)[0], config, environment, network)
    raise AssertionError(f"no environment fits {path}: add one to ENVIRONMENTS")


# ---------------------------------------------------------------------------------------------- what must hold


def outcome(file: Path, text: str | bytes) -> tuple[Config | None, str]:
    """The configuration that a text means, or None and why it is refused; any other error fails the test."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        config = load_config(file)[0]
    except UserError as error:
        message = str(error)
        assert message.startswith((str(file), "command line")) and not [leak for leak in LEAKS if leak in message]
        return None, message
    again, notes = resolve(config.dump())
    assert (again, notes) == (config, []) and again.dump() == config.dump()
    return config, ""


def built(config: Config, environment: int) -> Network | None:
    """The network, or None where it is refused."""
    try:
        return network_of(config, environment)
    except UserError as error:
        assert str(error).startswith("models.") and not [leak for leak in LEAKS if leak in str(error)]
        return None


# ---------------------------------------------------------------------------------------------- places in a file


def entries(data: Any, path: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every key path below `data`, and its value."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key), value
        yield from entries(value, (*path, key))


def at(data: Any, path: Key) -> Any:
    for key in path:
        data = data[key]
    return data


def changed(data: dict[str, Any], path: Key, value: Any) -> dict[str, Any]:
    """A copy with another value at `path`."""
    new = plain_copy(data)
    at(new, path[:-1])[path[-1]] = value
    return new


def renamed(data: dict[str, Any], path: Key, name: str) -> dict[str, Any]:
    """A copy with another name for the key at `path`, in its place."""
    new = plain_copy(data)
    block = at(new, path[:-1])
    items = [(name if key == path[-1] else key, value) for key, value in block.items()]
    block.clear()
    block.update(items)
    return new


def owned(path: Key) -> bool:
    """The configuration says which keys there are beside `path`."""
    return not any(path[: len(block)] == block and len(path) > len(block) for block in FREE)


def is_expression(path: Key) -> bool:
    return path[0] == "models" and (path[-1] == "input" or path[-1] == "output")


# ---------------------------------------------------------------------------------------------- mutations

WORDS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12)
ODD_KEYS = [
    "",
    "cls",
    "int",
    "list",
    "a[0]",
    "literal['auto']",
    "__class__",
    "model_config",
    "5",
    "on",
    "null",
    "é",
    "a b",
]
KNOWN = {
    *(str(path[-1]) for file in FILES for data in (read_yaml(file)[0], load_config(file)[0].dump())
      for path, _ in entries(data)),
    *TOKENS, *SPACES, *FUNCTIONS, *ACTIVATIONS, *ALIASES, *LEGACY_MODEL, *LEGACY_AGENT, *SCHEDULES, "Shape", "PPO",
    "RPO", "A2C", "linear", "flatten", "bias", "features", "in_channels", "in_features", "out_features", "strides",
    "use_bias",
}  # fmt: skip
"""Every name that means something somewhere: no misspelling."""
HOSTILE = [
    "__import__('os').system('touch pwned')", "ACTIONS.__class__.__mro__", "(lambda: ACTIONS)()",
    "ACTIONS if ONE else ACTIONS", "f'{ACTIONS}'", "ACTIONS @ ACTIONS", "ACTIONS ** 9", "ACTIONS << 3", "*ACTIONS",
    "eval('1')", "print(ACTIONS)", "ACTIONS := 3", "ACTIONS; ACTIONS", "ACTIONS, ONE", "{ACTIONS: 1}", "not ACTIONS",
    "relu6", "tanh()", "tanh(2) * ACTIONS", "tanh(**ACTIONS)", "ACTIONS[()]", "ACTIONS[...]", "ACTIONS[:, 1e400]",
    "ACTIONS / 0", "ACTIONS / (1 - 1)", "1 / 0 * ACTIONS", "1e29 * 1e29 * ACTIONS", "1e999 * ACTIONS", "1j * ACTIONS",
    "concatenate([2, ACTIONS])", "concatenate()", "permute(ACTIONS)", "permute(3, (0, 1))", "Shape", "Shape.", "\x00",
    "exec(\"import os\")", "ACTIONS['a']['b']", "ACTIONS.real", "os.sep", "é", "0", "None", "...", "9" * 5000,
    "(" * 300 + "ACTIONS" + ")" * 300, "-" * 900 + "ACTIONS", "ACTIONS" + "[:]" * 300, "[x for x in ACTIONS]",
    "tanh(" * 90 + "ACTIONS" + ")" * 90,
    "+".join(["ACTIONS"] * 120), "ACTIONS" + ".a" * 400, "ACTIONS[" + "-" * 900 + "1]", "ACTIONS " * 5000,
]  # fmt: skip
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([10**6, 10**9, -(10**9), 2**53 + 1, 2**63, 2**64, 10**90]),
    st.floats(-3, 3, width=16),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 1e-300, -0.0, 1e30]),
    st.sampled_from(
        ["", "None", "auto", "1e3", "3e-4", "1_0", ".5", "true", "~", "2020-01-01", "elu", "flatten", "swish"]
    ),
    st.sampled_from(
        ["ACTIONS", "ONE", "Shape.STATES", "OBSERVATIONS", "net", "tanh(ACTIONS)", "2.0 * ONE", "same", "A2C"]
    ),
    WORDS,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["linear", "class", "net", "x"]), inner, max_size=3),
    ),
    max_leaves=5,
)


@st.composite
def misspelt(draw: st.DrawFn, word: str) -> str:
    """One slip of the finger, whose result is no other known name."""
    place, letter = draw(st.integers(0, len(word) - 1)), draw(st.sampled_from("aeioxz_"))
    before, here, after = word[:place], word[place], word[place + 1 :]
    slips = [before + after, before + here + here + after, before + letter + after, before + letter + here + after]
    known = {name.casefold() for name in (*KNOWN, word)}
    good = [slip for slip in slips if slip.isidentifier() and slip.casefold() not in known]
    return draw(st.sampled_from(good or [f"{word}_x"]))
