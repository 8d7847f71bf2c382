"""The two forms of skrl's checkpoints as named numpy arrays.

Both are pickles, and nothing in them is executed: torch reads its own as weights only; of the JAX agents', which are
`{module: flax's msgpack}`, only texts and bytes are taken.
"""

from __future__ import annotations

import io
import json
import math
import pickletools
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgpack  # type: ignore[import-untyped]
import numpy as np

from runner.errors import UserError

ROLES = ("policy", "value")
OPTIMIZERS = ("optimizer", "policy_optimizer", "value_optimizer")
STATISTICS = ("observation_preprocessor", "state_preprocessor", "value_preprocessor")
TEXTS_AND_BYTES = {"SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"}
AROUND_THEM = {"PROTO", "FRAME", "EMPTY_DICT", "MARK", "MEMOIZE", "SETITEM", "SETITEMS", "STOP"}

COUNTERS = "archive/sunflower.json"
_COUNTED = "counters"

Tensors = dict[str, np.ndarray]


class Adam(NamedTuple):
    """Gradient steps taken, and moments by role and skrl's name of the parameter."""

    steps: float
    first: dict[str, Tensors]
    second: dict[str, Tensors]


class File(NamedTuple):
    """A checkpoint of skrl, in torch's names and layout: parameters by role, statistics by preprocessor.

    None is what the file does not say; `flax` is one of a JAX agent, and `counters` are in files of this program alone.
    """

    parameters: dict[str, Tensors]
    adam: Adam | None
    learning_rate: float | None
    statistics: dict[str, Tensors]
    flax: bool
    counters: dict[str, Any] | None = None


def opened(data: bytes | Mapping[str, Any], separate: bool, name: str) -> File:
    """The contents of a file, or of an agent's part of one; `separate` as the configuration says."""
    try:
        if isinstance(data, Mapping):
            return _torch_agent(data, separate, name)
        return _flax_file(data, name) if data[:2] == b"\x80\x04" else _torch_file(data, separate, name)
    except UserError:
        raise
    except Exception as error:  # damaged files make their readers raise almost anything
        if (code := re.search(r"GLOBAL (\S+)", str(error))) is not None:
            raise _with_code(name, code[1]) from None
        reason = re.sub(r".*WeightsUnpickler error:", "", str(error), flags=re.DOTALL).strip().partition("\n")[0][:200]
        size = "" if isinstance(data, Mapping) else f" ({len(data):,} bytes)"
        raise UserError(
            f"{name}: not a skrl checkpoint, or cut short{size}: {reason}; needed: an agent_*.pt or "
            "agent_*.pickle as skrl 1.3 or later writes it"
        ) from None


def _with_code(name: str, code: str) -> UserError:
    return UserError(f"{name}: was not read: it asks to run {code}; needed: a file of numbers alone, as skrl writes it")


def _checked(modules: Any, name: str) -> dict[str, Any]:
    """The modules of an agent."""
    names = list(modules) if isinstance(modules, dict) else [type(modules).__name__]
    if not {*ROLES} <= {*names} <= {*ROLES, *OPTIMIZERS, *STATISTICS}:
        raise UserError(
            f"{name}: holds {', '.join(map(str, names))}; needed: policy and value, with or without "
            f"{', '.join((*OPTIMIZERS, *STATISTICS))}, as skrl's PPO agent has them in one file"
        )
    return dict(modules)


def _tensors(module: Mapping[str, Any]) -> Tensors:
    """Arrays of numbers by name, and nothing else."""
    for key, value in module.items():
        if not isinstance(key, str) or not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
            raise ValueError(f"{key!r} is no array of numbers")
    return dict(module)


def of_agents(data: bytes, names: Sequence[str], name: str) -> list[tuple[str, dict[str, Any]]]:
    """The parts of a file of several agents, by their names: those of IPPO and MAPPO of skrl's torch agents."""
    if data[:2] == b"\x80\x04":
        raise UserError(
            f"{name}: of a JAX agent; needed, of several agents: an agent_*.pt as skrl's torch agents write"
        )
    try:
        modules = _plain(data)
    except Exception as error:  # as in `opened`
        raise UserError(
            f"{name}: not a skrl checkpoint, or cut short: {str(error).partition(chr(10))[0][:200]}"
        ) from None
    found = list(modules) if isinstance(modules, dict) else [type(modules).__name__]
    if sorted(map(str, found)) != sorted(names) or not all(isinstance(modules[key], dict) for key in found):
        raise UserError(f"{name}: holds {', '.join(map(str, found))}; needed: the agents {', '.join(names)}")
    counters = _counters(data) or {}
    return [(agent, {**_of_skrl_2(modules[agent]), _COUNTED: counters.get(agent)}) for agent in names]


