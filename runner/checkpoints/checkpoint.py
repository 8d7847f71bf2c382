"""One trial ↔ one safetensors file, the same for both backends.

Of a trial whose agents have networks of their own, names of tensors begin with the agent's, as `agent_0/policy.…`.

Tensors carry torch's names and layout (`policy.net.0.weight` is `[outputs, inputs]`); the header carries what else a
run needs to go on: counters, the resolved configuration and the versions that wrote it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from runner.checkpoints import spaces as written
from runner.config import Config
from runner.envs.base import VectorEnv
from runner.errors import UserError
from runner.files import expanded
from runner.networks.parameters import Network
from runner.training.pack import Hyper, hyper_of
from runner.training.state import Counters, MemberState, Moments

FORMAT = "sunflower-checkpoint-1"
LARGEST_HEADER = 10_000_000
PACKAGES = ("sunflower", "torch", "jax", "envpool", "gymnasium", "numpy", "ray")
PREPROCESSORS = ("observation_preprocessor", "value_preprocessor")


def versions() -> dict[str, str]:
    """Installed versions of what decides a result."""
    out = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            out[name] = importlib.metadata.version(name)
    return out


def of_trial(
    states: Sequence[MemberState],
    names: Sequence[str],
    network: Network,
    config: Config,
    env: VectorEnv | None = None,
) -> bytes:
    """Serialise a trial: its members, which have these names; of an environment without a name, its spaces too."""
    several = len(names) > 1
    firsts = [""] * len(names) if env is None or env.agents is None else env.agents.firsts
    tensors = {
        f"{name}/{key}" if several else key: array
        for name, state in zip(names, states, strict=True)
        for key, array in _tensors(state, network).items()
    }
    counters = [asdict(state.counters) for state in states]
    metadata = {
        "format": FORMAT,
        "digest": _digest(tensors),
        "counters": json.dumps(counters if several else counters[0]),
        "config": json.dumps(config.dump()),
        "versions": json.dumps(versions()),
    }
    searched = [_searched(state.hyper, config, agent) for state, agent in zip(states, firsts, strict=True)]
    if any(searched):
        metadata["hyper"] = json.dumps(searched if several else searched[0])
    if several:
        metadata["agents"] = json.dumps(list(names))
    if env is not None and config.env.id is None:
        metadata["spaces"] = json.dumps([written.to_data(space) for space in (env.observation_space, env.action_space)])
    return _in_order(save(tensors, metadata))


def _tensors(state: MemberState, network: Network) -> dict[str, np.ndarray]:
    """The arrays of one member by name."""
    tensors = dict(network.split(state.parameters))
    for prefix, row in (("first_moment", state.first_moment), ("second_moment", state.second_moment)):
        tensors |= {f"optimizer.{prefix}.{name}": value for name, value in network.split(row).items()}
    for prefix, moments in zip(PREPROCESSORS, (state.observation_statistics, state.value_statistics), strict=True):
        if moments is not None:
            tensors[f"{prefix}.running_mean"] = np.asarray(moments.mean, np.float64)
            tensors[f"{prefix}.running_variance"] = np.asarray(moments.variance, np.float64)
            tensors[f"{prefix}.current_count"] = np.asarray([moments.count], np.float64)
    return tensors


def _searched(hyper: Hyper | None, config: Config, agent: str) -> dict[str, float] | None:
    """The Hyper numbers of a member, that of an `agent` of several, where a search has changed them."""
    numbers = None if hyper is None else {name: float(x) for name, x in hyper._asdict().items()}
    return None if numbers == hyper_of(config, agent) else numbers


def trial_from(data: bytes, names: Sequence[str], network: Network, name: str = "checkpoint") -> list[MemberState]:
    """Read a trial whose members have these names, for a given network."""
    metadata, several = read_metadata(data, name), len(names) > 1
    written_for = agents(metadata)
    if written_for != list(names):
        of, wanted = (", ".join(some) if len(some) > 1 else "one network" for some in (written_for, names))
        raise UserError(f"{name}: holds {of}; needed by the configuration, and agent.share_parameters in it: {wanted}")
    try:
        tensors, counters = load(data), json.loads(metadata["counters"])
        hypers = json.loads(metadata.get("hyper", "null"))
        hypers = hypers if isinstance(hypers, list) else [hypers] * len(names)
        pairs = zip(counters if several else [counters], hypers, strict=True)
        found = [(Counters(**standing), numbers and Hyper(**numbers)) for standing, numbers in pairs]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{name}: corrupted or cut short: {error}") from None
    if _digest(tensors) != metadata.get("digest"):
        raise UserError(f"{name}: corrupted: its contents do not match the checksum in its header")
    members = []
    for agent, (standing, numbers) in zip(names, found, strict=True):
        prefix, where = (f"{agent}/", f"{name}: {agent}") if several else ("", name)
        own = {key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix)}
        members.append(_member(own, standing, numbers, network, where))
    return members


def agents(metadata: Mapping[str, str]) -> list[str]:
    """Names of the members of a trial, of which a header tells; one empty name where there is one."""
    try:
        return list(map(str, json.loads(metadata.get("agents", '[""]'))))
    except (ValueError, TypeError):
        return [""]


def timestep(data: bytes, name: str) -> int:
    """The timestep of a checkpoint of ours."""
    counters = json.loads(read_metadata(data, name)["counters"])
    return int((counters[0] if isinstance(counters, list) else counters)["timestep"])


def learning_rate(data: bytes, name: str) -> Any:
    """The learning rate in the configuration of whoever wrote a checkpoint of ours: a number, or a list of two."""
    try:
        return json.loads(read_metadata(data, name)["config"])["agent"]["learning_rate"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{name}: corrupted: it has no configuration") from None


def environment(metadata: dict[str, str], config: Config, name: str) -> VectorEnv:
    """One of the spaces that a checkpoint carries, which cannot be stepped."""
    if "spaces" not in metadata:
        raise UserError(
            f"{name}: its environment had no name, and its spaces are not in the file; allowed: checkpoints that this "
            "version wrote, or of environments with an env.id"
        )
    try:
        observation, action = map(written.from_data, json.loads(metadata["spaces"]))
    except (ValueError, TypeError, KeyError, AssertionError) as error:
        raise UserError(f"{name}: the spaces of its environment cannot be read: {error}") from None
    return VectorEnv(config.env.num_envs or 1, observation, action)


def _in_order(data: bytes) -> bytes:
    """The same file with its header's entries sorted: safetensors writes them in another order each time."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    # Tensors begin at a multiple of 8; spaces after the header are part of the format.
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def pickled(data: bytes) -> bool:
    """A torch or pickle file, such as skrl's; not a safetensors file whose length begins like one."""
    # The text of a header always begins with a brace.
    return data[:2] in (b"PK", b"\x80\x02", b"\x80\x04") and data[8:9] != b"{"


