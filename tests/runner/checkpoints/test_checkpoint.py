"""Checkpoints: what is written is read back bit for bit, and nothing else is read at all."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from runner.checkpoints import checkpoint
from runner.errors import UserError
from runner.training.pack import Hyper, hyper_of
from runner.training.state import Counters, MemberState, Moments, initial
from tests.runner.builders import fingerprint, make_config, make_network

CONFIG = make_config()
NETWORK = make_network(CONFIG, 3, 2)
COUNTERS = Counters(7, 56, 168, 5, 1.25, 28.0, 3e-4, math.nan, -math.inf, False)


def make_state(**changes: Any) -> MemberState:
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=NETWORK.size).astype(np.float32) for _ in range(3)]
    statistics = [Moments(rng.normal(size=k), rng.uniform(1, 2, size=k), 41.0) for k in (3, 1)]
    return dataclasses.replace(MemberState(*rows, *statistics, COUNTERS), **changes)


STATE = make_state()
DATA = checkpoint.of_trial([STATE], [""], NETWORK, CONFIG)


@pytest.mark.parametrize(
    "state",
    [STATE, make_state(observation_statistics=None), make_state(observation_statistics=None, value_statistics=None)],
    ids=["both statistics", "one", "none"],
)
def test_what_is_written_is_read_back_bit_for_bit(state: MemberState) -> None:
    data = checkpoint.of_trial([state], [""], NETWORK, CONFIG)
    assert fingerprint(checkpoint.trial_from(data, [""], NETWORK)[0], but=()) == fingerprint(state, but=())


def test_counters_that_are_not_finite_survive() -> None:
    counters = checkpoint.trial_from(DATA, [""], NETWORK)[0].counters
    assert math.isnan(counters.score) and counters.best == -math.inf


def test_tensors_have_torchs_names_and_layout_and_the_header_says_the_rest() -> None:
    tensors = safetensors.numpy.load(DATA)
    assert tensors["policy.net.0.weight"].shape == (8, 3) and tensors["policy.head.weight"].shape == (2, 8)
    assert tensors["policy.log_std"].shape == (2,) and tensors["value.head.bias"].shape == (1,)
    assert {"optimizer.first_moment.value.head.bias", "observation_preprocessor.running_mean"} <= tensors.keys()
    np.testing.assert_array_equal(
        tensors["policy.net.0.weight"], NETWORK.split(STATE.parameters)["policy.net.0.weight"]
    )
    metadata = checkpoint.read_metadata(DATA, "x")
    assert json.loads(metadata["config"]) == json.loads(json.dumps(CONFIG.dump()))
    assert {"torch", "envpool", "numpy"} <= json.loads(metadata["versions"]).keys()


def test_members_of_a_trial_are_read_back_and_those_of_other_networks_are_told_as_such() -> None:
    names, states = ["wolf", "sheep"], [STATE, make_state(value_statistics=None)]
    data = checkpoint.of_trial(states, names, NETWORK, CONFIG)
    found = checkpoint.trial_from(data, names, NETWORK)
    assert [fingerprint(one, but=()) for one in found] == [fingerprint(one, but=()) for one in states]
    with pytest.raises(UserError, match=r"^pack: wolf: of another network: policy.net.0.weight is "):
        checkpoint.trial_from(data, names, make_network(CONFIG, 4, 2), "pack")


def test_equal_states_are_equal_bytes() -> None:
    assert len({checkpoint.of_trial([STATE], [""], NETWORK, CONFIG) for _ in range(5)}) == 1


def test_a_header_as_long_as_a_pickle_begins_is_still_ours() -> None:
    (length,) = struct.unpack("<Q", DATA[:8])
    header = DATA[8 : 8 + length] + b" " * (0x10480 - length)
    longer = struct.pack("<Q", len(header)) + header + DATA[8 + length :]
    assert longer[:2] == b"\x80\x04"
    assert checkpoint.trial_from(longer, [""], NETWORK)[0].counters.timestep == STATE.counters.timestep


# ---------------------------------------------------------------------------------------------- what is refused


def _header(data: bytes) -> tuple[int, dict[str, Any]]:
    (length,) = struct.unpack("<Q", data[:8])
    return length, json.loads(data[8 : 8 + length])


def _with_metadata(**changes: str | None) -> bytes:
    """The same tensors with other words in the header."""
    metadata = {**checkpoint.read_metadata(DATA, "x"), **changes}
    kept = {key: value for key, value in metadata.items() if value is not None}
    return safetensors.numpy.save(safetensors.numpy.load(DATA), kept)


def _flipped(position: int) -> bytes:
    data = bytearray(DATA)
    data[position] ^= 0x10
    return bytes(data)


def _zip() -> bytes:
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", b"x")
    return buffer.getvalue()


NOT_SAFE = "not a safetensors checkpoint, or cut short"
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", NOT_SAFE + " (0 bytes)"),
    "seven bytes": (DATA[:7], NOT_SAFE + " (7 bytes)"),
    "cut in the header": (DATA[:100], NOT_SAFE),
    "cut in the tensors": (DATA[:-10], "corrupted or cut short"),
    "longer": (DATA + b"\0" * 8, "corrupted or cut short"),
    "text": (b"hello, this is no checkpoint at all", NOT_SAFE),
    "enormous header": (struct.pack("<Q", 2**63) + DATA[8:], NOT_SAFE),
    "header is a list": (struct.pack("<Q", 2) + b"[]", NOT_SAFE),
    "header is not JSON": (struct.pack("<Q", 4) + b"\xff\xfe\x00\x01", NOT_SAFE),
    "nested header": (struct.pack("<Q", 100_000) + b"[" * 100_000, NOT_SAFE),
    "bit flip in a weight": (_flipped(len(DATA) - 400), "corrupted: its contents do not match the checksum"),
    "bit flip in the last byte": (_flipped(len(DATA) - 1), "corrupted: its contents do not match the checksum"),
    "no digest": (_with_metadata(digest=None), "corrupted: its contents do not match the checksum"),
    "no counters": (_with_metadata(counters=None), "corrupted or cut short"),
    "unreadable counters": (_with_metadata(counters="{"), "corrupted or cut short"),
    "other counters": (_with_metadata(counters='{"update": 1}'), "corrupted or cut short"),
    "another format": (_with_metadata(format="sunflower-checkpoint-99"), "allowed: checkpoints of format sunflower-"),
    "of another program": (safetensors.numpy.save({"weight": np.zeros(3)}), "a safetensors file of another program"),
    "of another program, with words": (
        safetensors.numpy.save({"weight": np.zeros(3)}, {"format": "pt"}),
        "a safetensors file of another program",
    ),
    "skrl's .pt": (_zip(), "a torch or pickle file (such as skrl's .pt and .pickle), which could run code when read"),
    "pickle": (pickle.dumps({"policy": [1.0]}), "a torch or pickle file"),
    "old pickle": (pickle.dumps({"policy": [1.0]}, 2), "a torch or pickle file"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_no_whole_checkpoint_are_refused(name: str) -> None:
    data, message = BAD[name]
    with pytest.raises(UserError) as caught:
        checkpoint.trial_from(data, [""], NETWORK, "agent.safetensors")[0]
    assert str(caught.value).startswith("agent.safetensors: ") and message in str(caught.value)


def test_every_single_bit_of_the_tensors_is_watched() -> None:
    length, _ = _header(DATA)
    rng = np.random.default_rng(1)
    for position in rng.integers(8 + length, len(DATA), 40):
        with pytest.raises(UserError, match="checksum"):
            checkpoint.trial_from(_flipped(int(position)), [""], NETWORK)[0]


OTHER: dict[str, tuple[dict[str, Any], int, int, str]] = {
    "wider layer": (
        {"models.policy.network.0.layers": [9, 8]},
        3,
        2,
        "of another network: policy.net.0.weight is [8, 3] there and [9, 3] in the configuration",
    ),
    "deeper": (
        {"models.policy.network.0.layers": [8, 8, 8]},
        3,
        2,
        "of another network: it has no policy.net.2.weight, which the configuration needs",
    ),
    "shallower": (
        {"models.policy.network.0.layers": [8]},
        3,
        2,
        "of another network: it has policy.net.1.bias, which the configuration does not",
    ),
    "more observations": ({}, 4, 2, "policy.net.0.weight is [8, 3] there and [8, 4] in the configuration"),
    "more actions": ({}, 3, 3, "policy.head.weight is [2, 8] there and [3, 8] in the configuration"),
    "separate": ({"models.separate": True}, 3, 2, "it has no value.net.0.weight, which the configuration needs"),
    "categorical": (
        {"models.policy.class": "CategoricalMixin"},
        3,
        2,
        "it has policy.log_std, which the configuration does not",
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_a_checkpoint_of_another_network_is_refused_by_its_first_difference(name: str) -> None:
    changes, observations, actions, message = OTHER[name]
    other = make_network(make_config(changes), observations, actions)
    with pytest.raises(UserError) as caught:
        checkpoint.trial_from(DATA, [""], other)[0]
    assert message in str(caught.value)


def test_statistics_of_another_number_of_observations_are_refused() -> None:
    config = make_config({"models.policy.network.0.input": "OBSERVATIONS[:, 0:2]"})
    few, many = (make_network(config, size, 2) for size in (3, 4))
    data = checkpoint.of_trial([initial(few, config.agent, 0, Hyper(**hyper_of(config)))], [""], few, config)
    assert checkpoint.trial_from(data, [""], few)
    message = "of another environment: its observation_preprocessor is of 3 numbers; needed: 4"
    with pytest.raises(UserError, match=message):
        checkpoint.trial_from(data, [""], many)


def test_a_file_below_home_or_a_variable_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"bytes")
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("~/a.safetensors", "$HOME/a.safetensors", Path("~/a.safetensors")):
        assert checkpoint.read_file(path) == b"bytes"
    with pytest.raises(UserError, match="the environment variable NOBODY_SET_THIS is not set"):
        checkpoint.read_file("$NOBODY_SET_THIS/a.safetensors")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.safetensors: cannot be read: No such file"):
        checkpoint.read_file(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        checkpoint.read_file(tmp_path)