def _of_skrl_2(modules: dict[str, Any]) -> dict[str, Any]:
    """Modules under their names of skrl 2.x: in 1.x MAPPO has others for what it normalises."""
    if "shared_state_preprocessor" not in modules:
        return modules
    names = {"state_preprocessor": "observation_preprocessor", "shared_state_preprocessor": "state_preprocessor"}
    return {names.get(key, key): part for key, part in modules.items()}


def _plain(data: bytes) -> Any:
    """The contents of a torch file, as numpy's arrays."""
    import torch

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items()}
        return value.detach().numpy() if isinstance(value, torch.Tensor) else value

    return plain(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))


def _torch_file(data: bytes, separate: bool, name: str) -> File:
    return _torch_agent({**_checked(_plain(data), name), _COUNTED: _counters(data)}, separate, name)


def _torch_agent(found: Mapping[str, Any], separate: bool, name: str) -> File:
    """An agent's modules, with counters beside them."""
    counters = found.get(_COUNTED)
    modules = _checked({key: module for key, module in found.items() if key != _COUNTED}, name)
    parameters = {role: _tensors(modules[role]) for role in ROLES}
    statistics = {key: _tensors(modules[key]) for key in STATISTICS if key in modules}
    if "optimizer" not in modules:
        return File(parameters, None, None, statistics, False, counters)
    (group,), state = modules["optimizer"]["param_groups"], modules["optimizer"]["state"]
    order = [(role, key) for role in (ROLES if separate else ROLES[:1]) for key in parameters[role]]
    steps = max((float(moments["step"]) for moments in state.values()), default=0.0)
    first: dict[str, Tensors] = {role: {} for role in ROLES}
    second: dict[str, Tensors] = {role: {} for role in ROLES}
    for index, (role, key) in zip(group["params"], order, strict=False):
        if index in state:
            found = _tensors({part: state[index][part] for part in ("exp_avg", "exp_avg_sq")})
            first[role][key], second[role][key] = found.values()
    fits, rate = len(group["params"]) == len(order) and math.isfinite(steps), float(group["lr"])
    adam = Adam(steps, first, second) if fits else None
    return File(parameters, adam, rate if 0 < rate < math.inf else None, statistics, False, counters)


def _flax_file(data: bytes, name: str) -> File:
    found: list[Any] = []
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in TEXTS_AND_BYTES:
            found.append(argument)
        elif opcode.name not in AROUND_THEM:
            raise _with_code(name, f"{opcode.name} {argument or ' '.join(map(str, found[-2:]))}")
    packed = _checked(dict(zip(found[::2], found[1::2], strict=True)), name)
    modules = {key: msgpack.unpackb(value, ext_hook=_flax_array) for key, value in packed.items()}
    parameters = {role: _flax_parameters(modules[role]) for role in ROLES}
    statistics = {key: _tensors(modules[key]) for key in STATISTICS if key in modules}
    # A JAX agent saves the optimizers that it began with: they hold no moments.
    return File(parameters, None, None, statistics, True)


def _flax_array(code: int, data: bytes) -> np.ndarray:
    """flax's extension types 1 (array) and 3 (number): shape, dtype and bytes."""
    if code not in (1, 3):
        raise ValueError(f"data of type {code}")
    shape, dtype, numbers = msgpack.unpackb(data)
    if np.dtype(dtype).kind not in "fiu":
        raise ValueError(f"an array of {dtype}")
    return np.frombuffer(numbers, dtype).reshape(shape)


def _flax_parameters(tree: Any) -> Tensors:
    """`{"params": {container: {"layers_0": {"kernel": …}}}}` by torch's names and in its layout."""
    found: Tensors = {}
    for container, layers in tree["params"].items():
        if isinstance(layers, np.ndarray):
            found[container] = layers
            continue
        for layer, parts in layers.items():
            place = f"{container}.{layer.removeprefix('layers_')}"
            for part, array in _tensors(parts).items():
                if part == "kernel":
                    found[f"{place}.weight"] = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
                else:
                    found[f"{place}.{part}"] = array
    return found


def _counters(data: bytes) -> dict[str, Any] | None:
    """Counters that `torch_bytes` put beside the modules."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return json.loads(archive.read(COUNTERS)) if COUNTERS in archive.namelist() else None


def torch_bytes(modules: dict[str, Any], counters: dict[str, Any]) -> bytes:
    """A torch file of modules whose arrays become tensors.

    The counters are an entry of the archive that torch does not read: skrl loads every module that it finds.
    """
    import torch

    def tensors(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: tensors(part) for key, part in value.items()}
        return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value

    out = io.BytesIO()
    torch.save(tensors(modules), out)
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr(zipfile.ZipInfo(COUNTERS), json.dumps(counters))
    return out.getvalue()