def read_metadata(data: bytes, name: str) -> dict[str, str]:
    """The header of a checkpoint of ours."""
    if pickled(data):
        raise UserError(
            f"{name}: a torch or pickle file (such as skrl's .pt and .pickle), which could run code when read; "
            "allowed: a .safetensors checkpoint written by this program"
        )
    try:
        (length,) = struct.unpack("<Q", data[:8])
        if not 0 < length <= min(LARGEST_HEADER, len(data) - 8):
            raise ValueError("header longer than the file")
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    except KeyError:
        metadata = {}
    except (ValueError, TypeError, struct.error, RecursionError):
        raise UserError(f"{name}: not a safetensors checkpoint, or cut short ({len(data):,} bytes)") from None
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise UserError(f"{name}: a safetensors file of another program; allowed: checkpoints of format {FORMAT}")
    return metadata


def _member(
    tensors: dict[str, np.ndarray], counters: Counters, hyper: Hyper | None, network: Network, name: str
) -> MemberState:
    for entry in network.entries:
        found = tensors.get(entry.name)
        if found is None:
            raise UserError(f"{name}: of another network: it has no {entry.name}, which the configuration needs")
        if found.shape != entry.shape:
            raise UserError(
                f"{name}: of another network: {entry.name} is {list(found.shape)} there and "
                f"{list(entry.shape)} in the configuration"
            )
    known = {entry.name for entry in network.entries}
    surplus = sorted(n for n in tensors if n not in known and n.startswith(("policy.", "value.")))
    if surplus:
        raise UserError(f"{name}: of another network: it has {surplus[0]}, which the configuration does not")
    first, second = (
        network.join({e.name: tensors[f"optimizer.{prefix}.{e.name}"] for e in network.entries})
        for prefix in ("first_moment", "second_moment")
    )
    observation, value = (
        _moments(tensors, prefix, size, name)
        for prefix, size in zip(PREPROCESSORS, (network.observation_size, 1), strict=True)
    )
    return MemberState(network.join(tensors), first, second, observation, value, counters, hyper)


def _moments(tensors: dict[str, np.ndarray], prefix: str, size: int, name: str) -> Moments | None:
    names = [f"{prefix}.{part}" for part in ("running_mean", "running_variance", "current_count")]
    if names[0] not in tensors:
        return None
    mean, variance, count = (tensors[name] for name in names)
    if mean.shape != (size,) or variance.shape != (size,):
        raise UserError(f"{name}: of another environment: its {prefix} is of {mean.size:,} numbers; needed: {size:,}")
    return Moments(mean, variance, float(count[0]))


def _digest(tensors: dict[str, np.ndarray]) -> str:
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(name.encode() + str(tensors[name].shape).encode())
        sha.update(np.ascontiguousarray(tensors[name]).tobytes())
    return sha.hexdigest()


def read_file(path: str | Path) -> bytes:
    """The bytes of a checkpoint file."""
    try:
        return expanded(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
